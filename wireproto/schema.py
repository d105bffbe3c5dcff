"""Every layout of the cluster link, declared in construct: the normative, executable form.

`parse(layout, data)` and `build(layout, value)` are the way in: they take all of the bytes or reject them, and turn
construct's errors into `WireError`s. `frame`, `link`, `seal`, `tensor` and `jaccl` do the same work without construct,
and agree with this module on every byte string. construct's `compile()` is not used: it accepts truncated input.

| layout | value |
| --- | --- |
| `LINK_FRAME` | Container(length, body) |
| `CLUSTER_FRAME[revision]` | a message of `wireproto.messages` |
| `cluster_frame(revision, extensions)` | the same, with the types of extensions |
| `SIDE_CHANNEL_PART`, `SIDE_CHANNEL_WHOLE` | Container(sequence, part), Container(sequence, whole) |
| `SEALED_BOX` | Container(nonce, ciphertext, tag) |
| `activation(hidden_dim)`, `TOKEN` | Container(seq_len, data), Container(token_id) |
| `JACCL_HELLO`, `JACCL_DESTINATION` | Container(rank), Container(local_id, endpoint) |
"""

import base64
import io
import json
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Final

import msgspec
from construct import (
    Adapter,
    Bytes,
    Construct,
    ConstructError,
    Container,
    GreedyBytes,
    IfThenElse,
    Int8ub,
    Int32sl,
    Int32ul,
    Int64ul,
    Padding,
    Rebuild,
    StreamError,
    Struct,
    Subconstruct,
    Switch,
    len_,
    this,
)

from wireproto.codec.fields import check_fields, decode_payload, payload_fields
from wireproto.errors import LimitError, MalformedError, TruncatedError, UnknownTypeError, WireError
from wireproto.messages import (
    MAX_GATHER,
    MAX_LINK_LENGTH,
    MAX_WHOLE,
    REGISTRY,
    SPEC_BY_CLASS,
    PayloadKind,
    Revision,
    SideChannelPart,
    SideChannelWhole,
)


def parse(layout: Construct, data: bytes) -> Any:
    """The value that `data`, all of it, stands for. Raises `WireError` with code and offset for anything else."""
    stream = io.BytesIO(data)
    try:
        value = layout.parse_stream(stream)
    except StreamError as error:
        raise TruncatedError("truncated", "the layout needs more bytes", offset=len(data)) from error
    if stream.tell() != len(data):
        raise MalformedError("trailing-data", "bytes follow the end of the layout", offset=stream.tell())
    return value


