"""Link frames out of a byte stream that may have holes, faults and no beginning. [LINK-LAYOUT]

`wireproto.codec.link` stops at the first fault, as a peer must. This reports the fault and resynchronises after it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wireproto.codec.link import HEADER, check_length
from wireproto.errors import TruncatedError, WireError
from wireproto.messages import MAX_LINK_LENGTH

MAX_HELD: Final = 16 * 1024 * 1024
"""Of a longer frame only the first bytes are kept: memory is bounded, whatever was captured."""
KEPT: Final = 256
"""So many."""
_MAX_PLACES: Final = 10_000
_NOT_ZERO: Final = re.compile(rb"[^\0]")


@dataclass(frozen=True, slots=True)
class Frame:
    """One link frame; its body's first `KEPT` bytes where it is longer than `MAX_HELD`."""

    offset: int
    """In the stream, of its first byte; so it is in all that is found."""
    length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Bytes that are no link frame. `error.offset` counts from the start of the stream; `data` is some of them."""

    offset: int
    error: WireError
    data: bytes


@dataclass(frozen=True, slots=True)
class Hole:
    """`size` bytes that the capture lacks, behind `data`, which is what there is of the frame that they cut."""

    offset: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """`size` bytes that were passed over in search of the next frame."""

    offset: int
    size: int


Found = Frame | Fault | Hole | Skipped


class FrameFinder:
    """Cuts one direction of a connection into link frames. `synced` says that it starts with one.

    Behind a fault or a hole it goes on at a length within the limits behind whose frame another one stands, or the
    bytes that are there end. By chance that is rare: 35 of a length's 64 bits are zero.
    """

    def __init__(self, synced: bool) -> None:
        self.offset = 0
        """In the stream, of the first byte that nothing was said of."""
        self.patience = MAX_HELD
        """How many bytes may be searched for a frame before the first half of them is passed over."""
        self._held = bytearray()
        self._passing: Frame | None = None  # a long frame, on its way by
        self._left = 0  # bytes to let by: the rest of that, or of a frame that a hole has cut
        self._searching = not synced
        self._skipped = 0
        self._places: list[int] = []  # where a frame may start that is not whole yet, counted in the stream
        self._searched = 0  # up to here, counted in the stream

    @property
    def is_synced(self) -> bool:
        return not self._searching

    def feed(self, data: bytes) -> Iterator[Found]:
        """Takes the next bytes of the stream."""
        if self._left:
            count = min(self._left, len(data))
            self._left -= count
            self.offset += count
            data = data[count:]
            if not self._left and self._passing is not None:
                yield self._passing
                self._passing = None
        self._held += data
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
        """The capture lacks the next bytes."""
        rest = 0 if 0 < len(self._held) < HEADER.size else self._rest()
        yield from self._cut(size)
        self.offset += size
        if size <= rest:
            self._left = rest - size
        else:
            self._search()

    def end(self, *, closed: bool) -> Iterator[Found]:
        """The stream has been closed here, or the capture ends before that is."""
        rest = self._rest()
        if rest and closed:
            end = self.offset + len(self._held)
            error = TruncatedError("truncated", "the stream ends inside a link frame", offset=end)
            yield Fault(self._start(), error, bytes(self._held[:KEPT]))
        elif rest:
            yield from self._cut(rest)
        elif self._searching:
            yield from self._cut(0)

    # -- in step -------------------------------------------------------------------------------------------------------

    def _next(self) -> Frame | Fault | None:
        """What the held bytes start with; None where more of them are needed."""
        held = self._held
        if len(held) < HEADER.size:
            return None
        length: int = HEADER.unpack_from(held)[0]
        try:
            check_length(length, MAX_LINK_LENGTH, self.offset)
        except WireError as error:
            self._search()
            return Fault(self.offset, error, bytes(held[:KEPT]))
        end = HEADER.size + length
        if length <= MAX_HELD:
            if len(held) < end:
                return None
            frame = Frame(self.offset, length, bytes(memoryview(held)[HEADER.size : end]))
        elif len(held) < HEADER.size + KEPT:
            return None
        else:
            frame = Frame(self.offset, length, bytes(held[HEADER.size : HEADER.size + KEPT]))
        there = min(end, len(held))
        del held[:there]
        self.offset += there
        if there == end:
            return frame
        self._passing, self._left = frame, end - there
        return None

    def _rest(self) -> int:
        """How many bytes at least are missing of the frame that has begun; 0 between two frames, and out of step."""
        if self._left:
            return self._left
        there = len(self._held)
        if self._searching or not there:
            return 0
        length: int = HEADER.unpack_from(self._held)[0] if there >= HEADER.size else 0
        return HEADER.size + length - there

    def _start(self) -> int:
        return self.offset if self._passing is None else self._passing.offset

    def _cut(self, size: int) -> Iterator[Found]:
        """Tells of a hole, and of the bytes before it that nothing was said of."""
        start, data = self._start(), bytes(self._held[:KEPT]) if self._passing is None else self._passing.body
        self.offset += len(self._held)
        if self._searching:
            self._skipped += len(self._held)
            start, data = self.offset, b""
        self._held.clear()
        if self._skipped:
            yield self._told_skipped()
        if size:
            yield Hole(start, size, data)
        self._passing, self._left = None, 0

    # -- out of step ---------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        self._searching = True
        self._searched = self.offset
        self._places.clear()

    def _find(self) -> bool:
        """Looks for a frame, and drops what is before it; whether there is one."""
        self._note_places()
        end = self.offset + len(self._held)
        open_places = []
        for place in self._places:
            behind = place + HEADER.size + self._length(place)
            if behind == end or (behind + HEADER.size <= end and self._is_place(behind)):
                self._skip_to(place)
                self._searching = False
                return True
            if behind + HEADER.size > end and behind != end:
                open_places.append(place)
        self._places = open_places[-_MAX_PLACES:]
        self._skip_to(self._places[0] if self._places else max(self.offset, end - HEADER.size + 1))
        if len(self._held) > self.patience:
            self._skip_to(self.offset + self.patience // 2)
            self._places = [place for place in self._places if place >= self.offset]
        return False

    def _note_places(self) -> None:
        """A length within the limits has four zero bytes at its end, and not many more."""
        at = max(self._searched - self.offset, 0)
        while (zeros := self._held.find(b"\0\0\0\0", at + 4)) >= 0:
            place = self.offset + zeros - 4
            if self._is_place(place):
                self._places.append(place)
            at = zeros - 3
            if not self._length(place):  # nor is there one before these zeros end
                behind = _NOT_ZERO.search(self._held, zeros)
                at = max(at, (behind.start() if behind else len(self._held)) - 3)
        self._searched = max(self.offset, self.offset + len(self._held) - HEADER.size + 1)

    def _is_place(self, place: int) -> bool:
        return 0 < self._length(place) <= MAX_LINK_LENGTH

    def _length(self, place: int) -> int:
        length: int = HEADER.unpack_from(self._held, place - self.offset)[0]
        return length

    def _skip_to(self, place: int) -> None:
        count = place - self.offset
        del self._held[:count]
        self.offset = place
        self._skipped += count

    def _told_skipped(self) -> Skipped:
        skipped = Skipped(self.offset - self._skipped, self._skipped)
        self._skipped = 0
        return skipped
