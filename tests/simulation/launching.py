"""A launch: the real launcher on a host of its own, ssh to the hosts of the ranks, and what follows its channel there.

The survey before it, and the last look after it, are left out.
"""

import asyncio
import json
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bootstrap.control.run import Stopped
from bootstrap.errors import BootstrapError
from bootstrap.launch.channel import MAX_LINE, SILENCE_SECONDS, Start, decode, plan_of
from bootstrap.launch.run import Job, Launcher
from bootstrap.launch.ssh import EXIT_OF_SSH, Host
from bootstrap.plan import Plan
from tests.simulation.loop import CONTROL
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.network import End

if TYPE_CHECKING:
    from tests.simulation.world import World

PORT: Final = 22
EXIT: Final = b"\0"
"""Before the exit status, behind all that a process has written."""
LAUNCHER_IP: Final = "10.0.1.1"


class SimulatedLauncher(Launcher):
    """Launches ranks whose plans are known."""

    def __init__(self, job: Job, display: Any, plans: list[Plan]) -> None:
        super().__init__(job, display, owns_process=False)
        self._plans = plans

    async def _prepare(self) -> tuple[list[Host], list[Plan], list[str]]:
        hosts = [Host(rank=plan.rank, name=plan.own_ip, is_local=False) for plan in self._plans]
        return hosts, self._plans, ["" for _ in self._plans]

    async def _look(self, hosts: Any, plans: Any) -> None: ...


class Ssh(asyncio.SubprocessTransport, asyncio.Protocol):
    """An ssh as the event loop sees it: the transport of its process, and the protocol of its connection."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self._protocol = protocol
        self._end: End | None = None
        self._held: list[bytes] = []
        self._is_closing = self._has_exit = False
        self._exit = b""
        self._status: int | None = None
        self._ended = asyncio.Event()

    async def connect(self, machine: Machine, ip: str, owner: SimulatedProcess) -> None:
        try:
            await machine.host.connect(lambda: self, ip, PORT, owner)
        except OSError as error:
            self._over(EXIT_OF_SSH, f"ssh: connect to host {ip} port {PORT}: {error.strerror}\n".encode())

    # -- of its process ------------------------------------------------------------------------------------------------

    def get_pipe_transport(self, fd: int) -> Any:
        return self

    def get_pid(self) -> int:
        return 1

    def get_returncode(self) -> int | None:
        return self._status

    def kill(self) -> None:
        if self._end is not None:
            self._end.abort()
        self._over(-signal.SIGKILL)

    async def _wait(self) -> int:
        await self._ended.wait()
        assert self._status is not None
        return self._status

    def write(self, data: bytes) -> None:
        if self._end is None:
            self._held.append(data)
        else:
            self._end.write(data)

    def is_closing(self) -> bool:
        return self._is_closing or self._status is not None

    def close(self) -> None:
        self._is_closing = True
        if self._end is not None:
            self._end.write_eof()

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._held)) if self._end is None else self._end.get_write_buffer_size()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    # -- of its connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._end = transport
        for data in self._held:
            transport.write(data)
        self._held.clear()

    def data_received(self, data: bytes) -> None:
        output, mark, rest = (b"", b"", data) if self._has_exit else data.partition(EXIT)
        if self._has_exit or mark:
            self._has_exit = True
            self._exit += rest
        if output and self._status is None:
            self._protocol.pipe_data_received(1, output)

    def eof_received(self) -> None:
        if self._exit:
            self._over(int(self._exit))

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(EXIT_OF_SSH, b"Connection reset by peer\n")

    def _over(self, status: int, error: bytes = b"") -> None:
        if self._status is None:
            self._status = status
            if error:
                self._protocol.pipe_data_received(2, error)
            for stream in (1, 2):
                self._protocol.pipe_connection_lost(stream, None)
            self._protocol.process_exited()
            self._ended.set()


class Sshd(asyncio.Protocol):
    """A connection of a launcher with a rank's host: it starts the rank there, and passes on what goes to and fro."""

    def __init__(self, world: "World", rank: int) -> None:
        self._world, self._rank = world, rank
        self.reader = asyncio.StreamReader(MAX_LINE, world.loop)
        """The bytes that the launcher sends."""

    def connection_made(self, transport: Any) -> None:
        self._end = transport
        if self._world.refuses == self._rank:
            self._world.refuses = None
            self.say(EXIT + b"%d" % EXIT_OF_SSH)
            transport.close()
        else:
            self._world.start(self._rank, self)

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def eof_received(self) -> bool:
        self.reader.feed_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.reader.feed_eof()

    def say(self, data: bytes) -> None:
        self._end.write(data)

    def end(self, status: int) -> None:
        self.say(EXIT + b"%d" % (status if status >= 0 else EXIT_OF_SSH))
        self._end.close()


