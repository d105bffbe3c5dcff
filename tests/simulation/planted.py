"""Bugs of the control plane, planted one at a time; the simulation must find each."""

import asyncio
import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from bootstrap import attempt
from bootstrap.control import child, lock, run, watchers
from bootstrap.launch import cables, launched, member, pairing, ssh
from bootstrap.launch import run as launcher
from bootstrap.link import outcome, sessions, side_channel
from bootstrap.link.reason import Reason
from bootstrap.restarts import Restarts
from tests.campaign import say
from tests.simulation.world import World

rank: Final = import_module("bootstrap.rank")  # the package has a function of that name
SEEDS: Final = 3
MOST: Final = 10_000
"""Worlds within which each must be found."""


def found_after(name: str, first: int, most: int = MOST) -> int | None:
    """Return the number of worlds, from the seed `first` on, to find a planted bug; None after `most`."""
    with planted(name):
        for count in range(1, most + 1):
            world = World(first + count)
            world.run()
            if world.broken:
                return count
    return None


def show_planted(seed: int, jobs: int, results: Path | None) -> int:
    """Print for each planted bug the worlds that it takes to find it with three seeds; return the exit code.

    `results` keeps each count as soon as it is known, and what it has of an earlier call is not counted again.
    """
    counts = {} if results is None or not results.exists() else _read(results)
    firsts = [(seed + more) * 1_000_000 for more in range(SEEDS)]
    wanted = [(name, first) for first in firsts for name in PLANTED if (name, first) not in counts]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for name, first, count in pool.imap_unordered(_count, wanted):
            counts[name, first] = count
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps([name, first, count]) + "\n")
    for name in PLANTED:
        found = [counts[name, first] for first in firsts]
        say(f"{name:52} " + " ".join(f"{'-' if count is None else count:>6}" for count in found))
    missed = sum(counts[name, first] is None for name in PLANTED for first in firsts)
    total = len(PLANTED) * SEEDS
    say(f"{total - missed} of {total} found within {MOST} worlds")
    return 1 if missed else 0


def _count(wanted: tuple[str, int]) -> tuple[str, int, int | None]:
    return *wanted, found_after(*wanted)


def _read(results: Path) -> dict[tuple[str, int], int | None]:
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return {(name, first): count for name, first, count in rows}


@contextmanager
def planted(name: str) -> Iterator[None]:
    target, attribute, replacement = PLANTED[name]
    with patch.object(target, attribute, replacement(getattr(target, attribute))):
        yield


async def _at_once(*_: Any, **__: Any) -> None:
    """Wait for nothing."""


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def _replaced(by: Any) -> Callable[[Any], Any]:
    return lambda original: by


def _met_keeps_alarm(original: Any) -> Any:
    def met(self: run.Run) -> None:
        self._set_met(True)

    return met


def _kills_nobody(original: Any) -> Any:
    async def end(self: child.Child, number: int = 15) -> bool:
        self.send(number)
        await self._alone(self.grace, patient=False)
        await self._reap()
        return self.reaped

    return end


def _never_gives_up(original: Any) -> Any:
    async def end(self: child.Child, number: int = 15) -> bool:
        await original(self, number)
        return True

    return end


def _restarts_for_ever(original: Any) -> Any:
    return lambda self, error: True


def _last_failure_first(original: Any) -> Any:
    return lambda self: list(self._failures.values())[-1]


def _consequence_first(original: Any) -> Any:
    return lambda self: max(self._failures.values(), key=lambda each: each.code in outcome.CONSEQUENCES)


def _released(original: Any) -> Any:
    async def bound(ip: str, link_port: int) -> Any:
        held = await original(ip, link_port)
        held.close()
        return held

    return bound


def _no_relay(original: Any) -> Any:
    def post(self: outcome.Exchange, message: Any, *, but: int | None = None) -> Any:
        return [] if but is not None else original(self, message, but=but)

    return post


def _alarm_of_old(original: Any) -> Any:
    async def again(self: run.Run, seconds: float = 0.0) -> None:
        alarm, self._alarm = self._alarm, None
        await original(self, seconds)
        if self._alarm is None:
            self._alarm = alarm

    return again


def _keeps_bootstraps(original: Any) -> Any:
    async def bootstrap(self: sessions.RankOne) -> Any:
        return self.__dict__.setdefault("first", await original(self))

    return bootstrap


def _own_state_only(original: Any) -> Any:
    async def wait(self: outcome.Exchange, state: Any) -> None:
        await self._until(lambda: self._states.get(self._rank) is state)

    return wait


def _finished_alone(original: Any) -> Any:
    async def finished(self: attempt.Attempt, wait: Any) -> None:
        wait.close()

    return finished


def _turned_round(original: Any) -> Any:
    async def answer(self: side_channel.SideChannel, whole: bytes) -> bytes:
        part = len(whole) // self._size
        return await original(self, whole[-part:] + whole[:-part])  # type: ignore[no-any-return]

    return answer


