"""Destinations, and the gathers that form a mesh or a ring: all ranks in memory, and the library's bytes."""

from collections.abc import Callable, Generator
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import some
from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto.errors import MalformedError
from wireproto.jaccl import (
    DESTINATION_SIZE,
    MAX_SIZE,
    MAX_WIRES,
    MIN_SIZE,
    OWN_ENTRY,
    Destination,
    InitGathers,
    RingDestinations,
    Root,
    Worker,
    decode_destination,
    encode_destination,
    mapped_gid,
    mesh_init,
    ring_init,
)
from wireproto.schema import JacclDestination, build, parse

SIZES = (*range(MIN_SIZE, 9), MAX_SIZE)
WIRES = (1, MAX_WIRES, 5, 9)
Init = Generator[bytes, bytes, Any]

i32s = st.integers(0, 2**31 - 1)
peers = st.builds(Destination, i32s, i32s, gid=st.binary(min_size=16, max_size=16))


def i32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


def destination_of(rank: int, entry: int) -> Destination:
    return Destination(100 * rank + entry, 1000 * rank + entry, gid=mapped_gid(f"169.254.{rank}.{entry % 256}"))


def mesh_list(rank: int, size: int, wires: int = 1) -> list[Destination]:
    return [OWN_ENTRY if entry % size == rank else destination_of(rank, entry) for entry in range(size * wires)]


def ring_lists(rank: int, wires: int) -> RingDestinations:
    left = tuple(destination_of(rank, entry) for entry in range(wires))
    return RingDestinations(left, tuple(destination_of(rank, 100 + entry) for entry in range(wires)))


# -- one Destination ---------------------------------------------------------------------------------------------------


def by_schema(data: bytes) -> Destination:
    value = parse(JacclDestination, data)
    if value.endpoint is None:
        return OWN_ENTRY
    end = value.endpoint
    return Destination(value.local_id, end.queue_pair_number, end.packet_sequence_number, end.gid)


words = st.sampled_from([i32(value) for value in (-1, 0, 1, 7, -2, 2**31 - 1, -(2**31))])
almost = st.lists(words, min_size=2, max_size=9).map(b"".join)


@given(
    data=st.one_of(
        st.binary(max_size=40), almost, st.binary(min_size=20, max_size=20).map(lambda x: x[:8] + i32(7) + x)
    )
)
def test_destination_is_that_of_the_schema(data: bytes) -> None:
    """Value, code, offset and path agree on every byte string. [JACCL-DESTINATION]"""
    assert verdict(decode_destination, data) == verdict(by_schema, data)


@given(destination=st.one_of(peers, st.just(OWN_ENTRY)))
def test_encoded_destination_is_that_of_the_schema(destination: Destination) -> None:
    endpoint = (
        None
        if destination is OWN_ENTRY
        else {
            "queue_pair_number": destination.queue_pair_number,
            "packet_sequence_number": 7,
            "gid": destination.gid,
        }
    )
    data = encode_destination(destination)
    assert data == build(JacclDestination, {"local_id": destination.local_id, "endpoint": endpoint})
    assert len(data) == DESTINATION_SIZE
    assert decode_destination(data) == destination


def test_destination_bytes() -> None:
    """[JACCL-DESTINATION]"""
    destination = Destination(5, 0x201, gid=mapped_gid("169.254.1.2"))
    data = bytes.fromhex("05000000 01020000 07000000 00000000 00000000000000000000ffff a9fe0102")
    assert encode_destination(destination) == data
    assert decode_destination(data) == decode_destination(memoryview(data)) == destination
    assert encode_destination(Destination(-1, 77, 5, b"whatever")) == b"\xff\xff\xff\xff" + bytes(28)


def test_mapped_gid_needs_an_address() -> None:
    for text in ("", "mac.local", "169.254.1", "169.254.1.256", "::1"):
        with pytest.raises(ValueError, match=r"[Ee]xpected|[Oo]ctet|empty|permitted|[Aa]ddress"):
            mapped_gid(text)


