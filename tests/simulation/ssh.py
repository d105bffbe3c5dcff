"""ssh from the launcher's host to those of the ranks, and what goes wrong with it.

On its own host, a launcher starts commands without ssh.
"""

import asyncio
import re
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bootstrap.launch.channel import MAX_LINE
from bootstrap.launch.left import RUN_VARIABLE
from bootstrap.launch.ssh import CONNECT_SECONDS, EXIT_NOT_FOUND, EXIT_OF_SSH
from bootstrap.system import current
from tests.simulation.machine import SimulatedProcess
from tests.simulation.network import LOOPBACK, End

if TYPE_CHECKING:
    from tests.simulation.faults import Fault
    from tests.simulation.world import World

PORT: Final = 22
LOCAL_PORT: Final = 1
"""Stands for the pipes of a command on the launcher's host."""
EXIT: Final = b"\0"
"""Before the exit status and the last line of stderr, behind all that a process has written."""
STAGES: Final = ("survey", "start", "look")
"""The purposes of the connections to a host, in order."""
_MARK: Final = re.compile(rf"\b{RUN_VARIABLE}=(\S*) ")

NEVER: Final[dict[str, str]] = {
    "ssh-unknown": "ssh: Could not resolve hostname {name}: Name or service not known",
    "ssh-refused": "ssh: connect to host {name} port 22: Connection refused",
    "ssh-denied": "{name}: Permission denied (publickey,password).",
    "ssh-key": "Host key verification failed.",
}
"""Faults with which ssh ends at once, and what it says then."""
ANSWERS: Final = ("ssh-silent", "ssh-no-package", "ssh-cut", "ssh-banner", "ssh-slow", "ssh-version", "ssh-killed")
"""Faults of a host that takes the connection."""
SSH_FAULTS: Final = (*NEVER, "ssh-missing", "ssh-hang", *ANSWERS)
ASKED: Final = ("ssh-denied", "ssh-key")
"""Those that a user can answer."""
TIMED_OUT: Final = "ssh: connect to host {name} port 22: Connection timed out"
NO_PACKAGE: Final = "jaccl-bootstrap: not found"
BANNER: Final = b"Welcome to the cluster\n"
CUT_AFTER: Final = 40
"""Bytes of an answer, which is longer."""


