"""Cluster frames, encoded and decoded the fast way: `u8 type ‖ payload`. [FRAME-TYPE]

`schema` says the same in construct, and the two agree on every byte string. Here msgspec reads the JSON. What it would
let through is a key that stands twice, and stray bits in base64 padding; but a payload that is short enough, or has few
enough `"` bytes, cannot hold more keys than it needs. Whatever that does not settle goes to `strict_json`, which gives
the verdict; and so does, at once, what is rare: the frames of extensions, and the payloads that name some.
"""

import binascii
from collections.abc import Callable, Collection
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import inspect

from wireproto.codec.json_scanner import PLAIN_TYPES, check_fields, decode_payload, payload_fields
from wireproto.errors import MalformedError, TruncatedError, UnknownTypeError
from wireproto.messages import (
    REGISTRY,
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    Message,
    MessageSpec,
    PayloadKind,
    Revision,
)

_QUOTE: Final = 0x22


def decode_frame(
    data: bytes | bytearray | memoryview, revision: Revision = Revision.V2, extensions: Collection[str] = ()
) -> Message:
    """Decodes one cluster frame, all of `data`: `u8 type ‖ payload`. [FRAME-TYPE, JSON-*, PAYLOAD-*, EXT-*]

    The types of an extension are known where it is among `extensions`. An opaque payload of the plain protocol is
    copied once. Raises `TruncatedError`, `MalformedError`, `LimitError` or `UnknownTypeError`.
    """
    body: Any = data[1:] if data.__class__ is not bytearray else memoryview(data)[1:]
    try:
        decode, certain = _DECODERS[revision][data[0]]
        message = decode(body)
        if certain is None or certain(message, body):
            return message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BufferError, IndexError, KeyError):
        pass
    return _decode_strictly(bytes(data), revision, extensions)


