"""Strict JSON payloads, read one token at a time: the exact verdict on any bytes. [JSON-*]

The scanner goes through the text once and rejects at the first byte that cannot be right, so each rejected text has one
error code and one offset. It is the reader of the schema; the fast path in `frame` comes here for what it does not
accept at a glance. What a value may be follows from the annotations of the payload classes in `messages`.
"""

import base64
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NoReturn, TypeVar, cast

import msgspec
from msgspec import inspect

from wireproto.errors import LimitError, MalformedError, TruncatedError

MAX_NESTING: Final = 512
"""Levels of arrays and objects, the payload itself being the first: the reference peer's limit. [JSON-NESTING]"""

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER: Final = re.compile(rb"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_PREFIX: Final = re.compile(rb"-?(?:(?:0|[1-9][0-9]*)(?:(?:\.[0-9]+)?[eE][+-]?[0-9]*|\.[0-9]*)?)?")
_HEX4: Final = re.compile(rb"[0-9a-fA-F]{0,4}")
_ESCAPES: Final = {
    0x22: '"', 0x5C: "\\", 0x2F: "/", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t",
}  # fmt: skip
_LITERALS: Final[dict[int, tuple[bytes, bool | None]]] = {
    0x74: (b"true", True),
    0x66: (b"false", False),
    0x6E: (b"null", None),
}
_KINDS: Final[dict[int, str]] = {
    0x22: "a string", 0x7B: "an object", 0x5B: "an array", 0x74: "a boolean", 0x66: "a boolean", 0x6E: "null",
    **dict.fromkeys(b"-0123456789", "a number"),
}  # fmt: skip
_BOM: Final = b"\xef\xbb\xbf"

_PayloadT = TypeVar("_PayloadT", bound=msgspec.Struct)


def decode_payload(cls: type[_PayloadT], data: bytes, start: int = 0) -> _PayloadT:
    """Reads the JSON object that is `data[start:]`, all of it, as the payload class `cls`.

    Raises `TruncatedError`, `MalformedError` or `LimitError`; offsets count from the start of `data`.
    """
    scanner = Scanner(data, start)
    payload = scanner.payload(cls)
    scanner.end()
    return payload


@cache
def payload_fields(cls: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    """The fields of a payload class by wire key, in the order in which they are declared."""
    info = inspect.type_info(cls)
    return {field.encode_name: field for field in info.fields} if isinstance(info, inspect.StructType) else {}


def check_fields(payload: msgspec.Struct) -> None:
    """Raises `MalformedError` unless each field is what its annotation says: not a subclass, in range, Unicode."""
    for key, field in payload_fields(type(payload)).items():
        _check_value(key, getattr(payload, field.name), field.type)


PLAIN_TYPES: Final[dict[type[inspect.Type], type]] = {
    inspect.IntType: int,
    inspect.BoolType: bool,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.VarTupleType: tuple,
}

_UNITS: Final[dict[type, str]] = {str: "characters", bytes: "bytes", tuple: "elements"}


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
                    raise MalformedError("field-duplicate", f"{element!r} stands there twice", path=f"{path}[{index}]")
        case inspect.StrType(), str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                detail = f"character {error.start} is half a surrogate pair"
                raise MalformedError("json-surrogate", detail, path=path) from error


def _fault(value: Any, kind: inspect.Type) -> tuple[str, str] | None:
    """The code of a value of the right type whose length or form is wrong, and the words; None if they are not."""
    if isinstance(kind, inspect.StrType | inspect.BytesType | inspect.VarTupleType):
        low, high = kind.min_length or 0, kind.max_length
        if not low <= len(value) <= (len(value) if high is None else high):
            limit = f"{low}" if low == high else f"at most {high}"
            return "field-length", f"expected {limit} {_UNITS[type(value)]}, not {len(value)}"
    if isinstance(kind, inspect.StrType) and kind.pattern is not None and not re.search(kind.pattern, value):
        return "field-pattern", f"{_short(value)} is not of the form {kind.pattern}"
    return None


class Scanner:
    """A cursor over JSON text. Each method reads what it is named for, and leaves the cursor behind it."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.data = data
        self.pos = start
        if data.startswith(_BOM, start):
            self.fail("json-bom", start, "the JSON text starts with a byte-order mark")

    # -- the payload --------------------------------------------------------------------------------------------------

    def payload(self, cls: type[_PayloadT]) -> _PayloadT:
        if self.kind() != "an object":
            self.fail("payload-not-object", self.pos, f"expected an object, not {self.kind()}")
        fields = payload_fields(cls)
        values: dict[str, Any] = {}

        def member(key: str) -> None:
            if (field := fields.get(key)) is None:
                self.skip(level=2)
            else:
                values[field.name] = self.field(key, field.type)

        closing = self.members(member)
        for key, field in fields.items():
            if field.required and field.name not in values:
                self.fail("field-missing", closing, f"the object ends without {key}", key)
        return cls(**values)

    def members(self, member: Callable[[str], None]) -> int:
        """Goes through an object, calling `member(key)` behind each colon; the offset of its `}`."""
        self.pos += 1
        seen: set[str] = set()
        if self.next() == 0x7D:
            self.pos += 1
            return self.pos - 1
        while True:
            member(self.key(seen))
            if self.separator(0x7D):
                return self.pos - 1

    def elements(self, element: Callable[[int], None]) -> None:
        """Goes through an array, calling `element(index)` at each value."""
        self.pos += 1
        if self.next() == 0x5D:
            self.pos += 1
            return
        index = 0
        element(index)
        while not self.separator(0x5D):
            index += 1
            element(index)

    def key(self, seen: set[str]) -> str:
        """Reads a key and its colon; `seen` holds the keys of this object so far."""
        at = self.pos
        if self.next() != 0x22:
            self.syntax("a key")
        key = self.string()
        if key in seen:
            self.fail("json-duplicate-key", at, f"the key {_short(key)} stands twice in one object")
        seen.add(key)
        if self.next() != 0x3A:
            self.syntax("a colon")
        self.pos += 1
        return key

    def separator(self, closing: int) -> bool:
        """After a value: takes the closing byte (True), or a comma and the white space behind it (False)."""
        byte = self.next()
        if byte == closing:
            self.pos += 1
            return True
        if byte != 0x2C:
            self.syntax(f"a comma or {chr(closing)}")
        self.pos += 1
        self.next()
        return False

    def end(self) -> None:
        self.space()
        if self.pos < len(self.data):
            self.fail("trailing-data", self.pos, "only white space may follow the JSON text")

    # -- fields -------------------------------------------------------------------------------------------------------

    def field(self, path: str, kind: inspect.Type) -> Any:
        self.next()
        at = self.pos
        match kind:
            case inspect.IntType():
                return self.integer(path, kind)
            case inspect.BoolType():
                self.expect("a boolean", path)
                return self.literal()
            case inspect.VarTupleType():
                return self.array(path, kind)
        self.expect("a string", path)
        text = self.string()
        value: Any
        match kind:
            case inspect.BytesType():
                value = self.unpack_base64(text, at, path)
            case inspect.EnumType():
                for member in kind.cls:
                    if member.value == text:
                        return member
                names = ", ".join(repr(member.value) for member in kind.cls)
                self.fail("field-enum", at, f"expected one of {names}, not {_short(text)}", path)
            case _:
                value = text
        if fault := _fault(value, kind):
            self.fail(fault[0], at, fault[1], path)
        return value

    def integer(self, path: str, kind: inspect.IntType) -> int:
        at = self.pos
        self.expect("a number", path)
        whole, fraction_or_exponent = self.number()
        if fraction_or_exponent:
            self.fail("field-not-integer", at, "an integer is written without fraction and exponent", path)
        low, high = kind.ge or 0, kind.le or 0
        # No number of more than 20 characters is in any range here, and int() takes quadratic time.
        value = int(whole) if len(whole) <= 20 else None
        if value is None or not low <= value <= high:
            self.fail("field-range", at, f"{whole[:24].decode()} is not from {low} to {high}", path)
        return value

    def array(self, path: str, kind: inspect.VarTupleType) -> tuple[Any, ...]:
        self.expect("an array", path)
        opening = self.pos
        items: list[Any] = []

        def element(index: int) -> None:
            if index == kind.max_length:
                self.fail("field-length", opening, f"more than {kind.max_length} elements", path)
            at, place = self.pos, f"{path}[{index}]"
            item = self.field(place, kind.item_type)
            if isinstance(kind.item_type, inspect.StrType) and item in items:
                self.fail("field-duplicate", at, f"{_short(item)} stands there twice", place)
            items.append(item)

        self.elements(element)
        return tuple(items)

    def unpack_base64(self, text: str, at: int, path: str) -> bytes:
        try:
            value = base64.b64decode(text, validate=True)
            canonical = base64.b64encode(value).decode() == text
        except ValueError:  # not base64, or not even ASCII
            canonical = False
        if not canonical:
            self.fail("field-base64", at, "expected standard base64, padded, with zero bits in the padding", path)
        return value

    def expect(self, wanted: str, path: str) -> None:
        if (kind := self.kind()) != wanted:
            self.fail("field-type", self.pos, f"expected {wanted}, not {kind}", path)

    # -- any value ----------------------------------------------------------------------------------------------------

    def skip(self, level: int) -> None:
        """Reads a value that nobody asked for, as strictly as one that was; without recursion. `level` is its own."""
        opened: list[tuple[int, set[str]]] = []  # each array or object around the cursor: closing byte, keys so far
        while True:
            kind = self.kind()
            if kind in ("an object", "an array"):
                if level + len(opened) > MAX_NESTING:
                    self.too_deep()
                closing = 0x7D if kind == "an object" else 0x5D
                self.pos += 1
                if self.next() == closing:
                    self.pos += 1
                else:
                    opened.append((closing, set()))
                    if kind == "an object":
                        self.key(opened[-1][1])
                    continue
            elif kind == "a string":
                self.string()
            elif kind == "a number":
                self.number()
            else:
                self.literal()
            while opened and self.separator(opened[-1][0]):
                opened.pop()
            if not opened:
                return
            if opened[-1][0] == 0x7D:
                self.key(opened[-1][1])

    # -- tokens -------------------------------------------------------------------------------------------------------

    def space(self) -> None:
        self.pos = _end(_SPACE, self.data, self.pos)

    def next(self) -> int:
        """The next byte that is not white space, without taking it."""
        self.space()
        if self.pos == len(self.data):
            self.truncated()
        return self.data[self.pos]

    def kind(self) -> str:
        """What kind of value starts at the cursor."""
        byte = self.next()
        if (kind := _KINDS.get(byte)) is None:
            self.syntax("a value")
        return kind

    def literal(self) -> bool | None:
        word, value = _LITERALS[self.data[self.pos]]
        for expected in word:
            if self.pos == len(self.data):
                self.truncated()
            if self.data[self.pos] != expected:
                self.syntax(word.decode())
            self.pos += 1
        return value

    def number(self) -> tuple[bytes, bool]:
        """The whole part, and whether a fraction or an exponent follows."""
        end = _end(_NUMBER_PREFIX, self.data, self.pos)
        if end == len(self.data):
            self.truncated()
        match = _NUMBER.match(self.data, self.pos)
        self.pos = end
        if match is None or match.end() != end:
            self.syntax("a digit")
        return match[1], match[2] is not None or match[3] is not None

    def string(self) -> str:
        self.pos += 1
        parts: list[str] = []
        while True:
            end = _end(_PLAIN, self.data, self.pos)
            parts.append(self.utf8(self.pos, end))
            self.pos = end
            if end == len(self.data):
                self.truncated()
            byte = self.data[end]
            if byte == 0x22:
                self.pos += 1
                return "".join(parts)
            if byte != 0x5C:
                self.fail("json-control-character", end, f"0x{byte:02x} must be escaped in a string")
            parts.append(self.escape())

    def utf8(self, start: int, end: int) -> str:
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            at = start + error.start
            if end == len(self.data) and error.end == end - start and "unexpected end" in error.reason:
                self.truncated()
            self.fail("json-utf8", at, f"not UTF-8: {error.reason}")

    def escape(self) -> str:
        at = self.pos
        self.pos += 1
        if self.pos == len(self.data):
            self.truncated()
        byte = self.data[self.pos]
        if byte != 0x75:
            if (char := _ESCAPES.get(byte)) is None:
                self.fail("json-escape", at, "not an escape that JSON has")
            self.pos += 1
            return char
        high = self.hex4()
        if not 0xD800 <= high <= 0xDFFF:
            return chr(high)
        if high < 0xDC00:
            rest = self.data[self.pos : self.pos + 2]
            if rest == b"\\u":
                self.pos += 1
                low = self.hex4()
                if 0xDC00 <= low <= 0xDFFF:
                    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
            elif b"\\u".startswith(rest) and self.pos + len(rest) == len(self.data):
                self.truncated()
        self.fail("json-surrogate", at, f"\\u{high:04x} is half a surrogate pair")

    def hex4(self) -> int:
        """The four digits of a `\\u` escape, with the cursor at its `u`."""
        self.pos += 1
        start, self.pos = self.pos, _end(_HEX4, self.data, self.pos)
        if self.pos - start < 4:
            if self.pos == len(self.data):
                self.truncated()
            self.fail("json-escape", self.pos, "expected four hexadecimal digits")
        return int(self.data[start : self.pos], 16)

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def truncated(self) -> NoReturn:
        raise TruncatedError("truncated", "the JSON text ends too soon", offset=len(self.data))

    def syntax(self, expected: str) -> NoReturn:
        self.fail("json-syntax", self.pos, f"expected {expected}, not byte 0x{self.data[self.pos]:02x}")

    def too_deep(self) -> NoReturn:
        raise LimitError("json-nesting", f"nested deeper than {MAX_NESTING} levels", offset=self.pos)

    def fail(self, code: str, offset: int, detail: str, path: str | None = None) -> NoReturn:
        raise MalformedError(code, detail, offset=offset, path=path)


def _end(pattern: re.Pattern[bytes], data: bytes, pos: int) -> int:
    """Where a pattern that also matches nothing stops matching."""
    return cast("re.Match[bytes]", pattern.match(data, pos)).end()


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