class LocalProcess(asyncio.SubprocessTransport):
    """A process on the launcher's host, as its event loop sees it: the transport of all its pipes."""

    def __init__(self, protocol: Any, fds: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self._protocol, self._fds = protocol, fds
        self._status: int | None = None
        self._ended = asyncio.Event()
        protocol.connection_made(self)

    def get_pipe_transport(self, fd: int) -> Any:
        return self if fd in self._fds else None

    def get_pid(self) -> int:
        return 1

    def get_returncode(self) -> int | None:
        return self._status

    def kill(self) -> None:
        self.over(-signal.SIGKILL)

    async def _wait(self) -> int:
        await self._ended.wait()
        assert self._status is not None
        return self._status

    def is_closing(self) -> bool:
        return self._status is not None

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def over(self, status: int, error: str = "", output: bytes = b"") -> None:
        """End, unless it has."""
        if self._status is None:
            self._status = status
            for stream, data in ((1, output), (2, error.encode() + b"\n")):
                if len(data) > 1:
                    self._protocol.pipe_data_received(stream, data)
            for stream in self._fds[1:]:
                self._protocol.pipe_connection_lost(stream, None)
            self._protocol.process_exited()
            self._ended.set()


class Ssh(LocalProcess, asyncio.Protocol):
    """An ssh that runs a command: a process, and the protocol of its connection."""

    def __init__(self, protocol: Any, command: str) -> None:
        self._end: End | None = None
        self._held = [command.encode() + b"\n"]
        self._is_closing = False
        self._exit = b""
        super().__init__(protocol)

    async def connect(self, world: "World", rank: int, stage: str, owner: SimulatedProcess, *, asks: bool) -> None:
        name, ip = name_of(rank), world.machines[rank].ip
        fault = world.take_ssh_fault(rank, stage, but_not=ANSWERS)
        if fault is not None and fault.kind in ASKED:
            if asks and fault.seconds:  # the user's answer
                await asyncio.sleep(fault.seconds)
                fault = None
            else:
                world.ssh_faults[rank, stage] = fault  # for the next one, which asks the user
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if fault is not None and fault.kind == "ssh-hang":
                    await asyncio.Event().wait()
                if fault is not None:
                    await asyncio.sleep(world.network.latency)
                    self.over(EXIT_OF_SSH, NEVER[fault.kind].format(name=name))
                    return
                await owner.machine.host.connect(lambda: self, ip, PORT, owner)
        except TimeoutError:
            self.over(EXIT_OF_SSH, TIMED_OUT.format(name=name))
        except OSError as error:
            self.over(EXIT_OF_SSH, f"ssh: connect to host {name} port {PORT}: {error.strerror}")

    # -- of its process ------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        if self._end is not None:
            self._end.abort()
        super().kill()

    def write(self, data: bytes) -> None:
        if self._end is None:
            self._held.append(data)
        else:
            self._end.write(data)

    def is_closing(self) -> bool:
        return self._is_closing or super().is_closing()

    def close(self) -> None:
        self._is_closing = True
        if self._end is not None:
            self._end.write_eof()

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._held)) if self._end is None else self._end.get_write_buffer_size()

    # -- of its connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        if self._status is not None:  # killed meanwhile
            transport.abort()
            return
        self._end = transport
        for data in self._held:
            transport.write(data)
        self._held.clear()
        if self._is_closing:
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        output, mark, rest = (b"", b"", data) if self._exit else data.partition(EXIT)
        self._exit += mark + rest
        if output and self._status is None:
            self._protocol.pipe_data_received(1, output)

    def eof_received(self) -> None:
        if self._exit:
            status, _, error = self._exit[1:].decode().partition(" ")
            self.over(int(status), error)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, TimeoutError):
            self.over(EXIT_OF_SSH, "Timeout, server not responding.")
        else:
            self.over(EXIT_OF_SSH, "Connection closed by remote host.")


class Local(Ssh):
    """A command on the launcher's own host."""

    def __init__(self, protocol: Any, command: str, owner: SimulatedProcess) -> None:
        super().__init__(protocol, command)
        self._machine = owner.machine
        self._mark, stage = read(command)
        self._name = "up" if stage == "start" else "host"

    async def begin(self, owner: SimulatedProcess) -> None:
        await owner.machine.host.connect(lambda: self, LOOPBACK, LOCAL_PORT, owner)

    def kill(self) -> None:
        for process in list(self._machine.processes.values()):
            if process.mark == self._mark and process.arguments == (self._name,):
                process.signal(signal.SIGKILL)
        super().kill()


class Sshd(asyncio.Protocol):
    """A connection of a launcher with a rank's host: it runs a command there, and passes on what goes to and fro."""

    def __init__(self, world: "World", rank: int) -> None:
        self.world, self.rank = world, rank
        self.reader = asyncio.StreamReader(MAX_LINE, world.loop)
        """The bytes that the launcher sends."""
        self.mark = ""
        """The run of the command."""
        self._command: bytes | None = b""
        self._fault = ""
        self._stage = ""
        self._said = 0

    def connection_made(self, transport: Any) -> None:
        self._end = transport
        if self.world.refuses == self.rank:
            self.world.refuses = None
            self.end(EXIT_OF_SSH)

    def data_received(self, data: bytes) -> None:
        if self._command is not None:
            command, found, data = (self._command + data).partition(b"\n")
            self._command = None if found else command
            if found:
                self._run(command.decode())
        if self._fault == "ssh-version" and self._stage == "start":
            data = data.replace(b'"version":"', b'"version":"9')
        self.reader.feed_data(data)

    def _run(self, command: str) -> None:
        self.mark, self._stage = read(command)
        fault = self.take_fault()
        self._fault = "" if fault is None else fault.kind
        match self._fault:
            case "ssh-silent":
                return
            case "ssh-no-package":
                self.end(EXIT_NOT_FOUND[1], f"sh: 1: {NO_PACKAGE}")
                return
            case "ssh-killed":
                self.end(EXIT_OF_SSH)
                return
            case "ssh-banner":
                self.say(BANNER)
        if fault is not None and self._fault == "ssh-slow":
            self.world.settle_in(fault.seconds)
            self.world.later(fault.seconds, self._begin)
        else:
            self._begin()

    def take_fault(self) -> "Fault | None":
        return self.world.take_ssh_fault(self.rank, self._stage)

    def _begin(self) -> None:
        if self._stage == "start":
            self.world.start(self.rank, self)
        else:
            self.world.answer(self)

    def eof_received(self) -> bool:
        self.reader.feed_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.reader.feed_eof()

    def say(self, data: bytes) -> None:
        if self._fault == "ssh-version":
            data = data.replace(b'{"type":"hello","version":"', b'{"type":"hello","version":"9')
        self._said += len(data)
        if self._fault == "ssh-cut" and self._said > CUT_AFTER:
            self._end.write(data[: len(data) - 5])
            self._end.close()
            self._end.abort()
            return
        self._end.write(data)

    def end(self, status: int, error: str = "") -> None:
        self._end.write(EXIT + f"{self.shown(status)} {error}".encode())
        self._end.close()

    def shown(self, status: int) -> int:
        """Return how a command's exit status is told to the launcher."""
        return status if status >= 0 else EXIT_OF_SSH


