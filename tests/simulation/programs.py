"""The programs of simulated processes: the worker with its MLX, and a user's command."""

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from bootstrap.group import prepare
from bootstrap.plan import Backend, Order
from bootstrap.worker import ALARM_AFTER_DEADLINE
from tests.simulation.machine import Disk, SimulatedProcess
from tests.simulation.mlx import Mlx

WITHOUT_GATHERS = "0.32.0"
"""A version of MLX whose side channel cannot be replaced."""
SERVER_SECONDS = 1000.0
"""A program that does not end by itself."""
DEAF_PART = 0.3
"""How often a helper does not mind SIGTERM."""
PARTS = 3
"""Lines of a program's output."""
LAST_PART = b"part %d\n" % (PARTS - 1)


class Habits:
    """The behaviour of the processes of one host; a fault changes it."""

    def __init__(self, random: Random) -> None:
        self.import_seconds = random.choice((0.05, 0.2, 1.0, random.uniform(0.1, 8.0)))
        self.prepare_seconds = 0.0
        """From a worker's order to the file for MLX."""
        self.ready_seconds = 0.0
        """From the end of its init to its report, which follows a sum."""
        self.mlx = random.choice(("0.32.4", "0.32.4", WITHOUT_GATHERS))
        self.program_seconds = random.choice((random.uniform(0.0, 5.0), random.uniform(0.0, 5.0), SERVER_SECONDS))
        self.program_status = 0
        self.helper = random.choice(("", "", "", "", "", "", "helper", "helper with a session"))
        """A helper that a user's program starts: a process in its group, or in a group of the helper's own."""
        self.command: Callable[[SimulatedProcess], Coroutine[Any, Any, int]] | None = None
        """A user's command that forms no group, in place of one that does."""
        self.at_step: dict[str, Callable[[SimulatedProcess], None]] = {}
        """Actions when a worker or command reaches a step, once each."""

    async def step(self, name: str, process: SimulatedProcess) -> None:
        """A worker or command has reached a step, which it may never leave."""
        act = self.at_step.pop(name, None)
        if act is not None:
            act(process)
            await asyncio.Event().wait()

    async def work(self, process: SimulatedProcess) -> None:
        """Do as a user's program, which says so from time to time."""
        if self.helper:
            child = process.machine.spawn(_helper, (self.helper,), process)
            child.group = process.group if self.helper == "helper" else child.pid
        await self.step("program", process)
        for number in range(PARTS):
            process.write("stdout", b"part %d\n" % number)
            await asyncio.sleep(self.program_seconds / PARTS)


async def _helper(process: SimulatedProcess) -> int:
    """A process that a user's program has started, and does not end."""
    if process.machine.random.random() < DEAF_PART:
        process.ignored = {signal.SIGTERM}
    await asyncio.Event().wait()
    return 0


