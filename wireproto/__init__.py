"""The cluster link protocol: a strict, fast, sans-I/O codec.

The messages, and what turns them into bytes and back; the normative layouts are in `wireproto.schema`. `Session`, its
`Config` and its events load on first use, since they need cryptography.
"""

from typing import TYPE_CHECKING

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import LinkDecoder, encode_link_frame, link_frame_pieces
from wireproto.errors import (
    ERROR_CODES,
    HandshakeError,
    LimitError,
    LocalError,
    MalformedError,
    RemoteError,
    SealError,
    StateError,
    TruncatedError,
    UnknownTypeError,
    WireError,
)
from wireproto.messages import (
    EXTENSIONS,
    MAX_LINK_LENGTH,
    OUTCOME_1,
    REGISTRY,
    SIDE_CHANNEL_1,
    ClusterMsgType,
    Direction,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    MessageSpec,
    Outcome,
    OutcomeState,
    PayloadKind,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SessionEnd,
    SessionStopPayload,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
)

if TYPE_CHECKING:
    from wireproto.session import Closed as Closed
    from wireproto.session import Config as Config
    from wireproto.session import Confirmed as Confirmed
    from wireproto.session import Established as Established
    from wireproto.session import Event as Event
    from wireproto.session import KeyNearLimit as KeyNearLimit
    from wireproto.session import MessageIgnored as MessageIgnored
    from wireproto.session import MessageReceived as MessageReceived
    from wireproto.session import Role as Role
    from wireproto.session import Session as Session
    from wireproto.session import State as State

__version__ = "0.1.0"
__all__ = [
    "ERROR_CODES",
    "EXTENSIONS",
    "MAX_LINK_LENGTH",
    "OUTCOME_1",
    "REGISTRY",
    "SIDE_CHANNEL_1",
    "ClusterMsgType",
    "Direction",
    "HandshakeAck",
    "HandshakeError",
    "HandshakeHello",
    "InferenceStep",
    "InferenceToken",
    "JacclBootstrapPayload",
    "LimitError",
    "LinkDecoder",
    "LocalError",
    "MalformedError",
    "MemoryPressure",
    "Message",
    "MessageSpec",
    "Outcome",
    "OutcomeState",
    "PPActivationPayload",
    "PPSessionEndPayload",
    "PPTokenPayload",
    "PayloadKind",
    "Ping",
    "PongPayload",
    "Program",
    "PromptTokensPayload",
    "RemoteError",
    "Revision",
    "SealError",
    "SessionEnd",
    "SessionStopPayload",
    "SideChannelPart",
    "SideChannelWhole",
    "StateError",
    "StepTokenPayload",
    "TruncatedError",
    "UnknownTypeError",
    "Versions",
    "WireError",
    "decode_frame",
    "encode_frame",
    "encode_link_frame",
    "link_frame_pieces",
]

_SESSION = (
    *("Closed", "Config", "Confirmed", "Established", "Event", "KeyNearLimit"),
    *("MessageIgnored", "MessageReceived", "Role", "Session", "State"),
)


def __getattr__(name: str) -> object:
    if name not in _SESSION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wireproto import session

    return getattr(session, name)
