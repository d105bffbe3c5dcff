"""Messages between ranks around the init, in memory: readiness, first failure, versions."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.errors import BootstrapError
from bootstrap.link.outcome import (
    CONSEQUENCES,
    LONGEST_TEXT,
    SETTLE_SECONDS,
    VERDICT_SECONDS,
    VERSIONS_SECONDS,
    Exchange,
    PeerError,
    VersionError,
    printable,
)
from bootstrap.link.sessions import alongside
from tests.bootstrap.exchanges import Links, now, run_timeless
from tests.bootstrap.links import Steps
from wireproto import Message, Outcome, OutcomeState, Program, SideChannelPart, Versions, encode_frame

STARTED, READY, FAILED, FINISHED = OutcomeState
VERSIONS = Versions("0.1.0", "0.32.4", "jaccl", "ab" * 32)
CAUSE, CONSEQUENCE = "device-missing", "init-failed"


def say(rank: int, state: OutcomeState, code: str = "", message: str = "") -> Outcome:
    return Outcome(rank, state, "group" if code else "", code, message)


class Group:
    """The exchanges of all ranks, linked."""

    def __init__(self, size: int, *, agreed: bool = True, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.links = Links(delay)
        self.steps = [Steps() for _ in range(size)]
        self.ranks = [Exchange(rank, size, agreed, self.links.send_of(rank), self.steps[rank]) for rank in range(size)]
        self.links.takers.update(enumerate(self.ranks))

    def outcomes(self) -> list[tuple[int, int, Outcome]]:
        return [each for each in self.links.sent if isinstance(each[2], Outcome)]


# -- who is ready ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 8])
def test_ready_is_ready_on_every_rank(size: int) -> None:
    """[EXT-OUTCOME-READY]"""

    async def main() -> None:
        group = Group(size)
        waiting = [asyncio.create_task(each.all(READY)) for each in group.ranks]
        for each in reversed(group.ranks):
            await asyncio.sleep(1)
            assert not any(task.done() for task in waiting)
            each.tell(STARTED)
            each.tell(READY)
        await asyncio.gather(*waiting)

    run_timeless(main)


def test_states_go_by_rank_0_to_all_others() -> None:
    """A rank's own outcome does not come back to it. [EXT-OUTCOME-RELAY, EXT-OUTCOME-STATES]"""

    async def main() -> None:
        group = Group(3)
        for state in (STARTED, READY, FINISHED):
            for each in group.ranks:
                each.tell(state)
        await asyncio.gather(*(each.all(FINISHED) for each in group.ranks))
        for state in (STARTED, READY, FINISHED):
            routes = {(sender, receiver, m.rank) for sender, receiver, m in group.outcomes() if m.state is state}
            assert routes == {(0, 1, 0), (0, 2, 0), (1, 0, 1), (0, 2, 1), (2, 0, 2), (0, 1, 2)}

    run_timeless(main)


@pytest.mark.parametrize(
    ("rank", "peer", "message"),
    [
        (0, 1, say(2, READY)),
        (0, 1, say(0, READY)),
        (0, 1, say(3, READY)),
        (0, 1, say(2, FAILED, CAUSE)),
        (1, 0, say(1, READY)),
        (1, 0, say(3, READY)),
        (1, 0, say(0xFFFF, FAILED, CAUSE)),
        (0, 1, SideChannelPart(0, b"")),
    ],
    ids=[
        "another's",
        "rank 0's",
        "an unknown rank's",
        "another's failure",
        "its own",
        "a fourth's",
        "an unknown rank's failure",
        "other",
    ],
)
def test_what_a_peer_cannot_say_means_nothing(rank: int, peer: int, message: Message) -> None:
    """[EXT-OUTCOME-RELAY]"""

    async def main() -> None:
        group = Group(3)
        one = group.ranks[rank]
        one.take(peer, message)
        await one.flush()
        assert (one._states, one._failures, group.links.sent) == ({}, {}, [])

    run_timeless(main)


