"""The connections of a capture that carry the protocol: segments in, entries out."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from math import inf
from typing import Final

from wireproto.codec.link import HEADER
from wireproto.inspection.frames import KEPT, MAX_HELD, Fault, Found, Frame, FrameFinder, Hole, Skipped
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.sessions import Entry, Kind, Session
from wireproto.inspection.tcp import ACK, MAX_EARLY, RST, SYN, Endpoint, Late, Piece, Segment, Stream
from wireproto.messages import MAX_LINK_LENGTH, SPEC_BY_TYPE
from wireproto.session import MAX_HANDSHAKE_LENGTH
from wireproto.session.seal import OVERHEAD

LINK_PORT: Final = 7777
"""A connection on this port counts as the protocol's, whatever it carries. [SESSION-TCP]"""
_MAX_CONNECTIONS: Final = 128
"""Connections followed at a time. One more drops another, those of other protocols first."""
_PATIENCE: Final = 512 * 1024
"""Bytes that may wait in a connection before its first frame is found."""
_MAX_WAITING: Final = 64
_MAX_WAIT: Final = 1.0
"""Segments of a connection, or seconds, that a segment waits for the bytes it acknowledges."""
_SETTLING: Final = 16
_SETTLING_TIME: Final = 0.5
"""Segments, or seconds, used to find the start of a connection whose SYN was not captured."""
_MAX_KEPT: Final = 64
"""Findings kept before a connection is known to be the protocol's."""
_MAX_FIRST: Final = 64 * 1024
"""Bytes of a stream held to see whether another frame follows its first box."""
_MAX_UNSURE: Final = 8
"""Entries of a stream kept before one certainly belongs to the protocol."""
_HANDSHAKE_STARTS: Final = (b"\x01{", b"\x02{")


class NotAStreamError(Exception):
    """The bytes are not a stream of the protocol."""


def entries_of_stream(chunks: Iterable[bytes], keys: KeyLog | None) -> Iterator[Entry]:
    """Yield the entries of a byte stream of one direction.

    Raises `NotAStreamError` if the stream neither starts with a link frame nor contains a message.
    """
    head = b""
    rest = iter(chunks)
    is_stream = None
    for chunk in rest:
        head += chunk
        is_stream = starts_with_frame(head)
        if is_stream is not None:
            break
    if is_stream is None:  # the end of the stream
        is_stream = len(head) > HEADER.size and len(head) >= HEADER.size + HEADER.unpack_from(head)[0]
    session = Session(1, keys, None, whole=False)
    finder = FrameFinder(synced=is_stream)
    kept: list[Entry] = []

    def sure(entry: Entry) -> Sequence[Entry]:
        """Return the entries to show: all of them, once one certainly belongs to the protocol."""
        nonlocal is_stream
        kept.append(entry)
        is_stream = is_stream or entry.kind is Kind.MESSAGE
        if not is_stream:
            if len(kept) == _MAX_UNSURE:
                raise NotAStreamError
            return ()
        told = kept[:]
        kept.clear()
        return told

    for chunk in chain([head], rest):
        for found in finder.feed(chunk):
            yield from sure(session.entry(0, 0.0, found))
    for found in finder.end(closed=True):
        yield from sure(session.entry(0, 0.0, found))
    if not is_stream:
        raise NotAStreamError


def starts_with_frame(head: bytes) -> bool | None:
    """Return whether these bytes can start a link frame, or None if more are needed.

    The length must be within the limits, followed by a known type or by a box and another frame.
    """
    if len(head) <= HEADER.size:
        return None
    length: int = HEADER.unpack_from(head)[0]
    if not 0 < length <= MAX_LINK_LENGTH:
        return False
    if head[HEADER.size] in SPEC_BY_TYPE:
        return True
    end = HEADER.size + length
    if length <= OVERHEAD or end > _MAX_FIRST:
        return length > OVERHEAD
    if len(head) < end + HEADER.size:
        return None
    following: int = HEADER.unpack_from(head, end)[0]
    return 0 < following <= MAX_LINK_LENGTH


