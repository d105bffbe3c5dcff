"""The test vectors of spec/vectors/, in Wycheproof's manner: what to do with some bytes, and what comes of it.

    for group in load(ClusterFrameTest).groups:
        for test in group.tests:
            ...

Bytes are hexadecimal in the files and `bytes` here. A test is `valid`, or it is `invalid` and has the error that it has
to end with. Its id never changes meaning. spec/vectors/schema.json is the JSON Schema of these classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from wireproto.messages import MAX_LINK_LENGTH
from wireproto.testing.requirements import DIRECTORY as _SPEC

DIRECTORY: Final = _SPEC / "vectors"

Id = Annotated[str, Meta(pattern="^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$")]
RequirementId = Annotated[str, Meta(pattern="^[A-Z0-9]+(-[A-Z0-9]+)+$")]
Result = Literal["valid", "invalid"]
Revision = Literal[1, 2]
Role = Literal["rank 0", "rank 1"]


class Hex(bytes):
    """Bytes that are hexadecimal digits in JSON."""


class _Struct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class Fault(_Struct, frozen=True, kw_only=True):
    """The error that an invalid test has to end with."""

    code: str
    """Of the table of error codes."""
    offset: int | None = None
    """In what was decoded; absent where the error has none."""
    path: str | None = None
    """The field at fault; absent where it is no field's."""


class Payload(_Struct, frozen=True, kw_only=True):
    """A cluster frame's message: keys as on the wire, bytes in base64, null where there is no payload."""

    type: int
    payload: Any


class _Test(_Struct, frozen=True, kw_only=True):
    id: Id
    comment: str
    requirements: tuple[RequirementId, ...]
    flags: tuple[str, ...] = ()
    """Each is explained in the file's `flags`."""
    result: Result
    error: Fault | None = None
    """There if the result is invalid."""


class LinkStreamTest(_Test, frozen=True, kw_only=True):
    """A stream of link frames, from its first byte to its end, in whatever pieces it comes."""

    stream: Hex
    max_length: int = MAX_LINK_LENGTH
    bodies: tuple[Hex, ...]
    """Those of the whole frames, before the error too."""


class ClusterFrameTest(_Test, frozen=True, kw_only=True):
    """One cluster frame."""

    revision: Revision
    extensions: tuple[str, ...] = ()
    """Those that the session has; their types are known then."""
    frame: Hex
    message: Payload | None = None


class Secrets(_Struct, frozen=True, kw_only=True):
    """What one side of a handshake has, and would otherwise draw."""

    identity_private: Hex
    """The P-256 private key, 32 bytes, big-endian."""
    identity: Hex
    """Its public key, X ‖ Y."""
    ephemeral_private: Hex
    ephemeral: Hex
    nonce: Hex
    pin: Hex | None = None
    """The identity key that the peer has to show; absent where none is known."""


class Derived(_Struct, frozen=True, kw_only=True):
    """Every value of a handshake that ends well, in the order in which they are made."""

    hello_commitment: Hex
    hello_signature: Hex
    ack_commitment: Hex
    ack_signature: Hex
    shared_secret: Hex
    salt: Hex
    info: Hex
    pseudorandom_key: Hex
    """What HKDF-Extract gives."""
    session_key: Hex
    key_log: str


class HandshakeTest(_Test, frozen=True, kw_only=True):
    """One side of a handshake. Rank 1 takes `hello` and makes `ack`; rank 0 has made `hello`, and takes `ack`."""

    role: Role
    secrets: Secrets
    hello: Hex
    ack: Hex | None = None
    derived: Derived | None = None


class SealStep(_Struct, frozen=True, kw_only=True):
    """A box is sealed from `plaintext` with `nonce`, or opened to give `plaintext`, or the error."""

    do: Literal["seal", "open"]
    box: Hex
    nonce: Hex | None = None
    plaintext: Hex | None = None
    error: Fault | None = None


class SealTest(_Test, frozen=True, kw_only=True):
    """Boxes of one session key, in this order. It is invalid if a box is refused; that does not end the rest."""

    key: Hex
    steps: tuple[SealStep, ...]


class TensorTest(_Test, frozen=True, kw_only=True):
    """A tensor box, and what it holds."""

    key: Hex
    box: Hex
    holds: Literal["activation", "token"]
    hidden_dim: int | None = None
    plaintext: Hex | None = None
    """Absent where the box does not open."""
    seq_len: int | None = None
    """−1 says stop."""
    token_id: int | None = None