def test_a_ring_s_last_rank_waits_until_the_others_have_started() -> None:
    async def main() -> None:
        group = Group(3)
        waiting = asyncio.create_task(group.ranks[2].started({0, 1}))
        group.ranks[0].tell(STARTED)
        await asyncio.sleep(1)
        assert not waiting.done()
        group.ranks[1].tell(STARTED)
        await waiting

    run_timeless(main)


def test_a_rank_that_is_alone_waits_for_nobody() -> None:
    """If the extension is not agreed, nothing is sent."""

    async def main() -> None:
        group = Group(2, agreed=False)
        for each in group.ranks:
            each.tell(STARTED)
            await each.all(READY)
            await each.started({0, 1})
            error = BootstrapError("x", code=CONSEQUENCE)
            assert await each.settle(error) is error
            await each.last_words(error)
        assert now() == 0
        assert group.links.sent == []

    run_timeless(main)


# -- who failed first --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A rank fails at a time, in seconds."""

    code: str
    at: float = 0.0


async def shown(group: Group, rank: int, failure: Failure | None) -> tuple[int, str, float]:
    """The first failure shown by a rank: its rank, code, and time."""
    exchange = group.ranks[rank]

    async def work() -> None:
        if failure is None:
            await exchange.all(READY)
        else:
            await asyncio.sleep(failure.at)
            raise BootstrapError(f"rank {rank} failed", code=failure.code)

    try:
        await alongside(work(), exchange.failure())
    except BootstrapError as error:
        first = await exchange.settle(error)
        return first.rank if isinstance(first, PeerError) else rank, first.code, now()
    raise AssertionError


async def all_shown(group: Group, failures: dict[int, Failure]) -> list[tuple[int, str, float]]:
    return await asyncio.gather(*(shown(group, rank, failures.get(rank)) for rank in range(len(group.ranks))))


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("code", [CAUSE, CONSEQUENCE])
def test_one_rank_fails(size: int, failing: int, code: str) -> None:
    """All show it, at once if it is a cause, and after a moment if it could be a consequence.

    [EXT-OUTCOME-FAILED, EXT-OUTCOME-FIRST, EXT-OUTCOME-CAUSE]
    """

    async def main() -> None:
        group = Group(size)
        told = await all_shown(group, {failing: Failure(code)})
        assert {(rank, each) for rank, each, _ in told} == {(failing, code)}
        assert {at for _, _, at in told} == {0.0 if code == CAUSE else SETTLE_SECONDS}
        assert not any(steps.of("consequence") for steps in group.steps)
        # The first failure is sent to every rank but 0, including the failed one, and nothing else from it is.
        (verdict,) = {m for sender, _, m in group.outcomes() if sender == 0}
        assert (verdict.rank, verdict.state, verdict.code) == (failing, FAILED, code)
        assert sorted(to for sender, to, _ in group.outcomes() if sender == 0) == list(range(1, size))

    run_timeless(main)


