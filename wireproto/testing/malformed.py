"""Frames with exactly one named violation each, and the error code that it must give.

The code is that of revision 2 with every extension. Apart from the violation the frame is valid, in a random encoding.
The choices come from a `Random`, as in `encodings`.
"""

import base64
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.messages import MAX_LINK_LENGTH, SPEC_BY_CLASS, SPEC_BY_TYPE, Message, PayloadKind
from wireproto.testing.encodings import (
    Members,
    canonical_members,
    edge_values,
    encode_string,
    encode_value,
    foreign_frame,
    foreign_members,
    foreign_object,
    join_members,
)


class BrokenFrame(NamedTuple):
    """A cluster frame that must be rejected."""

    violation: str
    """A name in `VIOLATIONS`."""
    code: str
    """Error code that it must give."""
    frame: bytes


class Violation(NamedTuple):
    """One way to break a frame."""

    name: str
    code: str
    applies: Callable[[type[Message]], bool]
    """Tell whether messages of a class can have this violation."""
    make: Callable[[Random, Message], bytes]
    """Return a broken frame of a message."""


def broken_frame(random: Random, message: Message, name: str | None = None) -> BrokenFrame:
    """Return `message` with one violation: the named one, which must apply to it, or a random one."""
    cls = type(message)
    fitting = [each for each in VIOLATIONS if name in (None, each.name) and each.applies(cls)]
    violation = random.choice(fitting)
    return BrokenFrame(violation.name, violation.code, violation.make(random, message))


# -- bad values --------------------------------------------------------------------------------------------------------

_Wrong = Callable[[Random, Any, Any], bytes]
"""Returns a bad JSON text for a value."""

_TEXTS_OF: Final = {
    "number": [b"0", b"1"], "boolean": [b"true", b"false"], "string": [b'""', b'"0"', b'"true"'],
    "array": [b"[]", b"[0]"], "other": [b"null", b"{}"],
}  # fmt: skip
_KIND_OF: Final[dict[type[inspect.Type], str]] = {
    inspect.IntType: "number",
    inspect.BoolType: "boolean",
    inspect.VarTupleType: "array",
}


def _wrong_type(random: Random, value: Any, kind: Any) -> bytes:
    right = _KIND_OF.get(type(kind), "string")
    return random.choice([text for name, texts in _TEXTS_OF.items() if name != right for text in texts])


def _wrong_item(random: Random, value: Any, kind: Any) -> bytes:
    item = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
    return b"[" + _wrong_type(random, None, item) + b"]"


def _fraction(random: Random, value: Any, kind: Any) -> bytes:
    return b"%d" % value + random.choice([b".0", b".5", b"e0", b"E+0", b".0e0"])


def _out_of_range(random: Random, value: Any, kind: Any) -> bytes:
    low, high = kind.ge or 0, kind.le or 0
    return b"%d" % random.choice([high + 1, low - 1, 2**64 + 1, 2**63, 10**30, -(10**30)])


def _base64_of(value: object, rest: int) -> str:
    """Return base64 of the value, extended to a length that is `rest` modulo 3."""
    data = value if isinstance(value, bytes) else b""
    data += bytes((rest - len(data)) % 3 + 3)
    return base64.b64encode(data).decode()


def _other_alphabet(random: Random, value: Any, kind: Any) -> bytes:
    return b'"' + random.choice(["-", "_"]).encode() + _base64_of(value, 0)[1:].encode() + b'"'


def _no_padding(random: Random, value: Any, kind: Any) -> bytes:
    return b'"' + _base64_of(value, random.choice([1, 2])).rstrip("=").encode() + b'"'


def _stray_bits(random: Random, value: Any, kind: Any) -> bytes:
    text = _base64_of(value, random.choice([1, 2]))
    digits = text.rstrip("=")
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}.get(digits[-1], chr(ord(digits[-1]) + 1))
    return f'"{digits[:-1]}{last}{text[len(digits) :]}"'.encode()