@pytest.mark.parametrize(
    ("destination", "code", "path"),
    [
        (Destination(-2), "jaccl-local-id", "local_id"),
        (Destination(2**31), "jaccl-local-id", "local_id"),
        (Destination(0, -1), "jaccl-queue-pair", "queue_pair_number"),
        (Destination(0, 2**31), "jaccl-queue-pair", "queue_pair_number"),
        (Destination(0, 0, 6), "jaccl-sequence-number", "packet_sequence_number"),
        (Destination(True), "field-type", "local_id"),
        (Destination("1"), "field-type", "local_id"),  # type: ignore[arg-type]
        (Destination(0, 1.0), "field-type", "queue_pair_number"),  # type: ignore[arg-type]
        (Destination(0, gid=bytes(15)), "field-length", "gid"),
        (Destination(0, gid=bytes(17)), "field-length", "gid"),
        (Destination(0, gid="x" * 16), "field-type", "gid"),  # type: ignore[arg-type]
    ],
)
def test_destination_not_encoded(destination: Destination, code: str, path: str) -> None:
    assert verdict(encode_destination, destination) == expected(code, None, path)


# -- all ranks in memory -----------------------------------------------------------------------------------------------


def play(inits: list[Init]) -> list[Any]:
    """Run each rank's init over a `Root` and `Worker`s; return the results."""
    size = len(inits)
    root, workers = Root(size), [Worker(rank, size) for rank in range(1, size)]
    connections = [root.connect() for _ in workers]
    for worker, connection in zip(workers, connections, strict=True):
        connection.receive(worker.start())
    results: list[bytes | None] = [None] * size
    while True:
        sent: list[bytes] = []
        returned: list[Any] = []
        for init, result in zip(inits, results, strict=True):
            try:
                sent.append(next(init) if result is None else init.send(result))
            except StopIteration as stop:
                returned.append(stop.value)
        if returned:
            assert sent == []
            return returned
        root.gather(sent[0])
        for worker, connection, own in zip(workers, connections, sent[1:], strict=True):
            connection.receive(worker.gather(own))
        gathered = root.result()
        assert gathered is not None
        results = [gathered, *(worker.receive(gathered) for worker in workers)]


@pytest.mark.parametrize(("size", "wires"), [*product(SIZES[:-1], WIRES), *product(SIZES[-1:], some(WIRES))])
def test_mesh(size: int, wires: int) -> None:
    """[JACCL-MESH-INIT]"""
    lists = [mesh_list(rank, size, wires) for rank in range(size)]
    returned = play([mesh_init(rank, size, lists[rank]) for rank in range(size)])
    assert returned == [tuple(map(tuple, lists))] * size
    for rank in range(size):
        for peer in set(range(size)) - {rank}:
            assert returned[rank][peer][rank] == destination_of(peer, rank)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wires", [1, MAX_WIRES])
def test_ring(size: int, wires: int) -> None:
    """[JACCL-RING-INIT]"""
    lists = [ring_lists(rank, wires) for rank in range(size)]
    returned = play([ring_init(rank, size, *lists[rank]) for rank in range(size)])
    everybody = RingDestinations(tuple(each.left for each in lists), tuple(each.right for each in lists))
    assert returned == [everybody] * size


@given(data=st.data(), size=st.sampled_from(SIZES))
def test_any_destinations(data: st.DataObject, size: int) -> None:
    def draw(rank: int) -> tuple[Destination, ...]:
        return tuple(OWN_ENTRY if entry == rank else data.draw(peers) for entry in range(size))

    lists = tuple(draw(rank) for rank in range(size))
    assert play([mesh_init(rank, size, lists[rank]) for rank in range(size)]) == [lists] * size


# -- as the library sends it -------------------------------------------------------------------------------------------


def answers(init: Init, *results: bytes) -> Any:
    """Send results to an init; return its result, or None if it needs more."""
    next(init)
    try:
        for result in results:
            init.send(result)
    except StopIteration as stop:
        return stop.value
    return None


JUNK = bytes(range(0xC8, 0xC8 + 28))
PADDING = b"\xde\xad\xbe\xef"


def captured(rank: int, entry: int) -> bytes:
    """A peer's entry with the library's padding."""
    whole = encode_destination(destination_of(rank, entry))
    return whole[:12] + PADDING + whole[16:]


