"""The gathers that form a JACCL group: a mesh or a ring. [JACCL-MESH-INIT, JACCL-RING-INIT]

`mesh_init` and `ring_init` are generators: they yield this rank's contribution to each gather and are sent its result.
`InitGathers` checks the gathers of an init from outside, for a process that relays them.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import MalformedError, WireError
from wireproto.jaccl.records import DESTINATION_SIZE, I32, OWN_ID, Destination, decode_destination, encode_destination
from wireproto.jaccl.side_channel import MAX_GATHER, check_own_place, check_size

MAX_WIRES: Final = 4
"""Largest number of parallel connections to each neighbour in a ring. A mesh has no limit. [JACCL-RING-INIT]"""

_MAX_COUNT: Final = MAX_GATHER // DESTINATION_SIZE
"""Destinations in one list: as many as a contribution may hold."""

Destinations = tuple[Destination, ...]
"""The list of one rank."""


class RingDestinations(NamedTuple):
    """The lists of all ranks of a ring, by rank."""

    left: tuple[Destinations, ...]
    """How the left neighbour reaches each rank."""
    right: tuple[Destinations, ...]
    """How the right neighbour reaches each rank."""


def mesh_init(
    rank: int, size: int, destinations: Sequence[Destination]
) -> Generator[bytes, bytes, tuple[Destinations, ...]]:
    """Form a mesh: yield contributions, receive results, and return the lists of all ranks. [JACCL-MESH-INIT]

    `destinations` has one entry per rank, with `OWN_ENTRY` for this rank; with w connections between two ranks, w such
    lists in a row. Rank r reaches peer p by entry r of p's list. JACCL itself forms meshes of at most 8 ranks.

    Raise `MalformedError`: for wrong arguments at the call, for a wrong result with the offset from its start.
    """
    _check_rank(rank, size)
    return _mesh(rank, size, _encode_list("mesh", rank, destinations, size))


class InitGathers:
    """The gathers of one init, for a process that relays them between native ranks. [JACCL-MESH-INIT, JACCL-RING-INIT]

    For each gather: receive contributions of `length` bytes, pass them to `check`, then pass the result to `complete`.
    """

    number: int
    """Number of the current gather, from 0."""

    def __init__(self, size: int, *, ring: bool) -> None:
        check_size(size)
        self.size = size
        self.number = 0
        lists = ("left", "right") if ring else ("mesh",)
        self._steps = [(kind, name) for name in lists for kind in ("count", "list")] + [("barrier", "")] * 2
        self._per_wire = 1 if ring else size
        self._count = 0

    @property
    def length(self) -> int | None:
        """Bytes in each contribution to the current gather; None once the init is complete."""
        if self.number == len(self._steps):
            return None
        return self._count * DESTINATION_SIZE if self._steps[self.number][0] == "list" else I32.size

    def check(self, contributions: Mapping[int, bytes]) -> None:
        """Check the contributions of some or all ranks. Raise `MalformedError`, which names the rank.

        Raise ValueError for a contribution that does not have `length` bytes.
        """
        kind, name = self._steps[self.number]
        for rank, data in contributions.items():
            if len(data) != self.length:
                raise ValueError(f"rank {rank}'s contribution has {len(data)} bytes, not {self.length}")
            if kind == "list":
                for _ in _decode_list(name, rank, data, self._per_wire):
                    pass
            elif kind == "barrier":
                _check_barrier(rank, data, None)
        if kind == "count":
            self._check_counts(name, {rank: I32.unpack(data)[0] for rank, data in contributions.items()})

    def complete(self, result: BytesLike) -> None:
        """Check the result of the current gather, and continue with the next gather. Raise `MalformedError`."""
        data, length = bytes(byte_view(result)), self.length
        if length is None or len(data) != self.size * length:
            raise MalformedError("jaccl-result", f"a result of {len(data)} bytes is not {self.size} × {length}")
        self.check({rank: data[rank * length : (rank + 1) * length] for rank in range(self.size)})
        if self._steps[self.number][0] == "count":
            (self._count,) = I32.unpack_from(data)
        self.number += 1

    def _check_counts(self, name: str, counts: Mapping[int, int]) -> None:
        most = (MAX_WIRES if self._per_wire == 1 else _MAX_COUNT // self._per_wire) * self._per_wire
        for rank, count in counts.items():
            if not 1 <= count <= most or count % self._per_wire:
                detail = f"rank {rank} has {count} Destinations, not a multiple of {self._per_wire} up to {most}"
                raise MalformedError("jaccl-count", detail, path=f"{name}[{rank}].count")
        first = min(counts, default=0)
        for rank, count in counts.items():
            if count != counts[first]:
                detail = f"rank {rank} has {count} Destinations, and rank {first} has {counts[first]}"
                raise MalformedError("jaccl-count", detail, path=f"{name}[{rank}].count")


def _mesh(rank: int, size: int, own: bytes) -> Generator[bytes, bytes, tuple[Destinations, ...]]:
    lists = yield from _gather_lists("mesh", rank, size, own, size)
    yield from _barrier(rank, size)
    return lists


def ring_init(
    rank: int, size: int, left: Sequence[Destination], right: Sequence[Destination]
) -> Generator[bytes, bytes, RingDestinations]:
    """Form a ring: yield contributions, receive results, and return the lists of all ranks. [JACCL-RING-INIT]

    `left` and `right` have one entry per connection to that neighbour, 1 to 4, and the same length on all ranks. Rank r
    reaches its left neighbour by that rank's right list, and its right neighbour by that rank's left list. Raise the
    errors of `mesh_init`.
    """
    _check_rank(rank, size)
    if len(left) != len(right):
        raise MalformedError("jaccl-count", f"{len(left)} Destinations to the left, {len(right)} to the right")
    return _ring(rank, size, _encode_list("left", rank, left, 1), _encode_list("right", rank, right, 1))


def _ring(rank: int, size: int, own_left: bytes, own_right: bytes) -> Generator[bytes, bytes, RingDestinations]:
    lefts = yield from _gather_lists("left", rank, size, own_left, 1)
    rights = yield from _gather_lists("right", rank, size, own_right, 1)
    yield from _barrier(rank, size)
    return RingDestinations(lefts, rights)


def _gather_lists(
    name: str, rank: int, size: int, own: bytes, per_wire: int
) -> Generator[bytes, bytes, tuple[Destinations, ...]]:
    """Gather the count (4 bytes), then the list (32 × count bytes)."""
    count = len(own) // DESTINATION_SIZE
    counts = yield from _gather(I32.pack(count), rank, size)
    for peer, data in enumerate(counts):
        (value,) = I32.unpack(data)
        if value != count:
            detail = f"rank {peer} has {value} Destinations, and rank {rank} has {count}"
            raise MalformedError("jaccl-count", detail, offset=peer * I32.size, path=f"{name}[{peer}].count")
    gathered = yield from _gather(own, rank, size)
    return tuple(tuple(_decode_list(name, peer, data, per_wire)) for peer, data in enumerate(gathered))


def _encode_list(name: str, rank: int, destinations: Sequence[Destination], per_wire: int) -> bytes:
    """Encode a rank's contribution: `per_wire` Destinations for each connection between two ranks."""
    count = len(destinations)
    most = MAX_WIRES if per_wire == 1 else _MAX_COUNT // per_wire
    if count % per_wire or not 1 <= count // per_wire <= most:
        raise MalformedError("jaccl-count", f"{count} Destinations are not 1 to {most} × {per_wire}", path=name)
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
    """Decode a rank's contribution. Offsets in errors count from the start of the result."""
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
    """Return whether an entry is the rank's own: a mesh list has one per connection, a ring list has only peers."""
    return per_wire > 1 and entry % per_wire == rank


