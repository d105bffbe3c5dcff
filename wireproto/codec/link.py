"""Link frames, `u64 little-endian length ‖ length bytes`, to and from a byte stream. [LINK-LAYOUT]

The decoder owns no socket. Its input is either `feed(data)` or, without a copy between socket and frame, asyncio's
`get_buffer` / `buffer_updated`. Memory use follows the bytes that have arrived, not the length announced. [LINK-MEMORY]
"""

import io
from collections.abc import Iterator
from struct import Struct
from typing import Final

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import LimitError, MalformedError, StateError, TruncatedError, WireError
from wireproto.messages import MAX_LINK_LENGTH

HEADER: Final = Struct("<Q")
"""The length prefix."""

_AREA: Final = 64 * 1024
"""Frames of up to this size, prefix included, share one buffer; a longer one gets a buffer of its own."""


def encode_link_frame(body: BytesLike, max_length: int = MAX_LINK_LENGTH) -> bytes:
    """Return a link frame around `body`, any bytes-like object. Raises as `link_frame_pieces` does."""
    return b"".join(link_frame_pieces(body, max_length))


def link_frame_pieces(body: BytesLike, max_length: int = MAX_LINK_LENGTH) -> tuple[bytes, bytes | memoryview]:
    """Return a link frame as two pieces for a gathered write (`writelines`, `sendmsg`), without copying `body`.

    `body` is any bytes-like object. Raises `MalformedError` for an empty one, `LimitError` for one over `max_length`.
    [LINK-LEN-MIN, LINK-LEN-MAX]
    """
    if isinstance(body, bytes):
        check_length(len(body), max_length, None)
        return HEADER.pack(len(body)), body
    length = memoryview(body).nbytes
    check_length(length, max_length, None)
    return HEADER.pack(length), byte_view(body)


