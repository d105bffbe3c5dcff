"""The payloads once more, written down by hand from the protocol: nothing here asks the package what a payload is."""

import base64
import json
from typing import Any, Final

from wireproto import (
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    PromptTokensPayload,
    SessionEnd,
    SessionStopPayload,
    StepTokenPayload,
)

_KEY_FIELDS = {
    "se_pub_key_raw": ("sePubKeyRaw", "bytes64"),
    "ephemeral_x25519_pub_key": ("ephemeralX25519PubKey", "bytes32"),
    "nonce": ("nonce", "bytes32"),
    "se_signature": ("seSignature", "bytes"),
}
_UID = {"uid": ("uid", "str")}

JSON_FIELDS: Final[dict[type[Message], dict[str, tuple[str, str]]]] = {
    HandshakeHello: _KEY_FIELDS,
    HandshakeAck: _KEY_FIELDS,
    PongPayload: {
        "model_loaded": ("modelLoaded", "bool"),
        "inference_in_flight": ("inferenceInFlight", "bool"),
        "memory_pressure": ("memoryPressure", "pressure"),
    },
    JacclBootstrapPayload: {"port": ("port", "u16"), "session_id": ("sessionID", "str")},
    PromptTokensPayload: _UID | {"tokens": ("tokens", "i64s"), "max_tokens": ("maxTokens", "i64")},
    StepTokenPayload: _UID | {"token": ("token", "i64")},
    SessionStopPayload: _UID,
    PPActivationPayload: _UID | {"seq_len": ("seqLen", "i64"), "sealed_activation": ("sealedActivation", "bytes")},
    PPTokenPayload: _UID | {"sealed_token": ("sealedToken", "bytes")},
    PPSessionEndPayload: _UID,
}
"""Attribute → (wire key, kind), in the order in which a frame that we make has them."""

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
    SessionEnd: 0xFF,
}
V1_TYPES: Final = frozenset({0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0xFF})
JSON_CLASSES: Final = tuple(JSON_FIELDS)


def json_text(value: object) -> bytes:
    """A field's value as JSON, in the spelling that we send."""
    match value:
        case bytes():
            value = base64.b64encode(value).decode()
        case MemoryPressure():
            value = value.value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def members(message: Message) -> list[tuple[str, bytes]]:
    """(wire key, JSON text) of each field."""
    return [(key, json_text(getattr(message, name))) for name, (key, _) in JSON_FIELDS[type(message)].items()]


def json_object(items: list[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(b"%s:%s" % (json_text(key), text) for key, text in items) + b"}"


def canonical_frame(message: Any) -> bytes:
    """The frame as we send it."""
    head = bytes([TYPE_BYTE[type(message)]])
    if isinstance(message, Ping | SessionEnd):
        return head
    if isinstance(message, InferenceStep | InferenceToken):
        return head + message.box
    return head + json_object(members(message))
