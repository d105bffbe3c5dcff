"""Interfaces to the system that a rank runs on: clock, randomness, network, files, processes and tools.

Runs and ranks reach the outside through `current()`; the event loop owns timers and connections. A simulation replaces
only the loop and these interfaces. Errors are OSError unless a docstring names another.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        """Whether this host can bind an IPv4 address."""

    def free_port(self, host: str) -> int:
        """Return a TCP port that is free now."""

    def check_free(self, ip: str, port: int) -> None:
        """Raise the system's error if a TCP port cannot be bound."""

    def bind_udp(self, address: tuple[str, int]) -> "Bound":
        """Bind a UDP port to reserve it."""

    def listen(self, host: str, port: int) -> "socket.socket":
        """Return a listening socket for the event loop."""

    def socket_pair(self) -> "tuple[socket.socket, socket.socket]":
        """Return two connected sockets."""


class Bound(Protocol):
    """A port reserved until this is closed and every process that inherited it has ended."""

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""

    def close(self) -> None: ...


class Files(Protocol):
    """Private files, mode 0600. No method follows a symbolic link or blocks."""

    def temporary_directory(self) -> Path:
        """Return the directory for temporary files, always the same. Raise FileNotFoundError if none is writable."""

    def status(self, path: Path) -> os.stat_result | None:
        """Return the status of a file, or of a link itself; None if it does not exist."""

    def create(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        """Write a new file. A `durable` one survives a power failure intact."""

    def rename(self, path: Path, new: Path) -> None:
        """Rename `path` to `new`, replacing it."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""

    def make_directory(self, path: Path) -> None:
        """Create a new private directory."""

    def remove_directory(self, path: Path) -> None:
        """Remove a directory and its content as far as possible, without an error."""

    def read_own(self, path: Path, limit: int) -> bytes:
        """Return the first bytes of this user's file. Raise PermissionError unless it is private."""

    def overwrite_own(self, path: Path, data: bytes) -> None:
        """Overwrite the start of such a file in one step, or create it. A longer file keeps its end."""

    def remove_own(self, path: Path) -> None:
        """Remove such a file."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process to start, with /dev/null as stdin by default."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    outputs: tuple[str, str]
    """Names for its stdout and stderr."""
    more: Sequence[str] = ()
    """Names of further pipes for its output."""
    writes: bool = False
    """Its stdin is a pipe from this process."""
    stdin: bool = False
    """It inherits this process's stdin, next to a pipe as another descriptor."""
    channel: int | None = None
    """A descriptor to inherit."""
    cwd: str | None = None


class Process(Protocol):
    """A process that leads its own session and process group, and is not reaped yet."""

    pid: int
    streams: "Mapping[str, asyncio.StreamReader]"
    """Its output by name, once connected."""
    passed: Mapping[str, int]
    """Its further descriptors by name."""

    async def connect(self) -> None:
        """Start reading its output."""

    def poll(self) -> int | None:
        """Reap it if it has exited, which frees its number. Return its exit status, or minus the signal."""

    def exit_status(self) -> int | None:
        """Return its exit status, or minus the signal, without reaping it; None if it runs, or if unknown."""

    def runs(self) -> bool:
        """Whether it has not exited; True if unknown."""

    def is_alone(self) -> bool:
        """Whether its group has no other process left."""

    def signal(self, number: int) -> bool:
        """Signal the whole group. Return whether there is one."""

    async def exited(self) -> None:
        """Wait until it has exited, without reaping it."""

    def write(self, data: bytes) -> None:
        """Write to its stdin without blocking, or drop the data."""

    def close_stdin(self) -> None: ...

    def close(self) -> None:
        """Close its streams."""


class Guard(Protocol):
    """The process that cleans up if this one is killed; see `bootstrap.system.guard`."""

    pid: int

    def remove(self, directory: Path) -> None:
        """Have a directory removed."""

    def unlink(self, file: Path) -> None:
        """Have a file removed."""

    def watch(self, pid: int) -> None:
        """Have a child's group ended."""

    def forget(self, what: int | Path) -> None:
        """Drop a child or directory that is gone."""

    def dismiss(self) -> None:
        """End it before it does anything."""


class Processes(Protocol):
    """Starts processes, and inspects those of other runs."""

    def start(self, wanted: Start) -> Process: ...

    def guard(self, lock: int | None = None, record: Path | None = None) -> Guard:
        """Start a guard that inherits the descriptor `lock` and removes `record`."""

    def identity(self, pid: int | None = None) -> "Identity":
        """Return the identity of a process, by default this one. Raise ProcessLookupError if there is none."""

    def alive(self, process: "Identity") -> bool:
        """Whether this process itself, not a later one with its number, has not exited."""

    def kill(self, process: "Identity") -> None:
        """Kill the group that a process leads."""

    def pause(self, then: Callable[[], None]) -> None:
        """Stop this process, and call `then` once SIGCONT has continued it."""

    def runs(self, pid: int) -> bool:
        """Whether a process has not exited; True if unknown."""

    def with_variable(self, name: str, value: str) -> Iterable[int]:
        """Find this user's live processes with this value of a variable in their environment."""

    def owns(self, pids: Sequence[int] | None, address: tuple[str, int]) -> bool | None:
        """Whether one of these processes, by default this one, or a descendant has a TCP socket at an address.

        Return None if none is found and some cannot be inspected, such as another user's.
        """


@dataclass(frozen=True)
class System:
    """A host as seen by a process on it."""

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
    """Run on another system inside the block, including tasks and threads started there."""
    token = _current.set(system)
    try:
        yield
    finally:
        _current.reset(token)


@cache
def _real() -> System:
    # Imported here: --help needs none of it, and a process with MLX needs neither an event loop nor psutil.
    from bootstrap.system import files, network, tools

    def processes() -> Processes:
        from bootstrap.system import processes

        return processes

    return System(time.monotonic, os.urandom, network, files, processes, tools.run_process)
