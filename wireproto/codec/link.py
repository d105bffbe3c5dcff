"""Link frames, `u64 little-endian length ‖ length bytes`, to and from a byte stream. [LINK-LAYOUT]

The decoder owns no socket. Feed it with `feed(data)`, or without copying long frames by asyncio's `get_buffer` and
`buffer_updated`. Memory use grows with the bytes that have arrived, not with the announced length. [LINK-MEMORY]
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from struct import Struct
from typing import Final, TypeAlias

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import LimitError, MalformedError, StateError, TruncatedError, WireError
from wireproto.messages import MAX_LINK_LENGTH

HEADER: Final = Struct("<Q")
"""The length before each body, u64 little-endian."""

Frame: TypeAlias = bytes | memoryview
"""The body of a link frame, as `LinkDecoder` returns it."""

_AREA: Final = 64 * 1024
"""The size of the buffer for input, and the least of one for a long frame."""
_SHORT: Final = 16 * 1024
"""Frames of up to this size are cut out of the input; a longer one that is incomplete gets a buffer of its own."""


def encode_link_frame(body: BytesLike, max_length: int = MAX_LINK_LENGTH) -> bytes:
    """Return a link frame with this body, any bytes-like object. Raise the errors of `link_frame_pieces`."""
    return b"".join(link_frame_pieces(body, max_length))


def link_frame_pieces(body: BytesLike, max_length: int = MAX_LINK_LENGTH) -> tuple[bytes, bytes | memoryview]:
    """Return the header and the body of a link frame, for `writelines` or `sendmsg`, without copying the body.

    `body` is any bytes-like object. Raise `MalformedError` if it is empty, `LimitError` if it is longer than
    `max_length`. [LINK-LEN-MIN, LINK-LEN-MAX]
    """
    if isinstance(body, bytes):
        check_length(len(body), max_length, None)
        return HEADER.pack(len(body)), body
    length = memoryview(body).nbytes
    check_length(length, max_length, None)
    return HEADER.pack(length), byte_view(body)


class LinkDecoder:
    """Split a byte stream into the bodies of its link frames.

    `feed(data)` and `buffer_updated(count)` return an iterator over the bodies that are now complete. Exhaust it before
    feeding more bytes. A body is `bytes`; one of more than 16 KiB that arrived in pieces is a read-only `memoryview`,
    whose contents never change. After the complete bodies, the iterator raises `MalformedError` for a length of 0 and
    `LimitError` for a length over `max_length`. The decoder has then failed: it raises the same error for all further
    input. The offset of an error counts from the first byte of the stream. [LINK-LEN-MIN, LINK-LEN-MAX]

    A complete body of n bytes takes n bytes of memory, an incomplete one at most 2.25 times the bytes that have
    arrived. Once a `memoryview` is released, its memory is reused for the next long body. The decoder also holds a
    64 KiB input buffer. [LINK-MEMORY]
    """

    max_length: int
    """Largest body in bytes; may be changed between two frames."""

    def __init__(self, max_length: int = MAX_LINK_LENGTH) -> None:
        self.max_length = max_length
        self._passed = 0  # bytes of the stream before the incomplete frame
        self._rest = b""  # its bytes, unless it is long
        self._long: _LongFrame | None = None
        self._drained = True
        self._error: WireError | None = None
        self._spare = io.BytesIO()
        self._area = memoryview(bytearray(_AREA))
        self._lent = self._area[:0]
        self._room = 0  # bytes that `buffer_updated` may count

    def feed(self, data: BytesLike) -> Iterator[Frame]:
        """Take the next bytes of the stream, and return an iterator over the bodies that they complete.

        `data` is any bytes-like object of any length; it is copied unless it is `bytes`.
        """
        data = data if type(data) is bytes else bytes(byte_view(data))
        self._check_ready()
        self._lent.release()
        return self._take(data)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return a writable buffer of at least one byte for the next bytes of the stream.

        It is valid until `buffer_updated`. `sizehint` is part of asyncio's interface and has no effect.
        """
        self._check_ready()
        self._lent.release()
        self._lent = self._area[:] if self._long is None else self._long.space()
        self._room = len(self._lent)
        return self._lent

    def buffer_updated(self, count: int) -> Iterator[Frame]:
        """Take the first `count` bytes of the buffer from `get_buffer`, and return an iterator as `feed` does."""
        if type(count) is not int:
            raise TypeError(f"count must be an int, not {type(count).__name__}")
        self._check_ready()
        if not 0 <= count <= self._room:
            raise ValueError(f"{count} bytes cannot have been written to a buffer of {self._room}")
        self._room = 0
        long = self._long
        data = self._lent[:count].tobytes() if long is None else b""
        with suppress(BufferError):  # uvloop holds it until this returns; it is released before the next one
            self._lent.release()
        return self._take(data) if long is None else iter(self._advance(long, count))

    def eof(self) -> None:
        """Take the end of the stream. Raise `TruncatedError` inside a frame. [LINK-EOF]"""
        self._check_ready()
        arrived = len(self._rest) if self._long is None else HEADER.size + self._long.filled
        if arrived:
            end = self._passed + arrived
            raise TruncatedError("truncated", "the stream ends inside a link frame", offset=end)

    def _take(self, data: bytes) -> Iterator[Frame]:
        self._room = 0
        self._drained = False
        return chain.from_iterable(self._frames(data))

    def _check_ready(self) -> None:
        if self._error is not None:
            raise self._error.copy()
        if not self._drained:
            raise StateError("link-not-drained", "exhaust the frames before feeding more bytes")

    def _frames(self, data: bytes) -> Iterator[list[Frame]]:
        """Yield the frames that `data` completes, in batches: one call of a generator for each would take longer."""
        while self._long is not None and data:
            with self._long.space() as space:
                count = min(len(space), len(data))
                space[:count] = memoryview(data)[:count]
            yield self._advance(self._long, count)
            data = data[count:]
        data = self._rest + data
        end, start, length = len(data), 0, 0
        unpack, header = HEADER.unpack_from, HEADER.size
        while start <= end - header:
            frames: list[Frame] = []
            max_length = self.max_length  # the caller may raise it between two batches
            last = min(end - header, start + _SHORT)
            while start <= last:
                (length,) = unpack(data, start)
                body = start + header
                stop = body + length
                if stop > end or not 0 < length <= max_length:
                    break
                frames.append(data[body:stop])
                start = stop
            if frames:
                yield frames
                continue
            if not 0 < length <= max_length:
                self._fail(length, self._passed + start)
            break
        self._passed += start
        if start <= end - header and length > _SHORT:
            self._long = _LongFrame(length, memoryview(data)[start + header :], self._spare)
            start = end
        self._rest = data[start:]
        self._drained = True

    def _advance(self, long: "_LongFrame", count: int) -> list[Frame]:
        """Count bytes that arrived of a long frame; return it if it is complete."""
        if not long.advance(count):
            return []
        self._passed += HEADER.size + long.length
        self._spare = long.buffer
        self._long = None
        return [long.body()]

    def _fail(self, length: int, offset: int) -> None:
        try:
            check_length(length, self.max_length, offset)
        except WireError as error:
            self._error = error
            raise


