"""JACCL's side channel, without I/O: what rank 0, the root, and the others, the workers, say on the coordinator port.

    worker → root     HELLO: i32 rank, once
    worker → root     GATHER(n): n bytes, its contribution
    root → workers    size × n bytes, the contributions of ranks 0, 1, … in a row

Integers are little-endian. How long a contribution is, both sides know from what they do: `mesh_init` and `ring_init`
say which gathers JACCL makes to form a group. What native JACCL takes on trust is checked here; no wait has a limit
here, the caller's I/O holds the deadlines. [JACCL-HELLO, JACCL-GATHER]
"""

from collections.abc import Generator, Iterator, Sequence
from copy import copy
from ipaddress import IPv4Address
from struct import Struct
from typing import Final, NamedTuple, NoReturn

import msgspec

from wireproto.errors import LimitError, MalformedError, StateError, TruncatedError, WireError

MIN_SIZE: Final = 2
MAX_SIZE: Final = 64
"""Ranks in a group: our own limit, since a JACCL ring and an MLX ring have none. [JACCL-HELLO]"""

MAX_MESH: Final = 8
"""Ranks in a JACCL mesh: its init refuses more. [JACCL-MESH-INIT]"""

MAX_GATHER: Final = 1024 * 1024
"""Bytes that one rank may contribute to a gather: a thousand times what the longest list of Destinations needs, and
what a worker may make the root remember. [JACCL-GATHER]"""

MAX_WIRES: Final = 4
"""Connections between two ranks that JACCL uses side by side. [JACCL-MESH-INIT, JACCL-RING-INIT]"""

OWN_ID: Final = -1
"""The local_id of a rank's own entry. [JACCL-DESTINATION]"""

SEQUENCE_NUMBER: Final = 7
"""The packet_sequence_number of every Destination. [JACCL-DESTINATION]"""

DESTINATION_SIZE: Final = 32

_Buffer = bytes | bytearray | memoryview
_I32: Final = Struct("<i")
_I32_MAX: Final = 2**31 - 1
_LAYOUT: Final = Struct("<iii4x16s")
_FIELDS: Final = (
    (0, "local_id", "jaccl-local-id", OWN_ID, _I32_MAX),
    (4, "queue_pair_number", "jaccl-queue-pair", 0, _I32_MAX),
    (8, "packet_sequence_number", "jaccl-sequence-number", SEQUENCE_NUMBER, SEQUENCE_NUMBER),
)


# -- Destinations ------------------------------------------------------------------------------------------------------


class Destination(msgspec.Struct, frozen=True):
    """Where a queue pair is reached, 32 bytes. In a rank's own entry, local_id −1, the other fields mean nothing.

    `gid` is 16 bytes in network order. [JACCL-DESTINATION]
    """

    local_id: int
    queue_pair_number: int = 0
    packet_sequence_number: int = SEQUENCE_NUMBER
    gid: bytes = bytes(16)


OWN_ENTRY: Final = Destination(OWN_ID)
"""What stands in a mesh list at the rank's own place."""


def mapped_gid(ip: str | IPv4Address) -> bytes:
    """The GID of an interface with this IPv4 address: ten zeros, `ff ff`, the address. ValueError if it is none."""
    return bytes(10) + b"\xff\xff" + IPv4Address(ip).packed


def encode_destination(destination: Destination) -> bytes:
    """The 32 bytes; those that mean nothing are zero. Raises `MalformedError`."""
    for _, name, code, low, high in _FIELDS:
        value = getattr(destination, name)
        if type(value) is not int:
            raise MalformedError("field-type", f"expected int, not {type(value).__name__}", path=name)
        if not low <= value <= high:
            raise MalformedError(code, f"{value} is not from {low} to {high}", path=name)
        if value == OWN_ID:
            return _I32.pack(OWN_ID).ljust(DESTINATION_SIZE, b"\0")
    gid = destination.gid
    if type(gid) is not bytes:
        raise MalformedError("field-type", f"expected bytes, not {type(gid).__name__}", path="gid")
    if len(gid) != 16:
        raise MalformedError("field-length", f"expected 16 bytes, not {len(gid)}", path="gid")
    return _LAYOUT.pack(destination.local_id, destination.queue_pair_number, destination.packet_sequence_number, gid)


