"""Lists of faults in a payload: bad values of a field, bad strings, bad JSON.

`malformed` draws from them at random; `grid` uses each.
"""

import base64
from collections.abc import Callable, Iterator
from string import hexdigits
from typing import Any, Final

from msgspec import inspect

from wireproto.testing.encodings import encode_string

WrongTexts = Callable[[Any, Any], list[bytes]]
"""Returns the bad JSON texts for a value and the type of its field."""

WIDTHS: Final = (7, 8, 15, 16, 24, 31, 32, 48, 52, 53, 62, 63, 64, 65, 127, 128)
"""Widths at which implementations round or wrap."""

# -- values of a field -------------------------------------------------------------------------------------------------

_TEXTS_OF: Final = {
    "number": [b"0", b"1"], "boolean": [b"true", b"false"], "string": [b'""', b'"0"', b'"true"'],
    "array": [b"[]", b"[0]"], "other": [b"null", b"{}"],
}  # fmt: skip
_KIND_OF: Final[dict[type[inspect.Type], str]] = {
    inspect.IntType: "number",
    inspect.BoolType: "boolean",
    inspect.VarTupleType: "array",
}
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _wrong_type(value: Any, kind: Any) -> list[bytes]:
    right = _KIND_OF.get(type(kind), "string")
    return [text for name, texts in _TEXTS_OF.items() if name != right for text in texts]


def _wrong_item(value: Any, kind: Any) -> list[bytes]:
    item = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
    return [b"[" + text + b"]" for text in _wrong_type(None, item)]


def _fraction(value: Any, kind: Any) -> list[bytes]:
    return [b"%d" % value + end for end in (b".0", b".5", b"e0", b"E+0", b".0e0", b"e-0", b"E1", b".000", b"e00")]


def _out_of_range(value: Any, kind: Any) -> list[bytes]:
    low, high = kind.ge or 0, kind.le or 0
    powers = [sign * 2**width + off for width in WIDTHS for sign in (1, -1) for off in (-1, 0, 1)]
    numbers = (high + 1, low - 1, *powers, 10**18, 10**19, 10**20, 10**30, -(10**30), 10**400)
    return [b"%d" % number for number in numbers if not low <= number <= high]


def _base64_of(value: object, rest: int) -> str:
    """Return base64 of the value, extended to a length that is `rest` modulo 3."""
    data = value if isinstance(value, bytes) else b""
    data += bytes((rest - len(data)) % 3 + 3)
    return base64.b64encode(data).decode()


def _other_alphabet(value: Any, kind: Any) -> list[bytes]:
    text = _base64_of(value, 0)[1:]
    return [f'"{letter}{text}"'.encode() for letter in "-_"] + [f'"{text}{letter}"'.encode() for letter in "-_"]


def _no_padding(value: Any, kind: Any) -> list[bytes]:
    texts = [_base64_of(value, rest) for rest in (1, 2)]
    return [f'"{text.rstrip("=")}"'.encode() for text in texts] + [f'"{texts[0][:-1]}"'.encode()]


def _stray_bits(value: Any, kind: Any) -> list[bytes]:
    texts = []
    for rest, spare in ((1, 16), (2, 4)):
        text = _base64_of(value, rest)
        digits = text.rstrip("=")
        last = _ALPHABET.index(digits[-1])
        texts += [f'"{digits[:-1]}{_ALPHABET[last | bits]}{text[len(digits) :]}"'.encode() for bits in range(1, spare)]
    return texts


