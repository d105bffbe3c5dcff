"""TCP byte streams from segments: one `Stream` per direction, in order, with missing bytes counted."""

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MAX_EARLY: Final = 256 * 1024
"""Bytes that may wait for earlier ones; beyond this, the earlier ones count as lost."""
MAX_WINDOW: Final = 1 << 30
"""The largest receive window. An acknowledgement further ahead is ignored. RFC 7323."""
_MAX_GAPS: Final = 256


class Endpoint(NamedTuple):
    """One end of a TCP connection."""

    ip: bytes
    """4 or 16 bytes."""
    port: int


class Segment(msgspec.Struct, frozen=True, gc=False):
    """One TCP segment."""

    time: float
    """Seconds since 1970."""
    source: Endpoint
    target: Endpoint
    sequence: int
    acknowledged: int
    flags: int
    data: bytes
    """The captured part."""
    cut: int = 0
    """Bytes of the segment after `data` that are missing from the capture."""

    @property
    def first(self) -> int:
        """Return the sequence number of the first byte of data."""
        return (self.sequence + bool(self.flags & SYN)) & 0xFFFF_FFFF


class Piece(msgspec.Struct, frozen=True, gc=False):
    """The next bytes of a stream, or the number of missing ones."""

    time: float
    data: bytes
    lost: int = 0


class Late(msgspec.Struct, frozen=True, gc=False):
    """Bytes that arrived after they had been counted as lost."""

    time: float
    offset: int
    """Offset in the stream; negative before the first byte seen."""
    data: bytes


