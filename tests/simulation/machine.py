"""One simulated host: its files, its processes, its locks, and the `System` that a process on it sees."""

import asyncio
import errno
import math
import os
import signal
import stat
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from bootstrap.system import Guard, Process, Start, System
from bootstrap.system.processes import Identity
from bootstrap.system.tools import ToolResult
from tests.simulation.loop import CONTROL, SimulatedLoop
from tests.simulation.network import Host, Network, refused
from tests.simulation.sockets import ListeningSocket, SimulatedSocket, pair

TMP: Final = Path("/tmp")
GUARD_GRACE: Final = 1.0
PIPE_SECONDS: Final = 0.0005


@dataclass(frozen=True)
class SimulatedSystem(System):
    """The system as one process sees it."""

    process: "SimulatedProcess"


class Node:
    """A file with its contents, or a directory."""

    count = 0

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        Node.count += 1
        self.number = Node.count


Program = Callable[["SimulatedProcess"], Coroutine[Any, Any, int]]


class Machine:
    """A host."""

    def __init__(self, loop: SimulatedLoop, network: Network, random: Random, ip: str, number: int = 0) -> None:
        self.loop, self.random, self.ip, self.number = loop, random, ip, number
        self.host = Host(network, ip)
        self.files: dict[Path, Node] = {TMP: Node(None)}
        self.has_jaccl = False
        """Whether MLX has it here."""
        self.devices = [f"rdma_en{number}" for number in range(1, 9)]
        self.is_port_down = False
        """Whether no RDMA device can be used for now."""
        self.pairs: dict[int, SimulatedSocket] = {}
        """By descriptor, what a child may inherit."""
        self.relays: set[int] = set()
        """Ports of listening sockets, of now and before."""
        self.disk_seconds = 0.0
        """How long a write blocks the process that makes it."""
        self.disk_error: int | None = None
        """The error of every write to the disk of the first directory."""
        self.directories = [TMP]
        """Those for temporary files, in the order in which a process tries them at its start."""
        self.udp: dict[tuple[str, int], set[int]] = {}
        """Bound ports, with the processes that hold each."""
        self.processes: dict[int, SimulatedProcess] = {}
        """All processes that are not reaped."""
        self.programs: Callable[[Sequence[str], Mapping[str, str]], Program] | None = None
        self.owed = 0.0
        """Seconds for which tools and connections would have blocked their process."""
        self.pins: dict[str, bytes] = {}
        """Pinned keys by name."""
        self.guard_killed_at = math.inf
        """When a run's guard was last killed with it."""
        self.looked_at = 0.0
        """When a launcher was last told what is left of its run."""
        self._pids = 1000

    def spawn(
        self, program: Program, arguments: Sequence[str] = (), parent: "SimulatedProcess | None" = None
    ) -> "SimulatedProcess":
        self._pids += self.random.randrange(1, 4)
        process = SimulatedProcess(self, self._pids, arguments, parent)
        self.processes[process.pid] = process
        process.begin(program)
        return process

    def run_tool(self, argv: Sequence[str], seconds: float) -> ToolResult:
        """Print what the tools for RDMA devices do."""
        if argv[0] == "ibv_devices":
            names = "".join(f"    {name}\t{number:016x}\n" for number, name in enumerate(self.devices))
            return ToolResult(status="ok", stdout=f"    device\t\tnode GUID\n{names}")
        if argv[0] == "ibv_devinfo":
            state = "PORT_DOWN" if self.is_port_down else "PORT_ACTIVE"
            lines = f"\tport:\t1\n\t\tstate:\t\t{state} (4)\n\t\tGID[  1]:\t\t::ffff:{self.ip}\n"
            return ToolResult(status="ok", stdout=f"hca_id: {argv[-1]}\n{lines}")
        return ToolResult(status="missing", stderr="there is none")

    def take_owed(self) -> float:
        owed, self.owed = self.owed, 0.0
        return owed

    def group(self, pid: int) -> "list[SimulatedProcess]":
        """Return the processes of the group that one leads, or has led."""
        return [each for each in self.processes.values() if each.group == pid]

    def lose_power(self) -> None:
        """Everything here stops at once, and no other host is told."""
        self.host.is_down = True
        for process in self.processes.values():
            process.is_dead = True
        self.processes.clear()
        self.files = {TMP: Node(None)}
        self.udp.clear()
        for end in list(self.host.network.ends):
            end.notice_silence()

    def release(self, process: "SimulatedProcess") -> None:
        """A process has exited: release what the kernel held for it."""
        for address, holders in list(self.udp.items()):
            holders.discard(process.pid)
            if not holders:
                del self.udp[address]
        for listener in list(self.host.listeners.values()):
            if listener.owner is process:
                listener.close()
        for end in list(self.host.network.ends):
            if end.owner is process and not end.is_held:
                end.die()