class LinkDecoder:
    """Cuts a byte stream into the bodies of its link frames.

    `feed(data)` and `buffer_updated(count)` both return an iterator over the frames that are complete now. Exhaust it
    before feeding more bytes. A frame is a read-only `memoryview` whose contents never change. The iterator raises,
    after the frames before it, `MalformedError` for a length of 0 and `LimitError` for one over `max_length`. The
    decoder has failed then, and raises the same error for all further input. `offset` in its errors counts from the
    first byte of the stream. [LINK-LEN-MIN, LINK-LEN-MAX]

    A complete frame of n bytes takes n bytes of memory, an incomplete one at most 2.25 times the bytes that have
    arrived. Once released, this memory is reused for the next long frame. Another 64 KiB, for short frames, are always
    allocated. [LINK-MEMORY]
    """

    def __init__(self, max_length: int = MAX_LINK_LENGTH) -> None:
        self.max_length = max_length
        self._passed = 0  # bytes of the stream before _start
        self._drained = True
        self._error: WireError | None = None
        self._start = 0  # the bytes of _area that are not yet taken: from _start to _end
        self._end = 0
        self._long: _LongFrame | None = None
        self._spare = io.BytesIO()
        self._use(bytearray(_AREA))
        self._lent = self._writable[:0]

    def feed(self, data: BytesLike) -> Iterator[memoryview]:
        """Take the next bytes of the stream, any number of them: any bytes-like object, copied unless it is `bytes`."""
        view = memoryview(data if isinstance(data, bytes) else bytes(byte_view(data)))
        self._check_ready()
        count = self._put(view)
        return self._frames(count) if count == len(view) else self._fed(count, view)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return a buffer of at least one byte for the next bytes of the stream; release it by `buffer_updated`.

        `sizehint` is asyncio's and has no effect.
        """
        self._check_ready()
        return self._space()

    def buffer_updated(self, count: int) -> Iterator[memoryview]:
        """Take `count` bytes that were written to the start of the buffer that `get_buffer` returned."""
        if type(count) is not int:
            raise TypeError(f"count must be an int, not {type(count).__name__}")
        self._check_ready()
        if not 0 <= count <= len(self._lent):
            raise ValueError(f"{count} bytes cannot have been written to a buffer of {len(self._lent)}")
        self._drained = False
        return self._frames(count)

    def eof(self) -> None:
        """Take the end of the stream. Raises `TruncatedError` if it is inside a frame. [LINK-EOF]"""
        self._check_ready()
        arrived = self._end - self._start if self._long is None else HEADER.size + self._long.filled
        if arrived:
            end = self._passed + arrived
            raise TruncatedError("truncated", "the stream ends inside a link frame", offset=end)

    def _check_ready(self) -> None:
        if self._error is not None:
            raise self._error.copy()
        if not self._drained:
            raise StateError("link-not-drained", "take all frames before the next bytes come in")

    def _put(self, data: memoryview) -> int:
        """Copies to the buffer what fits; how much that was."""
        self._drained = False
        space = self._space()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        return count

    def _fed(self, count: int, data: memoryview) -> Iterator[memoryview]:
        """The frames of `data`, of which `count` bytes were put to the buffer."""
        yield from self._frames(count)
        while data := data[count:]:
            count = self._put(data)
            yield from self._frames(count)

    def _frames(self, count: int) -> Iterator[memoryview]:
        """The frames that are whole now that `count` more bytes are in the buffer."""
        self._lent.release()
        if (long := self._long) is not None:
            if long.advance(count):
                self._passed += HEADER.size + long.length
                self._spare = long.buffer
                self._long = None
                yield long.body()
            self._drained = True
            return
        self._end = end = self._end + count
        start, view = 0, self._view  # what was left before is moved to the front
        unpack, header = HEADER.unpack_from, HEADER.size
        last = end - header
        while start <= last:
            length = unpack(view, start)[0]
            if not 0 < length <= self.max_length:  # which the caller may raise in between
                self._fail(length, self._passed + start)
            body = start + header
            stop = body + length
            if stop > end:
                break
            start = stop
            yield view[body:stop]
        self._passed += start
        self._start = start
        if end - start >= header and stop - start > _AREA:
            self._long = _LongFrame(length, view[body:end], self._spare)
            self._start = end
        self._drained = True

    def _fail(self, length: int, offset: int) -> None:
        try:
            check_length(length, self.max_length, offset)
        except WireError as error:
            self._error = error
            raise

    def _space(self) -> memoryview:
        self._lent.release()
        if self._long is not None:
            self._lent = self._long.space()
        else:
            if self._start:
                self._make_room()
            self._lent = self._writable[self._end :]
        return self._lent

    def _make_room(self) -> None:
        """Moves the bytes that are not yet taken to the front, of a new area while a frame in the old one is held."""
        rest = bytes(self._view[self._start : self._end])
        self._view.release()
        self._writable.release()
        try:
            self._area.append(0)  # a bytearray refuses to be resized while a view of it is held
            self._area.pop()
        except BufferError:
            self._use(bytearray(_AREA))
        else:
            self._use(self._area)
        self._writable[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _use(self, area: bytearray) -> None:
        self._area = area
        self._writable = memoryview(area)
        self._view = self._writable.toreadonly()


class _LongFrame:
    """The body of a frame that is too long for the area, on its way in: a buffer that grows as its bytes arrive.

    `buffer` is that of an earlier frame, for memory that is already there is faster by far than memory that has to come
    from the system; it is used unless somebody still holds a view of it.
    """

    def __init__(self, length: int, arrived: memoryview, buffer: io.BytesIO) -> None:
        self.length = length
        try:
            buffer.truncate(length)  # gives memory back where less than half is needed; refused while a view is held
        except BufferError:
            buffer = io.BytesIO()
        self.buffer = buffer
        self._view = buffer.getbuffer()
        if len(self._view) < min(_AREA, length):
            self._grow(_AREA)
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
        # A last step of less than an eighth would allocate an eighth more than asked for: go to the end a step early.
        if self.length <= size + size // 8:
            size = self.length
        self._view.release()
        # A BytesIO grows in place, to just the size asked for, and needs no second buffer to copy from.
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