def encode_frame(message: Message, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> bytes:
    """Encodes a message as one cluster frame. [FRAME-TYPE, JSON-*, PAYLOAD-*, EXT-*]

    Raises, before a byte is made, `MalformedError` for a field that its type does not carry and `UnknownTypeError` for
    a message that neither the revision nor one of the `extensions` has.
    """
    try:
        prefix, valid, encode = _ENCODERS[revision][message.__class__]
        if valid(message):
            return prefix + encode(message)
    except (KeyError, UnicodeEncodeError):
        pass
    return _encode_strictly(message, revision, extensions)


# -- decoding ---------------------------------------------------------------------------------------------------------

_Body: TypeAlias = bytes | memoryview

_Decoder: TypeAlias = tuple[Callable[[_Body], Message], Callable[[Any, _Body], bool] | None]
"""What decodes a payload, and what tells for certain that its JSON was strict; None where it is no JSON."""


def _decoder(spec: MessageSpec) -> _Decoder:
    match spec.kind:
        case PayloadKind.OPAQUE:
            opaque: Callable[[bytes], Message] = spec.payload
            return lambda body: opaque(bytes(body)), None
        case PayloadKind.EMPTY:
            empty: Callable[[], Message] = spec.payload
            return _empty(empty()), None
        case PayloadKind.JSON:
            return msgspec.json.Decoder(spec.payload).decode, _certainty(spec.payload)
        case PayloadKind.NUMBERED:  # pragma: no branch - there is no other kind
            return partial(_numbered, spec.payload), None


def _empty(message: Message) -> Callable[[_Body], Message]:
    def decode(body: _Body) -> Message:
        if body:
            raise msgspec.DecodeError
        return message

    return decode


def _numbered(cls: Callable[[int, bytes], Message], body: _Body) -> Message:
    """`u32 little-endian ‖ bytes`."""
    if len(body) < 4:
        raise TruncatedError("truncated", "the payload starts with a number of 4 bytes", offset=1 + len(body))
    message = cls(int.from_bytes(body[:4], "little"), bytes(body[4:]))
    try:
        check_fields(message)
    except MalformedError as error:
        raise MalformedError(error.code, error.detail, offset=5, path=error.path) from error
    return message


def _certainty(cls: type[Message]) -> Callable[[Any, _Body], bool]:
    """`certain(message, body)`, for a message that msgspec read from `body`.

    True only if no key stands there twice, none is unknown or optional, and each base64 text is canonical.
    """
    fields = {key: field for key, field in payload_fields(cls).items() if field.required}
    quotes = sum(2 if isinstance(field.type, _UNQUOTED) else 4 for field in fields.values())
    byte_fields = [
        (field.name, b'"%s":"' % key.encode())
        for key, field in fields.items()
        if isinstance(field.type, inspect.BytesType)
    ]
    if byte_fields:
        return partial(_certain_with_bytes, quotes, byte_fields)
    # The shortest text has no spaces and no escapes; one more member takes 5 bytes at the least: `,"":0`.
    shortest = len("{}") + sum(len(f'"{key}":,') + _shortest(field.type) for key, field in fields.items()) - len(",")
    texts = "".join(f" - len(m.{field.name})" for field in fields.values() if isinstance(field.type, inspect.StrType))
    certain: Callable[[Any, _Body], bool] = eval(  # noqa: S307
        f"lambda m, body: len(body){texts} < {shortest + 5} or bytes(body).count({_QUOTE}) == {quotes}"
    )
    return certain


def _shortest(kind: inspect.Type) -> int:
    match kind:
        case inspect.IntType():
            return len("0")
        case inspect.BoolType():
            return len("true")
        case inspect.EnumType(cls=enum):
            return min(len(f'"{member.value}"') for member in enum)
        case _:
            return len('""')  # or `[]`


def _certain_with_bytes(quotes: int, byte_fields: list[tuple[str, bytes]], message: Message, body: _Body) -> bool:
    text = bytes(body)
    return _only_quotes(text, quotes) and all(_canonical_base64(message, text, *field) for field in byte_fields)


def _only_quotes(body: bytes, quotes: int) -> bool:
    """`body.count(b'"') == quotes`, for a long body that has so many at the least: `find` is far faster there."""
    at = -1
    for _ in range(quotes):
        at = body.find(_QUOTE, at + 1)
    return body.find(_QUOTE, at + 1) < 0


def _canonical_base64(message: Message, body: bytes, name: str, opening: bytes) -> bool:
    """Whether the base64 text that stands behind `opening` in `body` has zero bits in its padding."""
    value: bytes = getattr(message, name)
    rest = len(value) % 3
    if not rest:
        return True
    at = body.find(opening)
    end = body.find(_QUOTE, at + len(opening))
    return at >= 0 and body[end - 4 : end] == binascii.b2a_base64(value[-rest:], newline=False)


def _decode_strictly(data: bytes, revision: Revision, extensions: Collection[str]) -> Message:
    if not data:
        raise TruncatedError("truncated", "a cluster frame has at least its type byte", offset=0)
    spec = SPEC_BY_TYPE.get(data[0])
    if spec is None or not spec.is_known(revision, extensions):
        raise UnknownTypeError(
            "type-unknown", f"0x{data[0]:02x} is no type of revision {revision:d}", offset=0, path="type"
        )
    if spec.kind is PayloadKind.JSON:
        return decode_payload(spec.payload, data, start=1)
    if spec.kind is PayloadKind.EMPTY and len(data) > 1:
        raise MalformedError("payload-not-empty", f"{spec.msg_type.wire_name} has no payload", offset=1)
    decode, _ = _DECODER_OF[spec]
    return decode(data[1:])


_UNQUOTED: Final = (inspect.IntType, inspect.BoolType, inspect.VarTupleType)

_DECODER_OF: Final = {spec: _decoder(spec) for spec in REGISTRY}
_DECODERS: Final[dict[Revision, dict[int, _Decoder]]] = {
    revision: {spec.msg_type: decoder for spec, decoder in _DECODER_OF.items() if spec.is_known(revision)}
    for revision in Revision
}


# -- encoding ---------------------------------------------------------------------------------------------------------


_Encoder: TypeAlias = tuple[bytes, Callable[[Message], bool], Callable[[Message], bytes]]
"""The type byte; whether every field is what it must be; what encodes the payload."""


def _validator(cls: type[Message]) -> Callable[[Message], bool]:
    """`valid(message)`: whether every field is what its annotation says, and no optional one is set.

    One expression over all fields, made from the annotations as the standard library makes its data classes: a loop
    over the fields takes twice as long as the encoding itself.
    """
    names: dict[str, Any] = {"integers": _integers}
    terms = ["True"]
    for field in payload_fields(cls).values():
        value = f"m.{field.name}"
        if not field.required:
            names[f"no_{field.name}"] = field.default
            terms.append(f"{value} is no_{field.name}")
            continue
        match field.type:
            case inspect.IntType(ge=low, le=high):
                terms.append(f"{value}.__class__ is int and {low} <= {value} <= {high}")
            case inspect.BytesType(min_length=length):
                terms.append(f"{value}.__class__ is bytes" + (f" and len({value}) == {length}" if length else ""))
            case inspect.VarTupleType(item_type=inspect.IntType(ge=low, le=high)):
                terms.append(f"{value}.__class__ is tuple and integers({value}, {low}, {high})")
            case inspect.EnumType(cls=enum):
                names[enum.__name__] = enum
                terms.append(f"{value}.__class__ is {enum.__name__}")
            case plain:
                terms.append(f"{value}.__class__ is {PLAIN_TYPES[type(plain)].__name__}")
    valid: Callable[[Message], bool] = eval("lambda m: " + " and ".join(terms), names)  # noqa: S307
    return valid


def _integers(values: tuple[int, ...], low: int, high: int) -> bool:
    return not values or ({*map(type, values)} == {int} and low <= min(values) and max(values) <= high)


def _no_payload(_: Message) -> bytes:
    return b""


def _number_first(message: Message) -> bytes:
    number, data = msgspec.structs.astuple(message)
    return cast(int, number).to_bytes(4, "little") + cast(bytes, data)


_PAYLOAD_ENCODERS: Final[dict[PayloadKind, Callable[[Any], bytes]]] = {
    PayloadKind.JSON: msgspec.json.Encoder().encode,
    PayloadKind.EMPTY: _no_payload,
    PayloadKind.OPAQUE: attrgetter("box"),
    PayloadKind.NUMBERED: _number_first,
}


def _encode_strictly(message: Message, revision: Revision, extensions: Collection[str]) -> bytes:
    spec = SPEC_BY_CLASS.get(type(message))
    if spec is None or not spec.is_known(revision, extensions):
        raise UnknownTypeError("type-unknown", f"{type(message).__name__} is no message of revision {revision:d}")
    check_fields(message)
    return bytes([spec.msg_type]) + _PAYLOAD_ENCODERS[spec.kind](message)


_ENCODERS: Final[dict[Revision, dict[type[Message], _Encoder]]] = {
    revision: {
        spec.payload: (bytes([spec.msg_type]), _validator(spec.payload), _PAYLOAD_ENCODERS[spec.kind])
        for spec in REGISTRY
        if spec.is_known(revision)
    }
    for revision in Revision
}