class SimulatedProcess:
    """A process: its program is a coroutine that returns the exit status."""

    def __init__(self, machine: Machine, pid: int, arguments: Sequence[str], parent: "SimulatedProcess | None") -> None:
        self.machine, self.pid, self.arguments, self.parent = machine, pid, arguments, parent
        self.begun = machine.loop.now
        self.is_dead = self.is_stopped = False
        self.stopped_at = self.resumed_at = 0.0
        """When last."""
        self.suspended_at = -1.0
        """When it last stopped itself at Ctrl-Z."""
        self.status: int | None = None
        """The exit status, or minus the signal, once it has ended."""
        self.directory: Path | None = None
        """The one for its temporary files."""
        self.blocked_until = 0.0
        """By its disk."""
        self.is_unkillable = False
        self.is_native = False
        """Whether it is in native code, waiting for the other ranks."""
        self.ignored: set[int] = set()
        """Signals that do nothing for now; they count once they are not ignored any more."""
        self.handlers: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        """Those that its event loop has."""
        self.pending: list[int] = []
        self.on_signal: Callable[[int], bool] = lambda number: False
        """Handles a signal; returns whether it did."""
        self.error: BaseException | None = None
        """The exception of its program, which should have none."""
        self.ended = asyncio.Event()
        self.at_end: list[Callable[[], None]] = []
        self.task: asyncio.Task[int] | None = None
        self.group = pid
        """The process that leads its group."""
        self.mark = "" if parent is None else parent.mark
        """The run in its environment."""
        self.context = Context()
        self._due = 0.0  # when the last output arrives
        self.start = f"boot {machine.loop.now:.6f} {pid}"
        self.stdin: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.outputs: dict[str, asyncio.StreamReader] = {}
        self.channel: SimulatedSocket | None = None
        """A socket that it has inherited."""
        self.kept: object = None
        """Objects with the lifetime of the process."""

    @property
    def system(self) -> SimulatedSystem:
        machine = self.machine
        return SimulatedSystem(
            clock=machine.loop.time,
            random=machine.random.randbytes,
            network=Ports(self),
            files=Disk(machine, self),
            processes=lambda: Processes(self),
            run_tool=machine.run_tool,
            process=self,
        )

    def begin(self, program: Program) -> None:
        self.context = Context()
        self.context.run(CONTROL.set, self.system)
        self.task = self.machine.loop.create_task(program(self), context=self.context)
        self.task.add_done_callback(self._over, context=Context())

    def _over(self, task: "asyncio.Task[int]") -> None:
        if self.is_dead:
            return
        if task.cancelled():
            self.end(1)
        elif (error := task.exception()) is not None:
            self.error = error
            self.end(1)
        else:
            self.end(task.result())

    def signal(self, number: int) -> None:
        if self.is_dead:
            return
        if number == signal.SIGKILL:
            if not self.is_unkillable:
                self.end(-number)
        elif number == signal.SIGSTOP:
            self.is_stopped = True
            self.stopped_at = self.machine.loop.now
        elif number == signal.SIGCONT:
            if self.is_stopped:
                self.is_stopped = False
                self.resumed_at = self.machine.loop.now
                self.machine.loop.go_on()
                for each in self._take_pending():
                    self.signal(each)
        elif self.is_stopped or number in self.ignored or self.is_unkillable:
            self.pending.append(number)
        elif number in self.handlers:
            call, arguments = self.handlers[number]
            self.machine.loop.call_soon(call, *arguments, context=self.context)
        elif not self.on_signal(number):
            self.end(-number)

    def ancestors(self) -> "Iterator[SimulatedProcess]":
        """Give its parent and theirs, also those that have ended."""
        each = self.parent
        while each is not None:
            yield each
            each = each.parent

    def block(self, seconds: float) -> None:
        """Do nothing for a while, whatever is due; signals have to wait as well, but for SIGKILL."""
        self.blocked_until = max(self.blocked_until, self.machine.loop.now + seconds)
        self.machine.loop.call_at(self.blocked_until, self.machine.loop.go_on, context=Context())

    async def mind(self, *numbers: int) -> None:
        """Stop ignoring signals: those received meanwhile may end the process here."""
        self.ignored -= set(numbers)
        for each in self._take_pending():
            self.signal(each)
        await asyncio.sleep(0)

    def _take_pending(self) -> list[int]:
        pending, self.pending = self.pending, []
        return pending

    def end(self, status: int) -> None:
        if self.is_dead:
            return
        self.is_dead, self.status = True, status
        machine = self.machine
        machine.release(self)
        for name in self.outputs:
            self.write(name, None)
        for call in self.at_end:
            call()
        machine.loop.call_later(machine.random.uniform(0.0001, 0.01), self.ended.set, context=Context())
        if self.parent is None or self.parent.is_dead:
            machine.processes.pop(self.pid, None)  # reaped by init
        if self.parent is not None and signal.SIGCHLD in self.parent.handlers:
            self.parent.signal(signal.SIGCHLD)
        for child in list(machine.processes.values()):
            if child.parent is self:
                child.stdin.put_nowait(None)
                if child.is_dead:
                    machine.processes.pop(child.pid, None)

    def write(self, name: str, data: bytes | None) -> None:
        """Write to one of its outputs; None closes it."""
        reader, owner = self.outputs[name], self.parent
        if owner is None or owner.is_dead:
            return

        def feed() -> None:
            if data is None:
                reader.feed_eof()
            else:
                reader.feed_data(data)

        self._due = max(self._due + 1e-6, self.machine.loop.now + PIPE_SECONDS)
        self.machine.loop.call_at(self._due, feed, context=Context())

    async def line(self) -> bytes | None:
        """Return the next line of stdin; None at its end."""
        return await self.stdin.get()