@given(junk=st.binary(min_size=28, max_size=28), padding=st.binary(min_size=4, max_size=4))
def test_memory_that_was_never_written(junk: bytes, padding: bytes) -> None:
    """The peers' own entries and all padding have any value; this rank's list comes back unchanged."""
    mine = b"".join(map(encode_destination, mesh_list(0, 2)))
    theirs = encode_destination(destination_of(1, 0))
    result = mine + theirs[:12] + padding + theirs[16:] + b"\xff\xff\xff\xff" + junk
    returned = answers(mesh_init(0, 2, mesh_list(0, 2)), i32(2) * 2, result, bytes(8), bytes(8))
    assert returned == (tuple(mesh_list(0, 2)), tuple(mesh_list(1, 2)))


def test_captured_ring() -> None:
    mine = ring_lists(1, 2)
    left = b"".join(map(encode_destination, mine.left))
    right = b"".join(map(encode_destination, mine.right))
    lefts = captured(0, 0) + captured(0, 1) + left
    rights = captured(0, 100) + captured(0, 101) + right
    returned = answers(ring_init(1, 2, *mine), i32(2) * 2, lefts, i32(2) * 2, rights, bytes(8), bytes(8))
    assert returned == RingDestinations((ring_lists(0, 2).left, mine.left), (ring_lists(0, 2).right, mine.right))


def test_what_is_yielded() -> None:
    init = mesh_init(1, 3, mesh_list(1, 3))
    own = b"".join(map(encode_destination, mesh_list(1, 3)))
    assert own[32:64] == b"\xff\xff\xff\xff" + bytes(28)
    others = [b"".join(map(encode_destination, mesh_list(rank, 3))) for rank in (0, 2)]
    assert next(init) == i32(3)
    assert init.send(i32(3) * 3) == own
    assert init.send(others[0] + own + others[1]) == bytes(4)
    assert init.send(bytes(12)) == bytes(4)


# -- faults ------------------------------------------------------------------------------------------------------------

COUNTS = i32(3) * 3
OTHER_0 = captured(0, 0)[:0] + b"\xff\xff\xff\xff" + JUNK + captured(0, 1) + captured(0, 2)
OWN = b"".join(map(encode_destination, mesh_list(1, 3)))
OTHER_2 = captured(2, 0) + captured(2, 1) + b"\xff\xff\xff\xff" + JUNK
LISTS = OTHER_0 + OWN + OTHER_2
ZEROS = bytes(12)


def changed(data: bytes, at: int, word: int) -> bytes:
    return data[:at] + i32(word) + data[at + 4 :]


MESH_FAULTS = {
    "count-less": ([changed(COUNTS, 0, 2)], "jaccl-count", 0, "mesh[0].count"),
    "count-more": ([changed(COUNTS, 8, 6)], "jaccl-count", 8, "mesh[2].count"),
    "count-negative": ([changed(COUNTS, 8, -3)], "jaccl-count", 8, "mesh[2].count"),
    "count-huge": ([changed(COUNTS, 0, 2**31 - 1)], "jaccl-count", 0, "mesh[0].count"),
    "count-own": ([changed(COUNTS, 4, 2)], "jaccl-own-changed", 4, None),
    "counts-short": ([COUNTS[:-1]], "jaccl-result", None, None),
    "counts-long": ([COUNTS + b"\0"], "jaccl-result", None, None),
    "lists-short": ([COUNTS, LISTS[:-32]], "jaccl-result", None, None),
    "lists-empty": ([COUNTS, b""], "jaccl-result", None, None),
    "own-list": ([COUNTS, changed(LISTS, 96, 9)], "jaccl-own-changed", 96, None),
    "own-junk": ([COUNTS, changed(LISTS, 96 + 36, 9)], "jaccl-own-changed", 96 + 36, None),
    "peer-at-own-place": ([COUNTS, captured(0, 0) + LISTS[32:]], "jaccl-own-entry", 0, "mesh[0][0].local_id"),
    "own-at-peers-place": ([COUNTS, changed(LISTS, 224, -1)], "jaccl-own-entry", 224, "mesh[2][1].local_id"),
    "local-id": ([COUNTS, changed(LISTS, 64, -2)], "jaccl-local-id", 64, "mesh[0][2].local_id"),
    "queue-pair": ([COUNTS, changed(LISTS, 196, -1)], "jaccl-queue-pair", 196, "mesh[2][0].queue_pair_number"),
    "sequence": ([COUNTS, changed(LISTS, 40, 8)], "jaccl-sequence-number", 40, "mesh[0][1].packet_sequence_number"),
    "barrier": ([COUNTS, LISTS, changed(ZEROS, 8, 1)], "jaccl-barrier", 8, "barrier[2]"),
    "barrier-own": ([COUNTS, LISTS, changed(ZEROS, 4, 1)], "jaccl-own-changed", 4, None),
    "second-barrier": ([COUNTS, LISTS, ZEROS, changed(ZEROS, 0, 1)], "jaccl-barrier", 0, "barrier[0]"),
    "barrier-short": ([COUNTS, LISTS, ZEROS[1:]], "jaccl-result", None, None),
}


