"""Cluster frames along every dimension of the rules: each field at each bound, each fault at each place.

`malformed` and `strategies` draw at random from the same declarations; this module yields all of them in a fixed order.

    for point in points(Revision.V2):
        ...  # decode point.frame: it must fail with point.code, or be accepted if that is None
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, NamedTuple

from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.messages import MAX_LINK_LENGTH, REGISTRY, SPEC_BY_TYPE, MessageSpec, PayloadKind, Revision
from wireproto.testing import faults
from wireproto.testing.encodings import Members, canonical_members, edge_values, encode_value, join_members


class Point(NamedTuple):
    """One frame."""

    kind: str
    """The dimension, such as `out-of-range`."""
    about: str
    """The position on that dimension."""
    frame: bytes
    code: str | None = None
    """The error code that it must give; None if it is valid."""


_X: Final = "x"
"""A key that no payload has."""
_COUNTS: Final = (2, 3, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 129, 255, 256, 257, 512, 1000, 1024, 1025, 4096, 5000)
"""Of keys and elements."""
_MANY: Final = (10_000, 32_768, 65_535, 65_536, 65_537)
_SIZES: Final = (
    0, 1, 2, 15, 16, 27, 28, 29, 127, 128, 255, 256, 4095, 4096, 32_767, 32_768, 65_534, 65_535, 65_536, 65_537,
)  # fmt: skip
"""Bytes of an opaque payload."""
_LENGTHS: Final = (
    1, 31, 32, 63, 64, 127, 128, 254, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 16_383, 32_767, 32_768, 60_000,
)  # fmt: skip
"""Characters of a string."""
_ESCAPED: Final = 300
"""The longest value that is also encoded with every character escaped."""
_NUMBERS: Final = (
    b"0", b"-0", b"-1", b"1.5", b"-1.5e+10", b"1E400", b"1e-400", b"0.0e-0", b"0e0", b"0E+0", b"-0.0", b"1e5", b"1E5",
    b"123456789012345678901234567890", b"9007199254740993", b"18446744073709551616", b"1" * 400,
    b"0.%s1" % (b"0" * 400),
)  # fmt: skip
_TEXTS: Final = (
    "", " ", "\x7f", "\x80", "\x9f", "\xa0", "\xad", "é", "e\u0301", "\u1e69", "s\u0323\u0307", "ﬁ", "Å", "\u212b",
    "\u200b", "\u2028", "\u2029", "\u202e", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\ud7ff", "\ue000", "null",
    "true", "0", "-1", "[]", "{}", "a\0b", "\\", '"', "\\u0041", "/", "://", "</script>", "\r\n", "\t", "\b\f",
    "a" * 255, "😀" * 255, "__proto__", "constructor",
)  # fmt: skip


def points(revision: Revision) -> Iterator[tuple[MessageSpec, Point]]:
    """Yield the points of each type that a revision has, and those of no type."""
    for spec in REGISTRY:
        if spec.is_known(revision):
            yield from ((spec, point) for point in _of(spec))


def unknown_types(revision: Revision) -> Iterator[Point]:
    """Yield frames of every type that a revision does not have."""
    for byte in range(256):
        if byte not in SPEC_BY_TYPE or not SPEC_BY_TYPE[byte].is_known(revision):
            yield Point("type-unknown", f"type 0x{byte:02x} alone", bytes([byte]), "type-unknown")
            yield Point("type-unknown", f"type 0x{byte:02x}, an object", bytes([byte]) + b"{}", "type-unknown")


def _of(spec: MessageSpec) -> Iterator[Point]:
    match spec.kind:
        case PayloadKind.JSON:
            payload = _Payload(spec)
            for part in (
                payload.values, payload.keys, payload.texts, payload.numbers, payload.structure, payload.forms,
                payload.lengths, payload.bad_values, payload.bad_strings, payload.bad_grammar, payload.duplicates,
                payload.unknown_duplicates, payload.missing, payload.bad_ends, payload.too_deep,
            ):  # fmt: skip
                yield from part()
        case PayloadKind.EMPTY:
            head = bytes([spec.msg_type])
            yield Point("values", "nothing", head)
            for byte in range(256):
                code = "payload-not-empty"
                yield Point("payload-where-none-belongs", f"a byte 0x{byte:02x}", head + bytes([byte]), code)
            for size in (2, 3, 4, 8, 16, 64, 65_536):
                yield Point(
                    "payload-where-none-belongs", f"{size} bytes", head + b"{}" * (size // 2), "payload-not-empty"
                )
        case _:
            for size in _SIZES:
                for fill in (b"\0", b"\xff", b"{"):
                    yield Point("values", f"{size} bytes {fill.hex()}", bytes([spec.msg_type]) + fill * size)
            yield Point("values", "each byte", bytes([spec.msg_type, *range(256)]))


class _Payload:
    """A plain JSON payload, and its variations."""

    def __init__(self, spec: MessageSpec) -> None:
        self._head = bytes([spec.msg_type])
        self._limit = spec.max_length
        self._fields = payload_fields(spec.payload)
        required = {field.name: _plain(field.type) for field in self._fields.values() if field.required}
        self._members: Members = canonical_members(spec.payload(**required))
        self._texts = [key for key, field in self._fields.items() if type(field.type) is inspect.StrType]
        self._turn = count(spec.msg_type.value)
        self._is_first = spec.msg_type.wire_name in ("sessionStop", "handshakeHello")
        """Whether it gets every string fault at every place; the others take turns."""

    def _frame(self, *members: tuple[str, bytes], first: bool = False) -> bytes:
        """Return the plain frame with these members replaced, or added at its end or start."""
        named = dict(members)
        own = [(key, named.pop(key, text)) for key, text in self._members]
        added = [(key, text) for key, text in members if key in named]
        return self._head + join_members([*added, *own] if first else [*own, *added])

    def _fitting(self, kind: str, about: str, frame: bytes, code: str | None = None) -> Iterator[Point]:
        """Yield the point, unless the frame is too long for its type."""
        if len(frame) <= min(self._limit, MAX_LINK_LENGTH):
            yield Point(kind, about, frame, code)

    # -- valid frames --------------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Point]:
        for key, field in self._fields.items():
            for value in _bounds(field.type):
                text = encode_value(None, value)
                yield from self._fitting("values", f"{key} at a bound", self._frame((key, text)))
                if isinstance(value, str | bytes) and len(value) <= _ESCAPED:
                    for form in (b"\\u%04x", b"\\u%04X"):
                        yield from self._fitting("values", f"{key} escaped", self._frame((key, _escaped(text, form))))
            if isinstance(field.type, inspect.IntType):
                yield Point("values", f"{key} is -0", self._frame((key, b"-0")))

    def keys(self) -> Iterator[Point]:
        """Yield unknown keys of all kinds at all places, and known keys escaped, reordered, or again one level down."""
        plain = dict(self._members)
        for key, text in self._members:
            escaped = self._frame((key, text)).replace(
                b'"%s":' % key.encode(), _escaped(b'"%s"' % key.encode()) + b":", 1
            )
            yield from self._fitting("keys", f"{key} escaped", escaped)
            for other in (key.upper(), key + " ", " " + key, key + "\0", key[:-1], "\0" + key, key + "\u0301"):
                yield from self._fitting("keys", f"{other!r} beside {key}", self._frame((other, b"null")))
            for nested in (b'{"%s":%s}', b'[{"%s":%s}]', b'{"y":{"%s":%s}}'):
                yield Point("keys", f"{key} again in another object", self._frame((_X, nested % (key.encode(), text))))
        for number in range(len(plain)):
            turned = [*self._members[number:], *self._members[:number]]
            yield Point("keys", f"turned by {number}", self._head + join_members(turned))
        yield Point("keys", "reversed", self._head + join_members(self._members[::-1]))
        for unknown in ("", "é", "e\u0301", "\0", "\u2028", "😀", "\ufeff", "a" * 255, "__proto__"):
            for first in (False, True):
                yield from self._fitting(
                    "keys", f"an unknown key {unknown[:9]!r}", self._frame((unknown, b"[]"), first=first)
                )
        pair = [("\u00e9", b"0"), ("e\u0301", b"0")]
        yield Point("keys", "two keys that are one if normalised", self._frame(*pair))

    def texts(self) -> Iterator[Point]:
        several = _TEXTS if self._is_first else _TEXTS[next(self._turn) % 3 :: 3]
        for key in (*self._texts, _X):
            limit = getattr(self._fields[key].type, "max_length", None) if key in self._fields else None
            if key in self._fields and getattr(self._fields[key].type, "pattern", None):
                continue
            for text in (*several, *self._characters()):
                if limit is None or len(text) <= limit:
                    frame = self._frame((key, encode_value(None, text)))
                    yield from self._fitting("texts", f"{key} is {text[:9]!r}", frame)
                    yield from self._fitting(
                        "texts",
                        f"{key} is {text[:9]!r} escaped",
                        self._frame((key, _escaped(encode_value(None, text)))),
                    )
            for letter in "aé😀":
                for length in _LENGTHS:
                    if limit is None or length <= limit:
                        frame = self._frame((key, b'"' + letter.encode() * length + b'"'))
                        yield from self._fitting("lengths", f"{key} of {length} characters", frame)

        together = b"[" + b",".join(encode_value(None, text) for text in (*_TEXTS, *self._characters())) + b"]"
        yield from self._fitting("texts", "all of them in an array", self._frame((_X, together)))

    def _characters(self) -> Iterator[str]:
        """Yield the bounds of each class of UTF-8, and a character for each lead byte and plane."""
        for lowest, highest in faults.UTF_8_CLASSES:
            yield from (lowest.decode(), highest.decode())
        if self._is_first:
            yield from (bytes([lead, 0x80]).decode() for lead in range(0xC2, 0xE0))
            yield from (bytes([lead, 0x9F if lead == 0xED else 0xA0, 0x80]).decode() for lead in range(0xE0, 0xF0))
            yield from (
                chr(plane << 16 | low) for plane in range(1, 17) for low in (0, 1, 0x3FF, 0x400, 0xFC00, 0xFFFF)
            )
            yield from map(chr, range(0x7F))

    def numbers(self) -> Iterator[Point]:
        for number in _NUMBERS:
            for form in (b"%s", b"[%s]", b'{"":%s}'):
                yield Point(
                    "numbers", f"{number[:20].decode()} where it is not known", self._frame((_X, form % number))
                )

        yield Point("numbers", "all of them in an array", self._frame((_X, b"[" + b",".join(_NUMBERS) + b"]")))

    def structure(self) -> Iterator[Point]:
        """Yield depths up to the limit, depths that decrease again, many keys, many elements."""
        deepest = MAX_NESTING - 1
        for depth in (1, 2, 31, 32, 63, 64, 99, 100, 127, 128, 255, 256, deepest - 1, deepest):
            for opening, inner, closing in ((b"[", b"", b"]"), (b'{"":', b"0", b"}"), (b'[{"a":', b"[]", b"}]")):
                times = depth if len(opening) != 6 else (depth - 1) // 2
                nested = opening * times + inner + closing * times
                yield from self._fitting("depth", f"{depth} deep, as {opening.decode()}", self._frame((_X, nested)))
                if depth == deepest:
                    frame = self._frame((_X, nested), ("y", nested))
                    yield from self._fitting("depth", "two of the deepest, one after the other", frame)
        for number in (*_COUNTS, *_MANY):
            for element in (b"0", b"[]", b"{}", b'""', b"[[]]", b'{"":{}}'):
                elements = b"[" + b",".join([element] * number) + b"]"
                about = f"{number} elements {element.decode()}"
                if number <= _COUNTS[-1] or element == b"0":
                    yield from self._fitting("elements", about, self._frame((_X, elements)))
            if number <= _COUNTS[-1]:
                keys = [(f"x{each}", b"0") for each in range(number)]
                yield from self._fitting("keys", f"{number} unknown keys", self._frame(*keys))
                yield from self._fitting("keys", f"{number} unknown keys first", self._frame(*keys, first=True))
                yield from self._fitting("keys", f"{number} keys in an object", self._frame((_X, join_members(keys))))
            for key, field in self._fields.items():
                if isinstance(field.type, inspect.VarTupleType) and isinstance(field.type.item_type, inspect.IntType):
                    text = b"[" + b",".join(b"%d" % (each - 9) for each in range(number)) + b"]"
                    yield from self._fitting("elements", f"{key} of {number} elements", self._frame((key, text)))

    def forms(self) -> Iterator[Point]:
        text = self._frame((_X, b'[1,"a",{"b":null,"c":[]},true]'))[1:]
        for space in (b" ", b"\t", b"\n", b"\r", b"\r\n", b" \t\n\r"):
            spaced = b"".join(space + bytes([byte]) + space if byte in b"{}[]:," else bytes([byte]) for byte in text)
            yield from self._fitting("white-space", f"{space!r} everywhere", self._head + spaced)
            for times in (64, 255, 256, 257, 1000, 4096):
                yield from self._fitting(
                    "white-space", f"{times} times {space!r} before", self._head + space * times + text
                )
                yield from self._fitting(
                    "white-space", f"{times} times {space!r} after", self._head + text + space * times
                )
        for key in (*self._texts, _X):
            if not getattr(getattr(self._fields.get(key), "type", None), "pattern", None):
                short = self._frame((key, rb'"\"\\\/\b\f\n\r\t/"'))
                yield from self._fitting("escapes", f"every short escape in {key}", short)
                for letter in b'"\\/bfnrt':
                    yield Point("escapes", f"\\{letter:c} in {key}", self._frame((key, b'"a\\%cb"' % letter)))
                for pair in (b"d800dc00", b"dbffdfff", b"d83dde00", b"D83DDE00", b"d83cdfff", b"daacdead", b"dbC0Dc01"):
                    escaped = b'"a\\u%s\\u%sb"' % (pair[:4], pair[4:])
                    yield Point("escapes", f"a pair {pair.decode()} in {key}", self._frame((key, escaped)))
                for unit in (b"0000", b"001f", b"007f", b"0080", b"d7ff", b"e000", b"FFFF", b"fffe", b"feff", b"2028"):
                    yield Point("escapes", f"\\u{unit.decode()} in {key}", self._frame((key, b'"\\u%s"' % unit)))
                for digit in b"0123456789abcdefABCDEF":
                    yield Point(
                        "escapes",
                        f"the digit {digit:c} in {key}",
                        self._frame((key, b'"\\u0%c%c%c"' % (digit, digit, digit))),
                    )

    def lengths(self) -> Iterator[Point]:
        """Yield frames up to the type's limit, and over it."""
        if self._limit == MAX_LINK_LENGTH:
            return
        plain = self._frame()
        filled = self._frame((_X, b'""'))
        for off in (-1, 0, 1, 2, 3, 16, 256, 4096, 65_536):
            code = "payload-limit" if off > 0 else None
            kind = "over-limit" if code else "lengths"
            size = self._limit + off
            yield Point(kind, f"{size} bytes, white space last", plain.ljust(size), code)
            yield Point(
                kind, f"{size} bytes, white space first", plain[:1].ljust(size - len(plain) + 1) + plain[1:], code
            )
            text = filled[:-2] + b"a" * (size - len(filled)) + filled[-2:]
            yield Point(kind, f"{size} bytes, a long string", text, code)

    # -- invalid frames ------------------------------------------------------------------------------------------------

    def bad_values(self) -> Iterator[Point]:
        for key, field in self._fields.items():
            for name, code, fits, wrong in faults.VALUES:
                if fits(field.type):
                    for value in (_plain(field.type), *_more(field.type)):
                        for text in wrong(value, field.type):
                            yield from self._fitting(name, f"{key} is {_short(text)}", self._frame((key, text)), code)
            kind = field.type
            if isinstance(kind, inspect.VarTupleType):
                for text in faults.VALUES[1][3](None, kind):
                    good = encode_value(None, edge_values(kind.item_type)[0])
                    inside = b"[" + good + b"," + text[1:]
                    yield Point(
                        "item-of-wrong-type", f"{key}, the second item", self._frame((key, inside)), "field-type"
                    )
                if isinstance(kind.item_type, inspect.IntType):
                    for name, code, _, wrong in faults.VALUES[2:4]:
                        for text in wrong(1, kind.item_type):
                            for inside in (b"[%s]", b"[1,%s]", b"[%s,1]"):
                                yield Point(
                                    name, f"an item of {key} is {_short(text)}", self._frame((key, inside % text)), code
                                )

    def _places(self, key: bool) -> Iterator[tuple[str, bytes]]:
        """Return templates of a frame with one `%s`, in quotes, wherever a string can be."""
        forms = {
            "an unknown value": self._frame((_X, b'"%s"')),
            "an unknown value first": self._frame((_X, b'"%s"'), first=True),
            "an element": self._frame((_X, b'[1,"%s"]')),
            "a nested value": self._frame((_X, b'{"a":{"b":"%s"}}')),
        }
        if key:
            forms["an unknown key"] = self._frame()[:-1] + b',"%s":0}'
            forms["a nested key"] = self._frame((_X, b'[{"%s":0}]'))
        for each, field in self._fields.items():
            if type(field.type) in (inspect.StrType, inspect.BytesType, inspect.EnumType) and field.required:
                forms[each] = self._frame((each, b'"%s"'))
        yield from ((place, form.replace(b"%", b"%%").replace(b"%%s", b"%s")) for place, form in forms.items())

    def bad_strings(self) -> Iterator[Point]:
        for place, form in self._places(key=True):
            for name, (code, texts) in faults.STRINGS.items():
                step = 1 if self._is_first and place in ("an unknown value", "an unknown key", "uid") else 16
                for text in texts[next(self._turn) % step :: step]:
                    before, after = ((b"", b""), (b"a", b""), (b"", b"a"), (b"ab", "é".encode()))[next(self._turn) % 4]
                    yield Point(name, f"{text!r} in {place}", form % (before + text + after), code)

    def bad_grammar(self) -> Iterator[Point]:
        for place, form in self._places(key=False):
            if place in self._fields:
                continue
            step = 1 if self._is_first else 4
            for text in faults.GRAMMAR[next(self._turn) % step :: step]:
                yield Point("syntax", f"{_short(text)} as {place}", form.replace(b'"%s"', b"%s") % text, "json-syntax")
        plain = self._frame()
        commas = (plain[:-1] + b",}", plain[:1] + b"{," + plain[2:], plain[:-1] + b",,}", plain[:-1] + b';"x":0}')
        for frame in (*commas, plain.replace(b":", b"=", 1), plain.replace(b'"', b"'", 2), plain[:-1] + b"]"):
            yield Point("syntax", f"{_short(frame[1:])}", frame, "json-syntax")

    def duplicates(self) -> Iterator[Point]:
        """Yield each key repeated: adjacent, far apart, escaped, one level down and deeper."""
        name, code = "key-twice", "json-duplicate-key"
        plain = self._frame()
        for key, text in self._members:
            quoted = b'"%s"' % key.encode()
            for twin in (quoted, _escaped(quoted), b'"\\u%04x%s"' % (ord(key[0]), key[1:].encode())):
                for value in (text, b"null", b"0", b'""', b"[]"):
                    last = plain[:-1] + b"," + twin + b":" + value + b"}"
                    yield Point(name, f"{key} again, last", last, code)
                first = plain[:1] + b"{" + twin + b":" + text + b"," + plain[2:]
                yield Point(name, f"{key} first, and again", first, code)
                if len(quoted) < len(twin):
                    both = first.replace(quoted, _escaped(quoted, b"\\u%04X"))
                    yield Point(name, f"{key} twice, both escaped", both, code)
        for text in faults.DUPLICATES:
            yield Point(name, f"{_short(text)}", self._frame((_X, text)), code)

    def unknown_duplicates(self) -> Iterator[Point]:
        """Yield an unknown key repeated, with others between and at any depth."""
        name, code = "unknown-key-twice", "json-duplicate-key"
        plain = self._frame()
        for other in ("", "x", "é", "uid2", "port2", "constructor"):
            for between in (0, 1, *(_COUNTS if other in ("", "constructor") else _COUNTS[:1])):
                keys = (other, *(f"x{each}" for each in range(between)), other)
                inside = b",".join(b'"%s":0' % each.encode() for each in keys)
                last = plain[:-1] + b"," + inside + b"}"
                yield from self._fitting(name, f"{other!r} again, {between} keys after", last, code)
                nested = self._frame((_X, b"{" + inside + b"}"))
                yield from self._fitting(name, f"{other!r} again, {between} keys after, nested", nested, code)
        for other in ("", "a", "é", *[key for key, _ in self._members], "x"):
            key = other.encode()
            for depth in (1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 256, MAX_NESTING - 2):
                for opening, closing in ((b"[", b"]"), (b'{"%s":' % key, b"}")):
                    deep = opening * depth + b'{"%s":0,"%s":0}' % (key, key) + closing * depth
                    if other in ("a", "x") or depth < 4:
                        about = f"{other!r} twice, {depth} deep"
                        yield from self._fitting(name, about, self._frame((_X, deep)), code)

    def missing(self) -> Iterator[Point]:
        for key, text in self._members:
            rest = [each for each in self._members if each[0] != key]
            yield Point("key-missing", key, self._head + join_members(rest), "field-missing")
            nested = [*rest, (_X, b'{"%s":%s}' % (key.encode(), text))]
            yield Point(
                "key-missing", f"{key} is in another object", self._head + join_members(nested), "field-missing"
            )
            others = (
                key.upper(),
                key.lower(),
                key.capitalize(),
                key + " ",
                " " + key,
                key + "\0",
                key[:-1],
                key[1:],
                key + "_",
            )
            for other in dict.fromkeys(others):
                if other != key:
                    members = [(other if name == key else name, value) for name, value in self._members]
                    yield Point("key-in-other-case", f"{other!r}", self._head + join_members(members), "field-missing")
        yield Point("key-missing", "all", self._head + b"{}", "field-missing")

    def bad_ends(self) -> Iterator[Point]:
        plain = self._frame()
        whole = (
            self._frame((_X, b'[1,{"a":"\\u00e9\\n\xc3\xa9","b":-1.5e+3},true,false,null]'))
            if self._is_first
            else plain
        )
        for size in range(1, len(whole)):
            yield Point("cut-short", f"after {size} of {len(whole)} bytes", whole[:size], "truncated")
        for tail in faults.TRAILING:
            yield Point("trailing-bytes", _short(tail), plain + tail, "trailing-data")
            yield Point("trailing-bytes", f"{_short(tail)} after spaces", plain + b" \n" + tail, "trailing-data")
        for text in faults.NOT_OBJECTS:
            yield Point("not-an-object", _short(text), self._head + text, "payload-not-object")
            yield Point(
                "not-an-object", f"{_short(text)} after a space", self._head + b" " + text, "payload-not-object"
            )
        yield Point("not-an-object", "in an array", self._head + b"[" + plain[1:] + b"]", "payload-not-object")
        yield Point("not-an-object", "a bracket for a brace", self._head + b"[" + plain[2:], "payload-not-object")
        yield Point("byte-order-mark", "first", self._head + b"\xef\xbb\xbf" + plain[1:], "json-bom")

    def too_deep(self) -> Iterator[Point]:
        """Yield nesting over the limit, closed or cut after the first excess bracket."""
        for levels in (MAX_NESTING, MAX_NESTING + 1, 600, 1000, 1024, 2000, 10_000):
            for opening, inner, closing in ((b"[", b"", b"]"), (b'{"":', b"0", b"}")):
                nested = opening * levels + inner + closing * levels
                about = f"{levels + 1} deep, as {opening.decode()}"
                yield from self._fitting("nested-too-deep", about, self._frame((_X, nested)), "json-nesting")
                for extra in (0, 1, 63):
                    cut = self._frame()[:-1] + b',"x":' + opening * (levels - 1) + closing[:0] + b"[" * (1 + extra)
                    yield from self._fitting("nested-too-deep", f"{about}, cut there", cut, "json-nesting")
                fallen = b"[" + opening * 3 + inner + closing * 3 + b"," + nested[1:] if opening == b"[" else nested
                yield from self._fitting(
                    "nested-too-deep", f"{about}, after less", self._frame((_X, fallen)), "json-nesting"
                )


