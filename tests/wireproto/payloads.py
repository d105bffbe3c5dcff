"""The payloads, written independently from the protocol: this module does not use the package's definitions."""

import base64
import json
import struct
from typing import Any, Final

from wireproto import (
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Outcome,
    OutcomeState,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    SessionEnd,
    SessionStopPayload,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
)

_KEY_FIELDS = {
    "se_pub_key_raw": ("sePubKeyRaw", "bytes64"),
    "ephemeral_x25519_pub_key": ("ephemeralX25519PubKey", "bytes32"),
    "nonce": ("nonce", "bytes32"),
    "se_signature": ("seSignature", "bytes"),
}
_UID = {"uid": ("uid", "str")}
_EXTENSIONS = {"extensions": ("extensions", "names")}

JSON_FIELDS: Final[dict[type[Message], dict[str, tuple[str, str]]]] = {
    HandshakeHello: _KEY_FIELDS,
    HandshakeAck: _KEY_FIELDS,
    PongPayload: {
        "model_loaded": ("modelLoaded", "bool"),
        "inference_in_flight": ("inferenceInFlight", "bool"),
        "memory_pressure": ("memoryPressure", "pressure"),
        **_EXTENSIONS,
    },
    JacclBootstrapPayload: {"port": ("port", "u16"), "session_id": ("sessionID", "str"), **_EXTENSIONS},
    PromptTokensPayload: _UID | {"tokens": ("tokens", "i64s"), "max_tokens": ("maxTokens", "i64")},
    StepTokenPayload: _UID | {"token": ("token", "i64")},
    SessionStopPayload: _UID,
    PPActivationPayload: _UID | {"seq_len": ("seqLen", "i64"), "sealed_activation": ("sealedActivation", "bytes")},
    PPTokenPayload: _UID | {"sealed_token": ("sealedToken", "bytes")},
    PPSessionEndPayload: _UID,
    Outcome: {
        "rank": ("rank", "u16"),
        "state": ("state", "state"),
        **{name: (name, "short") for name in ("stage", "code", "message")},
    },
    Versions: {
        **{name: (name, "short") for name in ("package", "mlx", "backend")},
        "devices": ("devices", "digest"),
        "program": ("program", "program"),
    },
}
"""Attribute → (wire key, kind), in the order of our frames."""

OPTIONAL: Final[dict[str, object]] = {"extensions": (), "program": None}
"""Optional keys, and the value that their absence means, which is not written."""

TYPE_BYTE: Final[dict[type[Message], int]] = {
    HandshakeHello: 0x01,
    HandshakeAck: 0x02,
    Ping: 0x03,
    PongPayload: 0x04,
    InferenceStep: 0x05,
    InferenceToken: 0x06,
    JacclBootstrapPayload: 0x07,
    PromptTokensPayload: 0x08,
    StepTokenPayload: 0x09,
    SessionStopPayload: 0x0A,
    PPActivationPayload: 0x0B,
    PPTokenPayload: 0x0C,
    PPSessionEndPayload: 0x0D,
    SideChannelPart: 0x40,
    SideChannelWhole: 0x41,
    Outcome: 0x42,
    Versions: 0x43,
    SessionEnd: 0xFF,
}
V1_TYPES: Final = frozenset({0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0xFF})
MAX_FRAME: Final = {
    **dict.fromkeys((0x01, 0x02), 4096),
    **dict.fromkeys((0x04, 0x07, 0x09, 0x0A, 0x0C, 0x0D, 0x42, 0x43), 65536),
}
"""The longest cluster frame of each type with its own limit. [PAYLOAD-LIMIT]"""
EXTENSION_OF: Final[dict[type[Message], str]] = {
    SideChannelPart: "side-channel/1",
    SideChannelWhole: "side-channel/1",
    Outcome: "outcome/1",
    Versions: "outcome/1",
}
ALL_EXTENSIONS: Final = frozenset(EXTENSION_OF.values())
EXTENSION_TYPES: Final = frozenset(TYPE_BYTE[cls] for cls in EXTENSION_OF)
JSON_CLASSES: Final = tuple(JSON_FIELDS)


def json_text(value: object) -> bytes:
    """Return a field's value as JSON, in our encoding."""
    match value:
        case bytes():
            value = base64.b64encode(value).decode()
        case MemoryPressure() | OutcomeState() | Program():
            value = value.value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def members(message: Message) -> list[tuple[str, bytes]]:
    """Yield (wire key, JSON text) of each written field."""
    values = [(key, getattr(message, name)) for name, (key, _) in JSON_FIELDS[type(message)].items()]
    return [(key, json_text(value)) for key, value in values if key not in OPTIONAL or value != OPTIONAL[key]]


def json_object(items: list[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(b"%s:%s" % (json_text(key), text) for key, text in items) + b"}"


def canonical_frame(message: Any) -> bytes:
    """The frame as we send it."""
    head = bytes([TYPE_BYTE[type(message)]])
    if isinstance(message, Ping | SessionEnd):
        return head
    if isinstance(message, InferenceStep | InferenceToken):
        return head + message.box
    if isinstance(message, SideChannelPart | SideChannelWhole):
        data = message.part if isinstance(message, SideChannelPart) else message.whole
        return head + struct.pack("<I", message.sequence) + data
    return head + json_object(members(message))