class Stream:
    """One direction of a TCP connection: segments in, pieces in order out.

    Repeated bytes are left out. Missing bytes count as lost if their segment was cut, at the end, or when later bytes
    are there and either the missing ones were acknowledged or too many bytes wait.
    """

    def __init__(self) -> None:
        self.from_start = False
        """Whether the stream is seen from its first byte."""
        self.offset = 0
        """Bytes passed on or lost since the first one seen."""
        self.repeated = 0
        """Repeated bytes."""
        self._base: int | None = None  # the sequence number of the byte at offset 0
        self._end: int | None = None  # the offset after the last byte
        self._unseen: tuple[int, int] | None = (
            None  # the lowest and highest acknowledged number before a segment was seen
        )
        self._acknowledged = 0  # up to this offset
        self._cut = 0  # segments up to this offset were seen, but not all of their bytes
        self._early: list[tuple[int, float, bytes, int]] = []  # by offset, a heap; the last number is `cut`
        self._early_size = 0
        self._gaps: list[tuple[int, int]] = []  # offsets counted as lost

    @property
    def is_known(self) -> bool:
        """Whether the position of the stream is known from a segment."""
        return self._base is not None

    @property
    def is_over(self) -> bool:
        """Whether the last byte of the stream was passed on."""
        return self._end is not None and self.offset >= self._end

    def start(self, number: int, *, from_start: bool) -> None:
        """Set the sequence number of the first byte, before any is taken."""
        if self._base is None:
            self._base = number & 0xFFFF_FFFF
            self.from_start = from_start
            if not from_start:
                self._gaps.append((-MAX_WINDOW, 0))

    def place(self, number: int) -> int:
        """Return the stream offset of a sequence number, which wraps around at 2^32."""
        ahead = (number - (self._base or 0) - self.offset) & 0xFFFF_FFFF
        return self.offset + ahead - (0x1_0000_0000 if ahead >= 0x8000_0000 else 0)

    def has(self, number: int) -> bool:
        """Return whether no bytes before a sequence number are missing; ignore a number outside every window."""
        offset = self.place(number)
        ahead = offset - self.offset
        # The end of a stream takes up one sequence number.
        return ahead <= 1 or offset <= self._acknowledged or ahead > MAX_WINDOW

    def append(self, segment: Segment) -> bool:
        """Take a segment that holds just the next bytes of the stream, as most do. Return False for any other."""
        if (
            segment.flags | PSH != ACK | PSH
            or segment.cut
            or self._early
            or self._end is not None
            or self._base is None
            or (segment.sequence - self._base - self.offset) & 0xFFFF_FFFF
        ):
            return False
        self.offset += len(segment.data)
        return True

    def take(self, segment: Segment) -> Sequence[Piece | Late]:
        """Return the pieces that this segment of the stream completes."""
        data, cut = segment.data, segment.cut
        first = segment.first
        if self._base is None:
            self.start(first, from_start=bool(segment.flags & SYN))
        offset = self.place(first)
        if segment.flags & (FIN | RST):
            self._end = offset + len(data) + cut
        if not data and not cut:
            return ()
        if offset == self.offset and not self._early and not cut:
            self.offset += len(data)
            return (Piece(segment.time, data),)
        heapq.heappush(self._early, (offset, segment.time, data, cut))
        self._early_size += len(data)
        pieces = self._in_order(segment.time)
        while self._early and (self._early_size > MAX_EARLY or self._early[0][0] <= self._acknowledged):
            pieces += self._hole(segment.time)
        return pieces

    def acknowledged(self, number: int, time: float) -> Sequence[Piece | Late]:
        """Record an acknowledgement: bytes before this sequence number will not be sent again."""
        if self._base is None:
            first, last = self._unseen or (number, number)
            if (number - first) & 0x8000_0000:
                first = number
            elif not (number - last) & 0x8000_0000:
                last = number
            self._unseen = first, last
            return ()
        offset = self.place(number)
        if offset <= self._acknowledged or offset - self.offset > MAX_WINDOW:
            return ()
        self._acknowledged = offset
        pieces: list[Piece | Late] = []
        while self._early and self._early[0][0] <= offset:
            pieces += self._hole(time)
        return pieces

    def give_up(self, time: float) -> Sequence[Piece | Late]:
        """Return the remaining pieces, at the end of the capture."""
        if self._base is None:
            if self._unseen is None:
                return ()
            first, last = self._unseen
            self.start(first, from_start=False)
            self.acknowledged(last, time)
        pieces: list[Piece | Late] = []
        while self._early:
            pieces += self._hole(time)
        end = self._end
        if end is None or end - self.offset > MAX_WINDOW:
            # If the end was not captured, its sequence number is not a missing byte.
            end = self._acknowledged if self._acknowledged > self.offset + 1 else self.offset
        if end > self.offset:
            pieces.append(self._lost(end, time))
        return pieces

    def _in_order(self, time: float) -> list[Piece | Late]:
        pieces: list[Piece | Late] = []
        early = self._early
        while True:
            while early and early[0][0] <= self.offset:
                offset, when, data, cut = heapq.heappop(early)
                self._early_size -= len(data)
                self._cut = max(self._cut, offset + len(data) + cut)
                known = min(self.offset - offset, len(data))
                if known:
                    pieces += self._known(offset, data[:known], when)
                if known < len(data):
                    self.offset += len(data) - known
                    pieces.append(Piece(when, data[known:]))
            if self._cut <= self.offset:
                return pieces
            pieces.append(self._lost(min(self._cut, early[0][0]) if early else self._cut, time))

    def _known(self, offset: int, data: bytes, time: float) -> list[Late]:
        """Separate repeated bytes from late ones."""
        late, gaps = [], []
        for start, end in self._gaps:
            begin, stop = max(start, offset), min(end, offset + len(data))
            if begin < stop:
                late.append(Late(time, begin, data[begin - offset : stop - offset]))
                gaps += [gap for gap in ((start, begin), (stop, end)) if gap[0] < gap[1]]
            else:
                gaps.append((start, end))
        if late:
            self._gaps = gaps
        self.repeated += len(data) - sum(len(each.data) for each in late)
        return late

    def _hole(self, time: float) -> list[Piece | Late]:
        """Count the bytes before the first early segment as lost."""
        first = self._early[0][0]
        pieces: list[Piece | Late] = [self._lost(first, time)] if first > self.offset else []
        return pieces + self._in_order(time)

    def _lost(self, end: int, time: float) -> Piece:
        piece = Piece(time, b"", end - self.offset)
        self._gaps.append((self.offset, end))
        del self._gaps[:-_MAX_GAPS]
        self.offset = end
        return piece
