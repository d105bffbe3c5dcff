"""Frames with exactly one named violation each, and the error code that each must give.

The code holds for revision 2 with every extension. Apart from the violation, a frame is valid, in a random encoding.
The choices come from a `Random`, as in `encodings`.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple

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
from wireproto.testing.faults import DUPLICATES, GRAMMAR, NOT_OBJECTS, STRINGS, TRAILING, VALUES, WrongTexts


class BrokenFrame(NamedTuple):
    """A cluster frame that must be rejected."""

    violation: str
    """A name in `VIOLATIONS`."""
    code: str
    """The error code that it must give."""
    frame: bytes


class Violation(NamedTuple):
    """One way to break a frame."""

    name: str
    code: str
    """The error code that it must give."""
    applies: Callable[[type[Message]], bool]
    """Return whether messages of a class can have this violation."""
    make: Callable[[Random, Message], bytes]
    """Return a broken frame of a message."""


def broken_frame(random: Random, message: Message, name: str | None = None) -> BrokenFrame:
    """Return `message` with one violation: the named one, which must apply to it, or a random one."""
    cls = type(message)
    fitting = [each for each in VIOLATIONS if name in (None, each.name) and each.applies(cls)]
    violation = random.choice(fitting)
    return BrokenFrame(violation.name, violation.code, violation.make(random, message))


# -- bad values --------------------------------------------------------------------------------------------------------


def _value_violation(name: str, code: str, fits: Callable[[inspect.Type], bool], wrong: WrongTexts) -> Violation:
    def make(random: Random, message: Message) -> bytes:
        fields = payload_fields(type(message))
        key = random.choice([key for key, field in fields.items() if fits(field.type)])
        texts = wrong(getattr(message, fields[key].name), fields[key].type)
        return _put(random, message, [(key, random.choice(texts))])

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
    return _put(random, message, [(_UNKNOWN, random.choice(GRAMMAR))])


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
    return _put(random, message, [(_UNKNOWN, random.choice(DUPLICATES))])


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
    return foreign_frame(random, message) + random.choice(TRAILING)


def _cut(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[: random.randrange(1, len(frame.rstrip()))]


def _byte_order_mark(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[:1] + b"\xef\xbb\xbf" + frame[1:]


def _not_an_object(random: Random, message: Message) -> bytes:
    frame = foreign_frame(random, message)
    return frame[:1] + random.choice([*NOT_OBJECTS, b"[" + frame[1:] + b"]", b"[" + frame[2:]])


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
    *(_string_violation(name, *row) for name, row in STRINGS.items()),
    *(_value_violation(*row) for row in VALUES),
)  # fmt: skip
"""All violations of a cluster frame."""


class BrokenStream(NamedTuple):
    """A link stream of complete frames that ends in a violation."""

    violation: str
    code: str
    bodies: tuple[bytes, ...]
    """Bodies of the frames before the violation."""
    stream: bytes
    """The whole stream."""


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