def _any_status(original: Any) -> Any:
    class Silent(original):  # type: ignore[misc]
        def __init__(self, status: int) -> None:
            super().__init__(status)
            self.exit_code = 0

    return Silent


def _unfinished_too(original: Any) -> Any:
    async def lines(self: ssh.Connection) -> Any:
        while line := await self._stdout.readline():
            yield line.removesuffix(b"\n")

    return lines


def _against_the_cables(original: Any) -> Any:
    return lambda size, wires, *, closed: tuple(range(size))


def _silent_as_another(self: ssh.Connection, seconds: float) -> ssh.HostError:
    return ssh.HostError(self.host, "it is silent", code="ssh-failed")


PLANTED: Final[dict[str, tuple[Any, str, Callable[[Any], Any]]]] = {
    "the alarm goes on after the group is there": (run.Run, "met", _met_keeps_alarm),
    "an attempt's alarm ends the next one": (run.Run, "again", _alarm_of_old),
    "children are left at the end": (run.Run, "end_children", _replaced(_at_once)),
    "a signal is not taken": (run.Run, "interrupt", _replaced(_nothing)),
    "children stay stopped after Ctrl-Z": (run.Run, "_resume", _replaced(_nothing)),
    "the deadline is not set": (run.Run, "_set_alarm", _replaced(_nothing)),
    "a child is not killed": (child.Child, "end", _kills_nobody),
    "a crash is told as a kill": (child, "_CRASHES", _replaced(frozenset())),
    "a child that cannot be killed is not reported": (child.Child, "end", _never_gives_up),
    "the lock is released early": (lock, "_bound", _released),
    "the lock's record names no child": (lock.Lock, "watch", _replaced(_nothing)),
    "the lock's record is left": (lock.Lock, "_release", _replaced(lambda self: self._held.close())),
    "the lock is not released": (lock.Lock, "_release", _replaced(_nothing)),
    "a killed run's guard is not waited for": (lock, "TIDY_SECONDS", _replaced(0.0)),
    "the guard knows no child": (watchers.Watchers, "watch", _replaced(lambda self, pid: self.children.add(pid))),
    "directories are left": (watchers.Watchers, "remove_directories", _replaced(_nothing)),
    "a rank is ready alone": (outcome.Exchange, "all", _own_state_only),
    "rank 0 passes no state on": (outcome.Exchange, "_post", _no_relay),
    "the last failure is the cause": (outcome.Exchange, "_first", _last_failure_first),
    "a consequence is the cause": (outcome.Exchange, "_first", _consequence_first),
    "no time for the cause": (outcome.Exchange, "_cause", _replaced(_at_once)),
    "a failure is not settled": (outcome.Exchange, "settle", _replaced(lambda self, error: _value(error))),
    "another rank's failure is not heard": (outcome.Exchange, "failure", _replaced(lambda self: _for_ever())),
    "no turns on the ring": (attempt.Attempt, "_turn", _replaced(_at_once)),
    "a rank waits for no other at the end": (attempt.Attempt, "all_finished", _finished_alone),
    "restarts without end": (Restarts, "may_follow", _restarts_for_ever),
    "no sessionEnd": (sessions.RankZero, "stop", _replaced(_at_once)),
    "no new session after a failure": (sessions.RankZero, "drop", _replaced(_nothing)),
    "an earlier session's bootstrap is taken": (sessions.RankOne, "bootstrap", _keeps_bootstraps),
    "missed pongs do not count": (sessions.RankZero, "_miss", _replaced(_nothing)),
    "a lost rank is not missed": (rank, "_fail_when_lost", _replaced(lambda peer, number: _for_ever())),
    "what a link was lost for is forgotten": (Reason, "lost", _replaced(_nothing)),
    "early messages are lost": (rank, "MAX_EARLY", _replaced(0)),
    "a gather's clock runs on": (side_channel.SideChannel, "_stop_clock", _replaced(_nothing)),
    "rank 0 mixes up the parts of a gather": (side_channel.SideChannel, "_answer", _turned_round),
    "a rank goes on without its launcher": (launched, "follow", _replaced(lambda run, reader, program: _for_ever())),
    "a launch leaves its ssh": (ssh.Connection, "kill", _replaced(_at_once)),
    "a launch takes unfinished answers": (ssh.Connection, "lines", _unfinished_too),
    "a launch does not look at what is left": (launcher.Launcher, "_look", _replaced(_at_once)),
    "a launch mixes up its hosts": (cables, "_path", _against_the_cables),
    "a launch does not tell that a host is silent": (ssh.Connection, "silence", _replaced(_silent_as_another)),
    "a launch asks the user and does not listen": (pairing, "replace", _replaced(lambda host, asks: host)),
    "a launcher stops no rank": (member.Member, "stop", _replaced(_nothing)),
    "a command's status is lost": (run, "CommandError", _any_status),
}


async def _value(value: Any) -> Any:
    return value


async def _for_ever() -> None:
    await asyncio.Event().wait()
