"""What the simulated processes do: the worker with its MLX, a user's command, and MLX's ring that joins them."""

import asyncio
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from bootstrap.group import prepare
from bootstrap.plan import Order
from bootstrap.worker import ALARM_AFTER_DEADLINE
from tests.simulation.machine import Disk, SimulatedProcess
from tests.simulation.network import Network

Address = tuple[str, int]

CONNECT_SECONDS = 0.01
ABORT_PART = 0.7
"""How often native code notices that a peer has gone."""
SERVER_SECONDS = 1000.0
"""A program that does not end by itself."""


class Ring:
    """MLX's ring backend on all hosts. A stray connection to a ring port breaks the init that meets it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.broken: list[str] = []
        """What must not happen, and did."""
        self.formed: dict[str, set[int]] = {}
        """The ranks whose init is over, by session."""
        self._inits: dict[Address, Init] = {}
        self._members: dict[str, list[SimulatedProcess]] = {}

    async def form(
        self,
        process: SimulatedProcess,
        rows: Sequence[Sequence[Address]],
        rank: int,
        session: str,
        *,
        is_reference: bool = False,
    ) -> bool:
        """Form a group of all rows; False where that fails. A reference peer may do so for an earlier session."""
        own, following = rows[rank][0], rows[(rank + 1) % len(rows)][0]
        init = Init(session, is_reference)
        host = process.machine.host
        try:
            listener = host.listen(lambda: Stray(init), own[1], process, process.context)
        except OSError:
            return False
        self._inits[own] = init
        self._join(process, session)
        process.at_end.append(lambda: self._leave(own, init))
        seconds = CONNECT_SECONDS
        try:
            while not init.is_complete():
                if init.has_stray:
                    self.broken.append(f"a stray connection met the init of {own[0]}:{own[1]}")
                    return False
                there = self._inits.get(following)
                if there is not None and self.network.reaches(own[0], following[0]):
                    if there.session != session and not (is_reference or there.is_reference):
                        self.broken.append(f"the inits of {session} and {there.session} met")
                        return False
                    init.following = there
                await asyncio.sleep(seconds)
                seconds = min(seconds * 1.5, 1.0)
        finally:
            listener.close()
            self._leave(own, init)
        self.formed.setdefault(session, set()).add(rank)
        return True

    def _leave(self, own: Address, init: "Init") -> None:
        if self._inits.get(own) is init:
            del self._inits[own]

    def _join(self, process: SimulatedProcess, session: str) -> None:
        """Have the native code of a process fail, now and then, once another one of its group has ended."""
        members = self._members.setdefault(session, [])
        members.append(process)

        def tell() -> None:
            members.remove(process)
            loop, random = process.machine.loop, process.machine.random
            for other in members:
                if process.status and random.random() < ABORT_PART:
                    loop.call_later(random.choice((0.001, 0.05, 0.4)), _abort, other, context=Context())

        process.at_end.append(tell)


def _abort(process: SimulatedProcess) -> None:
    """Native code aborts where a peer has gone, if it is waiting for one."""
    if process.is_native and not process.is_dead and not process.is_unkillable:
        process.end(-signal.SIGABRT)


class Init:
    """One rank's init under way."""

    def __init__(self, session: str, is_reference: bool) -> None:
        self.session, self.is_reference = session, is_reference
        self.following: Init | None = None
        self.has_stray = False

    def is_complete(self) -> bool:
        """Whether the connections go all around."""
        seen, each = [self], self.following
        while each is not None and each is not self:
            if each in seen:
                return False
            seen.append(each)
            each = each.following
        return each is self


class Stray(asyncio.Protocol):
    def __init__(self, init: Init) -> None:
        self._init = init

    def connection_made(self, transport: Any) -> None:
        self._init.has_stray = True


class Habits:
    """How the processes of one host behave; a fault changes them."""

    def __init__(self, random: Random) -> None:
        self.import_seconds = random.choice((0.05, 0.2, 1.0, random.uniform(0.1, 8.0)))
        self.mlx = "0.32.4"
        self.program_seconds = random.choice((random.uniform(0.0, 5.0), random.uniform(0.0, 5.0), SERVER_SECONDS))
        self.program_status = 0
        self.at_step: dict[str, Callable[[SimulatedProcess], None]] = {}
        """What happens to a worker or command when it comes to a step, once."""

    async def step(self, name: str, process: SimulatedProcess) -> None:
        """A worker or command has come to a step; what happens to it there may be that it never leaves it."""
        act = self.at_step.pop(name, None)
        if act is not None:
            act(process)
            await asyncio.Event().wait()


class Worker:
    """`bootstrap.worker`, with the same events, orders and ends."""

    def __init__(self, ring: Ring, habits: Habits, backend: str) -> None:
        self._ring, self._habits, self._backend = ring, habits, backend

    async def __call__(self, process: SimulatedProcess) -> int:
        self._process, self._rank = process, 0
        process.ignored = {signal.SIGTERM}  # until MLX is loaded
        await self._step("import")
        await asyncio.sleep(self._habits.import_seconds)
        backend = "ring" if self._backend == "auto" else self._backend
        self._emit("loaded", backend=backend, version=self._habits.mlx, gather_factory=True)
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
        files, directory = Disk(process.machine), Path(str(plan.directory))
        try:
            files.make_directory(directory)
        except OSError as error:
            self._fail("topology", "directory-failed", f"cannot make {directory}: {error.strerror}; check TMPDIR")
            return 3
        self._directory = directory
        prepared = prepare(plan, "ring")
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
        process.ignored = {signal.SIGTERM, signal.SIGINT}  # native code does not let Python see them
        process.is_native = True
        await self._step("init")
        rows = [plan.ring_addresses(rank) for rank in range(plan.size)]
        done = await self._ring.form(process, rows, plan.rank, plan.session_id)
        process.is_native = False
        files.remove_directory(directory)
        await process.mind(signal.SIGTERM, signal.SIGINT)
        if not done:
            self._fail("group", "init-failed", "MLX could not form the ring group")
            return 3
        await self._step("ready")
        self._emit("group-ready", size=plan.size, backend="ring")
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
            await self._step("program")
            await asyncio.sleep(self._habits.program_seconds)
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
    """A user's command that forms the group with an MLX of its own, works for a while, and ends."""

    def __init__(self, ring: Ring, habits: Habits, environment: Mapping[str, str]) -> None:
        self._ring, self._habits, self._environment = ring, habits, environment

    async def __call__(self, process: SimulatedProcess) -> int:
        await asyncio.sleep(self._habits.import_seconds)
        await self._habits.step("init", process)
        path = Path(self._environment["MLX_HOSTFILE"])
        node = process.machine.files.get(path)
        if node is None or node.data is None:
            return 1
        rows = [[_address(text) for text in row] for row in json.loads(node.data)]
        process.ignored = {signal.SIGINT, signal.SIGTERM}
        process.is_native = True
        session = path.name.removeprefix("darkbloom-ring-hosts-").removesuffix(".json")
        done = await self._ring.form(process, rows, int(self._environment["MLX_RANK"]), session)
        await process.mind(signal.SIGTERM, signal.SIGINT)
        if not done:
            return 1
        await self._habits.step("program", process)
        await asyncio.sleep(self._habits.program_seconds)
        return self._habits.program_status


def _address(text: str) -> Address:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


def programs(ring: Ring, habits: Habits) -> Callable[[Sequence[str], Mapping[str, str]], Any]:
    """Return what a host runs for the arguments and variables of a process."""

    def program(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
        if "bootstrap.worker" in arguments:
            return Worker(ring, habits, arguments[-1])
        return Command(ring, habits, environment)

    return program
