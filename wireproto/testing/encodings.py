"""Random frames in every encoding that JSON allows, with values at the limits of each field. [JSON-SPELLING]

All choices come from the caller's `Random`: a seeded one for speed, or one that hypothesis can shrink. The smallest
draw is always the plainest choice, so a shrunk frame is canonical.
"""

import base64
from collections.abc import Iterable, Sequence
from enum import Enum
from random import Random
from typing import Any, Final

import msgspec
from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.frame import encode_frame
from wireproto.messages import EXTENSIONS, SPEC_BY_CLASS, Message, PayloadKind, Revision

Members = list[tuple[str, bytes]]
"""Members of a JSON object: key, and the JSON text of the value."""

TEXTS: Final = (
    "", "a", "/", "\\", '"', "\0", "\x1f\x7f", "é", "e\u0301", "\u2028", "😀", "\ud7ff\ue000\uffff", "a" * 70,
    '","uid":"', "6F9619FF-8B86-D011-B42D-00CF4FC964FF",
)  # fmt: skip
"""Strings that are known to break parsers."""
_INTEGERS: Final = (0, 1, 9, 10, -1, 29400, 2**31, 2**32, 2**53, 2**53 + 1, -(2**53) - 1)
_NAMES: Final = ("side-channel/1", "outcome/1", "a/9999", "x-2/10", "a" * 62 + "/1")


def edge_values(kind: inspect.Type) -> Sequence[Any]:
    """Return valid values of a field of this type, including those at its limits."""
    match kind:
        case inspect.IntType(ge=int(low), le=int(high)):
            return [value for value in (*_INTEGERS, low, high, low + 1, high - 1) if low <= value <= high]
        case inspect.BoolType():
            return False, True
        case inspect.EnumType(cls=enum):
            return tuple(enum)
        case inspect.BytesType(min_length=int(length)):
            return bytes(length), b"\xff" * length, bytes(range(length))
        case inspect.BytesType():
            return b"", b"\0", b"\xff\xfe", b"\xfb\xff\xbf", bytes(range(40))
        case inspect.VarTupleType(item_type=item):
            values = tuple(dict.fromkeys(edge_values(item)))
            return (), values[:1], values
        case inspect.StrType(pattern=None, max_length=limit):
            return TEXTS if limit is None else (*TEXTS, "a" * limit, "😀" * limit)
        case inspect.StrType(max_length=None):
            return "", "0123456789abcdef" * 4
        case _:
            return _NAMES


def random_message(random: Random, cls: type[Message]) -> Message:
    """Return a random message of a class, with values at the limits of its fields."""
    values = {}
    for field in payload_fields(cls).values():
        if field.required or random.random() >= 0.7:
            values[field.name] = random.choice(edge_values(field.type))
    return cls(**values)


def canonical_members(message: Message) -> Members:
    """Return the members of a payload in the encoding of `encode_frame`."""
    return [(key, encode_value(None, value)) for key, value in _written(message)]


def _written(message: Message) -> Iterable[tuple[str, Any]]:
    fields = payload_fields(type(message))
    values = [(key, getattr(message, field.name)) for key, field in fields.items()]
    return [(key, value) for key, value in values if fields[key].required or value != fields[key].default]


def join_members(members: Members) -> bytes:
    """Return a JSON object without whitespace."""
    return b"{" + b",".join(msgspec.json.encode(key) + b":" + text for key, text in members) + b"}"


# -- non-canonical encodings -------------------------------------------------------------------------------------------

_SHORT_ESCAPES: Final = {
    '"': b'\\"', "\\": b"\\\\", "/": b"\\/", "\b": b"\\b", "\f": b"\\f", "\n": b"\\n", "\r": b"\\r", "\t": b"\\t",
}  # fmt: skip


def foreign_frame(random: Random, message: Message) -> bytes:
    """Return a frame that decodes to `message`, with a JSON payload in a random encoding."""
    spec = SPEC_BY_CLASS[type(message)]
    if spec.kind is not PayloadKind.JSON:
        return encode_frame(message, Revision.V2, EXTENSIONS)
    escaped = random.choice([0.0, 0.1, 0.9])
    return bytes([spec.msg_type]) + foreign_object(random, foreign_members(random, message, escaped), escaped)