BEFORE, AFTER = SETTLE_SECONDS - 0.05, SETTLE_SECONDS + 0.05


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: Failure(CAUSE), 1: Failure(CAUSE)}, 0),
        ({0: Failure(CONSEQUENCE), 1: Failure(CONSEQUENCE)}, 0),
        ({0: Failure(CONSEQUENCE, 0.01), 1: Failure(CONSEQUENCE)}, 1),
        ({0: Failure(CAUSE, 0.01), 1: Failure(CAUSE)}, 1),
        ({0: Failure(CONSEQUENCE), 1: Failure(CAUSE, BEFORE)}, 1),
        ({0: Failure(CONSEQUENCE), 1: Failure(CAUSE, AFTER)}, 0),
        ({0: Failure(CAUSE, BEFORE), 1: Failure(CONSEQUENCE)}, 0),
        ({0: Failure(CAUSE, AFTER), 1: Failure(CONSEQUENCE)}, 1),
        ({1: Failure(CONSEQUENCE), 2: Failure(CAUSE, BEFORE)}, 2),
        ({1: Failure(CONSEQUENCE), 2: Failure(CAUSE, AFTER)}, 1),
        ({1: Failure(CONSEQUENCE), 2: Failure(CONSEQUENCE, 0.01)}, 1),
        ({0: Failure(CONSEQUENCE), 1: Failure(CONSEQUENCE), 2: Failure(CAUSE)}, 2),
        ({0: Failure("link-lost"), 1: Failure("worker-died", 0.01), 2: Failure("worker-killed", 0.02)}, 2),
    ],
)
def test_several_ranks_fail(failures: dict[int, Failure], first: int) -> None:
    """A cause counts before its consequences, if it arrives within a moment. [EXT-OUTCOME-FIRST, EXT-OUTCOME-CAUSE]"""

    async def main() -> None:
        group = Group(3)
        told = await all_shown(group, failures)
        assert {(rank, code) for rank, code, _ in told} == {(first, failures[first].code)}
        assert max(at for _, _, at in told) <= 2 * SETTLE_SECONDS
        for rank, steps in enumerate(group.steps):
            # A rank that failed shows its own failure as a consequence; one that only received it has none.
            own = failures.get(rank)
            codes = [fields["code"] for fields in steps.of("consequence")]
            assert codes in ([], [own.code] if own is not None and rank != first else [])

    run_timeless(main)


FAILURES = st.builds(Failure, st.sampled_from([CAUSE, "side-channel-size", *CONSEQUENCES]), st.floats(0, 0.6))


@given(
    size=st.integers(2, 4),
    failures=st.dictionaries(st.integers(0, 3), FAILURES, min_size=1),
    delays=st.lists(st.floats(0, 0.1), min_size=1, max_size=20),
)
def test_all_ranks_show_the_same(size: int, failures: dict[int, Failure], delays: list[float]) -> None:
    """Whichever rank fails when, and whatever the delay. [EXT-OUTCOME-FIRST]"""
    failures = {rank: failure for rank, failure in failures.items() if rank < size} or {0: Failure(CAUSE)}

    async def main() -> None:
        turns = iter(delays * 100)
        group = Group(size, delay=lambda: next(turns))
        told = await all_shown(group, failures)
        (verdict,) = {(rank, code) for rank, code, _ in told}
        rank, code = verdict
        assert failures[rank].code == code
        started = min(failure.at for failure in failures.values())
        assert max(at for _, _, at in told) <= started + 1

    run_timeless(main)


def test_the_own_failure_while_rank_0_has_spoken() -> None:
    """Both arrive at once: rank 0's message counts."""

    async def main() -> None:
        group = Group(2)
        one = group.ranks[1]
        one.take(0, say(0, FAILED, CAUSE, "rank 0 failed"))
        first = await one.settle(BootstrapError("the init failed", code=CONSEQUENCE))
        assert isinstance(first, PeerError)
        assert (first.rank, first.stage, first.code, str(first)) == (0, "group", CAUSE, "rank 0 failed")
        assert group.steps[1].of("consequence") == [{"stage": "run", "code": CONSEQUENCE, "message": "the init failed"}]
        assert now() == 0

    run_timeless(main)


def test_only_the_first_word_of_rank_0_counts() -> None:
    async def main() -> None:
        one = Group(3).ranks[1]
        for rank, code in ((0, CONSEQUENCE), (2, CAUSE), (0, CAUSE)):
            one.take(0, say(rank, FAILED, code))
        with pytest.raises(PeerError) as caught:
            await one.failure()
        assert (caught.value.rank, caught.value.code) == (0, CONSEQUENCE)

    run_timeless(main)


def test_rank_0_never_says_who_was_first() -> None:
    """A rank shows its own failure then, and waits no longer than necessary. [EXT-OUTCOME-FIRST]"""

    async def main() -> None:
        error = BootstrapError("x", code=CAUSE)
        group = Group(2)
        group.links.takers[0] = Group(2).ranks[0]  # it receives the failure, and does not react
        assert await group.ranks[1].settle(error) is error
        assert now() == VERDICT_SECONDS
        group = Group(2)
        group.links.cut = {1}
        assert await group.ranks[1].settle(error) is error
        assert now() == VERDICT_SECONDS  # an unreceived message cannot be answered

    run_timeless(main)


