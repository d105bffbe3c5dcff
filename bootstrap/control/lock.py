"""One live group per host: a lock that the kernel holds, and a record of what to end when its holder was killed.

The lock is a bound UDP port on loopback. It is the same for every user and every TMPDIR, no file can stand in for it,
and it goes when the last process that holds it ends. The guard holds it too, so it goes only when nothing of the run is
left. The record is a file of the user's own; where both the run and its guard were killed, the next run ends the
processes that it names.
"""

import asyncio
import errno
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import psutil

from bootstrap.errors import BootstrapError

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


class Process(NamedTuple):
    """A process, told from a later one with the same number by its start. A step of the clock does not change it."""

    pid: Annotated[int, msgspec.Meta(ge=2, le=0x7FFFFFFF)]
    start: str
    """Linux: the boot's ID and the clock ticks since boot. Elsewhere: the time that the kernel noted at the start."""

    def alive(self) -> bool:
        try:
            return process(self.pid) == self and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


UNKNOWN: Final = Process(0, "")


def process(pid: int) -> Process:
    """Return the identity of the process `pid`; psutil.NoSuchProcess if there is none."""
    if not sys.platform.startswith("linux"):
        return Process(pid, repr(psutil.Process(pid).create_time()))
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return Process(pid, f"{boot} {ticks}")


class Record(msgspec.Struct, frozen=True):
    """The processes and directories of a run."""

    holder: Process
    children: tuple[Process, ...] = ()
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

    def __init__(self, held: socket.socket, path: Path) -> None:
        self.descriptor = held.fileno()
        self.path = path
        self.left_over: list[int] = []
        """Process numbers of a killed run that had to be ended."""
        self._held = held
        self._own = process(os.getpid())  # while there are descriptors to find out
        self._children: dict[int, Process] = {}
        self._directories: set[str] = set()

    def watch(self, pid: int) -> None:
        """Record a child, so that the next run can end it when this process and the guard are killed."""
        with suppress(psutil.NoSuchProcess):  # ended already
            self._children[pid] = process(pid)
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
            descriptor = _open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                # Never truncated: a kill leaves all of one record, and a full disk the last one.
                length = os.fstat(descriptor).st_size
                os.pwrite(descriptor, msgspec.json.encode(record).ljust(length), 0)
            finally:
                os.close(descriptor)

    def _release(self) -> None:
        if not self._children and not self._directories:  # else the next run removes what this one could not
            with suppress(OSError):
                _check(self.path.lstat())
                self.path.unlink(missing_ok=True)
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


def holder(ip: str, link_port: int = 7777) -> Process | None:
    """Return who holds the lock of the host with address `ip`, `UNKNOWN` if no record says; None if nobody does."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(lock_address(ip, link_port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                record = record_of(ip, link_port)
                return UNKNOWN if record is None else record.holder
    return None


async def _bound(ip: str, link_port: int) -> socket.socket:
    clock = asyncio.get_running_loop().time
    began = clock()
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        while True:
            try:
                held.bind(lock_address(ip, link_port))
                return held
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise LockError(f"cannot take the host's lock: {error.strerror}", code="lock-failed") from error
            record = record_of(ip, link_port)
            who = "another process" if record is None else f"process {record.holder.pid}"
            limit = UNKNOWN_SECONDS if record is None else 0.0 if record.holder.alive() else TIDY_SECONDS
            if clock() - began >= limit:
                host, port = lock_address(ip, link_port)
                raise LockError(
                    f"{who} runs a group on this host already (it holds UDP {host}:{port}); wait for its end",
                    code="host-busy",
                )
            await asyncio.sleep(_RETRY_SECONDS)
    except BaseException:
        held.close()
        raise


async def _reap(record: Record) -> list[int]:
    """End the children of a run whose process and guard were killed, and remove its directories."""
    left_over = []
    for child in record.children:
        if child.alive():
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            left_over.append(child.pid)
            clock = asyncio.get_running_loop().time
            limit = clock() + 1.0
            while child.alive() and clock() < limit:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for path in map(Path, record.directories):
        with suppress(OSError):
            if path.name.startswith("jaccl-bootstrap-") and path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
    return left_over


def _read(path: Path) -> Record | None:
    """Return the record at `path`; None if there is none, it is another user's, or its writer was killed half-way."""
    try:
        descriptor = _open(path, os.O_RDONLY)
        try:
            return msgspec.json.decode(os.pread(descriptor, MAX_FILE, 0), type=Record)
        finally:
            os.close(descriptor)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    try:
        _check(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(status: os.stat_result) -> None:
    """OSError unless the file is this user's own: its contents end processes."""
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not a private file of this user")