def _spaced_base64(random: Random, value: Any, kind: Any) -> bytes:
    text = _base64_of(value, 0)
    at = random.randrange(len(text) + 1)
    between = random.choice([" ", r"\n", r"\r\n", "*", "é"])
    return f'"{text[:at]}{between}{text[at:]}"'.encode()


def _too_much_padding(random: Random, value: Any, kind: Any) -> bytes:
    return f'"{_base64_of(value, 0)}{random.choice(["=", "==", "===="])}"'.encode()


def _other_length(random: Random, value: Any, kind: Any) -> bytes:
    length = kind.min_length or 0
    data = bytes(random.choice([length - 1, length + 1, 0, 2 * length]))
    return b'"' + base64.b64encode(data) + b'"'


def _too_long(random: Random, value: Any, kind: Any) -> bytes:
    return b'"' + random.choice([b"a", "é".encode()]) * ((kind.max_length or 0) + 1) + b'"'


def _too_many(random: Random, value: Any, kind: Any) -> bytes:
    return b"[" + b",".join(b'"a/%d"' % (number + 1) for number in range((kind.max_length or 0) + 1)) + b"]"


def _twice(random: Random, value: Any, kind: Any) -> bytes:
    return b'["a/1","b/1",' + random.choice([b'"a/1"]', b'"\\u0061/1"]', b'"a\\/1"]'])


def _unknown_member(random: Random, value: Any, kind: Any) -> bytes:
    first = next(iter(kind.cls)).value
    return encode_string(None, random.choice(["", "low", first.upper(), first.capitalize(), first + " ", first[:-1]]))


def _other_digest(random: Random, value: Any, kind: Any) -> bytes:
    digest = "0123456789abcdef" * 4
    return encode_string(None, random.choice(["0", digest[1:], digest.upper(), digest + "0", digest + "\n", " "]))


def _other_name(random: Random, value: Any, kind: Any) -> bytes:
    names = ["", "a", "a/", "/1", "A/1", "a/0", "a/01", "a/10000", "1a/1", "a/1\n", " a/1", "a/1/1", "é/1", "-a/1"]
    return b"[" + encode_string(None, random.choice(names)) + b"]"


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


