"""Entries as lines of text and as JSON objects, with terminal control characters escaped."""

import json
from ipaddress import ip_address
from typing import Any

import msgspec

from wireproto.codec.fields import payload_fields
from wireproto.errors import printable
from wireproto.inspection.sessions import Entry, Kind, carries_token, hidden_dim
from wireproto.inspection.tcp import Endpoint
from wireproto.messages import InferenceStep, InferenceToken, Message

_LONGEST = 48
"""Characters of a value shown on a line."""


def address(end: Endpoint) -> str:
    """`ip:port`."""
    ip = ip_address(end.ip)
    return f"{ip}:{end.port}" if ip.version == 4 else f"[{ip}]:{end.port}"


def title(entry: Entry) -> str:
    """Return the name of an entry's message or, if that is unknown, of its subject."""
    if entry.spec is not None:
        return entry.spec.msg_type.wire_name
    if entry.kind is Kind.LOST and entry.wire:
        return "cut frame"
    return {Kind.SEALED: "sealed box", Kind.LONG: "long frame", Kind.BROKEN: "broken"}.get(entry.kind, entry.kind.value)


def summary(entry: Entry) -> str:
    """Return the contents of an entry, on one line."""
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
            return "its key is missing"
        case Kind.LONG:
            return "too long to be kept"
        case Kind.LOST if entry.wire:
            return (
                f"{entry.lost:,} bytes of this frame are missing from the capture, at byte {entry.offset} of the stream"
            )
        case Kind.LOST if entry.lost < entry.size:
            return f"{entry.lost:,} of these bytes are missing from the capture, and the rest has no frame"
        case Kind.LOST:
            return f"{entry.lost:,} bytes are missing from the capture, at byte {entry.offset} of the stream"
        case Kind.SKIPPED:
            return f"no frame was found after byte {entry.offset} of the stream"
        case Kind.LATE:
            return f"captured out of order, too late to be read, at byte {entry.offset} of the stream"
    return ""


def _place(entry: Entry) -> str:
    """Return the name of the bytes in which the error's offset counts."""
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
    """Return an entry as one line of JSON, in ASCII; its payload as `wireproto codec` writes it."""
    shown: dict[str, Any] = {"kind": entry.kind.value, "time": round(entry.time, 6), "connection": entry.connection}
    if entry.ends is not None:
        shown["ends"] = [address(end) for end in entry.ends]
    if entry.sender is not None:
        shown |= {"sender": entry.sender, "offset": entry.offset, "size": entry.size}
    if entry.lost:
        shown["lost"] = entry.lost
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