class Capture:
    """All connections of a capture.

    A connection is the protocol's if it begins with a link frame no longer than the handshake's, if it uses
    `LINK_PORT`, or if its beginning was not captured and it contains a link frame.

    Every byte of `payload` is in an entry, in `repeated` or in `other_bytes`.
    """

    def __init__(self, keys: KeyLog | None) -> None:
        self.payload = 0
        """Bytes in all segments so far."""
        self.repeated = 0
        """Repeated bytes."""
        self.others = 0
        """Connections of other protocols."""
        self.other_bytes = 0
        """Bytes of those connections."""
        self._keys = keys
        self._numbers = count(1)
        self._connections: dict[tuple[Endpoint, Endpoint], _Connection] = {}
        self._time = 0.0

    def take(self, segment: Segment) -> Sequence[Entry]:
        """Return the entries that a segment completes."""
        self._time = segment.time
        self.payload += len(segment.data)
        source, target = segment.source, segment.target
        ends = (source, target) if source < target else (target, source)
        connection = self._connections.get(ends)
        if connection is not None and not connection.is_followed_by(segment):
            return connection.take(segment)
        entries: list[Entry] = []
        if connection is not None:
            entries += self._end(ends)
        elif len(self._connections) == _MAX_CONNECTIONS:
            entries += self._end(self._least())
        connection = self._connections[ends] = _Connection(ends, self._keys, self._numbers)
        return [*entries, *connection.take(segment)]

    def end(self) -> Iterator[Entry]:
        """Yield the last entries, at the end of the capture."""
        for ends in list(self._connections):
            yield from self._end(ends)

    def _least(self) -> tuple[Endpoint, Endpoint]:
        """Return the connection to drop: one of another protocol, or the oldest."""
        for is_other in (lambda each: each.is_foreign, lambda each: not each.is_session, lambda each: True):
            for ends, connection in self._connections.items():
                if is_other(connection):
                    return ends
        raise AssertionError

    def _end(self, ends: tuple[Endpoint, Endpoint]) -> Iterator[Entry]:
        connection = self._connections.pop(ends)
        yield from connection.end(self._time)
        if connection.is_session:
            self.repeated += connection.repeated
        elif connection.received:
            self.others += 1
            self.other_bytes += connection.received


_Waiting = list[tuple[int, int, Segment]]
"""A heap of waiting segments, by the offset in the other stream that they acknowledge and by turn."""


