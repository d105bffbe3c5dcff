"""Link frames from a byte stream that may have gaps, faults and no beginning. [LINK-LAYOUT]

`wireproto.codec.link` stops at the first fault, as a peer must. This reports the fault and resynchronises after it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from wireproto.codec.link import HEADER, check_length
from wireproto.errors import TruncatedError, WireError
from wireproto.messages import MAX_LINK_LENGTH

MAX_HELD: Final = 16 * 1024 * 1024
"""Bytes of a frame's body. Only the first bytes of a longer frame are kept, to bound memory."""
KEPT: Final = 256
"""Bytes kept of such a frame, and of bytes that are not a whole frame."""
_MAX_PLACES: Final = 10_000
_NOT_ZERO: Final = re.compile(rb"[^\0]")


@dataclass(frozen=True, slots=True)
class Frame:
    """One link frame, with only the first `KEPT` bytes of a body longer than `MAX_HELD`."""

    offset: int
    """Offset of the first byte in the stream."""
    length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Bytes that are not a link frame. `error.offset` counts from the start of the stream."""

    offset: int
    error: WireError
    data: bytes
    """The first of these bytes."""
    size: int
    """The number of bytes; 0 if the search for the next frame starts at them, because `Skipped` counts them then."""


@dataclass(frozen=True, slots=True)
class Hole:
    """`size` bytes of the stream, `lost` of them not captured: one frame, or a gap between frames."""

    offset: int
    size: int
    lost: int
    data: bytes
    """The captured beginning of the frame; empty for a gap between frames."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """`size` bytes skipped in search of the next frame."""

    offset: int
    size: int
    data: bytes
    """The first of these bytes."""


Found = Frame | Fault | Hole | Skipped


@dataclass(slots=True)
class _Passing:
    """A frame that is not kept, because it is long or incompletely captured."""

    offset: int
    length: int
    data: bytes
    left: int
    """Bytes still to read."""
    lost: int = 0

    @property
    def size(self) -> int:
        return HEADER.size + self.length

    def found(self) -> Frame | Hole:
        if self.lost:
            return Hole(self.offset, self.size, self.lost, self.data)
        return Frame(self.offset, self.length, self.data[HEADER.size :])


class FrameFinder:
    """Cuts one direction of a connection into link frames. `synced` means that it starts with one.

    Findings are adjacent: their sizes add up to the bytes that were fed and lost.

    After a fault or a gap, the next frame is the first valid length whose frame is followed by another one, or by the
    end of the bytes so far. That is rarely a coincidence: 35 of the 64 bits of a length are zero.
    """

    def __init__(self, synced: bool) -> None:
        self.offset = 0
        """Offset of the first byte in the stream that is in no finding yet."""
        self.patience = MAX_HELD
        """Bytes searched for a frame before the first half of them is skipped."""
        self._held = bytearray()
        self._needed = 0  # bytes to hold before anything can be found
        self._passing: _Passing | None = None
        self._searching = not synced
        self._skipped = 0
        self._skipped_data = b""
        self._places: list[int] = []  # stream offset at which an incomplete frame may start
        self._searched = 0  # stream offset up to which bytes were searched

    @property
    def is_synced(self) -> bool:
        return not self._searching

    def feed(self, data: bytes) -> Iterable[Found]:
        """Feed the next bytes of the stream."""
        passing = self._passing
        if passing is None:
            self._held += data
            return self._cut() if len(self._held) >= self._needed else ()
        count = min(passing.left, len(data))
        self._held += data[count:]
        return [passing.found(), *self._cut()] if self._pass(passing, count) else ()

    def _cut(self) -> Iterator[Found]:
        """Cut the held bytes into frames, as far as that is possible."""
        self._needed = 0
        while self._held:
            if self._searching and not self._find():
                return
            if self._skipped:
                yield self._told_skipped()
            found = self._next()
            if found is None:
                return
            yield found

    def lose(self, size: int) -> Iterator[Found]:
        """Record that the capture lacks the next bytes."""
        self._needed = 0
        if self._passing is None and not self._searching and len(self._held) >= HEADER.size:
            self._start_passing()
        passing = self._passing
        if passing is not None:
            count = min(passing.left, size)
            passing.lost += count
            size -= count
            if self._pass(passing, count):
                yield passing.found()
            if not size:
                return
        start, data = self.offset, b""
        if self._searching:
            yield from self._skip_all()
            start = self.offset
        else:
            data = bytes(self._held)  # less than a header
            self.offset += len(data)
            self._held.clear()
        self.offset += size
        yield Hole(start, self.offset - start, size, data)
        self._search()

    def end(self, *, closed: bool) -> Iterator[Found]:
        """Record that the stream was closed here, or that the capture ends before."""
        passing = self._passing
        if self._searching:
            yield from self._skip_all()
        elif passing is not None and not closed:
            passing.lost += passing.left
            self._pass(passing, passing.left)
            yield passing.found()
        elif passing is not None:
            there = passing.size - passing.left
            self._passing = None
            if passing.lost:
                yield Hole(passing.offset, there, passing.lost, passing.data)
            yield self._truncated(passing.offset, passing.data, 0 if passing.lost else there)
        elif self._held:
            start, data = self.offset, bytes(self._held[:KEPT])
            there = len(self._held)
            length: int = HEADER.unpack_from(self._held)[0] if there >= HEADER.size else 0
            self.offset += there
            self._held.clear()
            if closed:
                yield self._truncated(start, data, there)
            else:
                self.offset = start + HEADER.size + length
                yield Hole(start, HEADER.size + length, HEADER.size + length - there, data)

    def _truncated(self, start: int, data: bytes, size: int) -> Fault:
        error = TruncatedError("truncated", "the stream ends inside a link frame", offset=self.offset)
        return Fault(start, error, data, size)

    def _start_passing(self) -> None:
        """Skip the frame at the start of the held bytes."""
        length: int = HEADER.unpack_from(self._held)[0]
        there = min(len(self._held), HEADER.size + length)
        data = bytes(self._held[: HEADER.size + KEPT])
        self._passing = _Passing(self.offset, length, data, HEADER.size + length - there)
        del self._held[:there]
        self.offset += there

    def _pass(self, passing: _Passing, count: int) -> bool:
        """Skip bytes of a frame; return whether it ends with them."""
        passing.left -= count
        self.offset += count
        if not passing.left:
            self._passing = None
        return not passing.left

    # -- in step -------------------------------------------------------------------------------------------------------

    def _next(self) -> Frame | Hole | Fault | None:
        """Return the finding at the start of the held bytes, or None if more bytes are needed."""
        held = self._held
        if len(held) < HEADER.size:
            return None
        length: int = HEADER.unpack_from(held)[0]
        try:
            check_length(length, MAX_LINK_LENGTH, self.offset)
        except WireError as error:
            self._search()
            return Fault(self.offset, error, bytes(held[: HEADER.size]), 0)
        end = HEADER.size + length
        if length <= MAX_HELD:
            if len(held) < end:
                self._needed = end
                return None
            frame = Frame(self.offset, length, bytes(memoryview(held)[HEADER.size : end]))
            del held[:end]
            self.offset += end
            return frame
        if len(held) < HEADER.size + KEPT:
            return None
        self._start_passing()
        passing = self._passing
        return passing.found() if passing is not None and self._pass(passing, 0) else None

    # -- out of step ---------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        self._searching = True
        self._searched = self.offset
        self._places.clear()

    def _find(self) -> bool:
        """Search for a frame and drop the bytes before it; return whether one was found."""
        self._note_places()
        end = self.offset + len(self._held)
        open_places = []
        for place in self._places:
            after = place + HEADER.size + self._length(place)
            if after == end or (after + HEADER.size <= end and self._is_place(after)):
                self._skip_to(place)
                self._searching = False
                return True
            if after + HEADER.size > end and after != end:
                open_places.append(place)
        self._places = open_places[-_MAX_PLACES:]
        self._skip_to(self._places[0] if self._places else max(self.offset, end - HEADER.size + 1))
        if len(self._held) > self.patience:
            self._skip_to(self.offset + self.patience // 2)
            self._places = [place for place in self._places if place >= self.offset]
        return False

    def _note_places(self) -> None:
        """Add places that may start a length: one within the limits ends in four zero bytes, and few more."""
        at = max(self._searched - self.offset, 0)
        while (zeros := self._held.find(b"\0\0\0\0", at + 4)) >= 0:
            place = self.offset + zeros - 4
            if self._is_place(place):
                self._places.append(place)
            at = zeros - 3
            if not self._length(place):  # nor is there one before these zeros end
                after = _NOT_ZERO.search(self._held, zeros)
                at = max(at, (after.start() if after else len(self._held)) - 3)
        self._searched = max(self.offset, self.offset + len(self._held) - HEADER.size + 1)

    def _is_place(self, place: int) -> bool:
        return 0 < self._length(place) <= MAX_LINK_LENGTH

    def _length(self, place: int) -> int:
        length: int = HEADER.unpack_from(self._held, place - self.offset)[0]
        return length

    def _skip_to(self, place: int) -> None:
        count = place - self.offset
        self._skipped_data += self._held[: min(count, KEPT - len(self._skipped_data))]
        del self._held[:count]
        self.offset = place
        self._skipped += count

    def _skip_all(self) -> Iterator[Skipped]:
        self._skip_to(self.offset + len(self._held))
        self._search()
        if self._skipped:
            yield self._told_skipped()

    def _told_skipped(self) -> Skipped:
        skipped = Skipped(self.offset - self._skipped, self._skipped, self._skipped_data)
        self._skipped, self._skipped_data = 0, b""
        return skipped