def build(layout: Construct, value: Any) -> bytes:
    """The bytes of `value`. Raises `WireError` for a value that the layout does not carry."""
    try:
        data: bytes = layout.build(value)
    except WireError as error:
        raise type(error)(error.code, error.detail, path=error.path) from error
    except (ConstructError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise MalformedError("field-type", f"the layout does not carry this value: {error}") from error
    return data


# -- parts -------------------------------------------------------------------------------------------------------------


class _Checked(Subconstruct):  # type: ignore[misc]
    """A value that passes `check(value, offset)`, which raises `WireError`; the offset is where the value starts."""

    def __init__(self, subcon: Construct, check: Callable[[Any, int], None]) -> None:
        super().__init__(subcon)
        self._check = check

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Any:
        offset = stream.tell()
        value = self.subcon._parsereport(stream, context, path)
        self._check(value, offset)
        return value

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        offset = stream.tell()
        built = self.subcon._build(obj, stream, context, path)
        self._check(obj, offset)
        return built


def _within(low: int, high: int, code: str, field: str) -> Callable[[int, int], None]:
    def check(value: int, offset: int) -> None:
        if not low <= value <= high:
            raise MalformedError(code, f"{value} is not from {low} to {high}", offset=offset, path=field)

    return check


class _Octets(Subconstruct):  # type: ignore[misc]
    """`Bytes`, but it does not build bytes from an integer."""

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if not isinstance(obj, bytes):
            raise TypeError(f"expected bytes, not {type(obj).__name__}")
        return self.subcon._build(obj, stream, context, path)


class _AllBut(Construct):  # type: ignore[misc]
    """The bytes up to `count` before the end."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> bytes:
        data = stream.read()
        if len(data) < self._count:
            raise StreamError(f"fewer than {self._count} bytes are left")
        stream.seek(-self._count, io.SEEK_CUR)
        return data[: -self._count]

    def _build(self, obj: bytes, stream: io.BytesIO, context: Container, path: str) -> bytes:
        stream.write(obj)
        return obj


# -- link frame, sealed box --------------------------------------------------------------------------------------------


def _link_length(length: int, offset: int) -> None:
    if length == 0:
        raise MalformedError("link-length-zero", "a link frame has at least one byte", offset=offset, path="length")
    if length > MAX_LINK_LENGTH:
        raise LimitError("link-length-limit", f"{length} > {MAX_LINK_LENGTH}", offset=offset, path="length")


LINK_FRAME: Final = Struct(
    "length" / Rebuild(_Checked(Int64ul, _link_length), len_(this.body)),
    "body" / _Octets(Bytes(this.length)),
)
"""`u64 little-endian length ‖ body`. [LINK-LAYOUT, LINK-LEN-MIN, LINK-LEN-MAX]"""

SEALED_BOX: Final = Struct(
    "nonce" / _Octets(Bytes(12)), "ciphertext" / _Octets(_AllBut(16)), "tag" / _Octets(Bytes(16))
)
"""An AES-256-GCM box, without associated data; a tensor box has the same layout. [SEAL-LAYOUT]"""


# -- cluster frame -----------------------------------------------------------------------------------------------------


class _JsonPayload(Adapter):  # type: ignore[misc]
    def __init__(self, cls: type[msgspec.Struct]) -> None:
        super().__init__(GreedyBytes)
        self._cls = cls

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> msgspec.Struct:
        start = stream.tell()
        stream.seek(0)
        return decode_payload(self._cls, stream.read(), start)

    def _encode(self, obj: msgspec.Struct, context: Container, path: str) -> bytes:
        fields = payload_fields(self._cls)
        values = {key: getattr(obj, field.name) for key, field in fields.items()}
        members = {key: _json_value(value) for key, value in values.items() if value != fields[key].default}
        return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def _json_value(value: object) -> object:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case Enum():
            return value.value
        case _:
            return value


class _EmptyPayload(Adapter):  # type: ignore[misc]
    def __init__(self, cls: Callable[[], msgspec.Struct]) -> None:
        super().__init__(GreedyBytes)
        self._cls = cls

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> msgspec.Struct:
        offset = stream.tell()
        if stream.read():
            raise MalformedError("payload-not-empty", "the type has no payload", offset=offset)
        return self._cls()

    def _encode(self, obj: msgspec.Struct, context: Container, path: str) -> bytes:
        return b""


class _OpaquePayload(Adapter):  # type: ignore[misc]
    def __init__(self, cls: Callable[[bytes], msgspec.Struct]) -> None:
        super().__init__(GreedyBytes)
        self._cls = cls

    def _decode(self, obj: bytes, context: Container, path: str) -> msgspec.Struct:
        return self._cls(obj)

    def _encode(self, obj: Any, context: Container, path: str) -> bytes:
        box: bytes = obj.box
        return box


def _at_most(limit: int, field: str) -> Callable[[bytes, int], None]:
    def check(value: bytes, offset: int) -> None:
        if len(value) > limit:
            raise MalformedError("field-length", f"{len(value)} bytes > {limit}", offset=offset, path=field)

    return check


SIDE_CHANNEL_PART: Final = Struct("sequence" / Int32ul, "part" / _Checked(GreedyBytes, _at_most(MAX_GATHER, "part")))
SIDE_CHANNEL_WHOLE: Final = Struct("sequence" / Int32ul, "whole" / _Checked(GreedyBytes, _at_most(MAX_WHOLE, "whole")))
"""The payloads of the frames that carry JACCL's gathers. [EXT-SIDE-CHANNEL, EXT-SIDE-CHANNEL-SIZE]"""


class _NumberedPayload(Adapter):  # type: ignore[misc]
    def __init__(self, cls: type[msgspec.Struct]) -> None:
        super().__init__({SideChannelPart: SIDE_CHANNEL_PART, SideChannelWhole: SIDE_CHANNEL_WHOLE}[cls])
        self._cls = cls

    def _decode(self, obj: Container, context: Container, path: str) -> msgspec.Struct:
        return self._cls(**{name: obj[name] for name in self._cls.__struct_fields__})

    def _encode(self, obj: msgspec.Struct, context: Container, path: str) -> dict[str, object]:
        return msgspec.structs.asdict(obj)


_PAYLOADS: Final = {
    PayloadKind.JSON: _JsonPayload,
    PayloadKind.EMPTY: _EmptyPayload,
    PayloadKind.OPAQUE: _OpaquePayload,
    PayloadKind.NUMBERED: _NumberedPayload,
}


class _Limited(Subconstruct):  # type: ignore[misc]
    """A payload whose frame, type byte included, is at most `limit` bytes. [PAYLOAD-LIMIT]"""

    def __init__(self, subcon: Construct, limit: int) -> None:
        super().__init__(subcon)
        self._limit = limit

    def _check(self, length: int, offset: int | None) -> None:
        if length > self._limit:
            raise LimitError("payload-limit", f"{length} bytes are over the limit of {self._limit}", offset=offset)

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Any:
        offset = stream.tell()
        self._check(stream.seek(0, io.SEEK_END), offset)
        stream.seek(offset)
        return self.subcon._parsereport(stream, context, path)

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        built = self.subcon._build(obj, stream, context, path)
        self._check(stream.tell(), None)
        return built


class _Message(Adapter):  # type: ignore[misc]
    """A cluster frame as its message: the class says the type."""

    def _decode(self, obj: Container, context: Container, path: str) -> msgspec.Struct:
        payload: msgspec.Struct = obj.payload
        return payload

    def _encode(self, obj: msgspec.Struct, context: Container, path: str) -> dict[str, object]:
        if (spec := SPEC_BY_CLASS.get(type(obj))) is None:
            raise UnknownTypeError("type-unknown", f"{type(obj).__name__} is no message")
        check_fields(obj)
        return {"type": spec.msg_type.value, "payload": obj}


@cache
def cluster_frame(revision: Revision, extensions: frozenset[str] = frozenset()) -> Construct:
    """`u8 type ‖ payload`, of a revision and the extensions agreed. [FRAME-TYPE, PAYLOAD-*, JSON-*, EXT-*]"""
    specs = {spec.msg_type.value: spec for spec in REGISTRY if spec.is_known(revision, extensions)}

    def known(value: int, offset: int) -> None:
        if value not in specs:
            detail = f"0x{value:02x} is no type of revision {revision:d}"
            raise UnknownTypeError("type-unknown", detail, offset=offset, path="type")

    payloads = {value: _Limited(_PAYLOADS[spec.kind](spec.payload), spec.max_length) for value, spec in specs.items()}
    return _Message(Struct("type" / _Checked(Int8ub, known), "payload" / Switch(this.type, payloads)))


CLUSTER_FRAME: Final = {revision: cluster_frame(revision) for revision in Revision}
"""The plain protocol's, for each revision."""


# -- tensor plaintexts -------------------------------------------------------------------------------------------------

_I32_MAX: Final = 2**31 - 1

TOKEN: Final = Struct("token_id" / Int32sl)
"""`i32 little-endian tokenID`. [TENSOR-TOKEN]"""


def activation(hidden_dim: int) -> Construct:
    """`i32 little-endian seqLen ‖ bfloat16 [1, seqLen, hidden_dim]`, row-major; seqLen −1 and no data says stop.

    `hidden_dim` is the model's, and not on the wire. [TENSOR-ACTIVATION, TENSOR-STOP]
    """
    return Struct(
        "seq_len" / _Checked(Int32sl, _within(-1, _I32_MAX, "activation-seq-len", "seqLen")),
        "data" / _Octets(Bytes(lambda context: max(context.seq_len, 0) * hidden_dim * 2)),
    )


# -- JACCL's side channel ----------------------------------------------------------------------------------------------

JACCL_HELLO: Final = Struct("rank" / _Checked(Int32sl, _within(1, 63, "jaccl-rank", "rank")))
"""A worker's first word to the root: its rank; the root, rank 0, says none. [JACCL-HELLO]"""

_ENDPOINT: Final = Struct(
    "queue_pair_number" / _Checked(Int32sl, _within(0, _I32_MAX, "jaccl-queue-pair", "queue_pair_number")),
    "packet_sequence_number" / _Checked(Int32sl, _within(7, 7, "jaccl-sequence-number", "packet_sequence_number")),
    Padding(4),
    "gid" / _Octets(Bytes(16)),
)

JACCL_DESTINATION: Final = Struct(
    "local_id" / _Checked(Int32sl, _within(-1, _I32_MAX, "jaccl-local-id", "local_id")),
    "endpoint" / IfThenElse(this.local_id == -1, Padding(28), _ENDPOINT),
)
"""Where a queue pair is reached, 32 bytes. A local_id of −1 marks a rank's own entry: its other 28 bytes mean nothing,
as the 4 bytes of padding never do. [JACCL-DESTINATION]"""