class _Connection:
    """One TCP connection. Its sides are 0 and 1, in the order of `ends`.

    A capture can have packets out of order, for example if several threads or network cards wrote it. A segment was
    sent after the bytes that it acknowledges, so it waits for them as long as they may still follow.
    """

    def __init__(self, ends: tuple[Endpoint, Endpoint], keys: KeyLog | None, numbers: Iterator[int]) -> None:
        self.received = 0
        """Bytes in the connection's segments."""
        self.is_foreign = False
        """Whether the connection carries another protocol."""
        self._ends = ends
        self._keys = keys
        self._numbers = numbers
        self._initiator: int | None = None  # the connecting side, if known
        self._begin: int | None = None  # the sequence number of its SYN
        self._session: Session | None = None
        self._is_whole = True  # every segment was read after the bytes that it acknowledges
        self._settling: list[Segment] | None = []
        self._waiting: tuple[_Waiting, _Waiting] = ([], [])  # heaps
        self._arrivals = count()
        self._told: list[int | None] = [None, None]  # what each side's last segment acknowledged, if none waits
        self._waiting_size = 0
        self._streams = (Stream(), Stream())
        self._finders: dict[int, FrameFinder] = {}
        self._open = {0, 1}
        self._heads: list[bytes | None] = [b"", b""]  # the first bytes of a side; None if they are missing
        self._before: dict[int, Hole | Skipped | Fault] = {}  # findings before the first frame
        self._late: list[tuple[int, Late]] = []
        self._is_known = LINK_PORT in (ends[0].port, ends[1].port)

    @property
    def is_session(self) -> bool:
        return self._session is not None

    @property
    def repeated(self) -> int:
        return sum(stream.repeated for stream in self._streams)

    def is_followed_by(self, segment: Segment) -> bool:
        """Return whether the segment opens another connection between the same ends."""
        if segment.flags & (SYN | ACK) != SYN or self._settling:
            return False
        return segment.sequence != self._begin or not self._open

    def take(self, segment: Segment) -> Sequence[Entry]:
        """Return the entries that a segment completes."""
        self.received += len(segment.data)
        side = 0 if segment.source == self._ends[0] else 1
        # Most segments: `make bench`, inspect 100 MiB.
        if segment.acknowledged == self._told[side] and self._streams[side].append(segment):
            return self._entries(side, Piece(segment.time, segment.data))
        held = self._settling
        if held is None or self.is_foreign:
            return self._arrive(segment)
        held.append(segment)
        if held[0].flags & SYN or len(held) == _SETTLING or segment.time - held[0].time > _SETTLING_TIME:
            return list(self._settle())
        return ()

    def end(self, time: float) -> Iterator[Entry]:
        """Yield the last entries, at the end of the capture or before another connection."""
        yield from self._settle()
        yield from self._drain(inf)
        if self.is_foreign:
            return
        for side in (0, 1):
            for piece in self._streams[side].give_up(time):
                yield from self._entries(side, piece)
        yield from self._close_streams(time)
        for side in (0, 1):
            yield from self._last(side, time, closed=side not in self._open)

    # -- order ---------------------------------------------------------------------------------------------------------

    def _settle(self) -> Iterator[Entry]:
        """Find the start of both streams, then read the segments held until then."""
        held, self._settling = self._settling or [], None
        held.sort(key=lambda segment: not segment.flags & SYN)
        for side in (0, 1):
            own = [segment for segment in held if segment.source == self._ends[side]]
            if own and not held[0].flags & SYN:
                first = min((each.first - own[0].first + 0x8000_0000) & 0xFFFF_FFFF for each in own)
                self._streams[side].start(own[0].first + first - 0x8000_0000, from_start=False)
        if held:
            # The SYN and the segment after it first: both tell the start of the other stream.
            self._initiator, self._begin = _initiator(self._ends, held[0])
            begin = None if self._begin is None else (self._begin + 1) & 0xFFFF_FFFF
            held.sort(key=lambda segment: (not segment.flags & SYN, segment.first != begin))
        for segment in held:
            yield from self._arrive(segment)

    def _arrive(self, segment: Segment) -> Sequence[Entry]:
        if self.is_foreign:
            return ()
        side = 0 if segment.source == self._ends[0] else 1
        entries: list[Entry] = []
        if self._is_ready(side, segment):
            entries += self._read(side, segment)
        else:
            heapq.heappush(self._waiting[side], (self._place(side, segment), next(self._arrivals), segment))
            self._waiting_size += len(segment.data)
        entries += self._drain(segment.time)
        if any(self._waiting):
            self._told = [None, None]
        elif segment.flags & ACK:
            self._told[side] = segment.acknowledged
        return entries

    def _drain(self, now: float) -> Iterator[Entry]:
        """Read the waiting segments that are ready or overdue."""
        while any(self._waiting):
            sides = [side for side in (0, 1) if self._waiting[side]]
            ready = [side for side in sides if self._is_ready(side, self._waiting[side][0][2])]
            if ready:
                yield from self._next(ready[0])
            elif self._is_long(now):
                self._is_whole = False
                if self._session is not None:
                    self._session.lack()
                yield from self._next(min(sides, key=lambda side: self._waiting[side][0][2].time))
            else:
                return

    def _is_ready(self, side: int, segment: Segment) -> bool:
        """Return whether all bytes that the segment acknowledges were read."""
        other = self._streams[1 - side]
        own = self._streams[side]
        if other.is_known:
            if segment.flags & ACK and not other.has(segment.acknowledged):
                return False
        elif own.from_start and own.place(segment.first) > 0:
            return False  # its SYN, or this side's first segment after the SYN, tells the start of the other stream
        return not (segment.flags & RST and own.is_known and not own.has(segment.first))

    def _place(self, side: int, segment: Segment) -> int:
        """Return the offset to which the other stream must be read before this segment."""
        return self._streams[1 - side].place(segment.acknowledged)

    def _start(self, side: int, number: int) -> None:
        """Set the sequence number of a side's first byte."""
        self._streams[side].start(number, from_start=True)
        waiting = self._waiting[1 - side]
        waiting[:] = [(self._place(1 - side, segment), turn, segment) for _, turn, segment in waiting]
        heapq.heapify(waiting)

    def _is_long(self, now: float) -> bool:
        """Return whether a waiting segment is overdue."""
        count = len(self._waiting[0]) + len(self._waiting[1])
        oldest = min(each[0][2].time for each in self._waiting if each)
        return count > _MAX_WAITING or self._waiting_size > MAX_EARLY or now - oldest > _MAX_WAIT

    def _next(self, side: int) -> Sequence[Entry]:
        """Read the waiting segment of a side that acknowledges the fewest bytes."""
        _, _, segment = heapq.heappop(self._waiting[side])
        self._waiting_size -= len(segment.data)
        return self._read(side, segment)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, side: int, segment: Segment) -> Sequence[Entry]:
        if self.is_foreign:
            return ()
        flags = segment.flags
        own, other = self._streams[side], self._streams[1 - side]
        if flags & SYN and not own.is_known:
            self._start(side, segment.first)
        pieces = own.take(segment)
        entries: list[Entry] = []
        if flags & ACK:
            if not other.is_known and (flags & SYN or (own.from_start and not own.place(segment.first))):
                self._start(1 - side, segment.acknowledged)  # it sent only its SYN
            for piece in other.acknowledged(segment.acknowledged, segment.time):
                entries += self._entries(1 - side, piece)
        for piece in pieces:
            entries += self._entries(side, piece)
        if flags & RST:
            entries += self._reset(side, segment.time)
        elif own.is_over or other.is_over:
            entries += self._close_streams(segment.time)
        return entries

    def _reset(self, side: int, time: float) -> Iterator[Entry]:
        for each in (0, 1):
            for piece in self._streams[each].give_up(time):
                yield from self._entries(each, piece)
        yield from self._close(side, time, set(self._open), "by a reset")

    def _close_streams(self, time: float) -> Iterator[Entry]:
        """Close the sides whose last byte was read."""
        for side in (0, 1):
            if side in self._open and self._streams[side].is_over:
                yield from self._close(side, time, {side}, "")

    def _close(self, side: int, time: float, closed: set[int], note: str) -> Iterator[Entry]:
        """Handle the end of a side's stream, or of both."""
        for each in closed:
            yield from self._last(each, time, closed=True)
        if self._session is not None and closed:
            number, rank = self._session.number, self._session.rank(side)
            yield Entry(kind=Kind.CLOSED, time=time, connection=number, sender=rank, note=note)
        self._open -= closed

    def _last(self, side: int, time: float, *, closed: bool) -> Iterator[Entry]:
        if side in self._finders:
            for found in self._finders[side].end(closed=closed):
                yield from self._found(side, time, found)

    def _entries(self, side: int, piece: Piece | Late) -> Sequence[Entry]:
        if isinstance(piece, Late):
            if self._session is not None:
                return (self._session.late(side, piece),)
            if len(self._late) < _MAX_KEPT:
                self._late.append((side, piece))
            else:
                self._streams[side].repeated += len(piece.data)
            return ()
        if self._session is None and not self._is_promising(side, piece):
            return ()
        finder = self._finders.get(side)
        if finder is None:
            finder = self._finders[side] = FrameFinder(synced=self._streams[side].from_start)
        finder.patience = _PATIENCE if self._session is None else MAX_HELD
        there = finder.lose(piece.lost) if piece.lost else finder.feed(piece.data)
        return [entry for found in there for entry in self._found(side, piece.time, found)] if there else ()

    def _found(self, side: int, time: float, found: Found) -> Iterable[Entry]:
        if self._session is not None:
            return (self._session.entry(side, time, found),)
        if self._is_known or _is_the_protocols(found):
            return self._opened(side, time, found)
        if not isinstance(found, Frame):
            before = self._before.get(side)
            self._before[side] = _joined(before, found)
        return ()

    def _is_promising(self, side: int, piece: Piece) -> bool:
        """Return whether the connection may be the protocol's. Once it is not, it is ignored."""
        head = self._heads[side]
        if self._is_known or head is None or len(head) == HEADER.size or not self._streams[side].from_start:
            return True
        head = self._heads[side] = None if piece.lost else (head + piece.data)[: HEADER.size]
        if head is not None and len(head) == HEADER.size and not 0 < HEADER.unpack(head)[0] <= MAX_HANDSHAKE_LENGTH:
            self.is_foreign = True
            self._finders.clear()
            self._streams = (Stream(), Stream())
            for each in self._waiting:
                each.clear()
        return not self.is_foreign

    def _opened(self, side: int, time: float, found: Found) -> Iterator[Entry]:
        """Yield an entry for the connection, then those of its findings so far."""
        is_whole = all(stream.from_start for stream in self._streams)
        self._session = Session(next(self._numbers), self._keys, self._initiator, is_whole)
        if self._before or not self._is_whole:
            self._session.lack()
        first = self._session.entry(side, time, found)
        ends = self._ends if self._session.rank(0) == 0 else self._ends[::-1]
        note = "" if is_whole else "joined later"
        yield Entry(kind=Kind.OPENED, time=time, connection=self._session.number, ends=ends, note=note)
        for each, before in self._before.items():
            yield self._session.entry(each, time, before)
        for each, late in self._late:
            yield self._session.late(each, late)
        yield first