class Worker:
    """`bootstrap.worker`, with the same events, orders and ends."""

    def __init__(self, mlx: Mlx, habits: Habits, backend: str) -> None:
        self._mlx, self._habits, self._backend = mlx, habits, backend

    async def __call__(self, process: SimulatedProcess) -> int:
        self._process, self._rank = process, 0
        process.ignored = {signal.SIGTERM}  # until MLX is loaded
        await self._step("import")
        await asyncio.sleep(self._habits.import_seconds)
        backend: Backend = "jaccl" if process.machine.has_jaccl else "ring"
        if self._backend == "ring":
            backend = "ring"
        takes_gathers = self._habits.mlx != WITHOUT_GATHERS
        self._emit("loaded", backend=backend, version=self._habits.mlx, gather_factory=takes_gathers)
        process.on_signal = self._end
        await process.mind(signal.SIGTERM)
        line = await process.line()
        if line is None:
            return 3
        order = msgspec.json.decode(line, type=Order)
        plan, self._rank = order.plan, order.plan.rank
        alarm = None
        if order.deadline is not None:
            seconds = max(0.0, order.deadline - process.machine.loop.now) + ALARM_AFTER_DEADLINE
            alarm = asyncio.get_running_loop().call_later(seconds, process.signal, signal.SIGALRM)
        await asyncio.sleep(self._habits.prepare_seconds)
        files, directory = Disk(process.machine, process), Path(str(plan.directory))
        try:
            files.make_directory(directory)
        except OSError as error:
            self._fail("topology", "directory-failed", f"cannot make {directory}: {error.strerror}; check TMPDIR")
            return 3
        self._directory = directory
        prepared = prepare(plan, backend)
        try:
            files.create(prepared.path, prepared.content)
        except OSError as error:
            files.remove_directory(directory)
            self._fail("topology", "write-failed", f"cannot write {prepared.path}: {error.strerror}")
            return 3
        self._emit("file-written", path=str(prepared.path), format=prepared.format)
        self._emit("environment-set", variables=prepared.variables, cleared=prepared.cleared)
        await self._step("prepared")
        if await process.line() is None:
            files.remove_directory(directory)
            return 3
        process.ignored = {signal.SIGTERM, signal.SIGINT}  # native code hides them from Python
        process.is_native = True
        await self._step("init")
        done = await self._mlx.init(
            process, prepared.variables, prepared.content, plan.session_id, by_gathers=order.side_channel
        )
        process.is_native = False
        files.remove_directory(directory)
        await process.mind(signal.SIGTERM, signal.SIGINT)
        if not done:
            self._fail("group", "init-failed", f"MLX could not form the {backend} group")
            return 3
        await self._step("ready")
        if self._habits.ready_seconds:
            await asyncio.sleep(self._habits.ready_seconds)
        self._emit("group-ready", size=plan.size, backend=backend)
        if order.no_sum:
            self._emit("sum-skipped", reason=order.no_sum)
        else:
            self._emit("sum-checked", value=plan.size * (plan.size + 1) // 2)
        if not plan.command and alarm is not None:
            alarm.cancel()
        await self._step("held")
        goes_on = await process.line() is not None
        if alarm is not None:
            alarm.cancel()
        if goes_on and plan.command:
            process.on_signal = lambda number: False
            process.is_native = True
            await self._habits.work(process)
            return self._habits.program_status
        return 0

    async def _step(self, name: str) -> None:
        await self._habits.step(name, self._process)

    def _end(self, number: int) -> bool:
        if number != signal.SIGTERM:
            return False  # the kernel's default
        if hasattr(self, "_directory"):
            Disk(self._process.machine).remove_directory(self._directory)
        self._process.end(128 + number)
        return True

    def _fail(self, stage: str, code: str, message: str) -> None:
        self._emit("error", stage=stage, code=code, message=message)

    def _emit(self, event: str, /, **fields: object) -> None:
        now = round(self._process.machine.loop.now * 1000, 1)
        line = json.dumps({"event": event, "rank": self._rank, **fields, "t_ms": now})
        self._process.write("events", line.encode() + b"\n")


class Command:
    """A user's command that forms the group with its own MLX, works for a while, and ends."""

    def __init__(self, mlx: Mlx, habits: Habits, environment: Mapping[str, str]) -> None:
        self._mlx, self._habits, self._environment = mlx, habits, environment

    async def __call__(self, process: SimulatedProcess) -> int:
        await asyncio.sleep(self._habits.import_seconds)
        await self._habits.step("init", process)
        path = Path(self._environment.get("MLX_IBV_DEVICES") or self._environment["MLX_HOSTFILE"])
        node = process.machine.files.get(path)
        if node is None or node.data is None:
            return 1
        process.ignored = {signal.SIGINT, signal.SIGTERM}
        process.is_native = True
        session = path.stem.removeprefix("darkbloom-ring-hosts-").removeprefix("darkbloom-jaccl-topology-")
        done = await self._mlx.init(process, self._environment, node.data, session)
        await process.mind(signal.SIGTERM, signal.SIGINT)
        if not done:
            return 1
        await self._habits.work(process)
        return self._habits.program_status


def programs(mlx: Mlx, habits: Habits) -> Callable[[Sequence[str], Mapping[str, str]], Any]:
    """Return what a host runs for the arguments and variables of a process."""

    def program(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
        if "bootstrap.worker" in arguments:
            return Worker(mlx, habits, arguments[-1])
        return habits.command or Command(mlx, habits, environment)

    return program
