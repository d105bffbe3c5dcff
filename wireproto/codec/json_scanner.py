"""Strict JSON from bytes, with an exact error code and offset for every rejected text. [JSON-*]

`load_strictly` reads a text at about the speed of `json.loads`, which does most of the work, and applies the rules that
`json.loads` lacks. It does not say where a text breaks a rule. For that, `Scanner` reads one token at a time and stops
at the first byte that cannot be right, so each rejected text has one code and one offset.
Benchmark row: "scan 2 MiB of unknown JSON".
"""

import json
import re
from collections.abc import Callable, Collection
from itertools import accumulate
from typing import Any, Final, NoReturn, cast

import msgspec

from wireproto.errors import LimitError, MalformedError, TruncatedError, shorten

MAX_NESTING: Final = 512
"""Levels of arrays and objects, counting the payload itself; the reference peer has the same limit. [JSON-NESTING]"""

_BOM: Final = b"\xef\xbb\xbf"


# -- whole texts -------------------------------------------------------------------------------------------------------


class NotStrictError(Exception):
    """The text breaks a rule, or `json` cannot read it."""


def load_strictly(data: bytes, levels: int = MAX_NESTING) -> Any:
    """Return the value of a JSON text that follows every rule of [JSON-*] and nests at most `levels` deep.

    An integer of more than 20 digits is an `OverlongInteger`. Raises `NotStrictError`; `Scanner` finds the reason.
    """
    try:
        text = data.decode()
        try:
            value = _DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer with more digits than int() accepts
            value = _LONG_INTEGER_DECODER.decode(text)
    except (ValueError, RecursionError):
        raise NotStrictError from None
    if b"\\" in data and _has_half_pair(data, value):
        raise NotStrictError
    if not _opens_few(data, levels) and _depth(data) > levels:
        raise NotStrictError
    return value


class OverlongInteger:
    """An integer of more than 20 digits: out of every range of this protocol, and slow to convert."""


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if not pairs:  # otherwise a text of empty objects takes twice as long
        return {}
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictError
    return members


def _no_constant(_: str) -> NoReturn:
    raise NotStrictError  # NaN, Infinity and -Infinity, which are not JSON


def _integer(digits: str) -> int | OverlongInteger:
    return int(digits) if len(digits) <= 20 else OverlongInteger()


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_members, parse_constant=_no_constant)
_LONG_INTEGER_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_no_constant, parse_int=_integer
)


_HALF_PAIR: Final = re.compile(
    rb"""\\u[dD] (?: [89abAB].. (?!\\u[dD][c-fC-F]) | (?<! \\u[dD][89abAB]..\\u[dD] ) [c-fC-F] )""",
    re.VERBOSE | re.DOTALL,
)


