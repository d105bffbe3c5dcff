"""Typed payload fields: from JSON, strictly, and checked before they are encoded. [JSON-*, PAYLOAD-*]

The annotations of the payload classes in `messages` say what each field may hold.
"""

import binascii
import re
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from wireproto.codec.json_scanner import NotStrictError, Scanner, load_strictly, shorten
from wireproto.errors import MalformedError

_PayloadT = TypeVar("_PayloadT", bound=msgspec.Struct)

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
    """Return the fields of a payload class by wire key, in the order in which they are declared.

    A field whose default is None, which is never written, has the type of its other values.
    """
    info = inspect.type_info(cls)
    return {field.encode_name: _written(field) for field in info.fields} if isinstance(info, inspect.StructType) else {}


def _written(field: inspect.Field) -> inspect.Field:
    match field:
        case inspect.Field(default=None, type=inspect.UnionType(types=(kind, inspect.NoneType()))):
            return msgspec.structs.replace(field, type=kind)
    return field


# -- checking before encoding ------------------------------------------------------------------------------------------


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
    if fault := _fault(value, kind):
        raise MalformedError(*fault, path=path)
    match kind, value:
        case inspect.IntType(ge=low, le=high), int() if not (low or 0) <= value <= (high or 0):
            shown = value if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
            raise MalformedError("field-range", f"{shown} is not from {low} to {high}", path=path)
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


def _fault(value: Any, kind: inspect.Type) -> tuple[str, str] | None:
    """Return the code and the detail for a value of the right type but a wrong length or form; None if it has none."""
    if isinstance(kind, inspect.StrType | inspect.BytesType | inspect.VarTupleType):
        low, high = kind.min_length or 0, kind.max_length
        if not low <= len(value) <= (len(value) if high is None else high):
            limit = f"{low}" if low == high else f"at most {high}"
            return "field-length", f"expected {limit} {_UNITS[type(value)]}, not {len(value)}"
    if isinstance(kind, inspect.StrType) and kind.pattern is not None and not re.search(kind.pattern, value):
        return "field-pattern", f"{shorten(value)} does not match {kind.pattern}"
    return None


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode_payload(cls: type[_PayloadT], data: bytes, start: int = 0) -> _PayloadT:
    """Read the JSON object `data[start:]` as the payload class `cls`.

    Raises `TruncatedError`, `MalformedError` or `LimitError`; offsets count from the start of `data`.
    """
    try:
        return _from_members(cls, load_strictly(data[start:]))
    except NotStrictError:
        pass  # the scanner finds out why
    scanner = Scanner(data, start)
    payload = _read_payload(scanner, cls)
    scanner.end()
    return payload


def _from_members(cls: type[_PayloadT], members: object) -> _PayloadT:
    """Return the payload of a JSON object that was read. Raises `NotStrictError` if some field is wrong."""
    if not isinstance(members, dict):
        raise NotStrictError
    values: dict[str, Any] = {}
    for key, field in payload_fields(cls).items():
        if key in members:
            values[field.name] = _from_json(members[key], field.type)
        elif field.required:
            raise NotStrictError
    return cls(**values)


