"""`bootstrap.rank` used by a program: real ranks over real links, with MLX in separate processes."""

import asyncio
import copy
import os
import pickle
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

import bootstrap
from bootstrap import BootstrapError, ConfigError, GroupInitError, Plan, events
from bootstrap.control.child import CommandError
from bootstrap.errors import IdentityError
from bootstrap.launch.member import RankError
from bootstrap.link.outcome import PeerError
from bootstrap.trust import Trust
from tests.bootstrap.ranks import Rank, make_ranks
from wireproto import Outcome, OutcomeState
from wireproto.session import Signer

SECONDS = 60.0


@pytest.fixture
def pair(tmp_path: Path) -> list[Rank]:
    return make_ranks(tmp_path, 2)


def parts(pair: list[Rank], rank: int, **more: Any) -> tuple[Plan, Trust]:
    options = {"rank": rank, "ips": tuple(each.ip for each in pair), "backend": "ring"} | more
    return Plan(**options), pair[rank].trust(pair)


def both(*mains: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run ranks in one event loop; return their results or exceptions, and check that nothing is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    async def main() -> list[Any]:
        async with asyncio.timeout(SECONDS):
            return await asyncio.gather(*mains, return_exceptions=True)

    results = asyncio.run(main())
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    return results


def test_two_ranks_form_a_group_in_one_event_loop(pair: list[Rank]) -> None:
    holding = asyncio.Event()

    async def zero() -> list[events.Event]:
        taken = []
        async with bootstrap.rank(*parts(pair, 0)) as run:
            async for event in run:
                taken.append(event)
                if isinstance(event, events.Holding):
                    await holding.wait()
                    break
        return taken

    async def one() -> list[events.Event]:
        taken = []
        async with bootstrap.rank(*parts(pair, 1)) as run:
            async for event in run:
                taken.append(event)
                if isinstance(event, events.Holding):
                    holding.set()  # rank 0 leaves its block, which ends the group on this rank too
        return taken

    for rank, taken in enumerate(both(zero(), one())):
        assert [event.size for event in taken if isinstance(event, events.GroupReady)] == [2]
        assert [event.value for event in taken if isinstance(event, events.SumChecked)] == [3]
        assert {event.rank for event in taken} == {rank}
        times = [event.t_ms for event in taken if event.t_ms is not None]
        assert all(time >= 0 for time in times)
    assert isinstance(taken[-1], events.SessionEnded)


def test_commands_and_what_they_write(pair: list[Rank]) -> None:
    """A command's failure is raised by the iteration, once, with its exit code; the other rank names it, too."""

    async def runs(rank: int, script: str) -> list[events.Event]:
        taken = []

        async def take() -> None:
            async for event in run:
                taken.append(event)

        async with bootstrap.rank(*parts(pair, rank, command=("/bin/sh", "-c", script), grace=0.5)) as run:
            with pytest.raises(BootstrapError) as caught:
                await take()
        assert caught.value.code == "command-failed"
        if rank == 0:
            assert isinstance(caught.value, CommandError)
            assert caught.value.exit_code == 7
        else:
            assert isinstance(caught.value, PeerError)
            assert caught.value.rank == 0
        return taken

    zero, _ = both(runs(0, "echo one; printf two >&2; exit 7"), runs(1, "sleep 60"))
    output = [(event.stream, event.line) for event in zero if isinstance(event, events.Output)]
    assert sorted(output) == [("stderr", "two"), ("stdout", "one")]
    assert any(isinstance(event, events.CommandEnded) and event.status == 7 for event in zero)


async def ends(plan: Plan, trust: Trust) -> None:
    async with bootstrap.rank(plan, trust) as run:
        await run.ended()


async def leaves(plan: Plan, trust: Trust) -> str:
    async with bootstrap.rank(plan, trust):
        await asyncio.sleep(plan.timeout + 2)
    return "not reached"


@pytest.mark.parametrize("main", [ends, leaves])
def test_a_failure_reaches_whoever_takes_no_events(main: Callable[..., Any], pair: list[Rank]) -> None:
    """Without iteration, at the end of the block."""
    (error,) = both(main(*parts(pair, 0, timeout=0.5)))
    assert isinstance(error, BootstrapError)
    assert error.code == "link-refused"


class Refusing:
    """A keychain whose owner does not unlock it."""

    def __init__(self, signer: Signer, answer: Callable[[], Any]) -> None:
        self.public_key, self.answer = signer.public_key, answer

    def sign(self, commitment: bytes) -> Any:
        return self.answer()


def denied() -> bytes:
    raise PermissionError("denied")


@pytest.mark.parametrize("answer", [denied, lambda: None], ids=["raises", "none"])
@pytest.mark.parametrize("number", [0, 1])
def test_key_that_does_not_sign(
    number: int, answer: Callable[[], Any], pair: list[Rank], caplog: pytest.LogCaptureFixture
) -> None:
    """The rank waited for its deadline, and then reported that the link had failed; asyncio logged a traceback."""
    plan, trust = parts(pair, number)
    trust.signer = Refusing(trust.signer, answer)

    async def main() -> None:
        async with bootstrap.rank(*parts(pair, 1 - number)):
            await ends(plan, trust)

    (error,) = both(main())
    assert isinstance(error, IdentityError)
    assert error.code == "sign-failed"
    assert isinstance(error.__cause__, PermissionError | TypeError)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_failure_that_the_iteration_has_raised_is_no_success(pair: list[Rank]) -> None:
    """`ended` returned as after a success, if another task took the events."""

    async def main() -> None:
        async with bootstrap.rank(*parts(pair, 0, timeout=0.5)) as run:
            for _ in range(2):
                with pytest.raises(BootstrapError):
                    await anext(event async for event in run if event is None)
                with pytest.raises(BootstrapError):
                    await run.ended()

    assert both(main()) == [None]


def test_one_string_is_no_list_of_hosts_or_arguments(pair: list[Rank]) -> None:
    """It was taken for names or arguments of one letter each."""

    async def main(hosts: Sequence[str], command: Sequence[str]) -> None:
        async with bootstrap.launch(hosts, command=command):
            raise AssertionError

    for hosts, command, code in (("localhost", ("true",), "bad-hosts"), (["localhost"], "true", "bad-command")):
        (error,) = both(main(hosts, command))
        assert isinstance(error, ConfigError)
        assert error.code == code
    with pytest.raises(ConfigError) as caught:
        Trust.of(parts(pair, 0)[0], peers="mac-b")
    assert caught.value.code == "bad-trust"


def test_an_exception_in_the_block_ends_the_rank_and_stays_what_it_is(pair: list[Rank]) -> None:
    async def fails() -> None:
        async with bootstrap.rank(*parts(pair, 1)) as run:
            async for event in run:
                if isinstance(event, events.Listening):
                    raise KeyError("own")

    (error,) = both(fails())
    assert isinstance(error, KeyError)


def test_block_that_is_cancelled_again_while_it_is_left(pair: list[Rank]) -> None:
    """It left tasks in the event loop, and processes after that: in a cancelled scope of anyio always."""

    async def main() -> None:
        before = asyncio.all_tasks()
        listening = asyncio.Event()

        async def listens() -> None:
            async with bootstrap.rank(*parts(pair, 1)) as run:
                async for event in run:
                    if isinstance(event, events.Listening):
                        listening.set()

        task = asyncio.create_task(listens())
        await listening.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert asyncio.all_tasks() == before

    assert both(main()) == [None]


def test_a_rank_that_is_left_at_once(pair: list[Rank]) -> None:
    async def leaves() -> None:
        async with bootstrap.rank(*parts(pair, 1)):
            pass

    assert both(leaves()) == [None]


def test_processes_of_the_caller_are_left_alone(pair: list[Rank]) -> None:
    """The command ends everything started meanwhile; a library must not."""

    async def main() -> int | None:
        async with bootstrap.rank(*parts(pair, 1)):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
            )
        try:
            return process.returncode
        finally:
            process.kill()
            await process.wait()

    assert both(main()) == [None]