def test_the_mesh_without_a_fault() -> None:
    returned = answers(mesh_init(1, 3, mesh_list(1, 3)), COUNTS, LISTS, ZEROS, ZEROS)
    assert returned == tuple(tuple(mesh_list(rank, 3)) for rank in range(3))


@pytest.mark.parametrize(("results", "code", "offset", "path"), MESH_FAULTS.values(), ids=MESH_FAULTS)
def test_mesh_fault(results: list[bytes], code: str, offset: int | None, path: str | None) -> None:
    """[JACCL-MESH-INIT]"""
    assert verdict(answers, mesh_init(1, 3, mesh_list(1, 3)), *results) == expected(code, offset, path)
    *before, _ = results
    assert answers(mesh_init(1, 3, mesh_list(1, 3)), *before) is None


RING_COUNTS = i32(1) * 2
RING_OWN = [encode_destination(destination_of(0, entry)) for entry in (0, 100)]
LEFTS, RIGHTS = RING_OWN[0] + captured(1, 0), RING_OWN[1] + captured(1, 100)
RING_FAULTS = {
    "count": ([changed(RING_COUNTS, 4, 2)], "jaccl-count", 4, "left[1].count"),
    "own-entry": ([RING_COUNTS, changed(LEFTS, 32, -1)], "jaccl-own-entry", 32, "left[1][0].local_id"),
    "right-count": ([RING_COUNTS, LEFTS, changed(RING_COUNTS, 4, 0)], "jaccl-count", 4, "right[1].count"),
    "right": (
        [RING_COUNTS, LEFTS, RING_COUNTS, changed(RIGHTS, 36, -1)],
        "jaccl-queue-pair",
        36,
        "right[1][0].queue_pair_number",
    ),
    "barrier": (
        [RING_COUNTS, LEFTS, RING_COUNTS, RIGHTS, bytes(8), changed(bytes(8), 4, -1)],
        "jaccl-barrier",
        4,
        "barrier[1]",
    ),
}


@pytest.mark.parametrize(("results", "code", "offset", "path"), RING_FAULTS.values(), ids=RING_FAULTS)
def test_ring_fault(results: list[bytes], code: str, offset: int, path: str) -> None:
    """[JACCL-RING-INIT]"""
    assert verdict(answers, ring_init(0, 2, *ring_lists(0, 1)), *results) == expected(code, offset, path)


PEER = destination_of(0, 1)


@pytest.mark.parametrize(
    ("init", "code", "path"),
    [
        (lambda: mesh_init(0, 2, []), "jaccl-count", "mesh"),
        (lambda: mesh_init(0, 2, [OWN_ENTRY]), "jaccl-count", "mesh"),
        (lambda: mesh_init(0, 2, [OWN_ENTRY, PEER, OWN_ENTRY]), "jaccl-count", "mesh"),
        (lambda: mesh_init(0, 2, [OWN_ENTRY, PEER] * 16_385), "jaccl-count", "mesh"),
        (lambda: mesh_init(0, 2, [PEER, OWN_ENTRY]), "jaccl-own-entry", "mesh[0][0].local_id"),
        (lambda: mesh_init(0, 2, [OWN_ENTRY, PEER, OWN_ENTRY, OWN_ENTRY]), "jaccl-own-entry", "mesh[0][3].local_id"),
        (lambda: mesh_init(0, 2, [OWN_ENTRY, Destination(0, -1)]), "jaccl-queue-pair", "mesh[0][1].queue_pair_number"),
        (lambda: ring_init(0, 2, [PEER], []), "jaccl-count", None),
        (lambda: ring_init(0, 2, [], []), "jaccl-count", "left"),
        (lambda: ring_init(0, 2, [PEER] * 5, [PEER] * 5), "jaccl-count", "left"),
        (lambda: ring_init(0, 2, [OWN_ENTRY], [PEER]), "jaccl-own-entry", "left[0][0].local_id"),
    ],
)
def test_own_lists_are_checked_before_anything_is_sent(init: Callable[[], Init], code: str, path: str | None) -> None:
    assert verdict(init) == expected(code, None, path)


