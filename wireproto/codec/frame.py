"""Encode and decode cluster frames, `u8 type ‖ payload`. [FRAME-TYPE]

`wireproto.schema` declares the same layout in construct; the two agree on every byte string. This module is the fast
path: msgspec reads the JSON. msgspec accepts two things that the protocol forbids, repeated keys and stray bits in
base64 padding, and it may accept errors inside unknown keys. A payload that is short, or has few `"` bytes, has no room
for them. All other payloads go to the slower, strict parser in `payloads`, as do frames of extensions and payloads that
name some. Benchmark rows: "decode jacclBootstrap", "ppActivation, 1 MiB box".
"""

import binascii
from collections.abc import Callable, Collection
from functools import cache
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeAlias, cast

import msgspec
from msgspec import inspect

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.codec.fields import PLAIN_TYPES, are_integers, check_fields, payload_fields
from wireproto.errors import LimitError, MalformedError, TruncatedError, UnknownTypeError
from wireproto.messages import (
    MAX_SHORT_FRAME,
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    InferenceStep,
    InferenceToken,
    Message,
    MessageSpec,
    PayloadKind,
    Revision,
)

_QUOTE: Final = 0x22
_V2: Final = Revision.V2


class _UncertainError(Exception):
    """A generated function cannot tell that its argument is valid."""


def _uncertain() -> NoReturn:
    raise _UncertainError


def _compiled(name: str, source: str, names: dict[str, Any]) -> Callable[[Any], Any]:
    """Compile an expression that may call `uncertain()`, and register it for tracebacks and debuggers."""
    import linecache  # here, because it takes 2 ms

    filename = f"<wireproto: {name}>"
    linecache.cache[filename] = len(source), None, [source], filename
    function: Callable[[Any], Any] = eval(compile(source, filename, "eval"), names | {"uncertain": _uncertain})  # noqa: S307
    return function