def _has_half_pair(text: bytes, value: object) -> bool:
    """Return whether a string in the value of the text has half a surrogate pair."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return True
    except (OverflowError, TypeError):  # an integer that msgspec cannot encode; the search is much slower
        return _HALF_PAIR.search(text.replace(rb"\\", b"__")) is not None
    return False


def _opens_few(text: bytes, count: int) -> bool:
    """Return whether the text has at most `count` opening brackets of either kind, including those inside strings."""
    if len(text) <= count:
        return True
    for bracket in (b"[", b"{"):
        at = text.find(bracket)  # much faster than text.count
        while at >= 0:
            count -= 1
            if count < 0:
                return False
            at = text.find(bracket, at + 1)
    return True


_DELTAS: Final = bytes(1 if byte in b"[{" else 0xFF if byte in b"]}" else 0 for byte in range(256))
_INNERMOST: Final = b"[]".translate(_DELTAS)
_NO_BRACKETS: Final = bytes({*range(256)} - {*b"[{]}"})
_NO_BRACKETS_OR_COMMAS: Final = bytes({*range(256)} - {*b"[{]},"})


def _depth(text: bytes) -> int:
    """Return how deep a valid JSON text nests."""
    if b"\\" in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(text.split(b'"')[::2])
    deltas = outside_strings.translate(_DELTAS, _NO_BRACKETS)
    outer = deltas.replace(_INNERMOST, b"")  # the deepest pair is an innermost one, so this removes one level
    return 1 + max(accumulate(memoryview(outer).cast("b")), default=0) if deltas else 0


# -- token by token ----------------------------------------------------------------------------------------------------

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_NUMBER: Final = re.compile(rb"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_PREFIX: Final = re.compile(rb"-?(?:(?:0|[1-9][0-9]*)(?:(?:\.[0-9]+)?[eE][+-]?[0-9]*|\.[0-9]*)?)?")
_HEX4: Final = re.compile(rb"[0-9a-fA-F]{0,4}")
_ARRAYS: Final = re.compile(rb"(?:\[[ \t\n\r]*+)*+")
_STRING: Final = re.compile(
    rb"""(?:(?> [^"\\\x00-\x1f]++
             | \\ (?: ["\\/bfnrt]
                    | u (?: [0-9a-cA-CefEF][0-9a-fA-F]{3}
                          | [dD][0-7][0-9a-fA-F]{2}
                          | [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2} ) ) ))*+""",
    re.VERBOSE,
)
"""The inside of a string, up to its end or first fault, except that UTF-8 is not checked.

Before Python 3.11.5, `*+` alone keeps what an alternative has read before it fails (CPython issue 106052).
"""
_LITERALS: Final[dict[int, tuple[bytes, bool | None]]] = {
    0x74: (b"true", True),
    0x66: (b"false", False),
    0x6E: (b"null", None),
}
_KINDS: Final[dict[int, str]] = {
    0x22: "a string", 0x7B: "an object", 0x5B: "an array", 0x74: "a boolean", 0x66: "a boolean", 0x6E: "null",
    **dict.fromkeys(b"-0123456789", "a number"),
}  # fmt: skip
_ESCAPED: Final = frozenset(b'"\\/bfnrt')


def _outer_comma(part: bytes) -> int:
    """Return the place of the last comma outside all brackets, or -1. Brackets in strings mislead it."""
    deltas = part.translate(_DELTAS, _NO_BRACKETS_OR_COMMAS)  # a zero for each comma
    depths = [*accumulate(memoryview(deltas).cast("b"))]
    comma, at = part.rfind(b","), deltas.rfind(0)
    while at >= 0 and depths[at]:
        comma, at = part.rfind(b",", 0, comma), deltas.rfind(0, 0, at)
    return comma


def _comma_after(closing: bytes) -> Callable[[bytes], int]:
    return lambda part: part.rfind(closing + b",") + len(closing) if closing + b"," in part else -1


_COMMAS: Final = (_comma_after(b"}"), _comma_after(b"]"), _comma_after(b""), _outer_comma)
"""Functions that guess the end of a leap's last item, the fast ones first."""
_SHORT_LEAP: Final = 4 * 1024
_LONG_LEAP: Final = 64 * 1024


class Scanner:
    """A cursor over JSON text. Each method reads the item it is named for and leaves the cursor after it."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.data = data
        self.pos = start
        self._credit = _LONG_LEAP - start  # plus the bytes read so far: the work that failed leaps may still cost
        if data.startswith(_BOM, start):
            self.fail("json-bom", start, "the JSON text starts with a byte-order mark")

    # -- objects and arrays -------------------------------------------------------------------------------------------

    def members(self, member: Callable[[str], None], known: Collection[str] | None = None) -> int:
        """Read an object, calling `member(key)` after each colon; return the offset of its `}`.

        If `known` is given, `member` need not be called for other keys: they are skipped, validated fully.
        """
        self.pos += 1
        seen: set[str] = set()
        if self.next() == 0x7D:
            self.pos += 1
            return self.pos - 1
        while True:
            if known is not None:
                self.leap_members(seen, MAX_NESTING, known)
            member(self.key(seen))
            if self.separator(0x7D):
                return self.pos - 1

    def elements(self, element: Callable[[int], None]) -> None:
        """Read an array, calling `element(index)` at the first byte of each value."""
        self.pos += 1
        if self.next() == 0x5D:
            self.pos += 1
            return
        index = 0
        while True:
            self.kind()
            element(index)
            if self.separator(0x5D):
                return
            index += 1

    def key(self, seen: set[str]) -> str:
        """Read a key and its colon; `seen` holds the keys of this object so far."""
        if self.next() != 0x22:
            self.syntax("a key")
        at = self.pos
        key = self.string()
        if key in seen:
            self.fail("json-duplicate-key", at, f"the key {shorten(key)} is repeated in one object")
        seen.add(key)
        if self.next() != 0x3A:
            self.syntax("a colon")
        self.pos += 1
        return key

    def separator(self, closing: int) -> bool:
        """After a value: read the closing byte (True), or a comma and the white space after it (False)."""
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
        """Check that only white space follows."""
        self.space()
        if self.pos < len(self.data):
            self.fail("trailing-data", self.pos, "only white space may follow the JSON text")

    # -- any value ----------------------------------------------------------------------------------------------------

    def skip(self, level: int) -> None:
        """Skip a value, validating it fully, without recursion. `level` is its own nesting level."""
        opened: list[tuple[int, set[str]]] = []  # each array or object around the cursor: closing byte, keys so far
        while True:
            kind = self.kind()
            if kind in ("an object", "an array"):
                closing = 0x7D if kind == "an object" else 0x5D
                opened += [(closing, set()) for _ in range(self._open(closing, MAX_NESTING + 1 - level - len(opened)))]
                if self.next() != closing:
                    self._to_value(opened, level)
                    continue
                self.pos += 1
                opened.pop()
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
            self._to_value(opened, level)

    def _open(self, closing: int, room: int) -> int:
        """Read the opening of one object, or of directly nested arrays; return how many containers it opened."""
        if closing == 0x7D:
            end, count = self.pos + 1, 1
        else:
            end = _end(_ARRAYS, self.data, self.pos)
            count = self.data.count(b"[", self.pos, end)
        if count > room:
            for _ in range(room):
                self.pos = self.data.index(b"[", self.pos) + 1
            self.next()
            raise LimitError("json-nesting", f"nested deeper than {MAX_NESTING} levels", offset=self.pos)
        self.pos = end
        return count

    def _to_value(self, opened: list[tuple[int, set[str]]], level: int) -> None:
        """Leap to the next value of the innermost container that needs a look; read the key before it."""
        closing, seen = opened[-1]
        levels = MAX_NESTING - level - len(opened) + 2
        if closing == 0x7D:
            self.leap_members(seen, levels, ())
            self.key(seen)
        else:
            self.leap(b"[%b]", levels, bool)

    def leap_members(self, seen: set[str], levels: int, known: Collection[str]) -> None:
        """Skip members in bulk up to a key that is `known`; `seen` holds the keys of this object so far."""

        def accept(members: dict[str, object]) -> bool:
            if not members or not seen.isdisjoint(members) or not members.keys().isdisjoint(known):
                return False
            seen.update(members)
            return True

        self.leap(b"{%b}", levels, accept)

    def leap(self, frame: bytes, levels: int, accept: Callable[[Any], bool]) -> None:
        """Skip items of an array (`frame` is `[%b]`) or an object (`{%b}`) in bulk, with the commas after them.

        The cursor is at the start of an item, before and after. `accept(value)` decides on each group of items and must
        refuse an empty one. `levels` is how deep the array or object may nest. If a group is not skipped, the caller
        reads the next item. Failed attempts together cost less than reading the text once more.
        """
        size = _SHORT_LEAP
        while self._credit + self.pos >= 0:
            if self._leap_within(size, frame, levels, accept):
                size = min(4 * size, _LONG_LEAP)
            elif size == _SHORT_LEAP:
                return
            else:
                size = _SHORT_LEAP

    def _leap_within(self, size: int, frame: bytes, levels: int, accept: Callable[[Any], bool]) -> bool:
        part = self.data[self.pos : self.pos + size]
        if b"," not in part:
            return False
        tried = {-1}
        for find in _COMMAS:
            if (comma := find(part)) in tried:
                continue
            tried.add(comma)
            try:
                value = load_strictly(frame % part[:comma], levels)
            except NotStrictError:
                value = None
            if value is not None and accept(value):
                self.pos += comma + 1
                return True
            self._credit -= comma
        return False

    # -- tokens -------------------------------------------------------------------------------------------------------

    def space(self) -> None:
        self.pos = _end(_SPACE, self.data, self.pos)

    def next(self) -> int:
        """Return the next byte that is not white space, with the cursor at it."""
        self.space()
        if self.pos == len(self.data):
            self.truncated()
        return self.data[self.pos]

    def kind(self) -> str:
        """Return the kind of the value that starts at the cursor."""
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
        """Return the whole part, and whether a fraction or an exponent follows."""
        end = _end(_NUMBER_PREFIX, self.data, self.pos)
        if end == len(self.data):
            self.truncated()
        match = _NUMBER.match(self.data, self.pos)
        self.pos = end
        if match is None or match.end() != end:
            self.syntax("a digit")
        return match[1], match[2] is not None or match[3] is not None

    def string(self) -> str:
        start = self.pos + 1
        end = _end(_STRING, self.data, start)
        text = self._utf8(start, end)
        self.pos = end
        if end == len(self.data):
            self.truncated()
        byte = self.data[end]
        if byte == 0x5C:
            self._bad_escape()
        if byte != 0x22:
            self.fail("json-control-character", end, f"0x{byte:02x} must be escaped in a string")
        self.pos += 1
        return cast(str, json.loads(f'"{text}"')) if "\\" in text else text

    def _utf8(self, start: int, end: int) -> str:
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            if end == len(self.data) and error.end == end - start and "unexpected end" in error.reason:
                self.truncated()
            self.fail("json-utf8", start + error.start, f"not UTF-8: {error.reason}")

    def _bad_escape(self) -> NoReturn:
        """Raise the error of the escape, or pair of escapes, at the cursor."""
        at = self.pos
        self.pos += 1
        if self.pos == len(self.data):
            self.truncated()
        if (byte := self.data[self.pos]) != 0x75:
            self.fail("json-escape", at, f"JSON has no escape \\{chr(byte)}" if 0x20 < byte < 0x7F else "not an escape")
        unit = self._hex4()
        if unit < 0xDC00:  # the first half of a pair
            rest = self.data[self.pos : self.pos + 2]
            if rest == rb"\u":
                self.pos += 1
                self._hex4()
            elif rb"\u".startswith(rest) and self.pos + len(rest) == len(self.data):
                self.truncated()
        self.fail("json-surrogate", at, f"\\u{unit:04x} is half a surrogate pair")

    def _hex4(self) -> int:
        """Read the four digits of a `\\u` escape, with the cursor at its `u`."""
        self.pos += 1
        start, self.pos = self.pos, _end(_HEX4, self.data, self.pos)
        if self.pos - start < 4:
            if self.pos == len(self.data):
                self.truncated()
            self.fail("json-escape", self.pos, "expected four hexadecimal digits")
        return int(self.data[start : self.pos], 16)

    # -- errors -------------------------------------------------------------------------------------------------------

    def truncated(self) -> NoReturn:
        raise TruncatedError("truncated", "the JSON text ends too early", offset=len(self.data))

    def syntax(self, expected: str) -> NoReturn:
        self.fail("json-syntax", self.pos, f"expected {expected}, not byte 0x{self.data[self.pos]:02x}")

    def fail(self, code: str, offset: int, detail: str, path: str | None = None) -> NoReturn:
        raise MalformedError(code, detail, offset=offset, path=path)


def _end(pattern: re.Pattern[bytes], data: bytes, pos: int) -> int:
    """Return where a match ends; the pattern must also match the empty string."""
    return cast("re.Match[bytes]", pattern.match(data, pos)).end()