def test_own_right_list_is_checked_before_anything_is_sent() -> None:
    assert verdict(ring_init, 0, 2, [PEER], [OWN_ENTRY]) == expected("jaccl-own-entry", None, "right[0][0].local_id")


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 1), (0, 65), (64, 64)])
def test_no_such_rank(rank: int, size: int) -> None:
    for init in (lambda: mesh_init(rank, size, []), lambda: ring_init(rank, size, [], [])):
        with pytest.raises(ValueError, match="rank"):
            init()


@given(data=st.data())
def test_only_wire_errors_come_out(data: st.DataObject) -> None:
    """Every changed word in valid results is detected, except in meaningless places."""
    results = [COUNTS, LISTS, ZEROS, ZEROS]
    which = data.draw(st.integers(0, 3))
    at = 4 * data.draw(st.integers(0, len(results[which]) // 4 - 1))
    word = data.draw(st.integers(-(2**31), 2**31 - 1))
    results[which] = changed(results[which], at, word)
    outcome = verdict(answers, mesh_init(1, 3, mesh_list(1, 3)), *results)
    if isinstance(outcome, Rejected):
        assert outcome.offset is not None
        assert outcome.offset // 32 == at // 32
    else:
        assert isinstance(outcome, Accepted)
        right = results[which] == [COUNTS, LISTS, ZEROS, ZEROS][which]
        # In the others' lists: all of an own entry but its local_id, all of a peer's but its sequence number.
        fixed = 0 if at // 32 in (0, 8) else 8
        assert right or (which == 1 and not 96 <= at < 192 and at % 32 != fixed)


# -- seen from outside -------------------------------------------------------------------------------------------------


def test_the_gathers_seen_from_outside() -> None:
    """[JACCL-MESH-INIT, JACCL-RING-INIT]"""
    for size, ring in ((2, False), (8, False), (3, True)):
        one = Destination(1, 5, gid=bytes(16))
        inits = [
            ring_init(rank, size, [one], [one]) if ring else mesh_init(rank, size, mesh_list(rank, size))
            for rank in range(size)
        ]
        seen = InitGathers(size, ring=ring)
        parts = [next(init) for init in inits]
        lengths = []
        while seen.length is not None:
            lengths.append(seen.length)
            seen.check(dict(enumerate(parts)))
            result = b"".join(parts)
            seen.complete(result)
            if seen.length is not None:
                parts = [init.send(result) for init in inits]
        assert lengths == ([4, 32, 4, 32, 4, 4] if ring else [4, 32 * size, 4, 4])
        with pytest.raises(MalformedError, match="jaccl-result"):
            seen.complete(b"")


@pytest.mark.parametrize(
    ("gathers", "wrong", "code", "path"),
    [
        (0, i32(3), "jaccl-count", "mesh[1].count"),
        (0, i32(0), "jaccl-count", "mesh[1].count"),
        (0, i32(4), "jaccl-count", "mesh[1].count"),
        (1, bytes(64), "jaccl-sequence-number", "mesh[1][0].packet_sequence_number"),
        (2, i32(1), "jaccl-barrier", "barrier[1]"),
    ],
)
def test_a_wrong_contribution_seen_from_outside(gathers: int, wrong: bytes, code: str, path: str) -> None:
    """The error names the rank, alone and in the result."""
    seen = InitGathers(2, ring=False)
    right = [next(mesh_init(rank, 2, mesh_list(rank, 2))) for rank in range(2)]
    lists = [b"".join(encode_destination(each) for each in mesh_list(rank, 2)) for rank in range(2)]
    for parts in [right, lists, [bytes(4)] * 2][:gathers]:
        seen.complete(b"".join(parts))
    first = [right, lists, [bytes(4)] * 2][gathers][0]
    for act in (lambda: seen.check({0: first, 1: wrong}), lambda: seen.complete(first + wrong)):
        with pytest.raises(MalformedError) as caught:
            act()
        assert (caught.value.code, caught.value.path) == (code, path)
        assert seen.number == gathers
    with pytest.raises(ValueError, match="rank 1's contribution has 5 bytes, not"):
        seen.check({1: bytes(5)})
