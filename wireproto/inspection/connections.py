"""The connections of a capture that carry the protocol, and what is said on them: segments in, entries out."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from wireproto.codec.link import HEADER
from wireproto.inspection.frames import MAX_HELD, Found, Frame, FrameFinder
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.sessions import Entry, Kind, Session
from wireproto.inspection.tcp import ACK, RST, SYN, Endpoint, Piece, Segment, Stream
from wireproto.session import MAX_HANDSHAKE_LENGTH

LINK_PORT: Final = 7777
"""What uses it is taken for the protocol, whatever it says. [SESSION-TCP]"""
_MAX_CONNECTIONS: Final = 128
"""So many are followed at a time; one more ends the oldest."""
_PATIENCE: Final = 512 * 1024
"""So many bytes may wait for a frame in a connection in which none was found yet."""


def entries_of_stream(chunks: Iterable[bytes], keys: KeyLog | None) -> Iterator[Entry]:
    """The entries of the bytes of one direction, without packets around them."""
    session = Session(1, keys, None, whole=False)
    finder = FrameFinder(synced=True)
    for chunk in chunks:
        for found in finder.feed(chunk):
            yield session.entry(0, 0.0, found)
    for found in finder.end(closed=True):
        yield session.entry(0, 0.0, found)


class Capture:
    """All connections of a capture, side by side.

    The protocol's are those that begin with a link frame as short as the handshake's, those that use `LINK_PORT`, and
    those whose beginning the capture lacks, once a link frame is found in them.
    """

    def __init__(self, keys: KeyLog | None) -> None:
        self.others = 0
        """Connections that carried something else."""
        self._keys = keys
        self._numbers = count(1)
        self._connections: dict[tuple[Endpoint, Endpoint], _Connection] = {}
        self._time = 0.0

    def take(self, segment: Segment) -> Iterator[Entry]:
        """The entries that a segment completes."""
        self._time = segment.time
        source, target = segment.source, segment.target
        ends = (source, target) if source < target else (target, source)
        connection = self._connections.get(ends)
        if connection is None or connection.is_followed_by(segment):
            if connection is not None:
                yield from self._end(ends)
            elif len(self._connections) == _MAX_CONNECTIONS:
                yield from self._end(next(iter(self._connections)))
            connection = self._connections[ends] = _Connection(ends, segment, self._keys, self._numbers)
        yield from connection.take(segment)

    def end(self) -> Iterator[Entry]:
        """The capture ends here."""
        for ends in list(self._connections):
            yield from self._end(ends)

    def _end(self, ends: tuple[Endpoint, Endpoint]) -> Iterator[Entry]:
        connection = self._connections.pop(ends)
        yield from connection.end(self._time)
        self.others += connection.is_other


class _Connection:
    """One TCP connection. Its sides are 0 and 1, in the order of `ends`."""

    def __init__(
        self, ends: tuple[Endpoint, Endpoint], first: Segment, keys: KeyLog | None, numbers: Iterator[int]
    ) -> None:
        self._ends = ends
        self._initiator = _initiator(ends, first)
        self._begin = first.sequence if first.flags & SYN else None
        self._keys = keys
        self._numbers = numbers
        self._session: Session | None = None
        self._streams = (Stream(), Stream())
        self._finders: dict[int, FrameFinder] = {}
        self._open = {0, 1}
        self._heads = [b"", b""]
        self._is_known = LINK_PORT in (ends[0].port, ends[1].port)
        self._is_foreign = False

    @property
    def is_other(self) -> bool:
        """Whether it carries something else, as far as one can tell."""
        return self._session is None and any(self._heads)

    def is_followed_by(self, segment: Segment) -> bool:
        """Whether the segment opens another connection between the same ends."""
        return segment.flags & (SYN | ACK) == SYN and segment.sequence != self._begin

    def take(self, segment: Segment) -> Iterator[Entry]:
        """The entries that a segment completes."""
        side = self._ends.index(segment.source)
        if segment.flags & ACK:
            for piece in self._streams[1 - side].acknowledged(segment.acknowledged, segment.time):
                yield from self._entries(1 - side, piece)
        for piece in self._streams[side].take(segment):
            yield from self._entries(side, piece)
        if segment.flags & RST:
            yield from self._close(side, segment.time, set(self._open), "by a reset")
        elif side in self._open and self._streams[side].is_over:
            yield from self._close(side, segment.time, {side}, "")

    def end(self, time: float) -> Iterator[Entry]:
        """The capture ends here, or another connection begins."""
        for side in self._open:
            for piece in self._streams[side].give_up(time):
                yield from self._entries(side, piece)
            yield from self._last(side, time, closed=False)

    def _close(self, side: int, time: float, closed: set[int], note: str) -> Iterator[Entry]:
        """A side has ended its stream, or both streams."""
        for each in closed:
            yield from self._last(each, time, closed=True)
        if self._session is not None and closed:
            number, rank = self._session.number, self._session.rank(side)
            yield Entry(kind=Kind.CLOSED, time=time, connection=number, sender=rank, note=note)
        self._open -= closed

    def _last(self, side: int, time: float, *, closed: bool) -> Iterator[Entry]:
        if self._session is not None and side in self._finders:
            for found in self._finders[side].end(closed=closed):
                yield self._session.entry(side, time, found)

    def _entries(self, side: int, piece: Piece) -> Iterator[Entry]:
        if self._session is None and not self._is_promising(side, piece.data):
            return
        finder = self._finders.get(side)
        if finder is None:
            finder = self._finders[side] = FrameFinder(synced=self._streams[side].from_start)
        finder.patience = _PATIENCE if self._session is None else MAX_HELD
        for found in finder.lose(piece.lost) if piece.lost else finder.feed(piece.data):
            if self._session is None:
                if not (self._is_known or isinstance(found, Frame)):
                    continue
                yield from self._opened(side, piece.time, found)
            else:
                yield self._session.entry(side, piece.time, found)

    def _is_promising(self, side: int, data: bytes) -> bool:
        """Whether the connection may be the protocol's. A connection that is not is never looked at again."""
        head = self._heads[side] = (self._heads[side] + data)[: HEADER.size]
        if self._streams[side].from_start and len(head) == HEADER.size and not self._is_known:
            self._is_foreign |= not 0 < HEADER.unpack(head)[0] <= MAX_HANDSHAKE_LENGTH
        return not self._is_foreign

    def _opened(self, side: int, time: float, found: Found) -> Iterator[Entry]:
        """The first entry, and before it the one that the connection is there."""
        whole = all(stream.from_start for stream in self._streams)
        self._session = Session(next(self._numbers), self._keys, self._initiator, whole)
        first = self._session.entry(side, time, found)
        ends = self._ends if self._session.rank(0) == 0 else self._ends[::-1]
        note = "" if whole else "joined later"
        yield Entry(kind=Kind.OPENED, time=time, connection=self._session.number, ends=ends, note=note)
        yield first


def _initiator(ends: tuple[Endpoint, Endpoint], first: Segment) -> int | None:
    """The side that connects; None where the first segment does not tell."""
    if first.flags & SYN:
        return ends.index(first.target if first.flags & ACK else first.source)
    ports = [end.port for end in ends]
    return 1 - ports.index(LINK_PORT) if ports.count(LINK_PORT) == 1 else None
