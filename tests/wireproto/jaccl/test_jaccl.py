"""JACCL's side channel in memory: HELLOs and gathers, whole, in pieces, and with every fault."""

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import some
from tests.wireproto.verdicts import Accepted, expected, pieces, verdict
from wireproto import WireError
from wireproto.jaccl import MAX_GATHER, MAX_SIZE, MIN_SIZE, Connection, Root, Worker
from wireproto.schema import JacclHello, build

SIZES = (*range(MIN_SIZE, 9), MAX_SIZE)
LENGTHS = ([4, 0, 33], [0], [1], [0, 0], [MAX_GATHER, 4])


def hello(rank: int) -> bytes:
    return rank.to_bytes(4, "little", signed=True)


def of(rank: int, length: int) -> bytes:
    """A contribution that differs from all others in each byte."""
    start = 16 * rank % 256
    return (bytes(range(256)) * (length // 256 + 2))[start : start + length]


def one_each(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def root_of(size: int) -> tuple[Root, list[Connection]]:
    """A root, and its workers' connections after their HELLO, by rank − 1."""
    root = Root(size)
    connections = [root.connect() for _ in range(size - 1)]
    for rank, connection in enumerate(connections, 1):
        connection.receive(hello(rank))
    return root, connections


# -- as it should be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "lengths"), [*product(SIZES[:-1], LENGTHS), *product(SIZES[-1:], some(LENGTHS))])
def test_gathers_among_all_ranks(size: int, lengths: list[int]) -> None:
    """[JACCL-GATHER]"""
    root = Root(size)
    workers = [Worker(rank, size) for rank in range(1, size)]
    connections = {worker: root.connect() for worker in reversed(workers)}
    for worker, connection in connections.items():
        connection.receive(worker.start())
        assert connection.rank == worker.rank
    assert root.workers == {worker.rank: connection for worker, connection in connections.items()}
    for length in lengths:
        root.gather(of(0, length))
        for worker, connection in connections.items():
            connection.receive(worker.gather(of(worker.rank, length)))
        result = root.result()
        assert result == b"".join(of(rank, length) for rank in range(size))
        for worker in workers:  # one after the other: each has a copy of up to 64 MiB
            assert worker.receive(result) == result
    for worker, connection in connections.items():
        worker.receive_eof()
        connection.receive_eof()


@pytest.mark.parametrize("rank", [*range(1, 9), MAX_SIZE - 1])
def test_hello_is_that_of_the_schema(rank: int) -> None:
    """[JACCL-HELLO]"""
    assert Worker(rank, MAX_SIZE).start() == build(JacclHello, {"rank": rank})


def test_result_waits_for_everybody() -> None:
    root = Root(4)
    one, two, three = (root.connect() for _ in range(3))
    assert root.missing == (1, 2, 3)
    two.receive(hello(2))
    assert root.missing == (1, 3)
    root.gather(b"00")
    assert (root.result(), root.missing) == (None, (1, 2, 3))
    one.receive(hello(3) + b"33")
    two.receive(b"2")
    assert (root.result(), root.missing) == (None, (1, 2))
    two.receive(b"2")
    three.receive(hello(1))
    assert (root.result(), root.missing) == (None, (1,))
    three.receive(b"11")
    assert root.missing == ()
    assert root.result() == b"00112233"
    assert root.missing == ()


def test_an_empty_gather_still_waits_for_every_hello() -> None:
    root = Root(2)
    root.gather(b"")
    assert root.result() is None
    root.connect().receive(hello(1))
    assert root.result() == b""
    worker = Worker(1, 2)
    assert worker.gather(b"") == b""
    assert worker.receive(b"") == b""


def test_a_worker_may_be_one_contribution_ahead() -> None:
    root, (one,) = root_of(2)
    one.receive(b"11")
    root.gather(b"00")
    assert root.result() == b"0011"
    one.receive(b"3333")
    assert one.waiting == 4
    root.gather(b"2222")
    assert root.result() == b"22223333"
    assert one.waiting == 0


def test_any_buffer() -> None:
    root, (one,) = root_of(2)
    root.gather(bytearray(b"00"))
    one.receive(memoryview(b"11"))
    worker = Worker(1, 2)
    assert worker.gather(memoryview(b"11")) == b"11"
    assert worker.receive(memoryview(root.result() or b"")) == b"0011"


@given(cuts=st.lists(st.integers(0, 60)), lengths=st.lists(st.integers(0, 9), max_size=4), size=st.sampled_from(SIZES))
def test_any_pieces_are_the_whole(cuts: list[int], lengths: list[int], size: int) -> None:
    """Send the root a HELLO and the first contribution, a worker its results, cut anywhere."""
    root = Root(size)
    for rank in range(1, size):
        connection = root.connect()
        for piece in pieces(hello(rank) + of(rank, 9), cuts):
            connection.receive(piece)
        assert connection.rank == rank
    root.gather(of(0, 9))
    assert root.result() == b"".join(of(rank, 9) for rank in range(size))
    worker = Worker(size - 1, size)
    for length in lengths:
        worker.gather(of(worker.rank, length))
        whole = b"".join(of(rank, length) for rank in range(size))
        results = [worker.receive(piece) for piece in [*pieces(whole, cuts), b""][: None if not whole else -1]]
        assert results == [None] * (len(results) - 1) + [whole]


# -- faults of a connection to the root --------------------------------------------------------------------------------

STRANGERS = {
    "rank-0": (hello(0), "jaccl-rank", 0, "rank"),
    "below": (hello(-1), "jaccl-rank", 0, "rank"),
    "size": (hello(4), "jaccl-rank", 0, "rank"),
    "least": (hello(-(2**31)), "jaccl-rank", 0, "rank"),
    "greatest": (hello(2**31 - 1), "jaccl-rank", 0, "rank"),
    "big-endian": (b"\0\0\0\1", "jaccl-rank", 0, "rank"),
    "http": (b"GET / HTTP/1.1\r\n\r\n", "jaccl-rank", 0, "rank"),
    "taken": (hello(1), "jaccl-rank-taken", 0, "rank"),
    "taken-and-more": (hello(1) + b"more", "jaccl-rank-taken", 0, "rank"),
    "nothing": (b"", "truncated", 0, None),
    "short": (b"\2\0\0", "truncated", 3, None),
}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["whole", "one-by-one"])
@pytest.mark.parametrize(("data", "code", "offset", "path"), STRANGERS.values(), ids=STRANGERS)
def test_a_strangers_fault_is_its_own(data: bytes, code: str, offset: int, path: str | None, one_by_one: bool) -> None:
    """[JACCL-HELLO]"""
    root = Root(4)
    first = root.connect()
    first.receive(hello(1))
    stranger = root.connect()

    def play() -> None:
        for piece in one_each(data) if one_by_one else [data]:
            stranger.receive(piece)
        stranger.receive_eof()

    wrong = expected(code, offset, path)
    assert verdict(play) == wrong
    assert stranger.rank is None
    assert [verdict(stranger.receive, b"x"), verdict(stranger.receive_eof)] == [wrong, wrong]
    assert root.blamed is None
    assert root.workers == {1: first}
    for rank in (2, 3):
        root.connect().receive(hello(rank) + of(rank, 1))
    first.receive(of(1, 1))
    root.gather(of(0, 1))
    assert root.result() == b"".join(of(rank, 1) for rank in range(4))


def ahead(root: Root, worker: Connection) -> None:
    root.gather(b"00")
    worker.receive(b"22")
    worker.receive(b"2")


def ahead_in_one(root: Root, worker: Connection) -> None:
    root.gather(b"00")
    worker.receive(b"22222")


def ahead_before(root: Root, worker: Connection) -> None:
    worker.receive(b"222")
    root.gather(b"00")


def too_much(root: Root, worker: Connection) -> None:
    worker.receive(bytes(MAX_GATHER))
    worker.receive(b"2")


def second_gather(root: Root, worker: Connection) -> None:
    root.workers[1].receive(b"11")
    worker.receive(b"22")
    root.gather(b"00")
    assert root.result() == b"001122"
    root.gather(b"")
    worker.receive(b"2")


def ends_inside(root: Root, worker: Connection) -> None:
    root.gather(b"00")
    worker.receive(b"2")
    worker.receive_eof()


def ends_without_a_result(root: Root, worker: Connection) -> None:
    worker.receive(b"22")
    worker.receive_eof()


def ends_at_once(root: Root, worker: Connection) -> None:
    root.gather(b"00")
    worker.receive_eof()


def has_left(root: Root, worker: Connection) -> None:
    worker.receive_eof()
    assert root.blamed is None
    root.gather(b"")


FAULTS = {
    ahead: ("jaccl-early", 6),
    ahead_in_one: ("jaccl-early", 6),
    ahead_before: ("jaccl-early", 6),
    too_much: ("jaccl-gather-limit", 4 + MAX_GATHER),
    second_gather: ("jaccl-early", 6),
    ends_inside: ("truncated", 5),
    ends_without_a_result: ("truncated", 6),
    ends_at_once: ("truncated", 4),
    has_left: ("truncated", 4),
}


@pytest.mark.parametrize(("play", "wrong"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_workers_fault_ends_the_root(play: Callable[[Root, Connection], None], wrong: tuple[str, int]) -> None:
    """[JACCL-GATHER]"""
    root, (one, two) = root_of(3)
    stranger = root.connect()
    fault = expected(*wrong)
    assert verdict(play, root, two) == fault
    assert root.blamed is two
    calls: list[Callable[[], object]] = [
        root.connect,
        root.result,
        lambda: root.gather(b""),
        lambda: one.receive(b""),
        one.receive_eof,
        lambda: two.receive(b"x"),
        two.receive_eof,
        lambda: stranger.receive(hello(2)),
    ]
    assert [verdict(call) for call in calls] == [fault] * len(calls)


def test_an_error_that_is_raised_again_is_a_new_one() -> None:
    root, (one,) = root_of(2)
    errors = []
    for _ in range(3):
        with pytest.raises(WireError) as caught:
            one.receive(bytes(MAX_GATHER + 1))
        errors.append(caught.value)
    with pytest.raises(WireError) as caught:
        root.result()
    errors.append(caught.value)
    assert len(set(map(id, errors))) == 4
    assert len(set(map(str, errors))) == 1


# -- faults of the root's bytes ----------------------------------------------------------------------------------------

RESULT = of(0, 3) + of(1, 3) + of(2, 3)
ROOT_FAULTS = {
    "own-changed": (RESULT[:3] + b"x" + RESULT[4:], "jaccl-own-changed", 9 + 3),
    "own-changed-at-its-end": (RESULT[:5] + b"x" + RESULT[6:], "jaccl-own-changed", 9 + 5),
    "own-elsewhere": (RESULT[3:6] + RESULT[:3] + RESULT[6:], "jaccl-own-changed", 9 + 3),
    "own-changed-and-more": (RESULT[:3] + b"x" + RESULT[4:] + b"more", "jaccl-own-changed", 9 + 3),
    "more": (RESULT + b"x", "jaccl-early", 9 + 9),
    "twice": (RESULT * 2, "jaccl-early", 9 + 9),
    "nothing": (b"", "truncated", 9),
    "half": (RESULT[:4], "truncated", 9 + 4),
    "all-but-one": (RESULT[:-1], "truncated", 9 + 8),
    "all-but-one-changed": (bytes(8), "truncated", 9 + 8),
}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["whole", "one-by-one"])
@pytest.mark.parametrize(("data", "code", "offset"), ROOT_FAULTS.values(), ids=ROOT_FAULTS)
def test_what_a_worker_refuses(data: bytes, code: str, offset: int, one_by_one: bool) -> None:
    """[JACCL-GATHER]"""
    worker = Worker(1, 3)
    worker.gather(of(1, 3))
    assert worker.receive(RESULT) == RESULT
    worker.gather(of(1, 3))

    def play() -> None:
        for piece in one_each(data) if one_by_one else [data]:
            worker.receive(piece)
        worker.receive_eof()

    wrong = expected(code, offset)
    assert verdict(play) == wrong
    calls = [lambda: worker.receive(b""), worker.receive_eof, lambda: worker.gather(b"")]
    assert [verdict(call) for call in calls] == [wrong] * 3


def test_nothing_comes_before_the_first_gather() -> None:
    worker = Worker(1, 2)
    assert worker.receive(b"") is None
    assert verdict(worker.receive, b"x") == expected("jaccl-early", 0)


def test_an_empty_gather_has_an_empty_result() -> None:
    worker = Worker(1, 2)
    worker.gather(b"")
    assert verdict(worker.receive, b"x") == expected("jaccl-early", 0)


def test_a_root_that_has_left_gathers_no_more() -> None:
    worker = Worker(1, 2)
    worker.gather(b"1")
    worker.receive(b"01")
    worker.receive_eof()
    assert verdict(worker.gather, b"") == expected("truncated", 2)


@given(data=st.binary(max_size=24), cuts=st.lists(st.integers(0, 24)))
def test_only_wire_errors_come_out(data: bytes, cuts: list[int]) -> None:
    """For any bytes, the result does not depend on how they are cut."""

    def to_worker(chunks: list[bytes]) -> None:
        worker = Worker(1, 2)
        worker.gather(b"11")
        for chunk in chunks:
            worker.receive(chunk)
        worker.receive_eof()

    def to_root(chunks: list[bytes]) -> Root:
        root = Root(3)
        root.gather(b"00")
        connection = root.connect()
        for chunk in chunks:
            connection.receive(chunk)
        connection.receive_eof()
        return root

    for play in (to_worker, to_root):
        whole = verdict(play, [data])
        assert verdict(play, pieces(data, cuts)) == whole
        assert isinstance(whole, Accepted) == (play is to_worker and data[2:] == b"11" and len(data) == 4)


# -- wrong calls -------------------------------------------------------------------------------------------------------


def test_one_gather_at_a_time() -> None:
    root, _ = root_of(2)
    assert verdict(root.result) == expected("jaccl-state", None)
    root.gather(b"")
    assert verdict(root.gather, b"") == expected("jaccl-state", None)
    assert root.result() == b""
    worker = Worker(1, 2)
    worker.gather(b"1")
    assert verdict(worker.gather, b"1") == expected("jaccl-state", None)
    assert worker.receive(b"01") == b"01"


def test_own_contribution_has_a_limit_that_ends_nothing() -> None:
    root, _ = root_of(2)
    worker = Worker(1, 2)
    for gather in (root.gather, worker.gather):
        assert verdict(gather, bytes(MAX_GATHER + 1)) == expected("jaccl-gather-limit", None)
        gather(bytes(MAX_GATHER))


@pytest.mark.parametrize(("rank", "size"), [(0, 2), (2, 2), (-1, 3), (1, 1), (1, 65), (8, 8), (64, 64), (0, 0)])
def test_no_such_worker(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="rank") as caught:
        Worker(rank, size)
    assert not isinstance(caught.value, WireError)


@pytest.mark.parametrize("size", [-1, 0, 1, 65])
def test_no_such_root(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} ranks"):
        Root(size)
