"""A case of the campaign, played in a simulated world: see `tests.campaign.play` and `strikes`, which this repeats."""

import asyncio
import errno
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from bootstrap.link.sessions import RankOne, RankZero, Times
from bootstrap.plan import Plan
from tests.campaign.plan import PROCESS
from tests.campaign.play import End, Result
from tests.campaign.process import BRISK, PULSE
from tests.simulation import network
from tests.simulation.cable import Cable
from tests.simulation.machine import Node, SimulatedProcess
from tests.simulation.network import refused
from tests.simulation.scenario import Scenario, ip
from tests.simulation.world import Control, World
from wireproto.messages import Revision

LACKING: Final = {
    "clock": "a simulated world has no wall clock",
    "descriptors": "a simulated process has no limit of open files",
    "flood": "a simulated network has no other hosts",
    "keylog": "a simulated rank keeps no key log",
}
"""Faults without a counterpart, with the reason."""
START_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 40.0
VANISHED_SECONDS: Final = 5.0
"""Seconds until TCP gives up with the campaign's keep-alive."""
READY: Final = b"ready\n"
LATENCIES: Final = (0.0001, 0.005, 0.02)
"""Seconds, one way: a host may be busy."""
REACTIONS: Final = (0.001, 0.005, 0.05)
"""Seconds that the campaign, or a worker, may take from one act to the next."""
EXIT_SECONDS: Final = 0.005
"""The longest time that a killed process takes to end."""
TMPDIR: Final = Path("/scratch")