def test_a_lost_link_does_not_keep_the_verdict_from_the_others() -> None:
    async def main() -> None:
        group = Group(3)
        group.links.cut = {1}
        told = await all_shown(group, {0: Failure("link-lost"), 1: Failure("link-lost")})
        assert [(rank, code) for rank, code, _ in told] == [(0, "link-lost"), (1, "link-lost"), (0, "link-lost")]
        assert max(at for _, _, at in told) == SETTLE_SECONDS

    run_timeless(main)


@pytest.mark.parametrize("interrupted", [0, 1])
def test_ctrl_c_on_one_rank_tells_the_others(interrupted: int) -> None:
    async def main() -> None:
        group = Group(3)
        others = [asyncio.create_task(shown(group, rank, None)) for rank in range(3) if rank != interrupted]
        await asyncio.sleep(1)
        await group.ranks[interrupted].last_words(BootstrapError("interrupted", code="interrupted"))
        assert await asyncio.gather(*others) == [(interrupted, "interrupted", 1.0)] * 2

    run_timeless(main)


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_any_text_can_be_told(code: str, message: str) -> None:
    """Cut to the frame's limit, without characters that a frame or a terminal cannot take. [EXT-OUTCOME]"""

    async def main() -> None:
        group = Group(2)
        error = BootstrapError(message, code=code)
        await group.ranks[1].last_words(error)
        (outcome,) = (m for _, _, m in group.outcomes())
        assert encode_frame(outcome, extensions=("outcome/1",))
        assert outcome.message == str(error)[:LONGEST_TEXT]
        assert outcome.message.isprintable()
        with pytest.raises(PeerError) as caught:
            await group.ranks[0].failure()
        assert caught.value.code == printable(code)[:LONGEST_TEXT]

    run_timeless(main)


def test_a_peer_s_words_are_no_commands_for_a_terminal() -> None:
    evil = "\x1b]0;owned\x07 \x9b2J\u202e\r\n\x00 fine é 日本"
    error = PeerError(Outcome(1, FAILED, evil, evil, evil))
    for text in (error.stage, error.code):
        assert text == "?]0;owned? ?2J???? fine é 日本"
    assert str(error) == "?]0;owned? ?2J???? fine é 日本"


# -- who runs what -----------------------------------------------------------------------------------------------------


async def compared(group: Group, *versions: Versions, wires: int = 1) -> list[str]:
    """Whether each rank continues, or its error's code."""
    results = await asyncio.gather(
        *(rank.compare(own, wires) for rank, own in zip(group.ranks, versions, strict=True)), return_exceptions=True
    )
    for result in results:
        assert result is None or type(result) is VersionError
    return ["on" if result is None else result.code for result in results]


def but(**fields: Any) -> Versions:
    return Versions(**{name: fields.get(name, getattr(VERSIONS, name)) for name in VERSIONS.__struct_fields__})


