"""Every message of the cluster link: its type byte, its payload, its direction, its revision, side by side.

A message is an instance of its payload class; the class says which type byte it travels under. Field names are the wire
keys in Python's spelling (`session_id` is `sessionID` on the wire), byte fields are `bytes` (base64 on the wire).
Constructing a message does not check it: `encode_frame` does, and `decode_frame` has done.
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
"""Each at most once: that holds for every array of strings. [EXT-NAMES]"""

SIDE_CHANNEL_1: Final = "side-channel/1"
"""JACCL's gathers travel over the link. [EXT-SIDE-CHANNEL]"""
OUTCOME_1: Final = "outcome/1"
"""Both ranks say how their init goes, and what they run. [EXT-OUTCOME, EXT-VERSIONS]"""
EXTENSIONS: Final = (SIDE_CHANNEL_1, OUTCOME_1)
"""Every extension that has a meaning here. [EXT-NAMES]"""

MIN_SIZE: Final = 2
MAX_SIZE: Final = 64
"""Ranks in a group: our own limit, since a JACCL ring and an MLX ring have none. [JACCL-HELLO]"""
MAX_GATHER: Final = 1024 * 1024
"""The most that a rank puts into one gather. [EXT-SIDE-CHANNEL-SIZE]"""
MAX_WHOLE: Final = 8 * MAX_GATHER
"""The most that a gather gives: 1 MiB from each of 8 ranks, or 128 KiB from each of 64."""

MAX_LINK_LENGTH: Final = 268_435_456
"""The longest cluster frame or sealed box that a link frame carries: 256 MiB. [LINK-LEN-MAX]"""


MAX_HANDSHAKE_FRAME: Final = 4 * 1024
"""The longest handshakeHello or handshakeAck; an ordinary one has a tenth of it. [PAYLOAD-LIMIT]"""
MAX_SHORT_FRAME: Final = 64 * 1024
"""The longest frame of each type whose payload has no reason to be long. [PAYLOAD-LIMIT]"""


class Revision(IntEnum):
    """A revision of the protocol. It is chosen by name, never guessed from what a peer sends. [REV-EXPLICIT]"""

    V1 = 1
    """Types 0x01–0x07 and 0xFF; frames travel unsealed after the handshake."""
    V2 = 2
    """All types; every frame after the handshake travels in a sealed box."""


class Direction(Enum):
    """Which rank sends a message."""

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
    """How short of memory rank 1 is."""

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
    """The P-256 identity key, X ‖ Y, without the 0x04 prefix."""
    ephemeral_x25519_pub_key: Bytes32
    nonce: Bytes32
    se_signature: bytes
    """ECDSA, DER."""


class HandshakeHello(_Introduction, frozen=True, gc=False):
    """Rank 0 opens the handshake. [PAYLOAD-HELLO]"""


class HandshakeAck(_Introduction, frozen=True, gc=False):
    """Rank 1 answers the hello, with the same four fields of its own. [PAYLOAD-HELLO]"""


class Ping(Struct, frozen=True, gc=False):
    """Rank 0 asks whether rank 1 lives. No payload. [PAYLOAD-EMPTY]"""


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
    """Rank 1 answers a ping. [PAYLOAD-PONG]"""

    model_loaded: bool
    inference_in_flight: bool
    memory_pressure: MemoryPressure
    extensions: ExtensionNames = ()
    """What rank 1 can do beyond the plain protocol; the key is left out where that is nothing. [EXT-OFFER]"""


class InferenceStep(Struct, frozen=True, gc=False):
    """One step's activation, or the stop sentinel. [PAYLOAD-OPAQUE]"""

    box: bytes
    """A tensor box, `nonce[12] ‖ ciphertext ‖ tag[16]`; opaque to the codec."""


class InferenceToken(Struct, frozen=True, gc=False):
    """The token that a step gave. [PAYLOAD-OPAQUE]"""

    box: bytes
    """A tensor box, `nonce[12] ‖ ciphertext ‖ tag[16]`; opaque to the codec."""


class JacclBootstrapPayload(Struct, frozen=True, gc=False, omit_defaults=True, rename={"session_id": "sessionID"}):
    """Sets off the group's init on both ranks. [PAYLOAD-BOOTSTRAP]"""

    port: U16
    """The coordinator port that rank 0 binds."""
    session_id: str
    """A UUID in the reference peer. Any string here: check it before it names a file. [BOOT-SESSION-ID]"""
    extensions: ExtensionNames = ()
    """Those of rank 1's extensions that are used; the key is left out where there are none. [EXT-CHOICE]"""