class _LongFrame:
    """The body of a long frame that is incomplete: a buffer that grows as its bytes arrive.

    `buffer` is that of an earlier frame, for memory that is already there is faster by far than memory that has to come
    from the system; it is used unless somebody still holds a view of it.
    """

    def __init__(self, length: int, arrived: memoryview, buffer: io.BytesIO) -> None:
        self.length = length
        try:
            buffer.truncate(length)  # frees memory if less than half is needed; fails while a view is held
        except BufferError:
            buffer = io.BytesIO()
        self.buffer = buffer
        self._view = buffer.getbuffer()
        least = max(_AREA, len(arrived))
        if len(self._view) < min(least, length):
            self._grow(least)
        self._view[: len(arrived)] = arrived
        self.filled = len(arrived)

    def body(self) -> memoryview:
        body = self._view.toreadonly()
        self._view.release()
        return body

    def space(self) -> memoryview:
        if self.filled == len(self._view):
            self._grow(2 * self.filled)
        return self._view[self.filled :]

    def advance(self, count: int) -> bool:
        """Counts bytes that arrived; whether the body is whole."""
        self.filled += count
        return self.filled == self.length

    def _grow(self, size: int) -> None:
        # BytesIO over-allocates by an eighth when it grows by less than that: avoid such a last step.
        if self.length <= size + size // 8:
            size = self.length
        self._view.release()
        # A BytesIO grows in place to exactly this size, without a second buffer to copy from.
        self.buffer.seek(size - 1)
        self.buffer.write(b"\0")
        self._view = self.buffer.getbuffer()


def check_length(length: int, max_length: int, offset: int | None) -> None:
    """Raises `MalformedError` for a length of 0, `LimitError` for one over the limit. [LINK-LEN-MIN, LINK-LEN-MAX]"""
    if length == 0:
        raise MalformedError("link-length-zero", "a link frame has at least one byte", offset=offset, path="length")
    if length > max_length:
        detail = f"{length} bytes are more than the limit of {max_length}"
        raise LimitError("link-length-limit", detail, offset=offset, path="length")