def test_process_that_ignores_sigchld(pair: list[Rank]) -> None:
    """The system keeps no exit status then: a command that failed had succeeded."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        (error,) = both(ends(*parts(pair, 1, command=("false",), timeout=0.5)))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert isinstance(error, ConfigError)
    assert error.code == "bad-signals"


def test_a_plan_without_links_has_no_rank_to_run(pair: list[Rank]) -> None:
    (error,) = both(ends(*parts(pair, 1, link_ports=())))
    assert isinstance(error, ConfigError)


@pytest.mark.parametrize("name", ["rank", "launch", "bootstrap", "Plan"])
def test_function_that_a_caller_replaces_in_its_tests(name: str) -> None:
    """Replacing `rank` or `launch` had no effect, without a word, and restoring it raised an AttributeError."""
    function = getattr(bootstrap, name)
    with mock.patch(f"bootstrap.{name}") as replaced:
        assert getattr(bootstrap, name) is replaced
    assert getattr(bootstrap, name) is function


def test_the_name_stays_the_function() -> None:
    """Although a submodule has the same name, which the import system puts in its place."""
    code = "import bootstrap, bootstrap.rank; from bootstrap.rank import Rank; assert callable(bootstrap.rank)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0  # noqa: S606


@pytest.mark.parametrize(
    "error",
    [
        GroupInitError("no group within 1 s", code="deadline"),
        CommandError(7),
        PeerError(Outcome(1, OutcomeState.FAILED, "group", "init-failed", "no")),
        RankError("lost", code="link-lost", stage="link", rank=1, exit_code=125),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failure_of_a_process_in_a_pool(error: BootstrapError) -> None:
    """It could not be unpickled, so the pool broke instead of raising it."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))
        assert (again.stage, again.code) == (error.stage, error.code)
