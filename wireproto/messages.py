"""The messages of the cluster link, and their registry: type byte, payload class, direction and revision.

A message is an instance of its payload class, which determines the type byte. Field names are the wire keys in snake
case: `session_id` is `sessionID` on the wire. Byte fields are `bytes` here and base64 on the wire. Constructing a
message does not check it; `encode_frame` does, and `decode_frame` returns only valid messages.
"""

from collections.abc import Collection
from enum import Enum, IntEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

from msgspec import Meta, Struct

U16: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
I64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bytes32: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes64: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
ShortText: TypeAlias = Annotated[str, Meta(max_length=1024)]
Sha256Hex: TypeAlias = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
ExtensionName: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}\Z")]
ExtensionNames: TypeAlias = Annotated[tuple[ExtensionName, ...], Meta(max_length=32)]
"""Up to 32 names, each at most once. [EXT-NAMES]"""

SIDE_CHANNEL_1: Final = "side-channel/1"
"""JACCL's gathers travel over the link. [EXT-SIDE-CHANNEL]"""
OUTCOME_1: Final = "outcome/1"
"""The ranks report the progress of their init, and their versions. [EXT-OUTCOME, EXT-VERSIONS]"""
EXTENSIONS: Final = (SIDE_CHANNEL_1, OUTCOME_1)
"""The extensions that this package implements. [EXT-NAMES]"""

MIN_SIZE: Final = 2
"""Smallest number of ranks in a group."""
MAX_SIZE: Final = 64
"""Largest number of ranks in a group. The limit is this protocol's; JACCL and MLX rings have none. [JACCL-HELLO]"""
MAX_GATHER: Final = 1024 * 1024
"""Largest contribution of a rank to one gather, in bytes: 1 MiB. [EXT-SIDE-CHANNEL-SIZE]"""
MAX_WHOLE: Final = 8 * MAX_GATHER
"""Largest result of a gather, in bytes: 1 MiB from each of 8 ranks, or 128 KiB from each of 64."""

MAX_LINK_LENGTH: Final = 268_435_456
"""Longest body of a link frame, in bytes: 256 MiB. [LINK-LEN-MAX]"""


MAX_HANDSHAKE_FRAME: Final = 4 * 1024
"""Longest handshakeHello or handshakeAck frame, in bytes; an ordinary one has about 350. [PAYLOAD-LIMIT]"""
MAX_SHORT_FRAME: Final = 64 * 1024
"""Longest frame, in bytes, of each type whose payload is short by nature. [PAYLOAD-LIMIT]"""


class Revision(IntEnum):
    """A revision of the protocol. The caller chooses it; it is never guessed from a peer's bytes. [REV-EXPLICIT]"""

    V1 = 1
    """Types 0x01–0x07 and 0xFF; frames travel unsealed after the handshake."""
    V2 = 2
    """All types; every frame after the handshake travels in a sealed box."""


class Direction(Enum):
    """Which rank sends a message. Rank 1 stands for every rank but 0."""

    RANK_0_TO_1 = "0 → 1"
    RANK_1_TO_0 = "1 → 0"
    BOTH = "0 ↔ 1"


class ClusterMsgType(IntEnum):
    """The first byte of a cluster frame. [FRAME-TYPE]"""

    HANDSHAKE_HELLO = 0x01
    HANDSHAKE_ACK = 0x02
    PING = 0x03
    PONG = 0x04
    INFERENCE_STEP = 0x05
    INFERENCE_TOKEN = 0x06
    JACCL_BOOTSTRAP = 0x07
    PROMPT_TOKENS = 0x08
    STEP_TOKEN = 0x09
    SESSION_STOP = 0x0A
    PP_ACTIVATION = 0x0B
    PP_TOKEN = 0x0C
    PP_SESSION_END = 0x0D
    SIDE_CHANNEL_PART = 0x40
    SIDE_CHANNEL_WHOLE = 0x41
    OUTCOME = 0x42
    VERSIONS = 0x43
    SESSION_END = 0xFF

    @property
    def wire_name(self) -> str:
        """The protocol's own name: `ClusterMsgType.JACCL_BOOTSTRAP.wire_name == "jacclBootstrap"`."""
        return _WIRE_NAMES[self]


