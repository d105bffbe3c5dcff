"""Outcomes of calls, errors or values, comparable with `==`."""

import io
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests.wireproto.payloads import ALL_EXTENSIONS
from wireproto import ERROR_CODES, LinkDecoder, Revision, WireError, decode_frame, schema
from wireproto.codec.link import Frame
from wireproto.testing.by_schema import parse_message


class Rejected(NamedTuple):
    """A `WireError` without its text."""

    cls: type[WireError]
    code: str
    offset: int | None
    path: str | None


class Accepted(NamedTuple):
    """A value, with its class: `HandshakeHello` and `HandshakeAck` with the same fields differ."""

    cls: type
    value: Any


def rejected(error: WireError) -> Rejected:
    """Return an error as a verdict, after checking its code and class against the table."""
    assert ERROR_CODES[error.code][0] is type(error)
    assert str(error).startswith(error.code)
    return Rejected(type(error), error.code, error.offset, error.path)


def verdict(call: Callable[..., Any], *args: Any) -> Accepted | Rejected:
    """Return the outcome of a call. Any exception but a `WireError` propagates and fails the test."""
    try:
        value = call(*args)
    except WireError as error:
        return rejected(error)
    return Accepted(type(value), value)


def fast(
    frame: bytes, revision: Revision = Revision.V2, extensions: frozenset[str] = ALL_EXTENSIONS
) -> Accepted | Rejected:
    return verdict(decode_frame, frame, revision, extensions)


def slow(
    frame: bytes, revision: Revision = Revision.V2, extensions: frozenset[str] = ALL_EXTENSIONS
) -> Accepted | Rejected:
    return verdict(parse_message, frame, revision, extensions)


def expected(code: str, offset: int | None, path: str | None = None) -> Rejected:
    """Return the verdict of a table row, with the class of its code."""
    return Rejected(ERROR_CODES[code][0], code, offset, path)


class Stream(NamedTuple):
    """The result of a link stream: bodies, then the error, None for a clean end."""

    bodies: list[bytes]
    end: Rejected | None


def decode_stream(
    chunks: Iterable[bytes], decoder: LinkDecoder | None = None, *, buffered: Callable[[int], bool] = lambda _: False
) -> Stream:
    """Feed chunks to a `LinkDecoder`, chunk i by `get_buffer` if `buffered(i)`.

    All frames are held until the end, and must not have changed by then.
    """
    decoder = decoder or LinkDecoder()
    held: list[tuple[Frame, bytes]] = []
    end = None
    try:
        for index, chunk in enumerate(chunks):
            for frame in _give(decoder, chunk, buffered=buffered(index)):
                assert isinstance(frame, bytes) or frame.readonly
                held.append((frame, bytes(frame)))
        decoder.eof()
    except WireError as error:
        end = rejected(error)
    assert all(frame == body for frame, body in held)
    return Stream([body for _, body in held], end)


def _give(decoder: LinkDecoder, chunk: bytes, *, buffered: bool) -> Iterable[Frame]:
    if not buffered:
        yield from decoder.feed(chunk)
        return
    while chunk:
        buffer = decoder.get_buffer(len(chunk))
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        yield from decoder.buffer_updated(count)
        chunk = chunk[count:]


def parse_stream(stream: bytes) -> Stream:
    """The same by `schema.LinkFrame`, one frame after the other."""
    bodies: list[bytes] = []
    position = 0
    while position < len(stream):
        first = verdict(schema.parse, schema.LinkFrame, stream[position:])
        if isinstance(first, Rejected) and first.code == "trailing-data":
            first = verdict(schema.parse, schema.LinkFrame, stream[position : position + (first.offset or 0)])
        if isinstance(first, Rejected):
            return Stream(bodies, first._replace(offset=position + (first.offset or 0)))
        bodies.append(first.value.body)
        position += 8 + first.value.length
    return Stream(bodies, None)


def read_stream(stream: bytes, max_length: int) -> Stream:
    """Decode in the simplest way, as the definition of a link stream."""
    source = io.BytesIO(stream)
    bodies: list[bytes] = []
    while header := source.read(8):
        start = source.tell() - len(header)
        length = int.from_bytes(header, "little")
        if len(header) == 8 and length == 0:
            return Stream(bodies, expected("link-length-zero", start, "length"))
        if len(header) == 8 and length > max_length:
            return Stream(bodies, expected("link-length-limit", start, "length"))
        body = source.read(length) if len(header) == 8 else b""
        if len(header) < 8 or len(body) < length:
            return Stream(bodies, expected("truncated", len(stream)))
        bodies.append(body)
    return Stream(bodies, None)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut `data` at each of the places."""
    places = sorted({0, len(data), *(cut for cut in cuts if 0 <= cut <= len(data))})
    return [data[start:stop] for start, stop in itertools.pairwise(places)]
