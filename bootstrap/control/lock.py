"""At most one live group a host: a lock file that names its holder, and what to tidy up when the holder was killed.

The lock itself is the kernel's (flock), so it goes when its last holder ends, however that happens. The guard holds it
too, so it goes only when nothing of the run is left. Where the guard was killed as well, the file still says which
processes belonged to the run, and the next one ends them first.
"""

import errno
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import psutil

from bootstrap.errors import BootstrapError

MAX_FILE: Final = 64 * 1024
SAME_START: Final = 0.05
"""Seconds within which two readings of a process's start are the same."""
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # nobody is waited for
_ATTEMPTS: Final = 10
"""How often the file may vanish between its opening and the lock: each time another run has just ended."""


class LockError(BootstrapError):
    """Another group is up on this host, or the lock file cannot be used."""

    stage = "lock"


class Process(NamedTuple):
    """A process, told from a later one with the same number by its start, in seconds since the epoch."""

    pid: Annotated[int, msgspec.Meta(ge=2, le=0x7FFFFFFF)]
    start: float

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(float(process.create_time()) - self.start) < SAME_START
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


UNKNOWN: Final = Process(0, 0.0)


def process(pid: int) -> Process:
    """The process `pid`, which has to run."""
    return Process(pid, psutil.Process(pid).create_time())


class Record(msgspec.Struct, frozen=True):
    """What a lock file says."""

    holder: Process
    workers: tuple[Process, ...]
    directories: tuple[str, ...]
    """Those that the run makes."""


def lock_path(ip: str) -> Path:
    """Where the lock of the host that holds `ip` lies.

    Each loopback address stands for a host of its own, so that all ranks of a group can be tried on one.
    """
    address = IPv4Address(ip)
    name = f"jaccl-bootstrap-{address}.lock" if address.is_loopback else "jaccl-bootstrap.lock"
    return Path(tempfile.gettempdir(), name)


class Lock:
    """The lock, held. `descriptor` is for the guard to inherit."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.left_over: list[int] = []
        """Process numbers of an earlier run's workers that had to be ended."""
        self._workers: dict[int, Process] = {}
        self._directories: set[str] = set()

    def watch(self, pid: int) -> None:
        """Write down a worker, so that it can be ended when this process and the guard are killed."""
        with suppress(psutil.NoSuchProcess):  # ended already
            self._workers[pid] = process(pid)
            self.write()

    def watch_directory(self, directory: Path) -> None:
        """The same for a directory; to be called before it is made."""
        self._directories.add(str(directory))
        self.write()

    def forget(self, pid: int, directory: Path) -> None:
        """A worker has ended, and its directory is gone."""
        self._workers.pop(pid, None)
        self._directories.discard(str(directory))
        with suppress(LockError):  # a record of what is gone does no harm
            self.write()

    def write(self) -> None:
        record = Record(process(os.getpid()), tuple(self._workers.values()), tuple(self._directories))
        with _lock_errors(self.path):
            # Never cut: so a kill leaves all of one record, and a full disk the last one.
            length = os.fstat(self.descriptor).st_size
            os.pwrite(self.descriptor, msgspec.json.encode(record).ljust(length), 0)


@contextmanager
def host_lock(ip: str) -> Iterator[Lock]:
    """Hold the lock of the host that holds `ip`; end what a killed run left. LockError where another run lives."""
    try:
        path = lock_path(ip)
    except FileNotFoundError as error:
        raise LockError(
            "no directory for temporary files can be written to; make room, or set TMPDIR to one that can",
            code="lock-failed",
        ) from error
    with _lock_errors(path):
        lock = Lock(path, _locked(path))
    try:
        with _lock_errors(path):
            lock.left_over = _reap(os.pread(lock.descriptor, MAX_FILE, 0))
            os.ftruncate(lock.descriptor, 0)
        lock.write()
        yield lock
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is locked, so that nobody else's file is meant
        os.close(lock.descriptor)


@contextmanager
def _lock_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LockError(
            f"cannot use the lock file {path}: {error.strerror or error}; mend that, or set TMPDIR to another place",
            code="lock-failed",
        ) from error


def holder(ip: str) -> Process | None:
    """Who holds the lock of the host that holds `ip`, `UNKNOWN` where it does not say; None where nobody does."""
    with suppress(OSError):
        descriptor = os.open(lock_path(ip), os.O_RDONLY | _FLAGS)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            record = _record(os.pread(descriptor, MAX_FILE, 0))
            return UNKNOWN if record is None else record.holder
        finally:
            os.close(descriptor)
    return None


def _locked(path: Path) -> int:
    """A descriptor of the file at `path`, locked."""
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():  # whose word would end processes of this user's
                raise PermissionError(errno.EPERM, "it belongs to another user")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        except FileNotFoundError:
            pass  # its holder has just ended
        except BlockingIOError:
            record = _record(os.pread(descriptor, MAX_FILE, 0))
            os.close(descriptor)
            who = "another process" if record is None else f"process {record.holder.pid}"
            raise LockError(
                f"{who} runs a group on this host already ({path}); wait for its end, or end it", code="host-busy"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise LockError(f"the lock file {path} changes all the time; try again", code="host-busy")


def _reap(data: bytes) -> list[int]:
    """End the workers of a run whose holder and guard were killed, and remove their directories."""
    left_over = []
    record = _record(data)
    if record is None:
        return []
    for worker in record.workers:
        if worker.alive():
            with suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)
            left_over.append(worker.pid)
            limit = time.monotonic() + 1.0
            while worker.alive() and time.monotonic() < limit:
                time.sleep(0.01)
    for path in map(Path, record.directories):
        if path.parent == Path(tempfile.gettempdir()) and path.name.startswith("jaccl-bootstrap-"):
            shutil.rmtree(path, ignore_errors=True)
    return left_over


def _record(data: bytes) -> Record | None:
    """What a lock file says; None where its writer was killed half way."""
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, RecursionError):
        return None