class Played(World):
    """A world in which two ranks run as in a case, with the fault's own choices of its real counterpart."""

    def __init__(self, real: Result, seed: int) -> None:
        case = real.case
        random = Random(f"played {seed}")
        command = {"group": (), "command": ("true",)}[case.work]
        plans = [
            Plan(
                rank=rank,
                ips=(ip(0), ip(1)),
                backend="ring",
                session_id=f"{seed:031}-{rank:04}",
                command=command,
                revision=Revision(case.revision),
                extensions=case.extensions == "on",
                timeout=case.timeout,
                restarts=case.restarts,
            )
            for rank in range(2)
        ]
        scenario = Scenario(
            plans, [0.0, 0.0], stop=0.0, stops=0, latency=random.choice(LATENCIES), faults=[], owns_process=True
        )
        super().__init__(seed, scenario)
        self.case, self.chosen, self.gap = case, real.chosen, abs(real.gap)
        self.random = random
        self._poll = random.choice((0.001, 0.05))
        self.has_reached_stage = self.is_struck = self.is_frozen = self.goes = False
        self.unheard: set[int] = set()
        """Ranks whose output is not read any more."""
        self.cable = Cable(self.network, case, self._strike, random)
        self.mlx.groups.may_misname = case.fault == "flip"  # a bit of a plain jacclBootstrap
        for machine in self.machines:
            machine.directories.insert(0, TMPDIR)
            machine.files[TMPDIR] = Node(None)
        for rank, habits in enumerate(self.habits):
            habits.import_seconds = random.uniform(0.1, 1.5)
            habits.prepare_seconds = random.uniform(0.0, REACTIONS[-1])
            habits.ready_seconds = random.uniform(0.0, REACTIONS[-1])
            habits.mlx = "0.32.4"
            habits.command = self._command
            if case.hangs and rank == 1:
                habits.at_step["init"] = lambda process: None

    def run(self) -> None:
        with brisk():
            super().run()

    @property
    def ends(self) -> tuple[End, ...]:
        """The ends of rank 0 and rank 1."""
        return tuple(map(_end_of, self._runs()))

    # -- the ranks -----------------------------------------------------------------------------------------------------

    def start(self, rank: int, *_: Any) -> None:
        super().start(rank)
        if self.case.nohup and rank == self.case.rank:
            self.controls[-1].process.ignored = {signal.SIGHUP}

    def shown(self, control: Control, event: dict[str, Any]) -> None:
        super().shown(control, event)
        if self.case.fault == "terminal" and control.plan.rank in self.unheard:
            control.reader_left.set()  # when it writes, it notices

    async def _command(self, process: SimulatedProcess) -> int:
        await asyncio.sleep(self.random.uniform(0.01, 0.1))
        process.write("stdout", READY)
        if self.case.stage in ("running", "stop"):
            await self._until(lambda: self.goes, math.inf)
        return 0

    def _runs(self) -> list[Control]:
        """Return the ranks, without one that was started again beside the first."""
        return [next(each for each in self.controls if each.plan.rank == rank) for rank in range(2)]

    def _are_over(self) -> bool:
        return len(self.controls) >= 2 and all(control.process.is_dead for control in self._runs())

    def _processes(self) -> list[SimulatedProcess] | None:
        """Return those that are killed or stopped and have not ended; None if one has not been started."""
        control = self._of(self.case.rank)
        there = control.machine.processes
        guard = next((pid for pid, each in there.items() if each.arguments == ("guard",)), None)
        started = control.last("started")
        pids = {
            "control": control.process.pid,
            "guard": guard,
            "worker": None if started is None else started["pid"],
        }
        wanted = [pids[name] for name in self.chosen["target"]]
        if None in wanted and not control.process.is_dead:
            return None
        return [there[pid] for pid in wanted if pid in there]

    # -- from start to end ---------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self.has_reached_stage = await self._reach_stage()
        if not self.has_reached_stage:
            return
        pongs = self._pongs()
        limit = self.case.timeout * (1 + self.case.restarts) + PATIENCE_SECONDS
        await self._until(lambda: self._are_over() or self._are_well(pongs), limit)
        self.goes = True
        if not self._are_over() and (self.case.work == "group" or self.is_frozen):
            self.stop(self._of(0), signal.SIGINT)
        if not await self._until(self._are_over, self.case.timeout + PATIENCE_SECONDS):
            self.broken.append("a rank hangs")

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        limit = self.loop.now + seconds
        while not condition() and self.loop.now < limit:  # noqa: ASYNC110
            await asyncio.sleep(self._poll)
        return condition()

    async def _reach_stage(self) -> bool:
        case = self.case
        if case.stage == "listen":
            return await self._listen()
        self.start(1)
        await asyncio.sleep(self.gap)
        self.start(0)
        awaited: dict[str, Callable[[], bool]] = {
            "files": lambda: self._of(case.rank).last("file-written") is not None,
            "init": lambda: self._of(0 if case.hangs else case.rank).last("environment-set") is not None,
            "ready": lambda: all(map(_works, self.controls)),
            "running": lambda: all(map(_works, self.controls)),
            "stop": lambda: all(map(_works, self.controls)),
        }
        if case.stage not in awaited:
            return await self._until(lambda: self.is_struck, START_SECONDS)
        await self._until(lambda: awaited[case.stage]() or self._are_over(), START_SECONDS)
        if not awaited[case.stage]():
            return False
        await asyncio.sleep(self.random.uniform(0.0, self._poll))
        if case.stage == "stop":
            self.stop(self._of(self.chosen["stopped"]), signal.SIGINT)
            await asyncio.sleep(self.random.uniform(0.0, self.random.choice(REACTIONS)))
        self._strike()
        return True

    async def _listen(self) -> bool:
        first = self.case.rank
        if self.chosen.get("early"):
            self._strike()
        self.start(first)
        word = "listening" if first == 1 else "link-lost"
        await self._until(lambda: self._of(first).last(word) is not None or self._of(first).process.is_dead, 60.0)
        if not self.is_struck:
            self._strike()
        await asyncio.sleep(self.gap)
        self.start(1 - first)
        return True

    def _of(self, rank: int) -> Control:
        return next(each for each in self.controls if each.plan.rank == rank)

    def _pongs(self) -> int:
        return sum(event["event"] == "pong" for event in self._of(0).events)

    def _are_well(self, pongs: int) -> bool:
        case, stage = self.case, self.case.stage
        if case.work == "command" and stage not in ("running", "stop"):
            return False
        if case.fault == "terminal" and not (case.nohup and case.rank == 1 and stage in ("ready", "running")):
            return False
        is_alive = 0 in self.unheard or self._pongs() >= pongs + 2
        is_refused = all(each.process.is_dead for each in self.controls if each not in self._runs())
        return is_alive and is_refused and all(each.plan.rank in self.unheard or _works(each) for each in self._runs())

    # -- the faults ----------------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        self.is_struck = True
        fault, rank = self.case.fault, self.case.rank
        self.record(f"fault: {fault} rank {rank} {self.chosen}")
        if fault in PROCESS:
            self._strike_processes()
        elif fault in ("disk", "permission"):
            self.machines[rank].disk_error = errno.ENOSPC if fault == "disk" else errno.EACCES
        elif fault == "second":
            self.start(rank)
        elif fault == "terminal":
            self.later(self.random.uniform(0.0, PULSE), self._hang_up, self._of(rank))
        elif fault == "reader":  # a rank that forms a group writes less than it keeps for a reader that is late
            self.unheard |= set() if "seconds" in self.chosen else {rank}
        elif fault == "partition" and self.case.shape == "namespaces":
            self._separate()
        else:
            self.cable.harm(fault, self.chosen["seconds"])
            if "twice" in self.chosen:
                self.later(0.2, self.cable.harm, fault, 0.1)

    def _strike_processes(self) -> None:
        processes = self._processes()
        if processes is None:  # too early
            self.later(self._poll, self._strike_processes)
            return
        for process in reversed(processes):
            process.signal(signal.SIGSTOP)
            if self.case.fault == "kill":  # its end takes a moment, in which it reads nothing more
                self.later(self.random.uniform(0.0, EXIT_SECONDS), process.signal, signal.SIGKILL)
            if "seconds" in self.chosen:
                self.later(self.chosen["seconds"], process.signal, signal.SIGCONT)
        self.is_frozen = self.case.fault == "freeze" and "seconds" not in self.chosen

    def _hang_up(self, control: Control) -> None:
        self.unheard.add(control.plan.rank)
        control.output_error = refused(errno.EIO)
        if not self.case.nohup:
            if self.random.random() < 0.5:  # it may notice first that it cannot write
                control.reader_left.set()
            self.later(0.0, control.process.signal, signal.SIGHUP)

    def _separate(self) -> None:
        one, other = (machine.ip for machine in self.machines)
        self.network.separate(one, other)
        if (unplugged := self.chosen.get("unplugged")) is not None:
            self.machines[unplugged].host.is_unplugged = True
        self.later(self.chosen["seconds"], self._join)

    def _join(self) -> None:
        for machine in self.machines:
            machine.host.is_unplugged = False
        self.network.join(*(machine.ip for machine in self.machines))


def _works(control: Control) -> bool:
    """Whether it holds the group, or runs its command."""
    names = ("holding", "restarting", "error", "done")
    shown = [event["event"] for event in control.events if event["event"] in names]
    if control.plan.command:
        return control.said.count(READY) > shown.count("restarting") and not {"error", "done"} & {*shown}
    return shown[-1:] == ["holding"]


def _end_of(control: Control) -> End:
    error, status = control.last("error"), control.process.status
    assert status is not None
    return End("-", None, status) if error is None else End(error["code"], error["rank"], status)


@contextmanager
def brisk() -> Iterator[None]:
    """Have links use the campaign's short times."""
    with ExitStack() as stack:
        for role in (RankZero, RankOne):
            stack.enter_context(patch.dict(role.__init__.__kwdefaults__, times=Times(**BRISK)))
        stack.enter_context(patch.object(network, "VANISHED_SECONDS", VANISHED_SECONDS))
        yield