def foreign_members(random: Random, message: Message, escaped: float) -> Members:
    """Return the members of a payload in random order, with unknown keys among them."""
    members = [(key, encode_value(random, value, escaped)) for key, value in _written(message)]
    fields = payload_fields(type(message))
    absent = {key for key, field in fields.items() if not field.required}.difference(key for key, _ in members)
    defaults = [(key, fields[key].default) for key in sorted(absent) if fields[key].default is not None]
    members += [(key, encode_value(None, default)) for key, default in defaults if random.random() >= 0.7]
    unknown = random.sample(["extra", "", "UID", "uid ", "é", "\0", "Port", "sessionId"], random.choice([0, 0, 1, 2]))
    members += [(key, any_value(random)) for key in unknown]
    members.sort(key=lambda _: random.random())
    return members


def foreign_object(random: Random, members: Members, escaped: float) -> bytes:
    """Return a JSON object of these members, with whitespace. `escaped` is the share of escaped characters in keys."""
    inside = b",".join(_member(random, key, text, escaped) for key, text in members) or _space(random)
    return _space(random) + b"{" + inside + b"}" + _space(random)


def encode_value(random: Random | None, value: object, escaped: float = 0.0) -> bytes:
    """Return the JSON text of a field's value; without `random`, the canonical one."""
    match value:
        case str():
            return encode_string(random, value, escaped)
        case bytes():
            return encode_string(random, base64.b64encode(value).decode(), escaped)
        case Enum():
            return encode_string(random, value.value, escaped)
        case tuple():
            items = [encode_value(random, item, escaped) for item in value]
            return b"[" + b",".join(_space(random) + item + _space(random) for item in items) + b"]"
        case 0 if random and value is not False and random.random() >= 0.7:
            return b"-0"
        case _:
            return msgspec.json.encode(value)


def encode_string(random: Random | None, text: str, escaped: float = 0.0) -> bytes:
    """Return a JSON string for `text`. `escaped` is the share of characters that are escaped without need."""
    if random is None or not escaped:
        return msgspec.json.encode(text)
    return b'"' + b"".join(_encode_char(random, char, escaped) for char in text) + b'"'


def _encode_char(random: Random, char: str, escaped: float) -> bytes:
    must = char in '"\\' or char < " "
    if not must and random.random() < 1 - escaped:
        return char.encode()
    short = _SHORT_ESCAPES.get(char)
    if short and random.random() < 0.6:
        return short
    units = char.encode("utf-16-be")
    digits = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    return "".join("\\u" + (unit if random.random() < 0.5 else unit.upper()) for unit in digits).encode()


def any_value(random: Random, level: int = 0) -> bytes:
    """Return a random JSON value, for an unknown key."""
    kind = random.randrange(6 if level < 3 else 4)
    if kind == 0:
        numbers = [b"0", b"-0", b"-1.5e+10", b"1E400", b"0.0e-0", b"123456789012345678901234567890", b"1e5"]
        return random.choice(numbers)
    if kind == 1:
        return random.choice([b"null", b"true", b"false"])
    if kind < 4:
        strings = ["", "uid", '"', "\ufeff", "a\0b", "é😀", "\\u0041", "}", "://"]
        return encode_string(random, random.choice(strings), 0.3)
    items = [any_value(random, level + 1) for _ in range(random.randint(0, 3))]
    if kind == 4:
        return b"[" + b",".join(_space(random) + item + _space(random) for item in items) + b"]"
    keys = random.sample(["", "uid", "port", "a", "é", "\0", "A"], len(items))
    return b"{" + b",".join(_member(random, key, text, 0.2) for key, text in zip(keys, items, strict=True)) + b"}"


def _member(random: Random, key: str, text: bytes, escaped: float) -> bytes:
    parts = (encode_string(random, key, escaped), b":", text)
    return _space(random) + b"".join(part + _space(random) for part in parts)


def _space(random: Random | None) -> bytes:
    if random is None or random.random() < 0.7:
        return b""
    return bytes(random.choices(b" \t\n\r", k=random.randint(1, 3)))