class SessionEvent(_Struct, frozen=True, kw_only=True):
    """What a session tells whoever runs it."""

    event: Literal["established", "confirmed", "message", "ignored", "closed"]
    reply: Hex | None = None
    """Of `established`: what is to be sent at once."""
    message: Payload | None = None
    orderly: bool | None = None
    """Of `closed`: by sessionEnd."""


class SessionStep(_Struct, frozen=True, kw_only=True):
    """`start`: the hello goes out. `send`: `message` goes out. `receive`: bytes come in. `end`: the stream ends."""

    do: Literal["start", "send", "receive", "end"]
    bytes: Hex | None = None
    """What goes out or comes in."""
    message: Payload | None = None
    nonce: Hex | None = None
    """With which `message` is sealed."""
    events: tuple[SessionEvent, ...] = ()


class SessionTest(_Test, frozen=True, kw_only=True):
    """One side of a connection: a script. An error is that of the last step, after its events."""

    role: Role
    revision: Revision
    extensions: tuple[str, ...] = ()
    """Those that this side supports."""
    secrets: Secrets
    steps: tuple[SessionStep, ...]
    state: Literal["idle", "hello sent", "established", "confirmed", "closed", "failed"]
    """In the end."""


class Destination(_Struct, frozen=True, kw_only=True):
    """The values of a Destination that is not a rank's own."""

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
    """Of a Destination: its other bytes mean nothing."""


class JacclStep(_Struct, frozen=True, kw_only=True):
    """What happens on the coordinator port.

    `connect`: a connection comes in. `start`: a worker sends its HELLO. `gather`: the next gather begins with the own
    contribution. `receive`: bytes come in. `result`: the gather is whole. `end`: the peer sends no more.
    """

    do: Literal["connect", "start", "gather", "receive", "result", "end"]
    connection: int | None = None
    """Of the root's: 0 for the first one that came in, 1 for the next."""
    bytes: Hex | None = None
    """What goes out or comes in; the own contribution; the result."""
    error: Fault | None = None


class JacclExchangeTest(_Test, frozen=True, kw_only=True):
    """One side of the side channel, a worker's or the root's: a script. It is invalid if a step has an error."""

    role: Literal["root", "worker"]
    rank: int
    size: int
    steps: tuple[JacclStep, ...]


class JacclGather(_Struct, frozen=True, kw_only=True):
    """The own contribution, and what came of it."""

    own: Hex
    result: Hex


class JacclInitTest(_Test, frozen=True, kw_only=True):
    """The gathers that form a group, as one rank sees them. An error is found in the last result."""

    form: Literal["mesh", "ring"]
    rank: int
    size: int
    gathers: tuple[JacclGather, ...]


class DeviceFileTest(_Test, frozen=True, kw_only=True):
    """A file that says where the ranks are."""

    form: Literal["device matrix", "rank entries", "ring hostfile"]
    file: Hex
    mesh: bool | None = None
    """Of a device matrix: it can form one."""
    ring: bool | None = None


_TestT = TypeVar("_TestT", bound=_Test)


class Group(_Struct, Generic[_TestT], frozen=True, kw_only=True):
    """Tests that have something in common."""

    name: str
    about: str
    tests: tuple[_TestT, ...]


class VectorFile(_Struct, Generic[_TestT], frozen=True, kw_only=True):
    """One file of vectors."""

    about: str
    """What a test says, and what it takes to pass it."""
    flags: dict[str, str]
    """Each flag, and what it says of a test."""
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
"""The kinds of tests, and the names of their files."""


def load(kind: type[_TestT]) -> VectorFile[_TestT]:
    """The file of one kind of tests: `load(ClusterFrameTest)`."""
    return decode(kind, path(kind).read_bytes())


def path(kind: type[_Test]) -> Path:
    """Where the file of one kind of tests is."""
    return DIRECTORY / f"{FILES[kind]}.json"


def decode(kind: type[_TestT], data: bytes) -> VectorFile[_TestT]:
    """A file's contents. Raises `msgspec.ValidationError` for what the schema forbids."""
    vectors: VectorFile[_TestT] = msgspec.json.decode(data, type=VectorFile[kind], dec_hook=_from_hex)  # type: ignore[valid-type]
    return vectors


def encode(vectors: VectorFile[Any]) -> bytes:
    """A file's contents, as it is committed."""
    return msgspec.json.format(msgspec.json.encode(vectors, enc_hook=bytes.hex), indent=2) + b"\n"


def json_schema() -> dict[str, Any]:
    """What spec/vectors/schema.json has: one definition for each kind of file."""
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