@pytest.mark.parametrize(
    ("other", "codes", "warnings"),
    [
        (VERSIONS, ["on", "on", "on"], []),
        (but(devices=""), ["on", "on", "on"], []),
        (but(mlx=""), ["programs-differ", "programs-differ", "on"], []),
        (but(program=Program.COMMAND), ["programs-differ", "programs-differ", "on"], []),
        (but(program=Program.DRY_RUN), ["programs-differ", "programs-differ", "on"], []),
        (but(program=Program.MODULE), ["on", "on", "on"], []),
        (but(package="0.2.0"), ["on", "on", "on"], ["cluster-wireproto is 0.1.0 on this rank, and 0.2.0 on rank 1"]),
        (but(mlx="0.33\x1b[2J"), ["on", "on", "on"], ["mlx is 0.32.4 on this rank, and 0.33?[2J on rank 1"]),
        (but(backend="ring"), ["backends-differ", "backends-differ", "on"], []),
        (but(devices="cd" * 32), ["devices-differ", "devices-differ", "on"], []),
        (but(backend="ring", devices="cd" * 32), ["backends-differ", "backends-differ", "on"], []),
    ],
    ids=[
        "same",
        "no matrix",
        "no MLX",
        "a command",
        "a dry run",
        "a module",
        "package",
        "MLX",
        "backend",
        "matrix",
        "both",
    ],
)
def test_versions(other: Versions, codes: list[str], warnings: list[str]) -> None:
    """Combinations that cannot work are refused by both; doubtful ones warn. [EXT-VERSIONS, EXT-VERSIONS-DIFFER]"""

    async def main() -> None:
        group = Group(3)
        assert await compared(group, VERSIONS, other, VERSIONS) == codes
        assert [fields["message"] for fields in group.steps[0].of("warning")] == warnings
        assert len(group.steps[1].of("warning")) == len(warnings)
        assert group.steps[2].of("warning") == []
        assert now() == 0

    run_timeless(main)


@pytest.mark.parametrize(
    ("own", "other", "wires", "fits"),
    [
        ("0.32.4", "0.32.3", 2, False),
        ("0.31.9", "0.32.4", 5, False),
        ("0.32.3", "1.0", 2, False),
        ("0.32.4.dev20260822", "0.29.1", 2, False),
        ("0.32.4", "0.32.3", 1, True),  # with one connection all versions agree
        ("0.32.4", "0.32.3", 0, True),  # no mesh
        ("0.32.4", "0.40.0", 4, True),
        ("0.32.3", "0.29.1", 4, True),
    ],
)
def test_versions_of_mlx_that_count_cables_differently(own: str, other: str, wires: int, fits: bool) -> None:
    """[EXT-VERSIONS-DIFFER, JACCL-MESH-INIT]"""

    async def main() -> None:
        code = "on" if fits else "mlx-differs"
        assert await compared(Group(2), but(mlx=own), but(mlx=other), wires=wires) == [code, code]

    run_timeless(main)


def test_versions_come_before_anything_else() -> None:
    """[EXT-VERSIONS-SEND]"""

    async def main() -> None:
        group = Group(2)
        assert await compared(group, VERSIONS, VERSIONS) == ["on", "on"]
        for each in group.ranks:
            each.tell(STARTED)
            await each.flush()
        for rank in (0, 1):
            assert [type(m) for sender, _, m in group.links.sent if sender == rank] == [Versions, Outcome]

    run_timeless(main)


def test_a_rank_that_does_not_say_what_it_runs() -> None:
    async def main() -> None:
        group = Group(3)
        silent = {1: Group(3).ranks[1], 2: group.ranks[2]}
        group.links.takers.update(silent)
        others = asyncio.gather(*(group.ranks[rank].compare(VERSIONS) for rank in (0, 2)), return_exceptions=True)
        refused, fine = await others
        assert (type(refused), refused.code, str(refused)) == (
            VersionError, "versions-missing", "rank 1 did not send its versions within 3 s",
        )  # fmt: skip
        assert fine is None
        assert now() == VERSIONS_SECONDS

    run_timeless(main)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rank_fails_while_versions_are_compared(failing: int) -> None:
    """The others do not wait for its versions."""

    async def main() -> None:
        group = Group(3)

        async def work(rank: int) -> None:
            if rank == failing:
                raise BootstrapError("x", code=CAUSE)
            await group.ranks[rank].compare(VERSIONS)
            await group.ranks[rank].all(READY)

        async def act(rank: int) -> tuple[int, str]:
            try:
                await alongside(work(rank), group.ranks[rank].failure())
            except BootstrapError as error:
                first = await group.ranks[rank].settle(error)
                return first.rank if isinstance(first, PeerError) else rank, first.code
            raise AssertionError

        assert await asyncio.gather(*(act(rank) for rank in range(3))) == [(failing, CAUSE)] * 3
        assert now() == 0

    run_timeless(main)