def _spaced_base64(value: Any, kind: Any) -> list[bytes]:
    text = _base64_of(value, 0)
    places = sorted({0, 1, 2, 3, 4, len(text) // 2, 64, 76, len(text) - 1, len(text)} & {*range(len(text) + 1)})
    between = [" ", r"\n", r"\r\n", "*", "é", r"\u0000", r"\t", ".", ",", "\x7f"]
    return [f'"{text[:at]}{each}{text[at:]}"'.encode() for each in between for at in places]


def _too_much_padding(value: Any, kind: Any) -> list[bytes]:
    whole = [f'"{_base64_of(value, 0)}{padding}"' for padding in ("=", "==", "===", "====")]
    more = [f'"{_base64_of(value, rest)}{padding}"' for rest in (1, 2) for padding in ("=", "==")]
    inside = [f'"{text}{text}"' for text in (_base64_of(value, 1), _base64_of(value, 2))]
    return [text.encode() for text in (*whole, *more, *inside)]


def _other_length(value: Any, kind: Any) -> list[bytes]:
    length = kind.min_length or 0
    lengths = (length - 1, length + 1, 0, 2 * length, 1, length // 2, length - 8, length + 8, length - 2, length + 2)
    return [b'"' + base64.b64encode(bytes(each)) + b'"' for each in lengths]


def _too_long(value: Any, kind: Any) -> list[bytes]:
    limit = kind.max_length or 0
    return [b'"' + letter * count + b'"' for letter in (b"a", "é".encode()) for count in (limit + 1, 2 * limit)]


def _too_many(value: Any, kind: Any) -> list[bytes]:
    counts = ((kind.max_length or 0) + 1, 2 * (kind.max_length or 0))
    return [b"[" + b",".join(b'"a/%d"' % (number + 1) for number in range(count)) + b"]" for count in counts]


def _twice(value: Any, kind: Any) -> list[bytes]:
    return [b'["a/1","b/1",' + last for last in (b'"a/1"]', b'"\\u0061/1"]', b'"a\\/1"]')]


def _unknown_member(value: Any, kind: Any) -> list[bytes]:
    values = [each.value for each in kind.cls]
    texts = ["", "low"]
    for each in values:
        texts += [each.upper(), each.capitalize(), each + " ", " " + each, each[:-1], each + "\0", each + "s"]
    return [encode_string(None, text) for text in texts]


def _other_digest(value: Any, kind: Any) -> list[bytes]:
    digest = "0123456789abcdef" * 4
    texts = ["0", digest[1:], digest.upper(), digest + "0", digest + "\n", " ", "g" + digest[1:], digest[:-1] + "G"]
    return [encode_string(None, text) for text in texts]


def _other_name(value: Any, kind: Any) -> list[bytes]:
    names = ["", "a", "a/", "/1", "A/1", "a/0", "a/01", "a/10000", "1a/1", "a/1\n", " a/1", "a/1/1", "é/1", "-a/1"]
    return [b"[" + encode_string(None, name) + b"]" for name in names]


def _is_fixed(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.BytesType) and bool(kind.min_length)


def _is_short(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StrType) and bool(kind.max_length)


def _is_digest(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StrType) and bool(kind.pattern)


def _is(*kinds: type[inspect.Type]) -> Callable[[inspect.Type], bool]:
    return lambda kind: isinstance(kind, kinds)


def _is_names(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StrType)


VALUES: Final[tuple[tuple[str, str, Callable[[inspect.Type], bool], WrongTexts], ...]] = (
    ("wrong-type", "field-type", lambda kind: True, _wrong_type),
    ("item-of-wrong-type", "field-type", _is(inspect.VarTupleType), _wrong_item),
    ("fraction-or-exponent", "field-not-integer", _is(inspect.IntType), _fraction),
    ("out-of-range", "field-range", _is(inspect.IntType), _out_of_range),
    ("base64-other-alphabet", "field-base64", _is(inspect.BytesType), _other_alphabet),
    ("base64-without-padding", "field-base64", _is(inspect.BytesType), _no_padding),
    ("base64-stray-bits", "field-base64", _is(inspect.BytesType), _stray_bits),
    ("base64-with-something-between", "field-base64", _is(inspect.BytesType), _spaced_base64),
    ("base64-too-much-padding", "field-base64", _is(inspect.BytesType), _too_much_padding),
    ("wrong-length", "field-length", _is_fixed, _other_length),
    ("text-too-long", "field-length", _is_short, _too_long),
    ("too-many-names", "field-length", _is_names, _too_many),
    ("name-twice", "field-duplicate", _is_names, _twice),
    ("enum-unknown", "field-enum", _is(inspect.EnumType), _unknown_member),
    ("digest-of-other-form", "field-pattern", _is_digest, _other_digest),
    ("name-of-other-form", "field-pattern", _is_names, _other_name),
)  # fmt: skip
"""Name, error code, the types of fields that have it, and the texts."""

# -- strings -----------------------------------------------------------------------------------------------------------

UTF_8_CLASSES: Final = (
    (b"\xc2\x80", b"\xdf\xbf"), (b"\xe0\xa0\x80", b"\xe0\xbf\xbf"), (b"\xe1\x80\x80", b"\xec\xbf\xbf"),
    (b"\xed\x80\x80", b"\xed\x9f\xbf"), (b"\xee\x80\x80", b"\xef\xbf\xbf"), (b"\xf0\x90\x80\x80", b"\xf0\xbf\xbf\xbf"),
    (b"\xf1\x80\x80\x80", b"\xf3\xbf\xbf\xbf"), (b"\xf4\x80\x80\x80", b"\xf4\x8f\xbf\xbf"),
)  # fmt: skip
"""Unicode's table of well-formed multi-byte sequences: the lowest and highest byte at each position."""


def _ill_formed() -> Iterator[bytes]:
    """Sequences of each class with one wrong byte or cut short, and bytes that cannot start a sequence."""
    for lowest, highest in UTF_8_CLASSES:
        for at in range(1, len(lowest)):
            yield lowest[:at]
            for byte in (lowest[at] - 1, highest[at] + 1, 0x41, 0xFF):
                yield lowest[:at] + bytes([byte]) + lowest[at + 1 :]
    for lead in (*range(0x80, 0xC2), *range(0xF5, 0x100)):
        yield bytes([lead]) + b"\x80\x80\x80"
    yield from (b"\xff", b"\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xed\xa0\xbd\xed\xb8\x80")


def _bad_escapes() -> Iterator[bytes]:
    yield from (rb"\u12g4", rb"\U0001f600", rb"\u 123", b"\\\n", b"\\\x7f", "\\é".encode(), rb"\u", rb"\u1", rb"\u1a")
    yield from (b"\\" + bytes([byte]) for byte in range(0x20, 0x7F) if byte not in b'"\\/bfnrtu')
    for at in range(4):
        yield from (b"\\u" + b"1a2B"[:at] + bytes([byte]) + b"1a2B"[at + 1 :] for byte in b"/:@G`g +-_.xX\\")
    others = (byte for byte in range(0x20, 0x7F) if chr(byte) not in f"{hexdigits}/:@G`g +-_.xX\\")
    yield from (b"\\u00%c1" % byte for byte in others)


def _lone_surrogates() -> Iterator[bytes]:
    yield from (rb"\ud83dx", rb"\ud83d\n", rb"\ud83d\u0041")
    yield from (b"\\u%04x" % unit for unit in (0xD800, 0xD801, 0xDBFE, 0xDBFF, 0xDC00, 0xDC01, 0xDFFE, 0xDFFF))
    yield from (b"\\u%04X" % unit for unit in (0xDAFF, 0xDEFF))
    for second in (0xD7FF, 0xD800, 0xDBFF, 0xE000, 0xFFFF):
        yield b"\\udbff\\u%04x" % second
    yield from (rb"\udc00\ud800", rb"\ud800\ud800\udc00", rb"\ud800\udc00\udc00", rb"\uD800 \udc00", rb"\ud800udc00")
    yield from (rb"\ud83dxude00", rb"\ud83d\xde00")


STRINGS: Final[dict[str, tuple[str, tuple[bytes, ...]]]] = {
    "control-character": (
        "json-control-character",
        (*(bytes([byte]) for byte in range(0x20)), b"\\\\\r"),
    ),
    "escape-unknown": ("json-escape", tuple(_bad_escapes())),
    "half-surrogate-pair": ("json-surrogate", tuple(_lone_surrogates())),
    "not-utf-8": ("json-utf8", tuple(_ill_formed())),
}  # fmt: skip
"""Error code and contents of a string."""

# -- JSON --------------------------------------------------------------------------------------------------------------

GRAMMAR: Final = (
    b"01", b"+1", b".5", b"1.", b"1e", b"-", b"-01", b"0x10", b"1_0", b"NaN", b"Infinity", b"-Infinity", b"tru",
    b"True", b"'a'", b"[1,]", b"[,1]", b"[1 2]", b'{"a":}', b'{"a":1,}', b'{"a" 1}', b"{a:1}", b"{1:1}", b"nul",
    b"undefined", b"/**/0", b'"a""b"', b"[}", b"0\x0c", b"0\xc2\xa0", b"00", b"-", b"--1", b"1.e1", b"1e+", b"1e+-1",
    b"1.2.3", b"1e1.5", b"-.5", b"1d1", b"truE", b"trux", b"nulx", b"falsy", b"[]]", b"{]", b"[1,,2]",
    b'{"a":1,,"b":2}', b'{"a":1 "b":2}', b"{,}", b"[,]", b'{"a"}', b"{:1}", b"{null:1}", b"[:]", b"\\u0030",
    b"\x0b1", b"\xa01", b"\xef\xbb\xbf1", b"//\n1", b"#1", b"1;", b"(1)",
    b"1/2", b"1:2", b"/1", b":1", b"-/", b"-:", b"1./", b"1.:", b"1.0/", b"1.0:", b"1e/", b"1e:", b"1e+/", b"1e1:",
    b'{a":1}',
)  # fmt: skip
"""Values that break the grammar."""
NOT_OBJECTS: Final = (b"null", b"true", b"0", b'"a"', b"[]", b"[{}]")
TRAILING: Final = (
    b"\0", b"x", b",", b"}", b"{}", b"null", b"\xff", b"\x0c", b"\x0b", b"\xc2\xa0", b"#", b" x", b"\n\0", b"]", b";",
    b"\x1a", b"\xef\xbb\xbf", b"\0" * 8, b'"',
)  # fmt: skip
DUPLICATES: Final = (b'{"a":1,"b":2,"a":3}', rb'{"a":1,"\u0061":3}', rb'{"":{"x":0,"x":0}}', b'[0,{"/":1,"\\/":1}]')
"""Nested values with a repeated key."""
