"""One live group per host: a lock held by the kernel, and a record of what to clean up if its holder was killed.

The lock is a bound UDP port on loopback. It is the same for every user and TMPDIR, no file can replace it, and it is
released when the last process that holds it exits. The guard holds it too, so it is free only once nothing of the run
is left. The record is a private file of the user. If both the run and its guard were killed, the next run ends the
processes that it lists.
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
RECORDS: Final = Path("/tmp")  # noqa: S108 - the same for every TMPDIR; records are opened safely
MAX_FILE: Final = 64 * 1024
TIDY_SECONDS: Final = 15.0
"""How long to wait for a killed run's guard."""
UNKNOWN_SECONDS: Final = 2.0
"""The same if no record tells whether the holder is alive."""
_RETRY_SECONDS: Final = 0.05


class LockError(BootstrapError):
    """Another group is up on this host, or the lock cannot be used."""

    stage = "lock"


UNKNOWN: Final = Identity(0, "")


class Record(msgspec.Struct, frozen=True):
    """The processes and directories of a run."""

    holder: Identity
    children: tuple[Identity, ...] = ()
    """Leaders of process groups."""
    directories: tuple[str, ...] = ()


def lock_address(ip: str, link_port: int) -> tuple[str, int]:
    """Return the UDP address whose owner holds the lock of the host with address `ip`.

    A loopback address with a link port counts as a host of its own, so that all ranks of a group can run on one host.
    """
    return (ip, link_port) if IPv4Address(ip).is_loopback else ("127.0.0.1", LOCK_PORT)


def record_path(ip: str, link_port: int) -> Path:
    host, port = lock_address(ip, link_port)
    return RECORDS / f"jaccl-bootstrap-{os.geteuid()}-{_network()}{host}-{port}.json"


def _network() -> str:
    """Distinguish hosts that share RECORDS, as containers may: on Linux, by the network namespace."""
    try:
        return f"{Path('/proc/self/ns/net').stat().st_ino}-"
    except OSError:
        return ""


class Lock:
    """The lock while it is held. The guard inherits `descriptor`."""

    def __init__(self, held: Bound, path: Path) -> None:
        self.descriptor = held.fileno()
        self.path = path
        self.left_over: list[int] = []
        """Process numbers of a killed run that were ended."""
        self._held = held
        self._own = current().processes().identity()  # now, while there are descriptors for it
        self._children: dict[int, Identity] = {}
        self._directories: set[str] = set()

    def watch(self, pid: int) -> None:
        """Record a child, so that the next run can end it if this process and the guard are killed."""
        with suppress(ProcessLookupError):  # ended already
            self._children[pid] = current().processes().identity(pid)
            self._write()

    def remove(self, directory: Path) -> None:
        """Record a directory to remove; call this before it is created."""
        self._directories.add(str(directory))
        self._write()

    def forget(self, what: int | Path) -> None:
        """Drop a child or directory that is gone."""
        if isinstance(what, int):
            self._children.pop(what, None)
        else:
            self._directories.discard(str(what))
        self._write()

    async def _take_over(self) -> None:
        """Clean up after a killed run, and start this run's record."""
        record = _read(self.path)
        if record is not None:
            self.left_over = await _reap(record)
        self._write()

    def _write(self) -> None:
        """Write the record, whole or not at all. A run can do without: it matters only if the guard is killed."""
        if self._held.fileno() < 0:  # released: the record belongs to the next run
            return
        record = Record(self._own, tuple(self._children.values()), tuple(self._directories))
        with suppress(OSError):
            current().files.overwrite_own(self.path, msgspec.json.encode(record))

    def _release(self) -> None:
        if not self._children and not self._directories:  # else the next run cleans up
            with suppress(OSError):
                current().files.remove_own(self.path)
        self._held.close()


@asynccontextmanager
async def host_lock(ip: str, link_port: int) -> AsyncIterator[Lock]:
    """Hold the lock of the host with address `ip`, and clean up after a killed run, whose guard is waited for.

    Raise LockError (`host-busy`) if another run is alive.
    """
    lock = Lock(await _bound(ip, link_port), record_path(ip, link_port))
    try:
        await lock._take_over()
        yield lock
    finally:
        lock._release()


def record_of(ip: str, link_port: int) -> Record | None:
    """Return the record of the last run on the host with address `ip`; None if there is none or it cannot be read."""
    return _read(record_path(ip, link_port))


def holder(ip: str, link_port: int = 7777) -> Identity | None:
    """Return who holds the lock of the host with address `ip`: `UNKNOWN` without a record, None if it is free."""
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
                text = f"cannot take the host's lock: {error.strerror}; check the loopback interface"
                raise LockError(text, code="lock-failed") from error
        record = record_of(ip, link_port)
        who = "another process" if record is None else f"process {record.holder.pid}"
        is_alive = record is not None and system.processes().alive(record.holder)
        limit = UNKNOWN_SECONDS if record is None else 0.0 if is_alive else TIDY_SECONDS
        if system.clock() - began >= limit:
            host, port = lock_address(ip, link_port)
            text = f"{who} runs a group on this host already (it holds UDP {host}:{port}); wait until it ends"
            raise LockError(text, code="host-busy")
        await asyncio.sleep(_RETRY_SECONDS)


async def _reap(record: Record) -> list[int]:
    """End the children and remove the directories of a run that was killed together with its guard."""
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
    """Return the record at `path`; None if there is none, it is another user's, or it is incomplete."""
    try:
        return msgspec.json.decode(current().files.read_own(path, MAX_FILE), type=Record)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