class Pipes(Sshd):
    """The same on the launcher's host, where nothing is between the two."""

    def connection_made(self, transport: Any) -> None:
        self._end = transport

    def take_fault(self) -> None:
        return None

    def shown(self, status: int) -> int:
        return status


def name_of(rank: int) -> str:
    """Return the name of a rank's host for ssh."""
    return f"mac-{rank}"


def rank_of(name: str) -> int:
    return int(name.removeprefix("mac-"))


def read(command: str) -> tuple[str, str]:
    """Return the run, and the stage, of a command line that a launcher runs on a host."""
    found = _MARK.search(command)
    assert found is not None
    mark = found[1].strip("'")
    if command.endswith(" up --launched"):
        return mark, "start"
    assert command.endswith(" host")
    return mark, "survey" if mark else "look"


def prepare(world: "World") -> None:
    """Let the loop start ssh, and have each rank's host take its connections."""

    async def start(factory: Any, arguments: tuple[str, ...]) -> tuple[LocalProcess, Any]:
        process: SimulatedProcess = current().process  # type: ignore[attr-defined]
        protocol = factory()
        if arguments[:2] == ("ssh", "-G"):
            asked = LocalProcess(protocol, (0, 1))
            if world.take_ssh_fault(rank_of(arguments[-1]), "config") is None:
                world.later(0.005, asked.over, 0, "", config(world, arguments[-1]))
            world.sshs.append(asked)
            return asked, protocol
        if arguments[0] == "/usr/bin/env":
            local = Local(protocol, " ".join(arguments), process)
            world.sshs.append(local)
            world.loop.create_task(local.begin(process))
            return local, protocol
        name, command = arguments[-2:]
        rank, (_, stage) = rank_of(name), read(command)
        if world.take_ssh_fault(rank, stage, of=("ssh-missing",)):
            raise FileNotFoundError(2, "No such file or directory")
        ssh = Ssh(protocol, command)
        world.sshs.append(ssh)
        world.loop.create_task(ssh.connect(world, rank, stage, process, asks=arguments[0] != "ssh"))
        return ssh, protocol

    world.loop.start_ssh = start

    async def serve(process: SimulatedProcess) -> int:
        await asyncio.Event().wait()
        return 0

    for rank, machine in enumerate(world.machines):
        sshd = machine.spawn(serve, ("sshd",))
        world.daemons.append(sshd)
        machine.host.listen(partial(Sshd, world, rank), PORT, sshd, sshd.context)
        if machine is world.launcher_machine:
            machine.host.listen(partial(Pipes, world, rank), LOCAL_PORT, sshd, sshd.context)


def config(world: "World", name: str) -> bytes:
    """Return what `ssh -G` prints."""
    return f"user {world.user}\nhostname {world.machines[rank_of(name)].ip}\nport {PORT}\n".encode()
