"""The system that a rank runs on, as small interfaces: clock, randomness, network, files, processes and tools.

What a run and its rank need from outside their process goes through `current()`; timers and connections are the event
loop's. A simulation replaces the loop and these, and nothing else. Errors are OSError unless a docstring names another.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    import socket

    from bootstrap.system.processes import Identity
    from bootstrap.system.tools import RunTool


class Network(Protocol):
    """Addresses and ports of this host."""

    def holds(self, ip: str) -> bool:
        """Whether this host can bind that IPv4 address."""

    def free_port(self, host: str) -> int:
        """Return a TCP port that is free now."""

    def check_free(self, ip: str, port: int) -> None:
        """Raise the error with which the system refuses to bind a TCP port; none where it is free."""

    def bind_udp(self, address: tuple[str, int]) -> "Bound":
        """Bind a UDP port, for the sake of its being taken."""

    def listen(self, host: str, port: int) -> "socket.socket":
        """Return a socket that listens, for the event loop to accept from."""

    def socket_pair(self) -> "tuple[socket.socket, socket.socket]":
        """Return two sockets that are connected."""


class Bound(Protocol):
    """A port that is taken until this is closed, and each process that has inherited it has ended."""

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""

    def close(self) -> None: ...


class Files(Protocol):
    """Files of this user's own, mode 0600; a symbolic link is never followed, and nothing blocks."""

    def temporary_directory(self) -> Path:
        """Return where temporary files go; the same at each call. FileNotFoundError where none can be written to."""

    def status(self, path: Path) -> os.stat_result | None:
        """Return the status of a file or link itself; None where there is none."""

    def create(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        """Write a file that must not exist. A `durable` one survives a power cut whole."""

    def rename(self, path: Path, new: Path) -> None:
        """Let `path` take the place of `new`."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""

    def make_directory(self, path: Path) -> None:
        """Make a directory that only its owner can use, and that must not exist."""

    def remove_directory(self, path: Path) -> None:
        """Remove a directory and what is in it, as far as that can be done; no error."""

    def read_own(self, path: Path, limit: int) -> bytes:
        """Return the first bytes of a file of this user's. PermissionError for one that is not private."""

    def overwrite_own(self, path: Path, data: bytes) -> None:
        """Write over the beginning of such a file, or a new one, in one step; what was longer keeps its end."""

    def remove_own(self, path: Path) -> None:
        """Remove such a file."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process to start. Its stdin is /dev/null, unless this says otherwise."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    outputs: tuple[str, str]
    """The names of its stdout and stderr."""
    more: Sequence[str] = ()
    """Those of further pipes for it to write to."""
    writes: bool = False
    """Its stdin is a pipe that this process writes to."""
    stdin: bool = False
    """It has this process's stdin: as its own or, beside a pipe, as another descriptor."""
    channel: int | None = None
    """A descriptor to inherit."""
    cwd: str | None = None


class Process(Protocol):
    """A process that leads a session and a process group of its own, and has not been reaped."""

    pid: int
    streams: "Mapping[str, asyncio.StreamReader]"
    """What it writes, by name, once this is connected."""
    passed: Mapping[str, int]
    """Further descriptors that it has, by name, with its own numbers."""

    async def connect(self) -> None:
        """Begin to read what it writes."""

    def poll(self) -> int | None:
        """Reap it if it has exited: return its exit status, or minus the signal. From then on its number is free."""

    def runs(self) -> bool:
        """Whether it has not exited; also if the system cannot say."""

    def is_alone(self) -> bool:
        """Whether nobody else of its group is left."""

    def signal(self, number: int) -> bool:
        """Signal the whole group; say whether there is one. 0 only asks."""

    async def exited(self) -> None:
        """Wait until it has exited, and leave it unreaped."""

    def write(self, data: bytes) -> None:
        """Write to its stdin, at once or not at all."""

    def close_stdin(self) -> None: ...

    def close(self) -> None:
        """Read nothing more of what it writes, and write nothing more."""


class Guard(Protocol):
    """The process that tidies up when this one is killed; see `bootstrap.system.guard`."""

    pid: int

    def remove(self, directory: Path) -> None:
        """Have it remove a directory."""

    def unlink(self, file: Path) -> None:
        """Have it remove a file."""

    def watch(self, pid: int) -> None:
        """Have it end the group that a child leads."""

    def forget(self, what: int | Path) -> None:
        """A child or a directory is gone."""

    def dismiss(self) -> None:
        """End it without its work being done."""


class Processes(Protocol):
    """Starts processes, and looks at those that other runs have started."""

    def start(self, wanted: Start) -> Process: ...

    def guard(self, lock: int | None = None, record: Path | None = None) -> Guard:
        """Start a guard that inherits the descriptor `lock` and is to remove `record`."""

    def identity(self, pid: int | None = None) -> "Identity":
        """Return the identity of a process, by default this one. ProcessLookupError if there is none."""

    def alive(self, process: "Identity") -> bool:
        """Whether this very process has not exited."""

    def kill(self, process: "Identity") -> None:
        """Kill the group that a process leads."""

    def runs(self, pid: int) -> bool:
        """Whether a process has not exited; also if the system cannot say."""

    def owns(self, pids: Sequence[int] | None, address: tuple[str, int]) -> bool | None:
        """Return whether one of these processes, by default this one, or a descendant has a TCP socket at an address.

        None if none is found, but not all can be looked into, as those of another user.
        """


@dataclass(frozen=True)
class System:
    """One host, as a process on it sees it."""

    clock: Callable[[], float]
    """Seconds, as `time.monotonic`."""
    random: Callable[[int], bytes]
    """As `os.urandom`."""
    network: Network
    files: Files
    processes: Callable[[], Processes]
    run_tool: "RunTool"


_current: ContextVar[System | None] = ContextVar("system", default=None)


def current() -> System:
    """Return the system that the caller runs on."""
    return _current.get() or _real()


@contextmanager
def running_on(system: System) -> Iterator[None]:
    """Run on another system inside the block, with the tasks and threads that start in it."""
    token = _current.set(system)
    try:
        yield
    finally:
        _current.reset(token)


@cache
def _real() -> System:
    # Imported here: --help needs nothing of it, and a process that holds MLX neither an event loop nor psutil.
    from bootstrap.system import files, network, tools

    def processes() -> Processes:
        from bootstrap.system import processes

        return processes

    return System(time.monotonic, os.urandom, network, files, processes, tools.run_process)