def _from_json(value: Any, kind: inspect.Type) -> Any:
    """Return the value of a field that `json` has read. Raises `NotStrictError` if it is wrong."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            if type(value) is not int or not (low or 0) <= value <= (high or 0):
                raise NotStrictError
            return value
        case inspect.VarTupleType(item_type=inspect.IntType(ge=low, le=high)):
            # Millions of tokens: no loop over them in Python.
            if type(value) is not list or not are_integers(value, low or 0, high or 0):
                raise NotStrictError
            value = tuple(value)
        case inspect.VarTupleType(item_type=item):
            if type(value) is not list or len(value) > (kind.max_length or 0):
                raise NotStrictError
            value = tuple(_from_json(element, item) for element in value)
            if len({*value}) != len(value):
                raise NotStrictError
        case inspect.BytesType():
            value = unpack_base64(value) if type(value) is str else None
            if value is None:
                raise NotStrictError
        case inspect.EnumType(cls=enum):
            for member in enum:
                if member.value == value:
                    return member
            raise NotStrictError
        case plain:
            if type(value) is not PLAIN_TYPES[type(plain)]:
                raise NotStrictError
    if _fault(value, kind):
        raise NotStrictError
    return value


def are_integers(values: Any, low: int, high: int) -> bool:
    """Return whether every value is an `int`, not a subclass, from `low` to `high`."""
    return not values or ({*map(type, values)} == {int} and low <= min(values) and max(values) <= high)


def unpack_base64(text: str) -> bytes | None:
    """Return the bytes of a base64 text, None if it is not canonical: padded, no stray bits. [JSON-BASE64]"""
    try:
        value: bytes = msgspec.convert(text, bytes)  # four times as fast as binascii
    except msgspec.ValidationError:
        return None
    # The last quantum alone can hold stray bits.
    last = binascii.b2a_base64(value[-(len(value) % 3) or len(value) :], newline=False).decode()
    return value if len(text) == (len(value) + 2) // 3 * 4 and text.endswith(last) else None


# -- decoding, for the verdict -----------------------------------------------------------------------------------------


def _read_payload(scanner: Scanner, cls: type[_PayloadT]) -> _PayloadT:
    if scanner.kind() != "an object":
        scanner.fail("payload-not-object", scanner.pos, f"expected an object, not {scanner.kind()}")
    fields = payload_fields(cls)
    values: dict[str, Any] = {}

    def member(key: str) -> None:
        if (field := fields.get(key)) is None:
            scanner.skip(level=2)
        else:
            values[field.name] = _read_field(scanner, key, field.type)

    closing = scanner.members(member, fields)
    for key, field in fields.items():
        if field.required and field.name not in values:
            scanner.fail("field-missing", closing, f"the object ends without {key}", key)
    return cls(**values)


def _read_field(scanner: Scanner, path: str, kind: inspect.Type) -> Any:
    scanner.next()
    at = scanner.pos
    match kind:
        case inspect.IntType():
            return _read_integer(scanner, path, kind)
        case inspect.BoolType():
            _expect(scanner, "a boolean", path)
            return scanner.literal()
        case inspect.VarTupleType():
            return _read_array(scanner, path, kind)
    _expect(scanner, "a string", path)
    text = scanner.string()
    value: Any
    match kind:
        case inspect.BytesType():
            if (value := unpack_base64(text)) is None:
                detail = "expected standard base64, padded, with zero bits in the padding"
                scanner.fail("field-base64", at, detail, path)
        case inspect.EnumType():
            for member in kind.cls:
                if member.value == text:
                    return member
            names = ", ".join(repr(member.value) for member in kind.cls)
            scanner.fail("field-enum", at, f"expected one of {names}, not {shorten(text)}", path)
        case _:
            value = text
    if fault := _fault(value, kind):
        scanner.fail(fault[0], at, fault[1], path)
    return value


def _read_integer(scanner: Scanner, path: str, kind: inspect.IntType) -> int:
    at = scanner.pos
    _expect(scanner, "a number", path)
    whole, fraction_or_exponent = scanner.number()
    if fraction_or_exponent:
        scanner.fail("field-not-integer", at, "an integer is written without fraction and exponent", path)
    low, high = kind.ge or 0, kind.le or 0
    # No number of more than 20 characters is in any range here, and int() takes quadratic time.
    value = int(whole) if len(whole) <= 20 else None
    if value is None or not low <= value <= high:
        scanner.fail("field-range", at, f"{whole[:24].decode()} is not from {low} to {high}", path)
    return value


def _read_array(scanner: Scanner, path: str, kind: inspect.VarTupleType) -> tuple[Any, ...]:
    _expect(scanner, "an array", path)
    opening = scanner.pos
    items: list[Any] = []

    def text(_: int) -> None:
        if len(items) == kind.max_length:
            scanner.fail("field-length", opening, f"more than {kind.max_length} elements", path)
        at, place = scanner.pos, f"{path}[{len(items)}]"
        item = _read_field(scanner, place, kind.item_type)
        if item in items:
            scanner.fail("field-duplicate", at, f"{shorten(item)} is repeated", place)
        items.append(item)

    def accept(values: list[int]) -> bool:
        if not values or not are_integers(values, low, high):
            return False
        items.extend(values)
        return True

    def integer(_: int) -> None:
        scanner.leap(b"[%b]", 1, accept)
        items.append(_read_field(scanner, f"{path}[{len(items)}]", kind.item_type))

    if isinstance(kind.item_type, inspect.IntType):
        low, high = kind.item_type.ge or 0, kind.item_type.le or 0
        scanner.elements(integer)
    else:
        scanner.elements(text)
    return tuple(items)


def _expect(scanner: Scanner, wanted: str, path: str) -> None:
    if (kind := scanner.kind()) != wanted:
        scanner.fail("field-type", scanner.pos, f"expected {wanted}, not {kind}", path)