def _lower_camel(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


_WIRE_NAMES: Final = {member: _lower_camel(member.name) for member in ClusterMsgType}


class MemoryPressure(Enum):
    """Memory pressure on the host of rank 1."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


class _Introduction(
    Struct,
    frozen=True,
    gc=False,
    rename={
        "se_pub_key_raw": "sePubKeyRaw",
        "ephemeral_x25519_pub_key": "ephemeralX25519PubKey",
        "se_signature": "seSignature",
    },
):
    se_pub_key_raw: Bytes64
    """The P-256 identity key: X ‖ Y, 64 bytes, without the 0x04 prefix."""
    ephemeral_x25519_pub_key: Bytes32
    """A fresh X25519 public key, 32 bytes."""
    nonce: Bytes32
    """32 fresh random bytes."""
    se_signature: bytes
    """ECDSA P-256 signature in DER over the commitment. [HANDSHAKE-HELLO, HANDSHAKE-ACK]"""


class HandshakeHello(_Introduction, frozen=True, gc=False):
    """Opens the handshake; sent by rank 0. [PAYLOAD-HELLO]"""


class HandshakeAck(_Introduction, frozen=True, gc=False):
    """Answers the hello; sent by rank 1, with the same four fields. [PAYLOAD-HELLO]"""


class Ping(Struct, frozen=True, gc=False):
    """Asks for a pong; sent by rank 0, without a payload. [PAYLOAD-EMPTY]"""


class PongPayload(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "model_loaded": "modelLoaded",
        "inference_in_flight": "inferenceInFlight",
        "memory_pressure": "memoryPressure",
    },
):
    """Answers a ping with the status of rank 1. [PAYLOAD-PONG]"""

    model_loaded: bool
    """Whether rank 1 has loaded its model and can take a jacclBootstrap. [PLAIN-LOADED]"""
    inference_in_flight: bool
    """Whether rank 1 is running inference."""
    memory_pressure: MemoryPressure
    """Memory pressure on its host."""
    extensions: ExtensionNames = ()
    """The extensions that rank 1 offers. The key is omitted if there are none. [EXT-OFFER]"""


class InferenceStep(Struct, frozen=True, gc=False):
    """An activation, or the stop sentinel; sent by rank 0. [PAYLOAD-OPAQUE]"""

    box: bytes
    """A tensor box, `nonce[12] ‖ ciphertext ‖ tag[16]`; opaque to the codec."""


class InferenceToken(Struct, frozen=True, gc=False):
    """The token that results from a step; sent by rank 1. [PAYLOAD-OPAQUE]"""

    box: bytes
    """A tensor box, `nonce[12] ‖ ciphertext ‖ tag[16]`; opaque to the codec."""


class JacclBootstrapPayload(Struct, frozen=True, gc=False, omit_defaults=True, rename={"session_id": "sessionID"}):
    """Starts the group's init on both ranks; sent by rank 0. [PAYLOAD-BOOTSTRAP]"""

    port: U16
    """The coordinator port on which rank 0 listens."""
    session_id: str
    """Any string; the reference peer sends a UUID. Check it before using it as a file name. [BOOT-SESSION-ID]"""
    extensions: ExtensionNames = ()
    """The extensions chosen from rank 1's offer. The key is omitted if there are none. [EXT-CHOICE]"""


class PromptTokensPayload(Struct, frozen=True, gc=False, rename={"max_tokens": "maxTokens"}):
    """A prompt as token IDs. [PAYLOAD-PROMPT]"""

    uid: str
    """The inference session."""
    tokens: tuple[I64, ...]
    """Token IDs."""
    max_tokens: I64
    """Number of tokens to generate at most."""


class StepTokenPayload(Struct, frozen=True, gc=False):
    """One token of a running inference session. [PAYLOAD-STEP-TOKEN]"""

    uid: str
    """The inference session."""
    token: I64
    """Token ID."""


class SessionStopPayload(Struct, frozen=True, gc=False):
    """Stops an inference session. [PAYLOAD-UID]"""

    uid: str
    """The inference session."""


class PPActivationPayload(
    Struct, frozen=True, gc=False, rename={"seq_len": "seqLen", "sealed_activation": "sealedActivation"}
):
    """A pipeline-parallel activation. [PAYLOAD-PP-ACTIVATION]"""

    uid: str
    """The inference session."""
    seq_len: I64
    """Number of tokens in the activation."""
    sealed_activation: bytes
    """A tensor box; its plaintext is an activation. [TENSOR-ACTIVATION]"""


class PPTokenPayload(Struct, frozen=True, gc=False, rename={"sealed_token": "sealedToken"}):
    """A pipeline-parallel token. [PAYLOAD-PP-TOKEN]"""

    uid: str
    """The inference session."""
    sealed_token: bytes
    """A tensor box; its plaintext is a token. [TENSOR-TOKEN]"""


class PPSessionEndPayload(Struct, frozen=True, gc=False):
    """Ends a pipeline-parallel session. [PAYLOAD-UID]"""

    uid: str
    """The inference session."""


class SideChannelPart(Struct, frozen=True, gc=False):
    """Rank 1's contribution to a gather. [EXT-SIDE-CHANNEL]"""

    sequence: U32
    """The number of the gather, from 0."""
    part: Annotated[bytes, Meta(max_length=MAX_GATHER)]
    """Up to 1 MiB."""


class SideChannelWhole(Struct, frozen=True, gc=False):
    """The result of a gather: the parts of all ranks in rank order. [EXT-SIDE-CHANNEL]"""

    sequence: U32
    """The number of the gather, from 0."""
    whole: Annotated[bytes, Meta(max_length=MAX_WHOLE)]
    """Up to 8 MiB."""


class OutcomeState(Enum):
    """Progress of a rank. [EXT-OUTCOME-STATES]"""

    STARTED = "started"
    """The init has started."""
    READY = "ready"
    """The init has formed the intended group."""
    FAILED = "failed"
    """The init or the program has failed; `stage`, `code` and `message` say how."""
    FINISHED = "finished"
    """The program has ended well."""


class Outcome(Struct, frozen=True, gc=False):
    """The progress of a rank: the sender's own, or another rank's that rank 0 passes on. [EXT-OUTCOME]"""

    rank: U16
    """The rank that made the progress."""
    state: OutcomeState
    stage: ShortText
    """The step that failed. `stage`, `code` and `message` have a meaning only if `state` is `FAILED`."""
    code: ShortText
    """The error code."""
    message: ShortText
    """The error text, for people."""


class Program(Enum):
    """A rank's action once the group can be formed."""

    HOLD = "hold"
    """Hold the group."""
    MODULE = "module"
    """Run a module or script in the process that formed the group."""
    COMMAND = "command"
    """Run a command in a process of its own, which forms the group."""
    DRY_RUN = "dry-run"
    """Form no group."""


class Versions(Struct, frozen=True, gc=False, omit_defaults=True):
    """The versions and settings of a rank. [EXT-VERSIONS]"""

    package: ShortText
    """Version of this package."""
    mlx: ShortText
    """Version of MLX."""
    backend: ShortText
    """`jaccl` or `ring`."""
    devices: Sha256Hex
    """SHA-256 of the device matrix file in lower-case hex; empty without a file."""
    program: Program | None = None
    """None if the rank does not say; the key is then omitted."""


class SessionEnd(Struct, frozen=True, gc=False):
    """Ends the session; sent by rank 0, without a payload. [PAYLOAD-EMPTY]"""


Message: TypeAlias = (
    HandshakeHello
    | HandshakeAck
    | Ping
    | PongPayload
    | InferenceStep
    | InferenceToken
    | JacclBootstrapPayload
    | PromptTokensPayload
    | StepTokenPayload
    | SessionStopPayload
    | PPActivationPayload
    | PPTokenPayload
    | PPSessionEndPayload
    | SideChannelPart
    | SideChannelWhole
    | Outcome
    | Versions
    | SessionEnd
)
"""Any message."""


class PayloadKind(Enum):
    """The layout of a payload."""

    JSON = "JSON object"
    EMPTY = "empty"
    OPAQUE = "opaque bytes"
    NUMBERED = "a number, then opaque bytes"
    """u32 little-endian, then bytes."""


class MessageSpec(NamedTuple):
    """One row of the registry."""

    msg_type: ClusterMsgType
    payload: type[Message]
    kind: PayloadKind
    direction: Direction
    revision: Revision
    """The first revision that has the type."""
    max_length: int = MAX_LINK_LENGTH
    """Longest cluster frame of the type in bytes, type byte included. [PAYLOAD-LIMIT]"""
    extension: str | None = None
    """The extension that must be agreed before the type is sent; None for the plain protocol. [EXT-UNINVITED]"""

    def is_known(self, revision: Revision, extensions: Collection[str] = ()) -> bool:
        """Return whether the type exists in a revision with these extensions agreed."""
        return self.revision <= revision and (self.extension is None or self.extension in extensions)


_T, _D, _K = ClusterMsgType, Direction, PayloadKind

REGISTRY: Final[tuple[MessageSpec, ...]] = (
    MessageSpec(_T.HANDSHAKE_HELLO, HandshakeHello, _K.JSON, _D.RANK_0_TO_1, Revision.V1, MAX_HANDSHAKE_FRAME),
    MessageSpec(_T.HANDSHAKE_ACK, HandshakeAck, _K.JSON, _D.RANK_1_TO_0, Revision.V1, MAX_HANDSHAKE_FRAME),
    MessageSpec(_T.PING, Ping, _K.EMPTY, _D.RANK_0_TO_1, Revision.V1),
    MessageSpec(_T.PONG, PongPayload, _K.JSON, _D.RANK_1_TO_0, Revision.V1, MAX_SHORT_FRAME),
    MessageSpec(_T.INFERENCE_STEP, InferenceStep, _K.OPAQUE, _D.RANK_0_TO_1, Revision.V1),
    MessageSpec(_T.INFERENCE_TOKEN, InferenceToken, _K.OPAQUE, _D.RANK_1_TO_0, Revision.V1),
    MessageSpec(_T.JACCL_BOOTSTRAP, JacclBootstrapPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V1, MAX_SHORT_FRAME),
    MessageSpec(_T.PROMPT_TOKENS, PromptTokensPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V2),
    MessageSpec(_T.STEP_TOKEN, StepTokenPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V2, MAX_SHORT_FRAME),
    MessageSpec(_T.SESSION_STOP, SessionStopPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V2, MAX_SHORT_FRAME),
    MessageSpec(_T.PP_ACTIVATION, PPActivationPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V2),
    MessageSpec(_T.PP_TOKEN, PPTokenPayload, _K.JSON, _D.RANK_1_TO_0, Revision.V2, MAX_SHORT_FRAME),
    MessageSpec(_T.PP_SESSION_END, PPSessionEndPayload, _K.JSON, _D.RANK_0_TO_1, Revision.V2, MAX_SHORT_FRAME),
    MessageSpec(
        _T.SIDE_CHANNEL_PART, SideChannelPart, _K.NUMBERED, _D.RANK_1_TO_0, Revision.V2, MAX_LINK_LENGTH, SIDE_CHANNEL_1
    ),
    MessageSpec(
        _T.SIDE_CHANNEL_WHOLE,
        SideChannelWhole,
        _K.NUMBERED,
        _D.RANK_0_TO_1,
        Revision.V2,
        MAX_LINK_LENGTH,
        SIDE_CHANNEL_1,
    ),
    MessageSpec(_T.OUTCOME, Outcome, _K.JSON, _D.BOTH, Revision.V2, MAX_SHORT_FRAME, OUTCOME_1),
    MessageSpec(_T.VERSIONS, Versions, _K.JSON, _D.BOTH, Revision.V2, MAX_SHORT_FRAME, OUTCOME_1),
    MessageSpec(_T.SESSION_END, SessionEnd, _K.EMPTY, _D.RANK_0_TO_1, Revision.V1),
)
"""Every message type, in the order of the type bytes."""

SPEC_BY_CLASS: Final[dict[type, MessageSpec]] = {spec.payload: spec for spec in REGISTRY}
"""The registry by payload class."""
SPEC_BY_TYPE: Final[dict[int, MessageSpec]] = {spec.msg_type: spec for spec in REGISTRY}
"""The registry by type byte."""
