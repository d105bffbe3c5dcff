"""One live group per host: a lock that the kernel holds, and a record of what to end when its holder was killed.

The lock is a bound UDP port on loopback. It is the same for every user and every TMPDIR, no file can stand in for it,
and it goes when the last process that holds it ends. The guard holds it too, so it goes only when nothing of the run is
left. The record is a file of the user's own; where both the run and its guard were killed, the next run ends the
processes that it names.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import msgspec

from bootstrap.errors import BootstrapError
from bootstrap.system import Bound, current
from bootstrap.system.processes import Identity

LOCK_PORT: Final = 7776
"""UDP, on 127.0.0.1."""
RECORDS: Final = Path("/tmp")  # noqa: S108 - the same for every TMPDIR; each record is opened with care
MAX_FILE: Final = 64 * 1024
TIDY_SECONDS: Final = 15.0
"""How long to wait for the guard of a killed run."""
UNKNOWN_SECONDS: Final = 2.0
"""The same where no record says whether the holder is alive."""
_RETRY_SECONDS: Final = 0.05


class LockError(BootstrapError):
    """Another group is up on this host, or the lock cannot be used."""

    stage = "lock"


UNKNOWN: Final = Identity(0, "")


class Record(msgspec.Struct, frozen=True):
    """The processes and directories of a run."""

    holder: Identity
    children: tuple[Identity, ...] = ()
    """Each leads a process group."""
    directories: tuple[str, ...] = ()


def lock_address(ip: str, link_port: int) -> tuple[str, int]:
    """Return the UDP address whose owner holds the lock of the host with address `ip`.

    A loopback address and a link port stand for a host of their own, so that all ranks of a group can run on one.
    """
    return (ip, link_port) if IPv4Address(ip).is_loopback else ("127.0.0.1", LOCK_PORT)


def record_path(ip: str, link_port: int) -> Path:
    host, port = lock_address(ip, link_port)
    return RECORDS / f"jaccl-bootstrap-{os.geteuid()}-{_network()}{host}-{port}.json"


def _network() -> str:
    """Tell the hosts apart that share RECORDS, as containers may: on Linux, by the network namespace."""
    try:
        return f"{Path('/proc/self/ns/net').stat().st_ino}-"
    except OSError:
        return ""


class Lock:
    """The lock, held. `descriptor` is for the guard to inherit."""

    def __init__(self, held: Bound, path: Path) -> None:
        self.descriptor = held.fileno()
        self.path = path
        self.left_over: list[int] = []
        """Process numbers of a killed run that had to be ended."""
        self._held = held
        self._own = current().processes().identity()  # while there are descriptors to find out
        self._children: dict[int, Identity] = {}
        self._directories: set[str] = set()

    def watch(self, pid: int) -> None:
        """Record a child, so that the next run can end it when this process and the guard are killed."""
        with suppress(ProcessLookupError):  # ended already
            self._children[pid] = current().processes().identity(pid)
            self._write()

    def watch_directory(self, directory: Path) -> None:
        """Record a directory; call this before it is made."""
        self._directories.add(str(directory))
        self._write()

    def forget(self, pid: int) -> None:
        """Drop a child that is gone."""
        if self._children.pop(pid, None) is not None:
            self._write()

    def forget_directory(self, directory: Path) -> None:
        self._directories.discard(str(directory))
        self._write()

    async def _take_over(self) -> None:
        """End what a killed run left, and start a record of this one."""
        record = _read(self.path)
        if record is not None:
            self.left_over = await _reap(record)
        self._write()

    def _write(self) -> None:
        """Write the record, whole or not at all. A run goes on without: only the crash of its guard would matter."""
        if self._held.fileno() < 0:  # given back: the record is the next run's by now
            return
        record = Record(self._own, tuple(self._children.values()), tuple(self._directories))
        with suppress(OSError):
            current().files.overwrite_own(self.path, msgspec.json.encode(record))

    def _release(self) -> None:
        if not self._children and not self._directories:  # else the next run removes what this one could not
            with suppress(OSError):
                current().files.remove_own(self.path)
        self._held.close()


@asynccontextmanager
async def host_lock(ip: str, link_port: int) -> AsyncIterator[Lock]:
    """Hold the lock of the host with address `ip`, and end what a killed run left.

    LockError (`host-busy`) where another run is alive. A killed run's guard is waited for.
    """
    lock = Lock(await _bound(ip, link_port), record_path(ip, link_port))
    try:
        await lock._take_over()
        yield lock
    finally:
        lock._release()


def record_of(ip: str, link_port: int) -> Record | None:
    """Return the record of the last run on the host with address `ip`; None if it left nothing, or cannot be read."""
    return _read(record_path(ip, link_port))


def holder(ip: str, link_port: int = 7777) -> Identity | None:
    """Return who holds the lock of the host with address `ip`, `UNKNOWN` if no record says; None if nobody does."""
    try:
        current().network.bind_udp(lock_address(ip, link_port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            record = record_of(ip, link_port)
            return UNKNOWN if record is None else record.holder
    return None


async def _bound(ip: str, link_port: int) -> Bound:
    system = current()
    began = system.clock()
    while True:
        try:
            return system.network.bind_udp(lock_address(ip, link_port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LockError(f"cannot take the host's lock: {error.strerror}", code="lock-failed") from error
        record = record_of(ip, link_port)
        who = "another process" if record is None else f"process {record.holder.pid}"
        is_alive = record is not None and system.processes().alive(record.holder)
        limit = UNKNOWN_SECONDS if record is None else 0.0 if is_alive else TIDY_SECONDS
        if system.clock() - began >= limit:
            host, port = lock_address(ip, link_port)
            raise LockError(
                f"{who} runs a group on this host already (it holds UDP {host}:{port}); wait for its end",
                code="host-busy",
            )
        await asyncio.sleep(_RETRY_SECONDS)


async def _reap(record: Record) -> list[int]:
    """End the children of a run whose process and guard were killed, and remove its directories."""
    system, left_over = current(), []
    processes = system.processes()
    for child in record.children:
        if processes.alive(child):
            with suppress(OSError):
                processes.kill(child)
            left_over.append(child.pid)
            limit = system.clock() + 1.0
            while processes.alive(child) and system.clock() < limit:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for path in map(Path, record.directories):
        with suppress(OSError):
            there = system.files.status(path)
            if path.name.startswith("jaccl-bootstrap-") and there is not None and there.st_uid == os.geteuid():
                system.files.remove_directory(path)
    return left_over


def _read(path: Path) -> Record | None:
    """Return the record at `path`; None if there is none, it is another user's, or its writer was killed half-way."""
    try:
        return msgspec.json.decode(current().files.read_own(path, MAX_FILE), type=Record)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