class Launch:
    """The process of a launcher, on a host of its own."""

    def __init__(self, world: "World") -> None:
        self.world, self.name = world, "launcher"
        self.stopped_by: int | None = None
        self.run: SimulatedLauncher | None = None
        self.process = world.launcher_machine.spawn(self._main, ("launch",))
        self.process.on_signal = self._signalled
        self.process.at_end.append(self._ended)
        self.ended_at: float | None = None

    async def _main(self, process: SimulatedProcess) -> int:
        plans = self.world.scenario.plans
        job = Job(hosts=plans[0].ips, options={"grace": plans[0].grace, "command": plans[0].command})
        self.run = run = SimulatedLauncher(job, self, plans)
        error: Exception | None = None
        try:
            await run.main(run.act)
        except (Stopped, BootstrapError) as failure:
            error = failure
        return run.conclude(error, has_command=bool(plans[0].command))

    def _signalled(self, number: int) -> bool:
        if self.run is None:
            return False
        self.world.loop.call_soon(self.run.interrupt, number, context=self.process.context)
        return True

    def _ended(self) -> None:
        self.ended_at = self.world.loop.now
        self.world.record(f"the launcher has ended with {self.process.status}")

    # -- its display ---------------------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] in ("error", "done"):
            self.world.record(f"launcher {event}")

    def log(self, rank: int | None, line: str) -> None:
        self.world.record(f"launcher log {rank} {line}")

    def output(self, rank: int | None, stream: str, data: bytes) -> None: ...

    def quiet(self, rank: int | None, stream: str) -> None: ...

    def full(self, stream: str) -> bool:
        return False

    async def failed(self) -> OSError:
        await asyncio.Event().wait()
        raise AssertionError


def prepare(world: "World") -> None:
    """Let the loop start ssh, and have each rank's host take its connections."""

    async def start_ssh(factory: Any, arguments: tuple[Any, ...]) -> tuple[Ssh, Any]:
        process = CONTROL.get().process  # type: ignore[union-attr]
        protocol = factory()
        ssh = Ssh(protocol)
        protocol.connection_made(ssh)
        world.loop.create_task(ssh.connect(process.machine, arguments[arguments.index("--") + 1], process))
        return ssh, protocol

    world.loop.start_ssh = start_ssh

    async def serve(process: SimulatedProcess) -> int:
        await asyncio.Event().wait()
        return 0

    for rank, machine in enumerate(world.machines):
        sshd = machine.spawn(serve, ("sshd",))
        world.daemons.append(sshd)
        machine.host.listen(partial(Sshd, world, rank), PORT, sshd, sshd.context)


async def told(channel: Sshd) -> Plan:
    """Return the plan that a rank gets from its launcher. Raise TimeoutError or EOFError."""
    async with asyncio.timeout(SILENCE_SECONDS):
        start = decode(await channel.reader.readuntil(b"\n"))
    assert isinstance(start, Start)
    return plan_of(start)


def line_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