def decode_destination(data: _Buffer) -> Destination:
    """The Destination that `data`, all of it, stands for; `OWN_ENTRY` for any own entry.

    Raises `TruncatedError` or `MalformedError`. Agrees with `schema.JACCL_DESTINATION` on every byte string.
    """
    own = False
    for at, name, code, low, high in _FIELDS[: min(3, len(data) // 4)]:
        (value,) = _I32.unpack_from(data, at)
        if not low <= value <= high:
            raise MalformedError(code, f"{value} is not from {low} to {high}", offset=at, path=name)
        if own := value == OWN_ID:
            break
    if len(data) < DESTINATION_SIZE:
        raise TruncatedError("truncated", f"a Destination has {DESTINATION_SIZE} bytes", offset=len(data))
    if len(data) > DESTINATION_SIZE:
        raise MalformedError("trailing-data", "bytes follow the Destination", offset=DESTINATION_SIZE)
    return OWN_ENTRY if own else Destination(*_LAYOUT.unpack(data))


# -- a worker ----------------------------------------------------------------------------------------------------------


class Worker:
    """The side channel as ranks 1 to size − 1 have it: `start`, then one gather after the other.

    A gather is `gather(own)`, which gives the bytes to send, and `receive(data)` with what comes in until it gives the
    result. After an error the channel is done, and says the same whenever it is used.
    """

    def __init__(self, rank: int, size: int) -> None:
        _check_size(size)
        if not 1 <= rank < size:
            raise ValueError(f"rank {rank} is no worker among {size} ranks")
        self.rank = rank
        self.size = size
        self._own: bytes | None = None  # while a gather is under way
        self._buffer = bytearray()
        self._passed = 0  # bytes of the stream that belonged to earlier gathers
        self._ended = False
        self._fault: WireError | None = None

    def start(self) -> bytes:
        """The HELLO: once, before all else. [JACCL-HELLO]"""
        return _I32.pack(self.rank)

    def gather(self, own: _Buffer) -> bytes:
        """Starts the next gather with the own contribution; the bytes to send. [JACCL-GATHER]

        Raises `LimitError` for more than `MAX_GATHER` bytes, `StateError` while a gather is under way, `TruncatedError`
        once the root has left.
        """
        self._check()
        if self._own is not None:
            raise StateError("jaccl-state", "the gather before is under way")
        _check_length(own)
        if self._ended:
            self._fail(TruncatedError("truncated", "the root has left", offset=self._passed))
        self._own = bytes(own)
        return self._own

    def receive(self, data: _Buffer) -> bytes | None:
        """Takes the next bytes from the root: the result, size × n bytes, once it is whole; until then None.

        The result of a gather of no bytes is whole at once: `receive(b"")` gives it. Raises `MalformedError` where the
        own contribution came back changed, `StateError` for bytes that belong to no gather yet.
        """
        self._check()
        self._buffer += data
        wanted = 0 if self._own is None else self.size * len(self._own)
        if self._own is not None and len(self._buffer) >= wanted:
            try:
                _check_own_place(self._buffer, self._own, self.rank, self._passed)
            except WireError as error:
                self._fail(error)
        if len(self._buffer) > wanted:
            detail = "bytes came from the root before the next gather"
            self._fail(StateError("jaccl-early", detail, offset=self._passed + wanted))
        if self._own is None or len(self._buffer) < wanted:
            return None
        result = bytes(self._buffer)
        self._own = None
        self._passed += wanted
        self._buffer.clear()
        return result

    def receive_eof(self) -> None:
        """Says that the root sends no more: fine between two gathers, else `TruncatedError`."""
        self._check()
        if self._own is not None:
            offset = self._passed + len(self._buffer)
            self._fail(TruncatedError("truncated", "the root left in the middle of a gather", offset=offset))
        self._ended = True

    def _check(self) -> None:
        if self._fault is not None:
            raise copy(self._fault)  # the same one would grow its traceback each time

    def _fail(self, error: WireError) -> NoReturn:
        self._fault = error
        self._buffer.clear()
        raise error


# -- the root ----------------------------------------------------------------------------------------------------------


class Root:
    """The side channel as rank 0 has it: `connect()` for each TCP connection, and one gather after the other.

    A gather is `gather(own)`, then `result()` whenever something came in, until it gives the bytes to send to every
    worker. Who has not said a right HELLO yet is a stranger, whose faults end nothing but its connection. The fault of
    a worker, `blamed`, ends the root and all connections: they say the same whenever they are used.
    """

    workers: dict[int, "Connection"]
    """The connections that have said a right HELLO, by rank."""
    blamed: "Connection | None"
    """The worker whose fault has ended the root."""

    def __init__(self, size: int) -> None:
        _check_size(size)
        self.size = size
        self.workers = {}
        self.blamed = None
        self._own: bytes | None = None  # while a gather is under way
        self._fault: WireError | None = None

    def connect(self) -> "Connection":
        """A TCP connection was accepted."""
        self._check()
        return Connection(self)

    @property
    def missing(self) -> tuple[int, ...]:
        """The ranks without a HELLO or, while a gather is under way, without their whole contribution to it."""
        length = 0 if self._own is None else len(self._own)
        return tuple(
            rank for rank in range(1, self.size) if rank not in self.workers or self.workers[rank].waiting < length
        )

    def gather(self, own: _Buffer) -> None:
        """Starts the next gather with rank 0's contribution. Raises as `Worker.gather` does. [JACCL-GATHER]

        A worker may be ahead with its contribution: more than that is its fault, and raised here.
        """
        self._check()
        if self._own is not None:
            raise StateError("jaccl-state", "the result of the gather before was not taken")
        _check_length(own)
        self._own = bytes(own)
        for worker in self.workers.values():
            worker._check_gather()

    def result(self) -> bytes | None:
        """What to send to each worker: the contributions of ranks 0, 1, … in a row; None while some are missing.

        It is given once, and ends the gather.
        """
        self._check()
        if self._own is None:
            raise StateError("jaccl-state", "no gather is under way")
        if self.missing:
            return None
        own, self._own = self._own, None
        return own + b"".join(self.workers[rank]._take(len(own)) for rank in range(1, self.size))

    def _check(self) -> None:
        if self._fault is not None:
            raise copy(self._fault)


class Connection:
    """One TCP connection to the root, as `Root.connect` makes it: `receive(data)` what comes in on it.

    Raises what is wrong with it: `MalformedError` for a HELLO, `StateError` or `LimitError` for bytes before their
    time, `TruncatedError` for an end in the middle. Offsets count from the first byte of the connection.
    """

    rank: int | None
    """From the HELLO; None of a stranger."""

    def __init__(self, root: Root) -> None:
        self.rank = None
        self._root = root
        self._buffer = bytearray()
        self._passed = 0
        self._ended = False
        self._fault: WireError | None = None

    @property
    def waiting(self) -> int:
        """Bytes that have come, and belong to no result yet."""
        return len(self._buffer)

    def receive(self, data: _Buffer) -> None:
        """Takes the next bytes, any number of them. A new `Root.result` may be there then."""
        self._check()
        self._buffer += data
        if self.rank is None and self.waiting >= _I32.size:
            self._admit()
        if self.rank is not None:
            self._check_gather()

    def receive_eof(self) -> None:
        """Says that the peer sends no more. Only a worker whose every byte has been answered may leave."""
        self._check()
        if self.rank is None or self._buffer or self._root._own is not None:
            where = "before its HELLO" if self.rank is None else "in the middle of a gather"
            offset = self._passed + self.waiting
            self._fail(TruncatedError("truncated", f"the connection ended {where}", offset=offset))
        self._ended = True

    def _admit(self) -> None:
        """Reads the HELLO. [JACCL-HELLO]"""
        (rank,) = _I32.unpack_from(self._buffer)
        last = self._root.size - 1
        if not 1 <= rank <= last:
            self._fail(MalformedError("jaccl-rank", f"{rank} is not from 1 to {last}", offset=0, path="rank"))
        if rank in self._root.workers:
            self._fail(MalformedError("jaccl-rank-taken", f"rank {rank} is there already", offset=0, path="rank"))
        self.rank = rank
        self._root.workers[rank] = self
        self._take(_I32.size)

    def _check_gather(self) -> None:
        """Nothing but the contribution to one gather may be there: what follows it would answer a result not sent."""
        own = self._root._own
        if own is not None and self._ended:
            self._fail(TruncatedError("truncated", f"rank {self.rank} has left", offset=self._passed))
        limit = MAX_GATHER if own is None else len(own)
        if self.waiting > limit:
            offset = self._passed + limit
            if own is None:
                detail = f"rank {self.rank} contributes more than the limit of {MAX_GATHER} bytes"
                self._fail(LimitError("jaccl-gather-limit", detail, offset=offset))
            detail = f"rank {self.rank} sent more than the {limit} bytes of this gather"
            self._fail(StateError("jaccl-early", detail, offset=offset))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._passed += count
        return taken

    def _check(self) -> None:
        if self._fault is not None:
            raise copy(self._fault)
        self._root._check()

    def _fail(self, error: WireError) -> NoReturn:
        self._fault = error
        self._buffer.clear()
        if self.rank is not None:
            self._root.blamed = self
            self._root._fault = error
        raise error


# -- how JACCL forms a group -------------------------------------------------------------------------------------------

Destinations = tuple[Destination, ...]
"""One rank's list."""


class RingDestinations(NamedTuple):
    """The lists of all ranks, by rank: how each is reached from its left, and from its right neighbour."""

    left: tuple[Destinations, ...]
    right: tuple[Destinations, ...]


def mesh_init(
    rank: int, size: int, destinations: Sequence[Destination]
) -> Generator[bytes, bytes, tuple[Destinations, ...]]:
    """The gathers that form a mesh: yields the own contributions, is sent the results, returns all ranks' lists.

    `destinations` has an entry a rank, `OWN_ENTRY` for itself; with w connections between two ranks, w such lists in a
    row. Rank r reaches peer p by entry r of p's list. Raises `MalformedError`; offsets count from the start of the
    result that was sent. [JACCL-MESH-INIT]
    """
    _check_rank(rank, size)
    own = _encode_list("mesh", rank, destinations, size)
    lists = yield from _gather_lists("mesh", rank, size, own, size)
    yield from _barrier(rank, size)
    return lists


def ring_init(
    rank: int, size: int, left: Sequence[Destination], right: Sequence[Destination]
) -> Generator[bytes, bytes, RingDestinations]:
    """The gathers that form a ring, as those of `mesh_init`.

    `left` and `right` have an entry a connection with the left and the right neighbour: equally many, on all ranks.
    Rank r reaches its left neighbour by that one's list for the right, and the other way round. [JACCL-RING-INIT]
    """
    _check_rank(rank, size)
    if len(left) != len(right):
        raise MalformedError("jaccl-count", f"{len(left)} Destinations to the left, {len(right)} to the right")
    own_left, own_right = _encode_list("left", rank, left, 1), _encode_list("right", rank, right, 1)
    lefts = yield from _gather_lists("left", rank, size, own_left, 1)
    rights = yield from _gather_lists("right", rank, size, own_right, 1)
    yield from _barrier(rank, size)
    return RingDestinations(lefts, rights)


def _gather_lists(
    name: str, rank: int, size: int, own: bytes, per_wire: int
) -> Generator[bytes, bytes, tuple[Destinations, ...]]:
    """GATHER(4) of the count and GATHER(32 × count) of the list."""
    count = len(own) // DESTINATION_SIZE
    counts = yield from _gather(_I32.pack(count), rank, size)
    for peer, data in enumerate(counts):
        (value,) = _I32.unpack(data)
        if value != count:
            detail = f"rank {peer} has {value} Destinations, and rank {rank} has {count}"
            raise MalformedError("jaccl-count", detail, offset=peer * _I32.size, path=f"{name}[{peer}].count")
    gathered = yield from _gather(own, rank, size)
    return tuple(tuple(_decode_list(name, peer, data, per_wire)) for peer, data in enumerate(gathered))


def _encode_list(name: str, rank: int, destinations: Sequence[Destination], per_wire: int) -> bytes:
    """A rank's contribution: `per_wire` Destinations for each connection between two ranks."""
    count = len(destinations)
    if count % per_wire or not 1 <= count // per_wire <= MAX_WIRES:
        raise MalformedError("jaccl-count", f"{count} Destinations are not 1 to {MAX_WIRES} × {per_wire}", path=name)
    encoded = b""
    for entry, destination in enumerate(destinations):
        path = f"{name}[{rank}][{entry}]"
        try:
            encoded += encode_destination(destination)
        except WireError as error:
            raise type(error)(error.code, error.detail, path=f"{path}.{error.path}") from error
        _check_own_entry(destination, _is_own_place(rank, entry, per_wire), path, None)
    return encoded


def _decode_list(name: str, rank: int, data: bytes, per_wire: int) -> Iterator[Destination]:
    """The Destinations of a rank's contribution; offsets are those in the result."""
    for entry, start in enumerate(range(0, len(data), DESTINATION_SIZE)):
        path, offset = f"{name}[{rank}][{entry}]", rank * len(data) + start
        try:
            destination = decode_destination(data[start : start + DESTINATION_SIZE])
        except WireError as error:
            offset += error.offset or 0
            raise type(error)(error.code, error.detail, offset=offset, path=f"{path}.{error.path}") from error
        _check_own_entry(destination, _is_own_place(rank, entry, per_wire), path, offset)
        yield destination


def _is_own_place(rank: int, entry: int, per_wire: int) -> bool:
    """For each connection a mesh list has an entry a rank, the own one among them; a ring list has one entry."""
    return per_wire > 1 and entry % per_wire == rank


def _check_own_entry(destination: Destination, expected: bool, path: str, offset: int | None) -> None:
    if (destination.local_id == OWN_ID) is not expected:
        detail = f"expected {'the own entry' if expected else 'the entry of a peer'}, not {destination.local_id}"
        raise MalformedError("jaccl-own-entry", detail, offset=offset, path=f"{path}.local_id")


def _barrier(rank: int, size: int) -> Generator[bytes, bytes, None]:
    """GATHER(4) of zero, twice."""
    for _ in range(2):
        for peer, data in enumerate((yield from _gather(bytes(4), rank, size))):
            if any(data):
                detail = f"rank {peer} is not at the barrier: it sent {data.hex()}"
                raise MalformedError("jaccl-barrier", detail, offset=peer * 4, path=f"barrier[{peer}]")


def _gather(own: bytes, rank: int, size: int) -> Generator[bytes, bytes, list[bytes]]:
    """One gather; the contributions by rank."""
    result = yield own
    length = len(own)
    if len(result) != size * length:
        raise MalformedError("jaccl-result", f"a result of {len(result)} bytes is not {size} × {length}")
    _check_own_place(result, own, rank, 0)
    return [result[at : at + length] for at in range(0, size * length, length)]


def _check_own_place(result: _Buffer, own: bytes, rank: int, offset: int) -> None:
    """The result holds the own contribution at the own place; `offset` is that of the result in its stream."""
    start = rank * len(own)
    came_back = bytes(result[start : start + len(own)])
    if came_back != own:
        first = next(at for at, (came, sent) in enumerate(zip(came_back, own, strict=True)) if came != sent)
        detail = f"rank {rank}'s contribution came back changed"
        raise MalformedError("jaccl-own-changed", detail, offset=offset + start + first)


def _check_length(own: _Buffer) -> None:
    length = memoryview(own).nbytes
    if length > MAX_GATHER:
        raise LimitError("jaccl-gather-limit", f"{length} bytes are more than the limit of {MAX_GATHER}")


def _check_size(size: int) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"{size} ranks cannot form a group, use {MIN_SIZE} to {MAX_SIZE}")


def _check_rank(rank: int, size: int) -> None:
    _check_size(size)
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not from 0 to {size - 1}")
