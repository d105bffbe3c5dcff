"""TCP byte streams out of segments: one `Stream` a direction, in order, with what the capture lacks said."""

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MAX_EARLY: Final = 256 * 1024
"""So many bytes may wait for earlier ones; with more of them, those count as lost."""


class Endpoint(NamedTuple):
    """One end of a TCP connection."""

    ip: bytes
    """4 or 16 bytes."""
    port: int


class Segment(NamedTuple):
    """One TCP segment."""

    time: float
    """Seconds since 1970."""
    source: Endpoint
    target: Endpoint
    sequence: int
    acknowledged: int
    flags: int
    data: bytes
    """As far as it was captured."""


class Piece(NamedTuple):
    """The next bytes of a stream, or how many of them the capture lacks."""

    time: float
    data: bytes
    lost: int = 0


class Stream:
    """One direction of a TCP connection: segments in, pieces in order out.

    What came twice is left out. What is missing is lost once the receiver has acknowledged it, or at the end: then no
    other segment can bring it.
    """

    def __init__(self) -> None:
        self.from_start = False
        """Whether the stream is seen from its first byte."""
        self.offset = 0
        """Bytes passed on, or lost, since the first one seen."""
        self.repeated = 0
        """Bytes that came again."""
        self._base: int | None = None  # the sequence number of the byte at offset 0
        self._end: int | None = None  # the offset behind the last byte
        self._early: list[tuple[int, float, bytes]] = []  # by offset, a heap
        self._early_size = 0

    def take(self, segment: Segment) -> Iterator[Piece]:
        """The pieces that this segment of the stream completes."""
        first = segment.sequence
        if segment.flags & SYN:
            first += 1
            if self._base is None:
                self.from_start = True
        if self._base is None:
            self._base = first
        offset = self._offset(first)
        if segment.flags & (FIN | RST):
            self._end = offset + len(segment.data)
        if segment.data:
            heapq.heappush(self._early, (offset, segment.time, segment.data))
            self._early_size += len(segment.data)
            yield from self._in_order()
            while self._early_size > MAX_EARLY:
                yield from self._hole(segment.time)

    def acknowledged(self, number: int, time: float) -> Iterator[Piece]:
        """The receiver has all bytes before this sequence number."""
        if self._base is None:
            return
        offset = self._offset(number)
        if self._end is not None:
            offset = min(offset, self._end)
        while self._early and self._early[0][0] < offset:
            yield from self._hole(time)
        # The end of a stream takes a number like a byte; where it was not captured, that is no byte that is missing.
        if offset > self.offset + 1:
            lost = offset - self.offset
            self.offset = offset
            yield Piece(time, b"", lost)
            yield from self._in_order()

    def give_up(self, time: float) -> Iterator[Piece]:
        """Nothing more comes."""
        while self._early:
            yield from self._hole(time)

    @property
    def is_over(self) -> bool:
        """Whether its last byte was passed on."""
        return self._end is not None and self.offset >= self._end

    def _offset(self, number: int) -> int:
        """Of a sequence number, which has 32 bits and starts anew behind them."""
        assert self._base is not None  # noqa: S101 - a segment came
        ahead = (number - self._base - self.offset) & 0xFFFF_FFFF
        return self.offset + ahead - (0x1_0000_0000 if ahead >= 0x8000_0000 else 0)

    def _in_order(self) -> Iterator[Piece]:
        while self._early and self._early[0][0] <= self.offset:
            offset, time, data = heapq.heappop(self._early)
            self._early_size -= len(data)
            known = min(self.offset - offset, len(data))
            self.repeated += known
            if known < len(data):
                self.offset += len(data) - known
                yield Piece(time, data[known:] if known else data)

    def _hole(self, time: float) -> Iterator[Piece]:
        """What is missing before the first early segment counts as lost."""
        first = self._early[0][0]
        if first > self.offset:
            lost = first - self.offset
            self.offset = first
            yield Piece(time, b"", lost)
        yield from self._in_order()
