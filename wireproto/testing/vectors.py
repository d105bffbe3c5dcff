"""The test vectors of spec/vectors/, in a format like Wycheproof's.

    for group in load(ClusterFrameTest).groups:
        for test in group.tests:
            ...

Bytes are hexadecimal in the files and `bytes` here. A test is `valid`, or `invalid` with the error that must result. An
id never changes its meaning. spec/vectors/schema.json is the JSON Schema of these classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from wireproto.messages import MAX_LINK_LENGTH
from wireproto.testing.requirements import DIRECTORY as _SPEC

DIRECTORY: Final = _SPEC / "vectors"
"""The directory of the files."""

Id = Annotated[str, Meta(pattern="^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$")]
RequirementId = Annotated[str, Meta(pattern="^[A-Z0-9]+(-[A-Z0-9]+)+$")]
Result = Literal["valid", "invalid"]
Revision = Literal[1, 2]
Role = Literal["rank 0", "rank 1"]


class Hex(bytes):
    """Bytes, in JSON a string of hexadecimal digits."""


class _Struct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class Fault(_Struct, frozen=True, kw_only=True):
    """The error that an invalid test must give."""

    code: str
    """A code from the table of error codes."""
    offset: int | None = None
    """Byte offset in the decoded data; absent if the error has none."""
    path: str | None = None
    """The field at fault; absent if there is none."""


class Payload(_Struct, frozen=True, kw_only=True):
    """The message of a cluster frame: keys as on the wire, bytes in base64, null for an empty payload."""

    type: int
    payload: Any


class _Test(_Struct, frozen=True, kw_only=True):
    id: Id
    comment: str
    requirements: tuple[RequirementId, ...]
    flags: tuple[str, ...] = ()
    """Explained in the file's `flags`."""
    result: Result
    error: Fault | None = None
    """Present if the result is invalid."""


class LinkStreamTest(_Test, frozen=True, kw_only=True):
    """A stream of link frames, from its first byte to its end. It may arrive in chunks of any size."""

    stream: Hex
    max_length: int = MAX_LINK_LENGTH
    bodies: tuple[Hex, ...]
    """Bodies of the complete frames, those before an error included."""


class ClusterFrameTest(_Test, frozen=True, kw_only=True):
    """One cluster frame."""

    revision: Revision
    extensions: tuple[str, ...] = ()
    """Extensions of the session, whose types are known."""
    frame: Hex
    message: Payload | None = None


class Secrets(_Struct, frozen=True, kw_only=True):
    """The keys and the nonce of one side of a handshake. The X25519 keys and the nonce have 32 bytes each."""

    identity_private: Hex
    """The P-256 private key, 32 bytes, big-endian."""
    identity: Hex
    """Its public key, X ‖ Y, 64 bytes."""
    ephemeral_private: Hex
    ephemeral: Hex
    nonce: Hex
    pin: Hex | None = None
    """Pinned identity key of the peer; absent if none is pinned."""


class Derived(_Struct, frozen=True, kw_only=True):
    """Every value of a successful handshake, in the order of computation. Hashes and keys have 32 bytes."""

    hello_commitment: Hex
    hello_signature: Hex
    ack_commitment: Hex
    ack_signature: Hex
    shared_secret: Hex
    salt: Hex
    info: Hex
    pseudorandom_key: Hex
    """Result of HKDF-Extract."""
    session_key: Hex
    key_log: str


class HandshakeTest(_Test, frozen=True, kw_only=True):
    """One side of a handshake. Rank 1 receives `hello` and makes `ack`; rank 0 made `hello` and receives `ack`."""

    role: Role
    secrets: Secrets
    hello: Hex
    ack: Hex | None = None
    derived: Derived | None = None


class SealStep(_Struct, frozen=True, kw_only=True):
    """Seal `plaintext` with `nonce` as `box`, or open `box`, which gives `plaintext` or the error."""

    do: Literal["seal", "open"]
    box: Hex
    nonce: Hex | None = None
    plaintext: Hex | None = None
    error: Fault | None = None


class SealTest(_Test, frozen=True, kw_only=True):
    """Boxes of one session key, in this order. Invalid if a box is rejected; the steps after it still apply."""

    key: Hex
    """32 bytes."""
    steps: tuple[SealStep, ...]


class TensorTest(_Test, frozen=True, kw_only=True):
    """A tensor box and its content."""

    key: Hex
    box: Hex
    holds: Literal["activation", "token"]
    hidden_dim: int | None = None
    plaintext: Hex | None = None
    """Absent if the box does not open."""
    seq_len: int | None = None
    """−1 means stop."""
    token_id: int | None = None


class SessionEvent(_Struct, frozen=True, kw_only=True):
    """An event of a session."""

    event: Literal["established", "confirmed", "message", "ignored", "closed"]
    reply: Hex | None = None
    """Of `established`: bytes to send at once."""
    message: Payload | None = None
    orderly: bool | None = None
    """Of `closed`: whether by sessionEnd."""


class SessionStep(_Struct, frozen=True, kw_only=True):
    """`start`: send the hello. `send`: send `message`. `receive`: receive `bytes`. `end`: the stream ends."""

    do: Literal["start", "send", "receive", "end"]
    bytes: Hex | None = None
    """Bytes sent or received."""
    message: Payload | None = None
    nonce: Hex | None = None
    """Nonce of the box that `message` is sealed in."""
    events: tuple[SessionEvent, ...] = ()


