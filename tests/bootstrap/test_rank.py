"""Running ranks: one rank's failure ends all."""

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bootstrap import BootstrapError
from bootstrap.attempt import Attempt
from bootstrap.capabilities import Capabilities, offered, own_version
from bootstrap.control.child import ChildError, CommandError
from bootstrap.control.run import RunError
from bootstrap.link.gather import SideChannelError
from bootstrap.link.outcome import PeerError
from bootstrap.link.sessions import SessionLostError
from bootstrap.plan import Plan
from bootstrap.rank import MAX_EARLY
from bootstrap.trust import Trust
from tests.bootstrap.links import run
from tests.bootstrap.working_ranks import LIMIT, Act, Acting, Group, forever
from wireproto import (
    JacclBootstrapPayload,
    Message,
    Outcome,
    OutcomeState,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
)
from wireproto.messages import EXTENSIONS, OUTCOME_1, SIDE_CHANNEL_1
from wireproto.session.handshake import KeySigner


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(tmp_path, monkeypatch)


# -- the side channel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4, 8])
def test_gathers_over_real_links(size: int, group: Group) -> None:
    """[EXT-SIDE-CHANNEL]"""
    counts = (0, 1, 32 * size, 65_536, 1024 * 1024)

    async def act(acting: Acting) -> None:
        for count in counts:
            whole = await acting.gathers.gather(bytes([acting.plan.rank]) * count)
            assert whole == b"".join(bytes([rank]) * count for rank in range(size))

    async def main() -> None:
        await group.start([act] * size)
        assert await group.ends() == [None] * size

    run(main)


async def first_gather(acting: Acting) -> None:
    await acting.gathers.gather(b"abcd")


async def second_gather(acting: Acting) -> None:
    for part in (b"abcd", b"efgh"):
        await acting.gathers.gather(part)


def says(*messages: Message) -> Act:
    """A rank whose control process sends this to rank 0, then waits."""

    async def act(acting: Acting) -> None:
        for message in messages:
            await acting.send(0, message)
        await forever(acting)

    return act


def answers(message: SideChannelWhole) -> Act:
    """A rank 0 that sends this to rank 1."""

    async def act(acting: Acting) -> None:
        while 1 not in acting.gathers._parts:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await acting.send(1, message)
        await forever(acting)

    return act


PART, WHOLE = SideChannelPart, SideChannelWhole


@pytest.mark.parametrize(
    ("acts", "code", "text"),
    [
        ([says(PART(0, b"abc")), first_gather], "size", "rank 1 put 3 bytes into gather 0, rank 0 4"),
        ([first_gather, says(PART(0, b"abcde"))], "size", "rank 2 put 5 bytes into gather 0, rank 0 4"),
        ([says(PART(0, b"abcd"), PART(0, b"abcd")), forever], "twice", "rank 1 sent its part of gather 0 twice"),
        ([says(PART(0, b"abcd"), PART(1, b"efgh")), forever], "turn", "rank 1 is at gather 1, and rank 0 at 0"),
        ([first_gather, says(PART(7, b"abcd"))], "turn", "rank 2 is at gather 7, and rank 0 at 0"),
    ],
    ids=["too little", "too much", "twice", "ahead", "out of turn"],
)
def test_a_rank_that_breaks_the_rules_ends_all(acts: list[Act], code: str, text: str, group: Group) -> None:
    """With the same error, which is rank 0's. [EXT-SIDE-CHANNEL-FAULT, EXT-SIDE-CHANNEL-SIZE]"""

    async def main() -> None:
        await group.start([second_gather, *acts])
        group.fault()
        await group.ends_alike(f"side-channel-{code}", text)

    group.fault()
    run(main)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (WHOLE(0, b"abcd"), "size", "rank 0 gave 4 bytes for gather 0 of 3 × 4"),
        (WHOLE(1, b"abcd" * 3), "turn", "rank 0 is at gather 1, and rank 1 at 0"),
        (WHOLE(0, b"wxyz" * 3), "changed", "rank 0 changed this rank's part of gather 0"),
    ],
    ids=["too little", "out of turn", "changed"],
)
def test_rank_0_breaks_the_rules(answer: SideChannelWhole, code: str, text: str, group: Group) -> None:
    """[EXT-SIDE-CHANNEL-FAULT]"""

    async def main() -> None:
        await group.start([answers(answer), first_gather, first_gather])
        group.fault()
        await group.ends_alike(f"side-channel-{code}", text)

    run(main)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_fails_in_the_middle_of_a_gather(rank: int, group: Group) -> None:
    """The others do not wait for it."""

    async def dies(acting: Acting) -> None:
        if rank:
            await acting.send(0, SideChannelPart(0, b"abcd"))
        group.fault()
        raise ChildError("the worker ended early", code="worker-killed")

    async def main() -> None:
        acts: list[Act] = [first_gather] * 3
        acts[rank] = dies
        await group.start(acts)
        await group.ends_alike("worker-killed", "the worker ended early")

    run(main)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_control_process_is_gone_in_the_middle_of_a_gather(rank: int, group: Group) -> None:
    """Its links end silently."""

    async def main() -> None:
        acts: list[Act] = [first_gather] * 3
        acts[rank] = forever
        await group.start(acts)
        await group.until_begun()
        group.fault()
        for link in group.ranks[rank].links:  # like the system for a killed process
            link._transport.abort()
        group.tasks[rank].cancel()
        await group.ends_alike("link-lost", f"the session with rank {rank} was lost; see what it says", but={rank})

    run(main)