def _check_own_entry(destination: Destination, expected: bool, path: str, offset: int | None) -> None:
    if (destination.local_id == OWN_ID) is not expected:
        detail = f"expected {'-1, its own entry' if expected else 'the entry of a peer'}, not {destination.local_id}"
        raise MalformedError("jaccl-own-entry", detail, offset=offset, path=f"{path}.local_id")


def _barrier(rank: int, size: int) -> Generator[bytes, bytes, None]:
    """Gather four zero bytes, twice."""
    for _ in range(2):
        for peer, data in enumerate((yield from _gather(bytes(4), rank, size))):
            _check_barrier(peer, data, peer * 4)


def _check_barrier(rank: int, data: bytes, offset: int | None) -> None:
    if any(data):
        detail = f"rank {rank} is not at the barrier: it sent {data.hex()}"
        raise MalformedError("jaccl-barrier", detail, offset=offset, path=f"barrier[{rank}]")


def _gather(own: bytes, rank: int, size: int) -> Generator[bytes, bytes, list[bytes]]:
    """Make one gather; return the contributions by rank."""
    result = bytes(byte_view((yield own)))
    length = len(own)
    if len(result) != size * length:
        raise MalformedError("jaccl-result", f"a result of {len(result)} bytes is not {size} × {length}")
    check_own_place(result, own, rank, 0)
    return [result[at : at + length] for at in range(0, size * length, length)]


def _check_rank(rank: int, size: int) -> None:
    check_size(size)
    if type(rank) is not int:
        raise TypeError(f"rank must be an int, not {type(rank).__name__}")
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not from 0 to {size - 1}")