def _plain(kind: inspect.Type) -> Any:
    """Return a valid value that is not a bound."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return min(max(7, low or 0), high or 7)
        case inspect.StrType(pattern=None):
            return "u"
        case inspect.VarTupleType(item_type=inspect.IntType()):
            return (1, 2)
        case inspect.BytesType(min_length=int(length)):
            return bytes(range(length))
        case inspect.BytesType():
            return bytes(range(70))
        case _:
            return edge_values(kind)[0]


def _more(kind: inspect.Type) -> list[Any]:
    """Return other values that a base64 fault can replace."""
    return [b"", b"\xfb\xff"] if isinstance(kind, inspect.BytesType) and not kind.min_length else []


def _bounds(kind: inspect.Type) -> Iterator[Any]:
    """Return values at the bounds of the type, and at widths and lengths where implementations round, wrap or cut."""
    yield from edge_values(kind)
    match kind:
        case inspect.IntType(ge=int(low), le=int(high)):
            powers = [sign * 2**width + off for width in faults.WIDTHS for sign in (1, -1) for off in (-1, 0, 1)]
            tens = [sign * 10**power + off for power in range(1, 19) for sign in (1, -1) for off in (0, 1)]
            digits = [int("1234567890123456789"[:length]) for length in range(1, 20)]
            yield from (number for number in (*powers, *tens, *digits) if low <= number <= high)
        case inspect.VarTupleType(item_type=inspect.IntType() as item):
            yield from ((number, number) for number in _bounds(item))
        case inspect.BytesType(min_length=None):
            for size in (*range(1, 10), *range(63, 80), 127, 128, 255, 256, 1000, 4096, 32_768, 65_535, 65_536):
                yield bytes((7 * at) & 0xFF for at in range(size))
            yield from (b"\xff" * size for size in (1, 2, 3, 47, 48, 49, 57, 58))
        case inspect.BytesType(min_length=int(length)):
            yield from (bytes([byte]) * length for byte in (0xFB, 0xEF, 0x3E, 0x7F, 0x80))
        case _:
            pass


def _escaped(text: bytes, form: bytes = b"\\u%04x") -> bytes:
    """Return a JSON string with every UTF-16 unit escaped."""
    units = json.loads(text).encode("utf-16-be")
    return b'"' + b"".join(form % int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)) + b'"'


def _short(text: bytes) -> str:
    return repr(text)[1:] if len(text) <= 40 else f"{repr(text[:40])[1:]}…"
