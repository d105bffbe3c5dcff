"""The field of each byte: a link frame and its layers, as adjacent spans."""

from collections.abc import Iterator
from typing import NamedTuple

from wireproto.codec.json_scanner import Scanner
from wireproto.codec.link import HEADER
from wireproto.errors import WireError
from wireproto.inspection.sessions import Entry, Kind, carries_token, hidden_dim
from wireproto.messages import SPEC_BY_TYPE, PayloadKind, SideChannelPart
from wireproto.session.seal import NONCE, OVERHEAD, TAG

UNREAD = "unread"
"""Bytes after a fault, whose field is unknown."""
SYNTAX = "JSON"
"""The bytes between the fields of a JSON object."""


class Span(NamedTuple):
    """Consecutive bytes and their field."""

    name: str
    data: bytes
    value: str = ""
    """The value, if the bytes do not show it."""
    is_faulty: bool = False


class Layer(NamedTuple):
    """One layer of a frame, divided into spans."""

    name: str
    spans: list[Span]


def layers(entry: Entry) -> Iterator[Layer]:
    """Yield the layers of an entry's frame, from the outside in: the link frame, then the plaintexts of its boxes."""
    if not entry.wire:
        return
    if entry.kind in (Kind.SKIPPED, Kind.LATE):
        yield Layer("bytes of the stream", [Span(UNREAD, entry.wire)])
        return
    offset = None if entry.error is None else entry.error.offset
    if offset is not None and entry.frame is None:
        offset -= entry.offset  # relative to the start of the stream
    elif offset is not None and not (entry.sealed and entry.frame):
        offset += HEADER.size
    yield _layer("link frame", _link_frame(entry), None if entry.sealed and entry.frame else offset)
    if entry.sealed and entry.frame:
        yield _layer("cluster frame, out of its box", _cluster_frame(entry.frame), offset)
    if entry.tensor is not None:
        yield _layer("tensor, out of its box", _tensor(entry.tensor, carries_token(entry.message)), None)


def _layer(name: str, spans: list[Span], fault: int | None) -> Layer:
    told = [span for span in spans if span.data]
    return Layer(name, told if fault is None else _marked(told, fault))


def _link_frame(entry: Entry) -> list[Span]:
    length, body = entry.wire[: HEADER.size], entry.wire[HEADER.size :]
    is_whole = len(length) == HEADER.size
    span = Span("length", length, str(HEADER.unpack(length)[0]) if is_whole else "")
    if entry.sealed:
        return [span, *_box(body)]
    if entry.frame:
        return [span, *_cluster_frame(body)]
    return [span, Span(UNREAD, body)]


def _box(data: bytes) -> list[Span]:
    if len(data) < OVERHEAD:
        return [Span(UNREAD, data)]
    return [Span("nonce", data[:NONCE]), Span("ciphertext", data[NONCE:-TAG]), Span("tag", data[-TAG:])]


def _tensor(data: bytes, is_token: bool) -> list[Span]:
    number = int.from_bytes(data[:4], "little", signed=True)
    if is_token:
        return [Span("tokenID", data, str(number))]
    if number < 0:
        return [Span("seqLen", data, "stop")]
    return [Span("seqLen", data[:4], str(number)), Span("bfloat16", data[4:], f"[1, {number}, {hidden_dim(data)}]")]


def _cluster_frame(frame: bytes) -> list[Span]:
    spec = SPEC_BY_TYPE.get(frame[0])
    payload = frame[1:]
    if spec is None:
        return [Span("type", frame[:1], "unknown"), Span(UNREAD, payload)]
    spans = [Span("type", frame[:1], spec.msg_type.wire_name)]
    match spec.kind:
        case PayloadKind.JSON:
            return spans + _json(frame)
        case PayloadKind.EMPTY:
            return [*spans, Span(UNREAD, payload)]
        case PayloadKind.OPAQUE:
            return spans + _box(payload)
        case PayloadKind.NUMBERED:
            name = "part" if spec.payload is SideChannelPart else "whole"
            number = str(int.from_bytes(payload[:4], "little"))
            return [*spans, Span("sequence", payload[:4], number), Span(name, payload[4:], _counts(payload))]


def _counts(payload: bytes) -> str:
    """Return the counts in JACCL's first gather, as connections × ranks for a mesh. They may differ between ranks."""
    sequence, gathered = payload[:4], payload[4:]
    counts = [int.from_bytes(gathered[at : at + 4], "little") for at in range(0, len(gathered), 4)]
    if sequence != bytes(4) or len(gathered) % 4 or not counts or not all(1 <= count <= 32_768 for count in counts):
        return ""
    size = len(counts)
    wires = [f"{count // size} × {size}" if size > 1 and not count % size else str(count) for count in counts]
    return "count " + ", ".join(wires)


def _json(frame: bytes) -> list[Span]:
    """Yield the members of a frame's JSON object with their keys."""
    spans: list[Span] = []
    told = 1
    reading = SYNTAX

    def tell(name: str, end: int) -> None:
        nonlocal told
        spans.append(Span(name, frame[told:end]))
        told = end

    def member(key: str) -> None:
        nonlocal reading
        tell(SYNTAX, frame.index(b'"', told))
        reading = key
        scanner.skip(level=2)
        tell(key, scanner.pos)
        reading = SYNTAX

    try:
        scanner = Scanner(frame, told)
        if scanner.kind() == "an object":
            scanner.members(member)
        else:
            scanner.skip(level=1)
        scanner.end()
    except WireError as error:
        tell(reading, max(told, error.offset or 0))
        tell(UNREAD, len(frame))
    else:
        tell(SYNTAX, len(frame))
    return spans


def _marked(spans: list[Span], offset: int) -> list[Span]:
    """Return the spans, and mark as faulty the one with the byte at `offset`, or else the last."""
    end = 0
    for at, span in enumerate(spans):
        end += len(span.data)
        if offset < end or at == len(spans) - 1:
            return [*spans[:at], span._replace(is_faulty=True), *spans[at + 1 :]]
    return spans
