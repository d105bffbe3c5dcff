"""Frames that cases send; the text, message and broken rule of a peer's frame."""

import json
from typing import Final

from wireproto.codec.frame import decode_frame
from wireproto.conformance.verdicts import Missed
from wireproto.errors import WireError
from wireproto.messages import EXTENSIONS, SPEC_BY_CLASS, SPEC_BY_TYPE, ClusterMsgType, Message, Revision

HELLO, ACK, PING, SESSION_END = b"\x01", b"\x02", b"\x03", b"\xff"
PONG: Final = b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'
OFFER: Final = PONG[:-1] + b',"extensions":["outcome/1"]}'
"""A pong that offers an extension."""
PONG_UNLOADED: Final = PONG.replace(b"true", b"false")
BOOTSTRAP: Final = b'\x07{"port":29400,"sessionID":"6F9619FF-8B86-D011-B42D-00CF4FC964FF"}'


def link_frame(body: bytes) -> bytes:
    return len(body).to_bytes(8, "little") + body


def strictly(frame: bytes, revision: Revision) -> Message:
    """Return the message of a peer's frame. Raise Missed unless it is strictly valid."""
    try:
        return decode_frame(frame, revision, EXTENSIONS)
    except WireError as error:
        raise Missed("a strictly valid frame", f"{shown(frame)}: {error}", rule_of(error, frame)) from None


def offered(pong: bytes) -> tuple[str, ...]:
    """Return the extensions in a pong, read leniently: other cases check its JSON."""
    try:
        names = json.loads(pong[1:])["extensions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def is_plain(body: bytes) -> bool:
    """Return whether this is a cluster frame; opaque types, which fit any bytes, do not count."""
    try:
        decode_frame(body, extensions=EXTENSIONS)
    except WireError:
        return False
    return body[0] not in (5, 6, 0x40, 0x41)


def is_of_extension(frame: bytes) -> bool:
    """Return whether the type is an extension's."""
    spec = SPEC_BY_TYPE.get(frame[0]) if frame else None
    return spec is not None and bool(spec.extension)


def name_of(message: Message) -> str:
    return SPEC_BY_CLASS[type(message)].msg_type.wire_name


def decoded(frame: bytes) -> str:
    """Return a readable frame: the name of its type, and its payload as text."""
    try:
        name = ClusterMsgType(frame[0]).wire_name
    except ValueError:
        name = f"type 0x{frame[0]:02x}"
    except IndexError:
        return "an empty frame"
    more = f"… ({len(frame)} bytes)" if len(frame) > _SHOWN else ""
    return f"{name} {frame[1:_SHOWN].decode(errors='backslashreplace')}{more}".rstrip(" ")


_SHOWN: Final = 160
"""Bytes of a frame that `decoded` shows."""


def shown(frame: bytes) -> str:
    """Return a frame in a few words."""
    try:
        name = ClusterMsgType(frame[0]).wire_name
    except (ValueError, IndexError):
        name = f"a frame of {len(frame)} bytes"
    text = frame[1:60]
    more = "…" if len(frame) > 60 else ""
    shown = text.decode() if text.isascii() and text.decode().isprintable() else text.hex()
    return f"{name} {shown}{more}".rstrip()


RULES: Final = {
    "json-bom": "JSON-TEXT",
    "json-utf8": "JSON-TEXT",
    "json-syntax": "JSON-TEXT",
    "payload-not-object": "JSON-TEXT",
    "trailing-data": "JSON-TEXT",
    "json-duplicate-key": "JSON-DUPLICATE-KEY",
    "json-control-character": "JSON-STRING",
    "json-escape": "JSON-STRING",
    "json-surrogate": "JSON-STRING",
    "json-nesting": "JSON-NESTING",
    "field-missing": "JSON-KEYS",
    "field-base64": "JSON-BASE64",
    "field-not-integer": "JSON-INTEGER",
    "payload-limit": "PAYLOAD-LIMIT",
    "payload-not-empty": "PAYLOAD-EMPTY",
    "type-unknown": "FRAME-TYPE",
    "truncated": "JSON-TEXT",
}
"""The requirement for an error code, if it is the same for all types."""
_PAYLOADS: Final = {
    3: "PAYLOAD-EMPTY",
    5: "PAYLOAD-OPAQUE",
    6: "PAYLOAD-OPAQUE",
    0xFF: "PAYLOAD-EMPTY",
    1: "PAYLOAD-HELLO",
    2: "PAYLOAD-HELLO",
    4: "PAYLOAD-PONG",
    7: "PAYLOAD-BOOTSTRAP",
    8: "PAYLOAD-PROMPT",
    9: "PAYLOAD-STEP-TOKEN",
    10: "PAYLOAD-UID",
    11: "PAYLOAD-PP-ACTIVATION",
    12: "PAYLOAD-PP-TOKEN",
    13: "PAYLOAD-UID",
    0x42: "EXT-OUTCOME",
    0x43: "EXT-VERSIONS",
}


def rule_of(error: WireError, frame: bytes) -> str:
    """Return the requirement that a malformed frame breaks."""
    if (error.path or "").startswith("extensions"):
        return "EXT-NAMES"
    if not frame:
        return "FRAME-TYPE"
    return RULES.get(error.code) or payload_rule(frame)


def payload_rule(frame: bytes) -> str:
    """Return the requirement for the payload of a type."""
    return _PAYLOADS.get(frame[0], "FRAME-TYPE")
