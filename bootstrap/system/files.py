"""The system's own files, see `Files`."""

import errno
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def temporary_directory() -> Path:
    return Path(tempfile.gettempdir())


def status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def create(path: Path, data: bytes, *, durable: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # whatever the umask removed
            file.write(data)
            if durable:
                file.flush()
                os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            remove(path)
        raise


def rename(path: Path, new: Path) -> None:
    path.replace(new)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    path.mkdir(0o700)


def remove_directory(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def read_own(path: Path, limit: int) -> bytes:
    fd = _open_own(path, os.O_RDONLY)
    try:
        return os.pread(fd, limit, 0)
    finally:
        os.close(fd)


def overwrite_own(path: Path, data: bytes) -> None:
    fd = _open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        # Never truncated: a kill leaves one complete text, and a full disk the previous one.
        os.pwrite(fd, data.ljust(os.fstat(fd).st_size), 0)
    finally:
        os.close(fd)


def remove_own(path: Path) -> None:
    if (found := status(path)) is not None:
        _check_own(found)
        remove(path)


def _open_own(path: Path, flags: int) -> int:
    fd = os.open(path, flags | _SAFELY, 0o600)
    try:
        _check_own(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_own(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not a private file of this user")