class Child:
    """A process as its parent sees it, see `bootstrap.system.Process`."""

    def __init__(self, process: SimulatedProcess, passed: Mapping[str, int]) -> None:
        self.pid = process.pid
        self.passed = passed
        self.streams: Mapping[str, asyncio.StreamReader] = process.outputs
        self._process = process
        self._stdin_open = True

    async def connect(self) -> None:
        await asyncio.sleep(0)

    def poll(self) -> int | None:
        if self._process.is_dead:
            self._process.machine.processes.pop(self.pid, None)
        return self._process.status

    def exit_status(self) -> int | None:
        return self._process.status

    def runs(self) -> bool:
        return not self._process.is_dead

    def is_alone(self) -> bool:
        return all(each is self._process or each.is_dead for each in self._process.machine.group(self.pid))

    def signal(self, number: int) -> bool:
        there = self._process.machine.group(self.pid)
        for each in there if number else ():
            each.signal(number)
        return bool(there)

    async def exited(self) -> None:
        await self._process.ended.wait()

    def write(self, data: bytes) -> None:
        for line in data.splitlines():
            self._process.stdin.put_nowait(line)

    def close_stdin(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            self._process.stdin.put_nowait(None)

    def close(self) -> None:
        self.close_stdin()


class SimulatedGuard:
    """The guard: it holds the lock, and cleans up after a killed run."""

    def __init__(self, owner: SimulatedProcess, lock: int | None, record: Path | None) -> None:
        self._owner, self._machine = owner, owner.machine
        self._children: dict[int, str] = {}
        self._directories: set[Path] = set()
        self._files: set[Path] = set() if record is None else {record}
        self.process = owner.machine.spawn(self._run, ("guard",), owner)
        self.pid = self.process.pid
        self.process.ignored = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        if lock is not None:
            for holders in self._machine.udp.values():
                if owner.pid in holders:
                    holders.add(self.pid)

    def remove(self, directory: Path) -> None:
        self._directories.add(directory)

    def unlink(self, file: Path) -> None:
        self._files.add(file)

    def watch(self, pid: int) -> None:
        if pid in self._machine.processes:
            self._children[pid] = self._machine.processes[pid].start

    def forget(self, what: int | Path) -> None:
        if isinstance(what, int):
            self._children.pop(what, None)
        else:
            self._directories.discard(what)

    def dismiss(self) -> None:
        self.process.end(-signal.SIGKILL)
        self._machine.processes.pop(self.pid, None)

    async def _run(self, process: SimulatedProcess) -> int:
        while await process.line() is not None:
            pass
        self._signal(signal.SIGTERM)
        limit = self._machine.loop.now + GUARD_GRACE
        while self._signal(0) and self._machine.loop.now < limit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._signal(signal.SIGKILL)
        disk = Disk(self._machine)
        for directory in self._directories:
            disk.remove_directory(directory)
        for file in self._files:
            disk.remove(file)
        return 0

    def _signal(self, number: int) -> bool:
        there = False
        for pid, start in self._children.items():
            leader = self._machine.processes.get(pid)
            if leader is not None and leader.start != start:
                continue
            for each in self._machine.group(pid):
                there = there or not each.is_dead
                if number:
                    each.signal(number)
        return there


class Processes:
    """See `bootstrap.system.Processes`."""

    def __init__(self, owner: SimulatedProcess) -> None:
        self._owner, self._machine = owner, owner.machine

    def start(self, wanted: Start) -> Process:
        assert self._machine.programs is not None
        program = self._machine.programs(wanted.arguments, wanted.environment)
        process = self._machine.spawn(program, wanted.arguments, self._owner)
        process.outputs = {name: asyncio.StreamReader() for name in (*wanted.outputs, *wanted.more)}
        if wanted.channel is not None:
            process.channel = self._machine.pairs[wanted.channel]
            process.channel.pass_to(process)
        return Child(process, {name: 10 + number for number, name in enumerate(wanted.more)})

    def guard(self, lock: int | None = None, record: Path | None = None) -> Guard:
        return SimulatedGuard(self._owner, lock, record)

    def identity(self, pid: int | None = None) -> Identity:
        process = self._owner if pid is None else self._machine.processes.get(pid)
        if process is None:
            raise ProcessLookupError(pid)
        return Identity(process.pid, process.start)

    def alive(self, process: Identity) -> bool:
        found = self._machine.processes.get(process.pid)
        return found is not None and found.start == process.start and not found.is_dead

    def kill(self, process: Identity) -> None:
        group = self._machine.group(process.pid)
        if not group:
            raise ProcessLookupError(process.pid)
        for each in group:
            each.signal(signal.SIGKILL)

    def pause(self, then: Callable[[], None]) -> None:
        self._owner.signal(signal.SIGSTOP)
        self._owner.suspended_at = self._machine.loop.now
        self._machine.loop.call_soon(then, context=self._owner.context)  # waits while the process is stopped

    def runs(self, pid: int) -> bool:
        found = self._machine.processes.get(pid)
        return found is not None and not found.is_dead

    def with_variable(self, name: str, value: str) -> list[int]:
        return [each.pid for each in self._machine.processes.values() if each.mark == value and not each.is_dead]

    def owns(self, pids: Sequence[int] | None, address: tuple[str, int]) -> bool | None:
        wanted = {self._owner.pid} if pids is None else {*pids}
        host = self._machine.host
        own = (host.ip, address[1])  # loopback addresses are the host's own here
        owners = [end.owner for end in host.network.ends if end.own == own]
        owners += [listener.owner for port, listener in host.listeners.items() if port == address[1]]
        return any(wanted & {each.pid, *(above.pid for above in each.ancestors())} for each in owners)


class Bound:
    """See `bootstrap.system.Bound`."""

    def __init__(self, machine: Machine, address: tuple[str, int], pid: int) -> None:
        self._machine, self._address, self._pid = machine, address, pid
        self._descriptor = 7

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._descriptor = -1
        holders = self._machine.udp.get(self._address, set())
        holders.discard(self._pid)
        if not holders:
            self._machine.udp.pop(self._address, None)


class Ports:
    """See `bootstrap.system.Network`; also the loop's requests for connections."""

    def __init__(self, owner: SimulatedProcess) -> None:
        self._owner, self._machine = owner, owner.machine

    def holds(self, ip: str) -> bool:
        return ip == self._machine.ip

    def free_port(self, host: str) -> int:
        return next(
            port
            for port in iter(lambda: self._machine.random.randrange(20000, 32000), 0)
            if port not in self._machine.host.listeners
        )

    def check_free(self, ip: str, port: int) -> None:
        if port in self._machine.host.listeners:
            raise refused(errno.EADDRINUSE)

    def bind_udp(self, address: tuple[str, int]) -> Bound:
        if address in self._machine.udp:
            raise refused(errno.EADDRINUSE)
        self._machine.udp[address] = {self._owner.pid}
        return Bound(self._machine, address, self._owner.pid)

    def listen(self, host: str, port: int) -> ListeningSocket:
        self._machine.relays.add(port)
        return ListeningSocket(self._machine, port, self._owner, self._context())

    def socket_pair(self) -> tuple[SimulatedSocket, SimulatedSocket]:
        near, far = pair(self._machine, self._owner, self._context())
        self._machine.pairs[far.fileno()] = far
        return near, far

    async def connect(self, factory: Any, ip: str, port: int) -> Any:
        return await self._machine.host.connect(factory, ip, port, self._owner)

    def serve(self, factory: Any, port: int) -> Any:
        return self._machine.host.listen(factory, port, self._owner, self._context())

    def _context(self) -> Context:
        context = Context()
        context.run(CONTROL.set, self._owner.system)
        return context


class Disk:
    """See `bootstrap.system.Files`."""

    def __init__(self, machine: Machine, process: SimulatedProcess | None = None) -> None:
        self._machine, self._files, self._process = machine, machine.files, process

    def temporary_directory(self) -> Path:
        """Return the first directory, or another one if its disk has failed before the process wanted one."""
        assert self._process is not None
        if self._process.directory is None:
            machine = self._machine
            self._process.directory = machine.directories[0 if machine.disk_error is None else -1]
        return self._process.directory

    def status(self, path: Path) -> os.stat_result | None:
        node = self._files.get(path)
        if node is None:
            return None
        kind = stat.S_IFDIR | 0o700 if node.data is None else stat.S_IFREG | 0o600
        return os.stat_result((kind, node.number, 0, 1, os.geteuid(), 0, len(node.data or b""), 0, 0, 0))

    def create(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        self._writable(path)
        if path in self._files:
            raise refused(errno.EEXIST)
        self._files[path] = Node(data)

    def rename(self, path: Path, new: Path) -> None:
        self._writable(new)
        self._files[new] = self._files.pop(path)

    def remove(self, path: Path) -> None:
        self._files.pop(path, None)

    def make_directory(self, path: Path) -> None:
        if self._machine.disk_error != errno.ENOSPC or self._machine.random.random() < 0.5:  # it may have room for that
            self._writable(path)
        if path in self._files:
            raise refused(errno.EEXIST)
        self._files[path] = Node(None)

    def remove_directory(self, path: Path) -> None:
        for each in [each for each in self._files if each == path or path in each.parents]:
            del self._files[each]

    def read_own(self, path: Path, limit: int) -> bytes:
        node = self._files.get(path)
        if node is None or node.data is None:
            raise refused(errno.ENOENT)
        return node.data[:limit]

    def overwrite_own(self, path: Path, data: bytes) -> None:
        self._writable(path)
        node = self._files.setdefault(path, Node(b""))
        node.data = data.ljust(len(node.data or b""))

    def remove_own(self, path: Path) -> None:
        self.remove(path)

    def _writable(self, path: Path) -> None:
        if self._machine.disk_seconds and self._process is not None:
            self._process.block(self._machine.disk_seconds)
        if self._machine.disk_error is not None and self._machine.directories[0] in path.parents:
            raise refused(self._machine.disk_error)
        parent = self._files.get(path.parent)
        if parent is None or parent.data is not None:
            raise refused(errno.ENOENT)