class SessionTest(_Test, frozen=True, kw_only=True):
    """The script of one side of a connection. An error is raised by the last step, after its events."""

    role: Role
    revision: Revision
    extensions: tuple[str, ...] = ()
    """Extensions that this side supports."""
    secrets: Secrets
    steps: tuple[SessionStep, ...]
    state: Literal["idle", "hello sent", "established", "confirmed", "closed", "failed"]
    """State after the last step."""


class Destination(_Struct, frozen=True, kw_only=True):
    """The fields of a Destination other than a rank's own entry."""

    local_id: int
    queue_pair_number: int
    packet_sequence_number: int
    gid: Hex


class JacclRecordTest(_Test, frozen=True, kw_only=True):
    """One record of JACCL's side channel."""

    holds: Literal["hello", "destination"]
    data: Hex
    rank: int | None = None
    """Of a HELLO."""
    destination: Destination | None = None
    own_entry: bool = False
    """Of a Destination: the other fields have no meaning."""


class JacclStep(_Struct, frozen=True, kw_only=True):
    """One step on the coordinator port.

    `connect`: the root accepts a connection. `start`: a worker sends its HELLO. `gather`: the next gather starts with
    this side's contribution. `receive`: bytes arrive. `result`: the gather is complete. `end`: the stream ends.
    """

    do: Literal["connect", "start", "gather", "receive", "result", "end"]
    connection: int | None = None
    """Of the root: number of the connection, from 0 in the order of `connect`."""
    bytes: Hex | None = None
    """Bytes sent or received, contribution or result."""
    error: Fault | None = None


class JacclExchangeTest(_Test, frozen=True, kw_only=True):
    """The script of one side of the side channel, worker or root. Invalid if a step has an error."""

    role: Literal["root", "worker"]
    rank: int
    size: int
    steps: tuple[JacclStep, ...]


class JacclGather(_Struct, frozen=True, kw_only=True):
    """A contribution and the result of its gather."""

    own: Hex
    result: Hex


class JacclInitTest(_Test, frozen=True, kw_only=True):
    """The gathers that form a group, as seen by one rank. An error is in the last result."""

    form: Literal["mesh", "ring"]
    rank: int
    size: int
    gathers: tuple[JacclGather, ...]


class DeviceFileTest(_Test, frozen=True, kw_only=True):
    """A file with the devices or addresses of ranks."""

    form: Literal["device matrix", "rank entries", "ring hostfile"]
    file: Hex
    mesh: bool | None = None
    """Of a device matrix: whether it can form a mesh."""
    ring: bool | None = None


_TestT = TypeVar("_TestT", bound=_Test)


class Group(_Struct, Generic[_TestT], frozen=True, kw_only=True):
    """A group of related tests."""

    name: str
    about: str
    tests: tuple[_TestT, ...]


class VectorFile(_Struct, Generic[_TestT], frozen=True, kw_only=True):
    """One file of vectors."""

    about: str
    """Format of the tests, and how to pass one."""
    flags: dict[str, str]
    """Flags and their meaning."""
    groups: tuple[Group[_TestT], ...]


FILES: Final[dict[type[_Test], str]] = {
    LinkStreamTest: "link_stream",
    ClusterFrameTest: "cluster_frame",
    HandshakeTest: "handshake",
    SealTest: "seal",
    TensorTest: "tensor",
    SessionTest: "session",
    JacclRecordTest: "jaccl_record",
    JacclExchangeTest: "jaccl_exchange",
    JacclInitTest: "jaccl_init",
    DeviceFileTest: "device_file",
}
"""File names by kind of test."""


def load(kind: type[_TestT]) -> VectorFile[_TestT]:
    """Return the file of one kind of test, as in `load(ClusterFrameTest)`."""
    return decode(kind, path(kind).read_bytes())


def path(kind: type[_Test]) -> Path:
    """Return the path of the file of one kind of test."""
    return DIRECTORY / f"{FILES[kind]}.json"


def decode(kind: type[_TestT], data: bytes) -> VectorFile[_TestT]:
    """Return the contents of a file. Raise `msgspec.ValidationError` for what the schema forbids."""
    vectors: VectorFile[_TestT] = msgspec.json.decode(data, type=VectorFile[kind], dec_hook=_from_hex)  # type: ignore[valid-type]
    return vectors


def encode(vectors: VectorFile[Any]) -> bytes:
    """Return the bytes of a file, as committed."""
    return msgspec.json.format(msgspec.json.encode(vectors, enc_hook=bytes.hex), indent=2) + b"\n"


def json_schema() -> dict[str, Any]:
    """Return the contents of spec/vectors/schema.json: one definition for each kind of file."""
    files = [VectorFile[kind] for kind in FILES]  # type: ignore[valid-type]
    references, definitions = msgspec.json.schema_components(files, schema_hook=_hex_schema)
    for kind in FILES:
        definitions[kind.__name__] |= _ERROR_IF_INVALID
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Test vectors of the cluster link protocol",
        "oneOf": list(references),
        "$defs": definitions,
    }


_ERROR_IF_INVALID: Final = {
    "if": {"properties": {"result": {"const": "invalid"}}},
    "then": {"required": ["error"]},
    "else": {"not": {"required": ["error"]}},
}


def _from_hex(kind: type, value: str) -> bytes:
    make: Callable[[str], bytes] = kind.fromhex  # type: ignore[attr-defined]
    return make(value)


def _hex_schema(kind: type) -> dict[str, str]:
    return {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