def test_the_link_is_cut_in_the_middle_of_a_gather(group: Group) -> None:
    """Rank 1 and rank 0 detect it themselves, and rank 2 learns of it from rank 0."""

    async def cut(acting: Acting) -> None:
        while 2 not in acting.gathers._parts:  # noqa: ASYNC110
            await asyncio.sleep(0)
        group.fault()
        group.ranks[1].links[0]._transport.abort()
        await first_gather(acting)

    async def main() -> None:
        await group.start([cut, forever, first_gather])
        errors = await group.ends()
        assert time.monotonic() - group.fault_at < LIMIT
        assert [type(error) for error in errors] == [SessionLostError, SessionLostError, PeerError]
        texts = [f"the session with rank {peer} was lost; see what it says" for peer in (1, 0, 1)]
        assert [str(error) for error in errors] == texts

    run(main)


def test_each_bootstrap_counts_its_gathers_anew(group: Group) -> None:
    """After a lost link, with another session and another exchange. [EXT-SIDE-CHANNEL-SEQUENCE]"""
    rounds = [0, 0, 0]

    async def act(acting: Acting) -> None:
        rounds[acting.plan.rank] += 1
        for _ in range(3):
            await acting.gathers.gather(b"abcd")
        if rounds[0] == 1 and acting.plan.rank == 0:
            await acting.exchange.started(range(1, acting.plan.size))
            acting.links[1]._transport.abort()
        if rounds[acting.plan.rank] == 1:
            acting.exchange.tell(OutcomeState.STARTED)
            await forever(acting)

    async def main() -> None:
        await group.start([act] * 3, restarts=1)
        assert await group.ends() == [None] * 3
        assert rounds == [2, 2, 2]

    run(main)


# -- outcomes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_fails_ends_all(rank: int, group: Group) -> None:
    """Its text is escaped for terminals. [EXT-OUTCOME-FIRST]"""

    async def fails(acting: Acting) -> None:
        group.fault()
        raise BootstrapError("no\x1b[2J device", code="device-missing")

    async def main() -> None:
        acts: list[Act] = [forever] * 3
        acts[rank] = fails
        await group.start(acts)
        errors = await group.ends()
        assert time.monotonic() - group.fault_at < LIMIT
        for number, error in enumerate(errors):
            assert isinstance(error, BootstrapError)
            assert isinstance(error, PeerError) is (number != rank)
            assert (error.code, str(error)) == ("device-missing", "no\\x1b[2J device")
            assert getattr(error, "rank", rank) == rank

    run(main)


