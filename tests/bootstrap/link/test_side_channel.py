"""Gathers over the link: the worker's end of the socket pair, and the control processes of all ranks in memory."""

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from inspect import getclosurevars
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import side_channel_factory
from bootstrap.errors import BootstrapError
from bootstrap.link.gather import GATHER_SECONDS, SLACK_SECONDS, VARIABLE, Gather, SideChannelError
from bootstrap.link.side_channel import SideChannel
from tests.bootstrap.exchanges import Links, now, run_timeless
from tests.bootstrap.links import run
from wireproto import Message, SideChannelPart, SideChannelWhole
from wireproto.jaccl import OWN_ENTRY, Destination, decode_destination, encode_destination, mapped_gid, mesh_init
from wireproto.messages import MAX_GATHER

SIZES = (0, 1, 4, 32 * 8, 65_535, 65_536, 65_537, MAX_GATHER)


class Group:
    """The control processes' parts of all ranks, linked."""

    def __init__(self, size: int, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.links = Links(delay)
        self.ranks = [SideChannel(rank, size, self.links.send_of(rank)) for rank in range(size)]
        self.links.takers.update(enumerate(self.ranks))


def part_of(rank: int, size: int) -> bytes:
    return random.Random(rank).randbytes(size)


# -- what a gather gives -----------------------------------------------------------------------------------------------


class Ends:
    """The workers' ends, as given to `mx.distributed.init`, and those of their control processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._open = ExitStack()

    def pair(self, rank: int, size: int) -> tuple[Gather, socket.socket]:
        near, far = socket.socketpair()
        self._open.enter_context(near)
        with far:  # the factory has its own descriptor
            self._monkeypatch.setenv(VARIABLE, str(far.fileno()))
            factory = side_channel_factory()
        assert factory is not None
        self._open.enter_context(getclosurevars(factory).nonlocals["channel"])
        return factory(rank, size), near

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    ends = Ends(monkeypatch)
    yield ends
    ends.close()


def act(ends: Ends, size: int, worker: Callable[[int, Gather], Any]) -> list[Any]:
    """Run each rank's worker in its own thread; return their results."""
    gathers, channels = zip(*(ends.pair(rank, size) for rank in range(size)), strict=True)

    async def main() -> list[Any]:
        services = []
        for rank, channel in zip(Group(size).ranks, channels, strict=True):
            channel.setblocking(False)
            services.append(asyncio.create_task(rank.serve(channel)))
        with ThreadPoolExecutor(size) as threads:
            submit = partial(asyncio.get_running_loop().run_in_executor, threads, worker)
            results = await asyncio.gather(*(submit(rank, gather) for rank, gather in enumerate(gathers)))
        for service in services:
            assert not service.done()
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        return results

    return run(main)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_gathers_are_exact_and_in_rank_order(size: int, ends: Ends) -> None:
    """[EXT-SIDE-CHANNEL, EXT-SIDE-CHANNEL-SIZE]"""

    def worker(rank: int, gather: Gather) -> list[bytes]:
        return [gather(part_of(rank, count), count) for count in SIZES]

    wanted = [b"".join(part_of(rank, count) for rank in range(size)) for count in SIZES]
    for wholes in act(ends, size, worker):
        assert wholes == wanted


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_mesh_init_runs_through_it(size: int, ends: Ends) -> None:
    """[JACCL-MESH-INIT]"""

    def destinations(rank: int) -> list[Destination]:
        gid = mapped_gid(f"169.254.1.{rank + 1}")
        return [OWN_ENTRY if peer == rank else Destination(1, 100 * rank + peer, gid=gid) for peer in range(size)]

    def worker(rank: int, gather: Gather) -> tuple[Any, list[int]]:
        init = mesh_init(rank, size, destinations(rank))
        own, counts = next(init), []
        while True:
            counts.append(len(own))
            try:
                own = init.send(gather(own, len(own)))
            except StopIteration as done:
                return done.value, counts

    lists = tuple(tuple(decode_destination(encode_destination(each)) for each in destinations(r)) for r in range(size))
    assert act(ends, size, worker) == [(lists, [4, 32 * size, 4, 4])] * size


@given(
    size=st.integers(2, 4),
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    delays=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    pauses=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_any_pace(size: int, counts: list[int], delays: list[float], pauses: list[float]) -> None:
    """Whichever rank is fast: the parts of a gather may arrive while rank 0 still answers the one before."""

    async def main() -> None:
        turns, waits = iter(delays * 200), iter(pauses * 200)
        group = Group(size, lambda: next(turns))

        async def rank(number: int) -> None:
            for sequence, count in enumerate(counts):
                await asyncio.sleep(next(waits))
                whole = await group.ranks[number].gather(bytes([16 * number + sequence]) * count)
                assert whole == b"".join(bytes([16 * each + sequence]) * count for each in range(size))

        await asyncio.gather(*(rank(number) for number in range(size)))
        sent = [(sender, to, m.sequence) for sender, to, m in group.links.sent]  # type: ignore[union-attr]
        for link in {each[:2] for each in sent}:
            # [EXT-SIDE-CHANNEL-SEQUENCE]
            assert [sequence for *ends, sequence in sent if (*ends,) == link] == list(range(len(counts)))

    run_timeless(main)


def test_the_next_part_comes_while_rank_0_still_answers() -> None:
    """Rank 1 has its answer, and its next part arrived, before rank 2's answer is sent."""

    async def main() -> None:
        group = Group(3)
        zero, one, two = group.ranks
        send, blocked = zero._send, asyncio.Event()

        async def send_slowly(peer: int, message: Message) -> None:
            if peer == 2:
                await blocked.wait()
            await send(peer, message)

        zero._send = send_slowly
        first = [asyncio.create_task(each.gather(b"a")) for each in (zero, two)]
        assert await one.gather(b"a") == b"aaa"
        ahead = asyncio.create_task(one.gather(b"bc"))
        await asyncio.sleep(1)
        assert not any(task.done() for task in (*first, ahead))
        blocked.set()
        assert await asyncio.gather(*first) == [b"aaa"] * 2
        assert await asyncio.gather(zero.gather(b"de"), two.gather(b"fg"), ahead) == [b"debcfg"] * 3

    run_timeless(main)


# -- a rank at fault ---------------------------------------------------------------------------------------------------

PART, WHOLE = SideChannelPart, SideChannelWhole


def fault_of(size: int, rank: int, own: bytes | None, messages: Sequence[tuple[int, Message]]) -> tuple[str, str]:
    """Return a rank's error after these messages, as code and text; `own` is its part, if it asks."""

    async def main() -> tuple[str, str]:
        side_channel = SideChannel(rank, size, Links().send_of(rank))
        waiting = [asyncio.create_task(side_channel.fault())]
        if own is not None:
            waiting.append(asyncio.create_task(side_channel.gather(own)))
            await asyncio.sleep(0)
        for peer, message in messages:
            side_channel.take(peer, message)
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in errors} == {SideChannelError}
        (told,) = {(error.code, str(error)) for error in errors}
        assert now() == 0
        return told

    return run_timeless(main)


@pytest.mark.parametrize(
    ("size", "rank", "own", "messages", "code", "text"),
    [
        (2, 0, b"abcd", [(1, PART(0, b"abc"))], "size", "rank 1 put 3 bytes into gather 0, rank 0 4"),
        (2, 0, b"abcd", [(1, PART(0, b"abcde"))], "size", "rank 1 put 5 bytes into gather 0, rank 0 4"),
        (3, 0, b"", [(1, PART(0, b"")), (2, PART(0, b"x"))], "size", "rank 2 put 1 bytes into gather 0, rank 0 0"),
        (3, 0, b"a", [(1, PART(0, b"a"))] * 2, "twice", "rank 1 sent its part of gather 0 twice"),
        (3, 0, None, [(1, PART(0, b"a"))] * 2, "twice", "rank 1 sent its part of gather 0 twice"),
        (2, 0, None, [(1, PART(1, b"a"))], "turn", "rank 1 is at gather 1, and rank 0 at 0"),
        (2, 0, b"a", [(1, PART(2**32 - 1, b"a"))], "turn", "rank 1 is at gather 4294967295, and rank 0 at 0"),
        (2, 1, b"a", [(0, WHOLE(1, b"ab"))], "turn", "rank 0 is at gather 1, and rank 1 at 0"),
        (2, 1, None, [(0, WHOLE(0, b"ab"))], "turn", "rank 0 answered gather 0 without a request"),
        (2, 1, b"a", [(0, WHOLE(0, b"a"))], "size", "rank 0 gave 1 bytes for gather 0 of 2 × 1"),
        (2, 1, b"a", [(0, WHOLE(0, b"aaa"))], "size", "rank 0 gave 3 bytes for gather 0 of 2 × 1"),
        (2, 1, b"", [(0, WHOLE(0, b"a"))], "size", "rank 0 gave 1 bytes for gather 0 of 2 × 0"),
    ],
)
def test_what_breaks_the_rules(size: int, rank: int, own: bytes | None, messages: Any, code: str, text: str) -> None:
    """At once, whether or not this rank's worker asks. [EXT-SIDE-CHANNEL-SEQUENCE, EXT-SIDE-CHANNEL-SIZE]"""
    assert fault_of(size, rank, own, messages) == (f"side-channel-{code}", text)


def test_the_first_fault_counts() -> None:
    messages = [(1, PART(5, b"")), (2, PART(6, b""))]
    assert fault_of(3, 0, b"", messages)[1] == "rank 1 is at gather 5, and rank 0 at 0"


def test_a_second_answer() -> None:

    async def main() -> None:
        side_channel = SideChannel(1, 2, Links().send_of(1))
        gather = asyncio.create_task(side_channel.gather(b"a"))
        await asyncio.sleep(0)
        for _ in range(2):
            side_channel.take(0, WHOLE(0, b"aa"))
        for told in (gather, side_channel.fault()):
            with pytest.raises(SideChannelError, match="rank 0 answered gather 0 without a request") as caught:
                await told
            assert caught.value.code == "side-channel-turn"

    run_timeless(main)


def test_a_part_that_comes_back_changed() -> None:
    """At its own place, that is."""

    async def main() -> None:
        for whole, code in ((b"cdab", "side-channel-changed"), (b"xxcd", None)):
            side_channel = SideChannel(1, 2, Links().send_of(1))
            gather = asyncio.create_task(side_channel.gather(b"cd"))
            await asyncio.sleep(0)
            side_channel.take(0, WHOLE(0, whole))
            (result,) = await asyncio.gather(gather, return_exceptions=True)
            assert result == whole if code is None else result.code == code

    run_timeless(main)


@pytest.mark.parametrize(
    ("size", "late", "text"),
    [
        (2, {1}, "rank 1 did not join gather 0 within 60 s"),
        (4, {1, 3}, "rank 1, rank 3 did not join gather 0 within 60 s"),
        (4, {0}, "rank 0 did not join gather 0 within 60 s"),
        (4, {0, 2}, "rank 0, rank 2 did not join gather 0 within 60 s"),
    ],
)
def test_a_late_rank(size: int, late: set[int], text: str) -> None:
    """Counted from the first part; rank 0 reports it first, because it knows who is missing. [SESSION-TIMES]"""

    async def main() -> None:
        group = Group(size)
        zero = group.ranks[0]
        others = [asyncio.create_task(group.ranks[r].gather(b"a")) for r in range(1, size) if r not in late]
        await asyncio.sleep(GATHER_SECONDS / 2 if others else 0)
        if 0 not in late:
            others.append(asyncio.create_task(zero.gather(b"a")))
        with pytest.raises(SideChannelError) as caught:
            await zero.fault()
        assert (caught.value.code, str(caught.value)) == ("side-channel-late", text)
        assert now() == GATHER_SECONDS
        errors = await asyncio.gather(*others, return_exceptions=True)
        assert all(error.code == "side-channel-late" for error in errors)  # type: ignore[union-attr]
        assert now() <= GATHER_SECONDS + SLACK_SECONDS

    run_timeless(main)


def test_no_clock_runs_between_two_gathers() -> None:
    async def main() -> None:
        group = Group(2)
        for _ in range(3):
            assert await asyncio.gather(*(each.gather(b"a") for each in group.ranks)) == [b"aa"] * 2
            await asyncio.sleep(2 * GATHER_SECONDS)
        assert [each._fault for each in group.ranks] == [None, None]

    run_timeless(main)


def test_a_rank_that_is_gone_does_not_keep_the_others_from_their_answers() -> None:
    """Its link reports the loss."""

    async def main() -> None:
        group = Group(3)
        zero, one, two = group.ranks
        waiting = [asyncio.create_task(each.gather(b"a")) for each in (one, two)]
        await asyncio.sleep(1)
        group.links.cut = {1}
        assert await zero.gather(b"a") == b"aaa"
        assert await waiting[1] == b"aaa"
        assert not waiting[0].done()
        waiting[0].cancel()

    run_timeless(main)


# -- the worker's end --------------------------------------------------------------------------------------------------


def test_no_factory_where_nothing_is_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert side_channel_factory() is None


@pytest.mark.parametrize("value", ["", "x", "-1", "1000000"])
def test_a_descriptor_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(SideChannelError, match=VARIABLE) as caught:
        side_channel_factory()
    assert caught.value.code == "side-channel-lost"


def test_a_descriptor_that_is_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = os.pipe()
    monkeypatch.setenv(VARIABLE, str(near))
    try:
        with pytest.raises(SideChannelError, match=VARIABLE) as caught:
            side_channel_factory()
        assert caught.value.code == "side-channel-lost"
    finally:
        os.close(near)
        os.close(far)


@pytest.fixture
def alone(ends: Ends) -> tuple[Gather, socket.socket]:
    """Rank 0's of two."""
    return ends.pair(0, 2)


def test_what_is_on_the_socket_pair(alone: tuple[Gather, socket.socket]) -> None:
    """Exactly the bytes of the gather."""
    gather, near = alone
    near.sendall(struct.pack("<I", 4) + b"abcd" + struct.pack("<I", 0))
    assert gather(b"abXX", 2) == b"abcd"
    assert gather(b"", 0) == b""
    assert near.recv(100) == b"\x02\0\0\0ab\0\0\0\0"


def test_a_part_that_is_too_short(alone: tuple[Gather, socket.socket]) -> None:
    gather, near = alone
    with pytest.raises(SideChannelError, match="a part of 3 bytes, not 4") as caught:
        gather(b"abc", 4)
    assert caught.value.code == "side-channel-size"
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        near.recv(1)


@pytest.mark.parametrize("said", [b"", b"\x02\0", b"\x04\0\0\0abc"])
def test_the_control_process_closes_it(said: bytes, alone: tuple[Gather, socket.socket]) -> None:
    gather, near = alone
    near.sendall(said)
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(SideChannelError, match="ended early") as caught:
        gather(b"ab", 2)
    assert caught.value.code == "side-channel-lost"


def test_a_result_of_another_size(alone: tuple[Gather, socket.socket]) -> None:
    gather, near = alone
    near.sendall(struct.pack("<I", 3) + b"abc")
    with pytest.raises(SideChannelError, match="a gather of 2 × 2 bytes gave 3") as caught:
        gather(b"ab", 2)
    assert caught.value.code == "side-channel-size"


# -- the control process's end of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\x02", b"\x02\0\0\0a"])
def test_a_worker_that_ends_is_its_supervisor_s_to_tell(said: bytes) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        side_channel = SideChannel(0, 2, Links().send_of(0))
        with far:
            far.sendall(said)
        await side_channel.serve(near)
        assert side_channel._fault is None

    run(main)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (struct.pack("<I", MAX_GATHER + 1), "size", "a gather of 1048577 bytes per rank exceeds 1048576"),
        (struct.pack("<I", 2**32 - 1), "size", "a gather of 4294967295 bytes per rank exceeds 1048576"),
        (struct.pack("<I", 3) + b"abc", "size", "rank 1 put 2 bytes into gather 0, rank 0 3"),
    ],
)
def test_a_failed_gather_closes_the_socket_pair(request_: bytes, code: str, text: str) -> None:
    """[EXT-SIDE-CHANNEL-FAULT]"""

    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            near.setblocking(False)
            far.sendall(request_)
            side_channel = SideChannel(0, 2, Links().send_of(0))
            side_channel.take(1, PART(0, b"ab"))
            with pytest.raises(SideChannelError) as caught:
                await side_channel.serve(near)
            assert (caught.value.code, str(caught.value)) == (f"side-channel-{code}", text)
            assert isinstance(caught.value, BootstrapError)
            far.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""

    run(main)
