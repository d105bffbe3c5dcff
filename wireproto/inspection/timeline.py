"""Entries as lines of text, and as JSON objects; what a capture says stands there with escapes only."""

import json
from ipaddress import ip_address
from typing import Any

import msgspec

from wireproto.codec.fields import payload_fields
from wireproto.inspection.sessions import Entry, Kind, carries_token, hidden_dim
from wireproto.inspection.tcp import Endpoint
from wireproto.messages import InferenceStep, InferenceToken, Message

_LONGEST = 48
"""Characters of a value that a line shows."""


def printable(text: str) -> str:
    """Text without what a terminal takes for a command, or what turns its direction."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def address(end: Endpoint) -> str:
    """`ip:port`."""
    ip = ip_address(end.ip)
    return f"{ip}:{end.port}" if ip.version == 4 else f"[{ip}]:{end.port}"


def title(entry: Entry) -> str:
    """What an entry is about: the name of its message, where that is known."""
    if entry.spec is not None:
        return entry.spec.msg_type.wire_name
    return {Kind.SEALED: "sealed box", Kind.LONG: "long frame", Kind.BROKEN: "broken"}.get(entry.kind, entry.kind.value)


def summary(entry: Entry) -> str:
    """What an entry says, on one line."""
    texts = [_summary(entry)]
    if entry.tensor is not None:
        texts.append(_tensor(entry))
    if entry.note:
        texts.append(entry.note)
    return printable("; ".join(filter(None, texts)))


def _summary(entry: Entry) -> str:
    match entry.kind:
        case Kind.BROKEN if entry.error is not None:
            error = entry.error
            path = f" in {error.path}" if error.path else ""
            at = "" if error.offset is None else f" at byte {error.offset} of the {_place(entry)}"
            broken = "" if entry.spec is None else "broken: "
            return f"{broken}{error.code}{path}{at}: {error.detail}"
        case Kind.MESSAGE if entry.message is not None:
            return _fields(entry.message)
        case Kind.OPENED if entry.ends is not None:
            return " → ".join(map(address, entry.ends))
        case Kind.SEALED:
            return "there is no key for it"
        case Kind.LONG:
            return "too long to be kept"
        case Kind.LOST:
            inside = f", in the frame at {entry.offset}" if entry.wire else f", at byte {entry.offset} of the stream"
            return f"the capture lacks {entry.size} bytes{inside}"
        case Kind.SKIPPED:
            return f"{entry.size} bytes from byte {entry.offset} of the stream on: no frame begins there"
    return ""


def _place(entry: Entry) -> str:
    """What the error's offset counts from the start of."""
    if entry.frame is None:
        return "stream"
    if entry.message is not None:
        return "tensor box"
    return "cluster frame" if entry.frame else "sealed box"


def _fields(message: Message) -> str:
    fields = payload_fields(type(message)).items()
    values = {
        key: getattr(message, field.name) for key, field in fields if field.required or getattr(message, field.name)
    }
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    text = msgspec.json.encode(value[:_LONGEST] if isinstance(value, str | tuple) else value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _tensor(entry: Entry) -> str:
    data = entry.tensor or b""
    number = int.from_bytes(data[:4], "little", signed=True)
    if carries_token(entry.message):
        return f"token {number}"
    return "stop" if number < 0 else f"activation [1, {number}, {hidden_dim(data)}]"


def as_json(entry: Entry) -> str:
    """An entry as one line of JSON, in ASCII; its payload as `wireproto codec` writes it."""
    shown: dict[str, Any] = {"kind": entry.kind.value, "time": round(entry.time, 6), "connection": entry.connection}
    if entry.ends is not None:
        shown["ends"] = [address(end) for end in entry.ends]
    if entry.sender is not None:
        shown |= {"sender": entry.sender, "offset": entry.offset, "size": entry.size}
    if entry.frame is not None or entry.kind is Kind.SEALED:
        shown["sealed"] = entry.sealed
    if entry.frame:
        shown |= {"type": entry.frame[0], "name": None if entry.spec is None else entry.spec.msg_type.wire_name}
    if entry.message is not None:
        shown["payload"] = _payload(entry.message)
    if entry.tensor is not None:
        shown["tensor"] = _tensor(entry)
    if entry.error is not None:
        error = entry.error
        shown["error"] = {"code": error.code, "offset": error.offset, "path": error.path, "of": _place(entry)}
    if entry.note:
        shown["note"] = entry.note
    return json.dumps(shown)


def _payload(message: Message) -> Any:
    if isinstance(message, InferenceStep | InferenceToken):
        return msgspec.to_builtins(message.box)
    return msgspec.to_builtins(message) or None