def _is_the_protocols(found: Found) -> bool:
    """Return whether a finding shows that the connection is the protocol's."""
    match found:
        case Frame():
            return True
        case Hole(data=data) | Fault(data=data):  # the start of a hello or ack
            return data[HEADER.size : HEADER.size + 2] in _HANDSHAKE_STARTS
    return False


def _joined(before: Hole | Skipped | Fault | None, found: Hole | Skipped | Fault) -> Hole | Skipped | Fault:
    """Merge two adjacent findings."""
    if before is None:
        return found
    size = before.size + found.size
    lost = sum(each.lost for each in (before, found) if isinstance(each, Hole))
    if lost:
        return Hole(before.offset, size, lost, b"")
    return Skipped(before.offset, size, (before.data + found.data)[:KEPT])


def _initiator(ends: tuple[Endpoint, Endpoint], first: Segment) -> tuple[int | None, int | None]:
    """Return the connecting side and the number of its SYN, or None if the first segment does not show them."""
    if first.flags & SYN and first.flags & ACK:
        return ends.index(first.target), (first.acknowledged - 1) & 0xFFFF_FFFF
    if first.flags & SYN:
        return ends.index(first.source), first.sequence
    ports = [end.port for end in ends]
    return (1 - ports.index(LINK_PORT) if ports.count(LINK_PORT) == 1 else None), None