def test_a_finished_that_was_lost_kept_rank_0_waiting_for_ever(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """[EXT-OUTCOME-AGAIN]"""
    monkeypatch.setattr(sys.modules["bootstrap.rank"], "AGAIN_SECONDS", 0.05)
    lost: list[Message] = []

    async def loses_its_first(acting: Acting) -> None:
        send = acting.exchange._send

        async def lossy(peer: int, message: Message) -> None:
            if isinstance(message, Outcome) and not lost:
                lost.append(message)
            else:
                await send(peer, message)

        acting.exchange._send = lossy

    async def at_once(acting: Acting) -> None:
        pass

    async def main() -> None:
        await group.start([at_once, loses_its_first])
        assert await group.ends() == [None, None]
        assert lost == [Outcome(1, OutcomeState.FINISHED, "", "", "")]

    run(main)


@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_tells_the_others(rank: int, group: Group) -> None:
    async def main() -> None:
        await group.start([forever] * 3)
        await group.until_begun()
        group.fault()
        group.ranks[rank].calm.stopped_by = RunError("stopped by SIGINT", code="interrupted")
        group.tasks[rank].cancel()
        with suppress(asyncio.CancelledError):
            await group.tasks[rank]
        await group.ends_alike("interrupted", "stopped by SIGINT", but={rank})

    run(main)


@pytest.mark.parametrize("is_up", [True, False])
def test_a_program_that_failed_when_rank_0_stopped_was_told_as_the_cause(is_up: bool, group: Group) -> None:
    """Its group's connections end before the sessionEnd arrives. Before the group is up, the stop is a failure."""
    stops = asyncio.Event()

    async def aborts(acting: Acting) -> None:
        await stops.wait()
        raise CommandError(-signal.SIGABRT)

    async def main() -> None:
        await group.start([forever, aborts])
        await group.until_begun()
        for rank in group.ranks:
            rank.calm.is_met = is_up
        group.ranks[0].calm.stopped_by = RunError("stopped by SIGINT", code="interrupted")
        stops.set()
        group.tasks[0].cancel()
        error = (await group.ends())[1]
        if is_up:
            assert (error, group.ranks[1].calm.summary) == (None, {"stopped": True})
        else:
            assert isinstance(error, PeerError)
            assert (error.rank, error.code) == (0, "interrupted")

    run(main)


def test_ranks_that_run_other_versions(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything runs. [EXT-VERSIONS-SEND, EXT-VERSIONS-DIFFER]"""

    async def never(acting: Acting) -> None:
        raise AssertionError

    async def main() -> None:
        await group.start([never, never], backends={1: "ring"})
        group.fault()
        errors = await group.ends()
        assert {error.code for error in errors if isinstance(error, BootstrapError)} == {"backends-differ"}
        assert {str(error) for error in errors} == {"the backend is jaccl on rank 0, and ring on rank 1"}

    run(main)


# -- before the bootstrap frame was handled ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_hear_what_the_system_refused(rank: int, group: Group) -> None:
    async def act(acting: Acting) -> None:
        await group.until_begun()
        group.fault()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        acts: list[Act] = [forever, forever]
        acts[rank] = act
        await group.start(acts)
        await group.ends_alike(
            "system-refused", "out of system resources: Too many open files; free some, then start again"
        )

    run(main)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has any, once no file can be opened."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert own_version()
    monkeypatch.setattr(metadata, "version", missing)
    assert own_version() == ""


def plan_of(rank: int, command: tuple[str, ...] = ("true",)) -> Plan:
    return Plan(rank=rank, ips=("127.0.0.2", "127.0.0.3"), backend="jaccl", command=command)


ABLE = Capabilities(plan_of(0), "jaccl", Versions("1", "", "jaccl", ""))


def test_the_side_channel_is_offered_on_jaccl_alone() -> None:
    """Whatever this rank's MLX accepts or its command is: the relay serves all. [EXT-OFFER-COMPLETE]"""
    plan = plan_of(0)
    assert offered(plan, None) == {OUTCOME_1}
    assert offered(plan, ABLE) == {OUTCOME_1, SIDE_CHANNEL_1}
    assert offered(plan, replace(ABLE, backend="ring")) == {OUTCOME_1}


def begun(rank: Acting) -> Acting:
    """Begin an attempt in which everything that this rank sends is lost."""

    async def send(peer: int, message: Message) -> None:
        pass

    payload = JacclBootstrapPayload(29400, "S-1", tuple(sorted(EXTENSIONS)))
    rank.begin(replace(ABLE, plan=rank.plan), payload, send, None)
    return rank


def test_what_comes_right_behind_the_bootstrap_frame_waits_for_it() -> None:
    """As many messages as possible; those of inference do not count."""

    async def main() -> None:
        rank = Acting(plan_of(1), Trust(KeySigner.generate(), {}), forever)
        early: list[Message] = [Outcome(0, OutcomeState.STARTED, "", "", "")] * (MAX_EARLY - 1)
        early += [Outcome(0, OutcomeState.FINISHED, "", "", ""), Outcome(0, OutcomeState.FAILED, "", "x", "")]
        for message in early:
            rank.take(0, StepTokenPayload("u", 1))
            rank.take(0, message)
        begun(rank)
        assert rank.exchange._states == {0: OutcomeState.FINISHED}
        assert rank.exchange._failures == {}
        rank.take(0, SideChannelWhole(0, b""))
        rank.take(0, early[-1])
        assert [*rank.exchange._failures] == [0]
        with pytest.raises(SideChannelError, match="without a request"):
            await rank.gathers.fault()

    run(main)


def test_what_rank_0_heard_in_an_earlier_attempt_is_over() -> None:
    async def main() -> None:
        rank = Acting(plan_of(0), Trust(KeySigner.generate(), {}), forever)
        rank.take(1, Outcome(1, OutcomeState.FAILED, "", "x", ""))
        begun(rank)
        assert rank.exchange._failures == {}
        rank.take(1, Outcome(1, OutcomeState.FAILED, "", "x", ""))
        assert [*rank.exchange._failures] == [1]

    run(main)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_rank_that_has_finished_limits_the_others(group: Group) -> None:
    """And names the ranks it waits for; without a limit, they may continue. [EXT-OUTCOME-FINISH]"""

    async def at_once(acting: Acting) -> None:
        assert acting.attempt is not None
        object.__setattr__(acting.attempt.plan, "finish_timeout", 0.5 if acting.plan.rank == 1 else None)

    async def main() -> None:
        await group.start([forever, at_once, at_once])
        errors = await group.ends()
        text = "rank 0 did not finish within 0.5 s after this rank (--finish-timeout)"
        for error in errors:
            assert isinstance(error, BootstrapError)
            assert (error.code, str(error)) == ("finish-timeout", text)
        assert group.ranks[0].calm.steps.of("finished")[0]["peer"] in (1, 2)
        assert group.ranks[1].calm.steps.of("unfinished")[0]["ranks"][0] == 0

    run(main)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bug_on_one_rank_is_a_failure_on_all(rank: int, group: Group) -> None:
    """Once the others took it for the orderly end."""

    async def raises(acting: Acting) -> None:
        raise ZeroDivisionError("division by zero")

    async def main() -> None:
        acts: list[Act] = [forever] * 3
        acts[rank] = raises
        await group.start(acts)
        for each, error in enumerate(await group.ends()):
            if each == rank:
                assert isinstance(error, ZeroDivisionError)
            else:
                assert isinstance(error, PeerError)
                assert (error.code, error.rank) == ("internal", rank)
                assert str(error) == f"rank {rank} failed: ZeroDivisionError: division by zero"

    run(main)


@pytest.mark.parametrize(
    ("backend", "rank", "awaited"),
    [("ring", 0, []), ("ring", 1, [0]), ("ring", 2, [0, 1]), ("jaccl", 0, []), ("jaccl", 1, []), ("jaccl", 2, [])],
)
def test_no_init_on_the_ring_meets_the_check_of_a_neighbour(backend: str, rank: int, awaited: list[int]) -> None:
    """[EXT-OUTCOME-TURN]"""
    waited: list[int] = []

    async def started(ranks: Collection[int]) -> None:
        waited.extend(ranks)

    attempt = SimpleNamespace(
        able=SimpleNamespace(backend=backend),
        exchange=SimpleNamespace(started=started),
        plan=SimpleNamespace(rank=rank, size=3),
    )
    asyncio.run(Attempt._turn(cast(Attempt, attempt)))
    assert waited == awaited
