"""Bugs in reading payloads."""

import json
import re
from collections.abc import Callable
from typing import Any

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.mutant import BOTH, ONE, ZERO, Tolerant, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero


def _tolerant(rule: str, name: str, about: str, *codes: str, roles: tuple[type[Conversation], ...] = BOTH) -> None:
    mutant(rule, roles=roles)(type(name, (Tolerant,), {"__doc__": about, "codes": codes}))


_tolerant("JSON-TEXT", "BomAccepted", "A byte-order mark is skipped.", "json-bom")
_tolerant("JSON-TEXT", "BadUtf8Accepted", "What is not UTF-8 is replaced.", "json-utf8")
_tolerant("JSON-TEXT", "LooseJsonAccepted", "JSON is read loosely.", "json-syntax", "truncated")
_tolerant(
    "JSON-TEXT", "TrailingBytesAccepted", "What follows the object is not looked at.", "trailing-data", "json-syntax"
)
_tolerant("JSON-TEXT", "NoObjectAccepted", "JSON that is not an object is read as an empty one.", "payload-not-object")
_tolerant("JSON-DUPLICATE-KEY", "DuplicateKeyAccepted", "Of equal keys one counts.", "json-duplicate-key")
_tolerant("JSON-STRING", "ControlCharacterAccepted", "A string may hold anything.", "json-control-character")
_tolerant("JSON-STRING", "BadEscapeAccepted", "Unknown escapes are kept.", "json-escape")
_tolerant("JSON-STRING", "LoneSurrogateAccepted", "Half a surrogate pair is replaced.", "json-surrogate")
_tolerant("JSON-NESTING", "NestingUnlimited", "Nesting has no limit.", "json-nesting")
_tolerant("JSON-KEYS", "MissingFieldAccepted", "A missing field has a default.", "field-missing")
_tolerant("JSON-INTEGER", "FractionAccepted", "29400.0 is an integer.", "field-not-integer", roles=ONE)
_tolerant("JSON-BASE64", "LooseBase64Accepted", "Base64 is read loosely.", "field-base64")
_tolerant("PAYLOAD-PONG", "AnyPressureAccepted", "A memoryPressure is any string.", "field-enum", roles=ZERO)


@mutant("PAYLOAD-BOOTSTRAP", roles=ONE)
class PortAsString(Tolerant):
    """A port may be a string, or anything convertible to a number."""

    codes = ("field-type",)
    path = "port"


@mutant("PAYLOAD-BOOTSTRAP", roles=ONE)
class PortOutOfRange(Tolerant):
    """A port is cut to 16 bits."""

    codes = ("field-range",)
    path = "port"


@mutant("PAYLOAD-BOOTSTRAP", roles=ONE)
class AnySessionIdType(Tolerant):
    """A session ID that is a number is converted to a string."""

    codes = ("field-type",)
    path = "sessionID"


@mutant("PAYLOAD-PONG", roles=ZERO)
class NumberAsBool(Tolerant):
    """0 is false, and so is null."""

    codes = ("field-type",)


@mutant("PAYLOAD-PROMPT", "PAYLOAD-UID", "PAYLOAD-STEP-TOKEN", "JSON-INTEGER", "PAYLOAD-PP-ACTIVATION", roles=ONE)
class InferenceNotDecoded(RankOne):
    """Payloads of inference frames are not checked."""

    def take_frame(self, frame: bytes) -> None:
        if not 0x08 <= frame[0] <= 0x0D:
            super().take_frame(frame)


@mutant("PAYLOAD-PP-TOKEN", roles=ZERO)
class TokensNotDecoded(RankZero):
    """Payloads of inference frames are not checked."""

    def take_frame(self, frame: bytes) -> None:
        if frame[0] != 0x0C:
            super().take_frame(frame)


def _picky(rule: str, name: str, about: str, refuses: Callable[[bytes], bool]) -> None:
    """Refuses valid JSON payloads."""

    def look_at(self: Conversation, frame: bytes) -> None:
        if frame[1:2] and frame[0] not in (3, 5, 6, 0xFF) and refuses(frame[1:]):
            raise Fault(about)

    mutant(rule)(type(name, (Conversation,), {"__doc__": about, "look_at": look_at}))


_KNOWN = {
    *("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature", "port", "sessionID", "modelLoaded"),
    *("inferenceInFlight", "memoryPressure", "uid", "tokens", "token", "maxTokens", "extensions"),
}


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _out_of_order(text: bytes) -> bool:
    keys = list(_object(text))
    return keys[-1:] in (["port"], ["modelLoaded"], ["sePubKeyRaw"])


_picky("JSON-KEYS", "OrderRequired", "Keys have to come in the order of the spec.", _out_of_order)
_picky(
    "JSON-TEXT", "WhiteSpaceRefused", "White space has no place.", lambda text: re.search(rb"[:,{]\s", text) is not None
)
_picky("JSON-STRING", "EscapesNotKnown", "Keys are compared as they are written.", lambda text: b"\\u0" in text)
_picky("JSON-STRING", "SolidusNotKnown", "\\/ is no escape.", lambda text: b"\\/" in text)
_picky("JSON-BASE64", "SolidusInBase64", "Base64 has no escapes.", lambda text: b"\\/" in text and b"seSig" in text)
_picky("JSON-STRING", "PairNotKnown", "\\u stands for 16 bits.", lambda text: b"\\ud83d" in text)
_picky(
    "JSON-UNKNOWN-KEY",
    "UnknownKeyRefused",
    "A key that is not known is refused.",
    lambda text: not _KNOWN.issuperset(_object(text)),
)
_picky("JSON-UNKNOWN-KEY", "NumbersAreInt64", "Every number has to fit.", lambda text: b"1234567890123" in text)
_picky("JSON-NESTING", "NestingOf100", "Nesting has too low a limit.", lambda text: b"[" * 100 in text)
