"""Fields of payload classes, from their annotations in `messages`; the check of a payload before encoding."""

import re
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from wireproto.errors import MalformedError, shorten, shown

PLAIN_TYPES: Final[dict[type[inspect.Type], type]] = {
    inspect.IntType: int,
    inspect.BoolType: bool,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.VarTupleType: tuple,
}

_UNITS: Final[dict[type, str]] = {str: "characters", bytes: "bytes", tuple: "elements"}


@cache
def payload_fields(cls: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    """Return the fields of a payload class by wire key, in order of declaration.

    None is never written, so a field whose default is None has the type of its other values.
    """
    info = inspect.type_info(cls)
    return {field.encode_name: _written(field) for field in info.fields} if isinstance(info, inspect.StructType) else {}


def _written(field: inspect.Field) -> inspect.Field:
    match field:
        case inspect.Field(default=None, type=inspect.UnionType(types=(kind, inspect.NoneType()))):
            return msgspec.structs.replace(field, type=kind)
    return field


def check_fields(payload: msgspec.Struct) -> None:
    """Raise `MalformedError` unless each field has its annotated type (not a subclass), range, length and form."""
    for key, field in payload_fields(type(payload)).items():
        value = getattr(payload, field.name)
        if field.required or value is not field.default:
            _check_value(key, value, field.type)


def _check_value(path: str, value: object, kind: inspect.Type) -> None:
    wanted = kind.cls if isinstance(kind, inspect.EnumType) else PLAIN_TYPES[type(kind)]
    if type(value) is not wanted:
        raise MalformedError("field-type", f"expected {wanted.__name__}, not {type(value).__name__}", path=path)
    if fault := fault_of(value, kind):
        raise MalformedError(*fault, path=path)
    match kind, value:
        case inspect.IntType(ge=low, le=high), int() if not (low or 0) <= value <= (high or 0):
            raise MalformedError("field-range", f"{shown(value)} is not from {low} to {high}", path=path)
        case inspect.VarTupleType(item_type=item), tuple():
            for index, element in enumerate(value):
                _check_value(f"{path}[{index}]", element, item)
                if isinstance(item, inspect.StrType) and element in value[:index]:
                    raise MalformedError("field-duplicate", f"{element!r} is repeated", path=f"{path}[{index}]")
        case inspect.StrType(), str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                detail = f"character {error.start} is half a surrogate pair"
                raise MalformedError("json-surrogate", detail, path=path) from error


def fault_of(value: Any, kind: inspect.Type) -> tuple[str, str] | None:
    """Return the code and detail of a value with the right type but a wrong length or form, or None."""
    if isinstance(kind, inspect.StrType | inspect.BytesType | inspect.VarTupleType):
        low, high = kind.min_length or 0, kind.max_length
        if not low <= len(value) <= (len(value) if high is None else high):
            limit = f"{low}" if low == high else f"at most {high}"
            return "field-length", f"expected {limit} {_UNITS[type(value)]}, not {len(value)}"
    if isinstance(kind, inspect.StrType) and kind.pattern is not None and not re.search(kind.pattern, value):
        return "field-pattern", f"{shorten(value)} does not match {kind.pattern}"
    return None


def are_integers(values: Any, low: int, high: int) -> bool:
    """Return whether every value is an `int`, not a subclass, from `low` to `high`."""
    return not values or ({*map(type, values)} == {int} and low <= min(values) and max(values) <= high)