_VALUES: Final[tuple[tuple[str, str, Callable[[inspect.Type], bool], _Wrong], ...]] = (
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


def _value_violation(name: str, code: str, fits: Callable[[inspect.Type], bool], wrong: _Wrong) -> Violation:
    def make(random: Random, message: Message) -> bytes:
        fields = payload_fields(type(message))
        key = random.choice([key for key, field in fields.items() if fits(field.type)])
        text = wrong(random, getattr(message, fields[key].name), fields[key].type)
        return _put(random, message, [(key, text)])

    return Violation(
        name,
        code,
        lambda cls: (
            any(fits(field.type) for field in payload_fields(cls).values())
            and SPEC_BY_CLASS[cls].kind is PayloadKind.JSON
        ),
        make,
    )


# -- bad text ----------------------------------------------------------------------------------------------------------

_UNKNOWN: Final = "unknown"
_STRINGS: Final[dict[str, tuple[str, tuple[bytes, ...]]]] = {
    "control-character": ("json-control-character", (b"\n", b"\0", b"\x1f", b"\t", b"\\\\\r")),
    "escape-unknown": ("json-escape", (rb"\x", rb"\'", rb"\0", rb"\U0001f600", rb"\u12g4", rb"\u 123", b"\\\n")),
    "half-surrogate-pair": ("json-surrogate", (
        rb"\ud800", rb"\udc00", rb"\udc00\ud800", rb"\ud83d\u0041", rb"\ud83dx", rb"\ud83d\n",
    )),
    "not-utf-8": ("json-utf8", (
        b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\xc3", b"\xe2\x82",
    )),
}  # fmt: skip
_GRAMMAR: Final = (
    b"01", b"+1", b".5", b"1.", b"1e", b"-", b"-01", b"0x10", b"1_0", b"NaN", b"Infinity", b"-Infinity", b"tru",
    b"True", b"'a'", b"[1,]", b"[,1]", b"[1 2]", b'{"a":}', b'{"a":1,}', b'{"a" 1}', b"{a:1}", b"{1:1}", b"nul",
    b"undefined", b"/**/0", b'"a""b"', b"[}", b"0\x0c", b"0\xc2\xa0",
)  # fmt: skip


def _is_json(cls: type[Message]) -> bool:
    return SPEC_BY_CLASS[cls].kind is PayloadKind.JSON


def _put(random: Random, message: Message, members: Members) -> bytes:
    """Return the frame of a message with these members replaced or added."""
    named = dict(members)
    own = foreign_members(random, message, 0.0)
    whole = [(key, named.pop(key, text)) for key, text in own]
    whole += [(key, text) for key, text in members if key in named]
    return _json_frame(random, message, whole)


def _json_frame(random: Random, message: Message, members: Members) -> bytes:
    text = foreign_object(random, members, 0.0) if random.random() >= 0.5 else join_members(members)
    return bytes([SPEC_BY_CLASS[type(message)].msg_type]) + text


def _string_violation(name: str, code: str, faults: tuple[bytes, ...]) -> Violation:
    def make(random: Random, message: Message) -> bytes:
        fields = payload_fields(type(message))
        free = [key for key, field in fields.items() if type(field.type) is inspect.StrType]
        before, after = random.choice([b"", b"a"]), random.choice([b"", b"a"])
        return _put(
            random, message, [(random.choice([_UNKNOWN, *free]), b'"%s%s%s"' % (before, random.choice(faults), after))]
        )

    return Violation(name, code, _is_json, make)


def _grammar(random: Random, message: Message) -> bytes:
    return _put(random, message, [(_UNKNOWN, random.choice(_GRAMMAR))])


def _key_twice(random: Random, message: Message) -> bytes:
    members = foreign_members(random, message, 0.0)
    key, text = random.choice(members)
    if (field := payload_fields(type(message)).get(key)) is not None:
        text = encode_value(None, random.choice(edge_values(field.type)))
    members.insert(random.randint(0, len(members)), (key, text))
    frame = _json_frame(random, message, members)
    if random.random() < 0.5 or not key:
        return frame
    name = encode_string(None, key)  # escaped, it is still the same key
    at = frame.rindex(name)
    return frame[:at] + encode_string(random, key, 1.0) + frame[at + len(name) :]


def _nested_key_twice(random: Random, message: Message) -> bytes:
    inner = random.choice(
        [b'{"a":1,"b":2,"a":3}', rb'{"a":1,"\u0061":3}', rb'{"":{"x":0,"x":0}}', b'[0,{"/":1,"\\/":1}]']
    )
    return _put(random, message, [(_UNKNOWN, inner)])


def _missing(random: Random, message: Message) -> bytes:
    key = random.choice([key for key, field in payload_fields(type(message)).items() if field.required])
    members = [each for each in foreign_members(random, message, 0.0) if each[0] != key]
    return _json_frame(random, message, members)


def _other_case(random: Random, message: Message) -> bytes:
    key = random.choice([key for key, field in payload_fields(type(message)).items() if field.required])
    other = random.choice([each for each in (key.upper(), key.capitalize(), key.swapcase()) if each != key])
    members = [(other if name == key else name, text) for name, text in canonical_members(message)]
    return _json_frame(random, message, members)


def _too_deep(random: Random, message: Message) -> bytes:
    levels = MAX_NESTING + random.choice([0, 1, 8])  # and the payload is one more; a hello has room for 4 KiB
    nested = [b"[" * levels + b"]" * levels, b'{"":' * levels + b"0" + b"}" * levels]
    return _put(random, message, [(_UNKNOWN, random.choice(nested))])


def _trailing(random: Random, message: Message) -> bytes:
    return foreign_frame(random, message) + random.choice(
        [b"\0", b"x", b",", b"}", b"{}", b"null", b"\xff", b"\x0c", b"\x0b", b"\xc2\xa0", b"#", b" x", b"\n\0"]
    )


def _cut(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[: random.randrange(1, len(frame.rstrip()))]


def _byte_order_mark(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[:1] + b"\xef\xbb\xbf" + frame[1:]


def _not_an_object(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[:1] + random.choice([b"null", b"true", b"0", b'"a"', b"[" + frame[1:] + b"]", b"[]"])


def _type_unknown(random: Random, message: Message) -> bytes:
    unknown = [value for value in range(256) if value not in SPEC_BY_TYPE]
    return bytes([random.choice(unknown)]) + foreign_frame(random, message)[1:]


def _over_limit(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame + b" " * (SPEC_BY_CLASS[type(message)].max_length - len(frame) + random.choice([1, 2, 1000]))


def _is_limited(cls: type[Message]) -> bool:
    return _is_json(cls) and SPEC_BY_CLASS[cls].max_length < MAX_LINK_LENGTH


def _number_cut(random: Random, message: Message) -> bytes:
    return foreign_frame(random, message)[: random.randint(1, 4)]


def _has_kind(kind: PayloadKind) -> Callable[[type[Message]], bool]:
    return lambda cls: SPEC_BY_CLASS[cls].kind is kind


VIOLATIONS: Final[tuple[Violation, ...]] = (
    Violation("no-type", "truncated", lambda cls: True, lambda random, message: b""),
    Violation("type-unknown", "type-unknown", lambda cls: True, _type_unknown),
    Violation("payload-where-none-belongs", "payload-not-empty", _has_kind(PayloadKind.EMPTY),
              lambda random, message: foreign_frame(random, message) + random.choice([b"\0", b"{}", b" "])),
    Violation("over-limit", "payload-limit", _is_limited, _over_limit),
    Violation("number-cut-short", "truncated", _has_kind(PayloadKind.NUMBERED), _number_cut),
    Violation("cut-short", "truncated", _is_json, _cut),
    Violation("trailing-bytes", "trailing-data", _is_json, _trailing),
    Violation("byte-order-mark", "json-bom", _is_json, _byte_order_mark),
    Violation("not-an-object", "payload-not-object", _is_json, _not_an_object),
    Violation("syntax", "json-syntax", _is_json, _grammar),
    Violation("key-twice", "json-duplicate-key", _is_json, _key_twice),
    Violation("nested-key-twice", "json-duplicate-key", _is_json, _nested_key_twice),
    Violation("key-missing", "field-missing", _is_json, _missing),
    Violation("key-in-other-case", "field-missing", _is_json, _other_case),
    Violation("nested-too-deep", "json-nesting", _is_json, _too_deep),
    *(_string_violation(name, *row) for name, row in _STRINGS.items()),
    *(_value_violation(*row) for row in _VALUES),
)  # fmt: skip
"""All violations of a cluster frame."""


class BrokenStream(NamedTuple):
    """A link stream of complete frames that ends in a violation."""

    violation: str
    code: str
    bodies: tuple[bytes, ...]
    """Bodies of the frames before the violation."""
    stream: bytes


def broken_streams(random: Random, bodies: tuple[bytes, ...]) -> Iterator[BrokenStream]:
    """Yield each violation of a link stream, after frames with these bodies."""
    whole = b"".join(len(body).to_bytes(8, "little") + body for body in bodies)
    over = random.choice([MAX_LINK_LENGTH + 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1])
    length = random.choice([MAX_LINK_LENGTH, 100, 20])
    for name, code, tail in (
        ("length-zero", "link-length-zero", bytes(8)),
        ("length-over-the-limit", "link-length-limit", over.to_bytes(8, "little")),
        ("ends-in-the-length", "truncated", length.to_bytes(8, "little")[: random.randint(1, 7)]),
        ("ends-in-the-body", "truncated", length.to_bytes(8, "little") + bytes(random.randint(0, 19))),
    ):
        yield BrokenStream(name, code, bodies, whole + tail)