class PromptTokensPayload(Struct, frozen=True, gc=False, rename={"max_tokens": "maxTokens"}):
    """A prompt, as token IDs. [PAYLOAD-PROMPT]"""

    uid: str
    tokens: tuple[I64, ...]
    max_tokens: I64


class StepTokenPayload(Struct, frozen=True, gc=False):
    """One token of a running session. [PAYLOAD-STEP-TOKEN]"""

    uid: str
    token: I64


class SessionStopPayload(Struct, frozen=True, gc=False):
    """Stops an inference session. [PAYLOAD-UID]"""

    uid: str


class PPActivationPayload(
    Struct, frozen=True, gc=False, rename={"seq_len": "seqLen", "sealed_activation": "sealedActivation"}
):
    """A pipeline-parallel activation. [PAYLOAD-PP-ACTIVATION]"""

    uid: str
    seq_len: I64
    sealed_activation: bytes
    """A tensor box."""


class PPTokenPayload(Struct, frozen=True, gc=False, rename={"sealed_token": "sealedToken"}):
    """A pipeline-parallel token. [PAYLOAD-PP-TOKEN]"""

    uid: str
    sealed_token: bytes
    """A tensor box."""


class PPSessionEndPayload(Struct, frozen=True, gc=False):
    """Ends a pipeline-parallel session. [PAYLOAD-UID]"""

    uid: str


class SideChannelPart(Struct, frozen=True, gc=False):
    """What rank 1 puts into a gather. [EXT-SIDE-CHANNEL]"""

    sequence: U32
    """The number of the gather, from 0."""
    part: Annotated[bytes, Meta(max_length=MAX_GATHER)]


class SideChannelWhole(Struct, frozen=True, gc=False):
    """What a gather gave: the parts of all ranks, in their order. [EXT-SIDE-CHANNEL]"""

    sequence: U32
    whole: Annotated[bytes, Meta(max_length=MAX_WHOLE)]


class OutcomeState(Enum):
    """How far a rank has come with its init."""

    STARTED = "started"
    READY = "ready"
    FAILED = "failed"
    FINISHED = "finished"


class Outcome(Struct, frozen=True, gc=False):
    """How a rank's init goes, its own or another's that rank 0 passes on. [EXT-OUTCOME]"""

    rank: U16
    state: OutcomeState
    stage: ShortText
    """What was being done; `code` and `message` say what went wrong. They mean nothing unless the rank has failed."""
    code: ShortText
    message: ShortText


class Program(Enum):
    """What a rank does once the group can be formed."""

    HOLD = "hold"
    """It holds the group."""
    MODULE = "module"
    """It runs a module or script in the process that formed the group."""
    COMMAND = "command"
    """It runs a command in a process of its own."""
    DRY_RUN = "dry-run"
    """Nothing: it forms no group."""


class Versions(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a rank runs. [EXT-VERSIONS]"""

    package: ShortText
    mlx: ShortText
    backend: ShortText
    devices: Sha256Hex
    """The SHA-256 of its device matrix file in lower-case hex; empty where it has none."""
    program: Program | None = None
    """The key is left out where the rank does not say."""


class SessionEnd(Struct, frozen=True, gc=False):
    """Rank 0 ends the connection in order. No payload. [PAYLOAD-EMPTY]"""


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


class PayloadKind(Enum):
    """How a payload is laid out."""

    JSON = "JSON object"
    EMPTY = "empty"
    OPAQUE = "opaque bytes"
    NUMBERED = "a number, then opaque bytes"


class MessageSpec(NamedTuple):
    """One row of the registry."""

    msg_type: ClusterMsgType
    payload: type[Message]
    kind: PayloadKind
    direction: Direction
    revision: Revision
    """The first revision that knows the type."""
    max_length: int = MAX_LINK_LENGTH
    """The longest cluster frame of the type, in bytes, type byte included. [PAYLOAD-LIMIT]"""
    extension: str | None = None
    """The extension whose agreement invites the type; None for the plain protocol's. [EXT-UNINVITED]"""

    def is_known(self, revision: Revision, extensions: Collection[str] = ()) -> bool:
        """Whether a peer of a revision has the type, once these extensions are agreed."""
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

SPEC_BY_CLASS: Final[dict[type, MessageSpec]] = {spec.payload: spec for spec in REGISTRY}
SPEC_BY_TYPE: Final[dict[int, MessageSpec]] = {spec.msg_type: spec for spec in REGISTRY}