def decode_frame(data: BytesLike, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> Message:
    """Return the message in `data`, one cluster frame: `u8 type ‖ payload`. [FRAME-TYPE, PAYLOAD-*, JSON-*, EXT-*]

    `data` is any bytes-like object; its format and shape do not matter. `extensions` names the agreed extensions, whose
    types are then known. Raise `TruncatedError`, `MalformedError`, `LimitError` or `UnknownTypeError`, with the offset
    from the start of `data`. Neither the message nor an error holds a reference to `data`.
    """
    try:
        if data.__class__ is not bytes:  # copying a short view is faster than checking its format and shape
            data = data.tobytes() if data.__class__ is memoryview and len(data) <= MAX_SHORT_FRAME else byte_view(data)
        return (_V2_DECODERS if revision is _V2 else _DECODERS[revision])[data[0]](data)
    except _NOT_DECODED:
        pass
    copy = byte_view(data).tobytes()
    del data  # a traceback keeps these variables alive, and a view would keep the caller's buffer locked
    return _decode_strictly(copy, revision, extensions)


def encode_frame(message: Message, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> bytes:
    """Return a message as one cluster frame: `u8 type ‖ payload`. [FRAME-TYPE, PAYLOAD-*, JSON-*, EXT-*]

    Raise `MalformedError` for a field with an invalid value, `UnknownTypeError` for a message that does not exist in
    the revision with these `extensions`, and `LimitError` for a frame over the limit of its type.
    """
    try:
        return (_V2_ENCODERS if revision is _V2 else _ENCODERS[revision])[message.__class__](message)
    except (_UncertainError, UnicodeEncodeError, KeyError):
        pass
    return _encode_strictly(message, revision, extensions)


def frame_pieces(message: Message, revision: Revision, extensions: Collection[str]) -> tuple[bytes, bytes]:
    """Return the frame of `encode_frame` in two pieces, so that opaque bytes are not copied; the second may be empty.

    Raise the same errors. Benchmark row: "64 MiB sealed over TCP".
    """
    if type(message) is InferenceStep or type(message) is InferenceToken:
        spec = SPEC_BY_CLASS[type(message)]
        if message.box.__class__ is bytes and len(message.box) < spec.max_length:
            return bytes([spec.msg_type]), message.box
    return encode_frame(message, revision, extensions), b""


# -- decoding ---------------------------------------------------------------------------------------------------------

_NOT_DECODED: Final = (
    *(_UncertainError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError, KeyError),
    TypeError,  # `len` of a view without dimensions
)

_Decoder: TypeAlias = Callable[[Any], Message]
"""Decodes a frame of one type; raises `_UncertainError` unless the frame is certainly valid."""


@cache
def _decoder(msg_type: int) -> _Decoder:
    """Make the decoder of a type, as one expression: each extra call would add 10 % to the time."""
    spec = SPEC_BY_TYPE[msg_type]
    payload: Callable[..., Message] = spec.payload
    names: dict[str, Any] = {"payload": payload}
    match spec.kind:
        case PayloadKind.OPAQUE:
            decoded = "payload(bytes(f[1:]))"
        case PayloadKind.EMPTY:
            names["message"] = payload()
            decoded = "uncertain() if f[1:] else message"
        case PayloadKind.JSON:
            names |= {"decode": msgspec.json.Decoder(spec.payload).decode, "certain": _certain_with_bytes}
            decoded = f"m if (m := decode(f[1:])) and {_certainty(spec.payload, names)} else uncertain()"
        case PayloadKind.NUMBERED:  # pragma: no branch - there is no other kind
            names["numbered"] = _numbered
            decoded = "numbered(payload, f)"
    source = f"lambda f: ({decoded}) if (n := len(f)) <= {spec.max_length} else uncertain()"
    return _compiled(f"decode {spec.msg_type.wire_name}", source, names)


def _numbered(cls: Callable[[int, bytes], Message], frame: BytesLike) -> Message:
    """`u8 type ‖ u32 little-endian ‖ bytes`."""
    if len(frame) < 5:
        raise TruncatedError("truncated", "the payload starts with a number of 4 bytes", offset=len(frame))
    message = cls(int.from_bytes(frame[1:5], "little"), bytes(frame[5:]))
    try:
        check_fields(message)
    except MalformedError as error:
        raise MalformedError(error.code, error.detail, offset=5, path=error.path) from error
    return message


def _certainty(cls: type[Message], names: dict[str, Any]) -> str:
    """Return an expression over frame `f`, its length `n`, and the message `m` that msgspec read from it.

    It is true only if no key is repeated, unknown or optional, and each base64 text is canonical.
    """
    fields = {key: field for key, field in payload_fields(cls).items() if field.required}
    quotes = sum(2 if isinstance(field.type, _UNQUOTED) else 4 for field in fields.values())
    byte_fields = [
        (field.name, b'"%s":"' % key.encode())
        for key, field in fields.items()
        if isinstance(field.type, inspect.BytesType)
    ]
    if byte_fields:
        names["byte_fields"] = byte_fields
        return f"certain({quotes}, byte_fields, m, f)"
    # The shortest frame has no spaces and no escapes; one more member takes at least 5 bytes: `,"":0`.
    shortest = (
        1 + len("{}") + sum(len(f'"{key}":,') + _shortest(field.type) for key, field in fields.items()) - len(",")
    )
    texts = "".join(f" - len(m.{field.name})" for field in fields.values() if isinstance(field.type, inspect.StrType))
    return f"(n{texts} < {shortest + 5} or bytes(f).count({_QUOTE}) == {quotes})"


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


def _certain_with_bytes(quotes: int, byte_fields: list[tuple[str, bytes]], message: Message, frame: BytesLike) -> bool:
    text = bytes(frame)
    return _only_quotes(text, quotes) and all(_canonical_base64(message, text, *field) for field in byte_fields)


def _only_quotes(body: bytes, quotes: int) -> bool:
    """Return `body.count(b'"') == quotes`, for a body with at least that many: in a long one, `find` is far faster."""
    at = -1
    for _ in range(quotes):
        at = body.find(_QUOTE, at + 1)
    return body.find(_QUOTE, at + 1) < 0


def _canonical_base64(message: Message, body: bytes, name: str, opening: bytes) -> bool:
    """Return whether the base64 text after `opening` in `body` has zero bits in its padding."""
    value: bytes = getattr(message, name)
    rest = len(value) % 3
    if not rest:
        return True
    at = body.find(opening)
    end = body.find(_QUOTE, at + len(opening))
    return at >= 0 and body[end - 4 : end] == binascii.b2a_base64(value[-rest:], newline=False)


def _decode_strictly(data: bytes, revision: Revision, extensions: Collection[str]) -> Message:
    revision = _check_options(revision, extensions)
    if not data:
        raise TruncatedError("truncated", "a cluster frame has at least its type byte", offset=0)
    spec = SPEC_BY_TYPE.get(data[0])
    if spec is None or not spec.is_known(revision, extensions):
        raise UnknownTypeError(
            "type-unknown", f"0x{data[0]:02x} is not a type of revision {revision:d}", offset=0, path="type"
        )
    _check_length(spec, len(data), 1)
    decoder = _decoder(data[0])
    if spec.extension is None and data[0] not in _DECODERS[revision]:
        _DECODERS[revision][data[0]] = decoder
        return decode_frame(data, revision)
    if spec.kind is PayloadKind.JSON:
        from wireproto.codec.payloads import decode_payload  # here, because few frames need it

        return decode_payload(spec.payload, data, start=1)
    if spec.kind is PayloadKind.EMPTY:
        raise MalformedError("payload-not-empty", f"{spec.msg_type.wire_name} has no payload", offset=1)
    return decoder(data)


def _check_options(revision: int, extensions: Collection[str]) -> Revision:
    if isinstance(extensions, str):
        raise TypeError("extensions must be a collection of names, not one string")
    return Revision(revision)


def _check_length(spec: MessageSpec, length: int, offset: int | None) -> None:
    """Raise `LimitError` for a frame over its type's limit. [PAYLOAD-LIMIT]"""
    if length > spec.max_length:
        detail = f"a {spec.msg_type.wire_name} frame of {length} bytes is over the limit of {spec.max_length}"
        raise LimitError("payload-limit", detail, offset=offset)


_UNQUOTED: Final = (inspect.IntType, inspect.BoolType, inspect.VarTupleType)

_DECODERS: Final[dict[Revision, dict[int, _Decoder]]] = {revision: {} for revision in Revision}
"""Decoders of the types without an extension, each made on first use: all would add 10 % to the import time."""
_V2_DECODERS: Final = _DECODERS[_V2]


# -- encoding ---------------------------------------------------------------------------------------------------------


@cache
def _encoder(cls: type[Message]) -> Callable[[Any], bytes]:
    """Make `encode(message)`, for messages whose fields fit their annotations and whose optional fields are unset.

    It is one generated expression over all fields, because a loop over them takes twice as long as the encoding.
    """
    spec = SPEC_BY_CLASS[cls]
    names: dict[str, Any] = {"integers": are_integers, "payload": _PAYLOAD_ENCODERS[spec.kind]}
    terms = []
    for field in payload_fields(spec.payload).values():
        value = f"m.{field.name}"
        if not field.required:
            names[f"no_{field.name}"] = field.default
            terms.append(f"{value} is no_{field.name}")
            continue
        match field.type:
            case inspect.IntType(ge=low, le=high):
                terms.append(f"(v := {value}).__class__ is int and {low} <= v <= {high}")
            case inspect.BytesType(min_length=length):
                terms.append(f"{value}.__class__ is bytes" + (f" and len({value}) == {length}" if length else ""))
            case inspect.VarTupleType(item_type=inspect.IntType(ge=low, le=high)):
                terms.append(f"(v := {value}).__class__ is tuple and integers(v, {low}, {high})")
            case inspect.EnumType(cls=enum):
                names[enum.__name__] = enum
                terms.append(f"{value}.__class__ is {enum.__name__}")
            case plain:
                terms.append(f"{value}.__class__ is {PLAIN_TYPES[type(plain)].__name__}")
    terms.append(f"len(frame := {bytes([spec.msg_type])!r} + payload(m)) <= {spec.max_length}")
    source = f"lambda m: frame if {' and '.join(terms)} else uncertain()"
    return _compiled(f"encode {spec.msg_type.wire_name}", source, names)


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
    revision = _check_options(revision, extensions)
    spec = SPEC_BY_CLASS.get(type(message))
    if spec is None or not spec.is_known(revision, extensions):
        raise UnknownTypeError("type-unknown", f"{type(message).__name__} is not a message of revision {revision:d}")
    if spec.extension is None:
        _ENCODERS[revision][spec.payload] = _encoder(spec.payload)
    check_fields(message)
    frame = bytes([spec.msg_type]) + _PAYLOAD_ENCODERS[spec.kind](message)
    _check_length(spec, len(frame), None)
    return frame


_ENCODERS: Final[dict[Revision, dict[type[Message], Callable[[Any], bytes]]]] = {revision: {} for revision in Revision}
"""Made on first use, like `_DECODERS`."""
_V2_ENCODERS: Final = _ENCODERS[_V2]
