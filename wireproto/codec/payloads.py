"""Strict decoding of JSON payloads, with an error code and offset for each wrong one. [JSON-*, PAYLOAD-*]"""

import binascii
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from wireproto.codec.fields import PLAIN_TYPES, are_integers, fault_of, payload_fields
from wireproto.codec.json_scanner import NotStrictError, Scanner, load_strictly
from wireproto.errors import shorten

_PayloadT = TypeVar("_PayloadT", bound=msgspec.Struct)


def decode_payload(cls: type[_PayloadT], data: bytes, start: int = 0) -> _PayloadT:
    """Read the JSON object `data[start:]` as the payload class `cls`.

    Raises `TruncatedError`, `MalformedError` or `LimitError`; offsets count from the start of `data`.
    """
    try:
        return _from_members(cls, load_strictly(data[start:]))
    except NotStrictError:
        pass  # the scanner finds the reason
    scanner = Scanner(data, start)
    payload = _read_payload(scanner, cls)
    scanner.end()
    return payload


def _from_members(cls: type[_PayloadT], members: object) -> _PayloadT:
    """Return the payload of a parsed JSON object. Raises `NotStrictError` if a field is wrong."""
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
    """Return the value of a parsed field. Raises `NotStrictError` if it is wrong."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            if type(value) is not int or not (low or 0) <= value <= (high or 0):
                raise NotStrictError
            return value
        case inspect.VarTupleType(item_type=inspect.IntType(ge=low, le=high)):
            # There may be millions of tokens: do not loop over them in Python.
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
    if fault_of(value, kind):
        raise NotStrictError
    return value


def unpack_base64(text: str) -> bytes | None:
    """Return the bytes of a base64 text, None unless it is canonical: padded, without stray bits. [JSON-BASE64]"""
    try:
        value: bytes = msgspec.convert(text, bytes)  # four times as fast as binascii
    except msgspec.ValidationError:
        return None
    # Only the last quantum can have stray bits.
    last = binascii.b2a_base64(value[-(len(value) % 3) or len(value) :], newline=False).decode()
    return value if len(text) == (len(value) + 2) // 3 * 4 and text.endswith(last) else None


# -- with the scanner, for the error code and offset ------------------------------------------------------------------


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
    if fault := fault_of(value, kind):
        scanner.fail(fault[0], at, fault[1], path)
    return value


def _read_integer(scanner: Scanner, path: str, kind: inspect.IntType) -> int:
    at = scanner.pos
    _expect(scanner, "a number", path)
    whole, fraction_or_exponent = scanner.number()
    if fraction_or_exponent:
        scanner.fail("field-not-integer", at, "an integer has neither fraction nor exponent", path)
    low, high = kind.ge or 0, kind.le or 0
    # A number of more than 20 characters is out of every range here, and int() takes quadratic time.
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
