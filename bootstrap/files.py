"""Reads and writes files without blocking, following symbolic links, or reading without a limit."""

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from bootstrap.errors import ConfigError, TopologyWriteError
from bootstrap.system import current


def read_file(path: str | PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file, up to one byte more than `limit`. Raise OSError for anything else."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # does not wait for a pipe's other end
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "it is not a regular file")
        with open(fd, "rb", closefd=False) as stream:
            return stream.read(limit + 1)
    finally:
        os.close(fd)


def open_private(path: str | PathLike[str], flags: int = 0) -> int:
    """Open a private file for writing, a new one with mode 0600, and return the descriptor.

    Raise OSError for a symbolic link, another user's file, one that others can read or that has a second name, and a
    pipe without a reader. Neither opening nor writing blocks.
    """
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a symbolic link; name the file itself") from error
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "it is a pipe without a reader; start the reader first") from error
        raise
    try:
        _check_private(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_private(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
        raise OSError(None, "it is neither a file nor a pipe")
    if status.st_uid != os.geteuid():
        raise OSError(None, f"it belongs to user {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise OSError(None, f"others can read it (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600 it, or remove it")
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise OSError(None, "it has a second name (a hard link)")


def absolute(path: Path) -> Path:
    """Return the path from the root on. Raise ConfigError if the current directory is gone."""
    try:
        return path.absolute()
    except FileNotFoundError as error:
        text = "the current directory no longer exists; change to one that does"
        raise ConfigError(text, code="bad-cwd") from error


@contextmanager
def temporary(path: Path, data: bytes, *, durable: bool = False) -> Iterator[Path]:
    """Keep `data` in a new file next to `path`, mode 0600, inside the block: for a rename or a link to `path`.

    A `durable` file survives a power failure intact.
    """
    system = current()
    name, files = path.with_name(f".{path.stem[:16]}-{system.random(8).hex()}.tmp"), system.files
    files.create(name, data, durable=durable)
    try:
        yield name
    finally:
        files.remove(name)


def write_file(path: Path, data: bytes) -> os.stat_result | None:
    """Write `data` to `path` with mode 0600, whole or not at all. Return the new file's status."""
    files = current().files
    try:
        _refuse_irregular(path)
        with temporary(path, data) as new:
            status = files.status(new)
            files.rename(new, path)  # replaces a link put there meanwhile, and does not follow it
    except OSError as error:
        text = f"cannot write {path}: {error.strerror}; check the directory, or use another one"
        raise TopologyWriteError(text, code="write-failed") from error
    return status


def remove_file(path: Path) -> None:
    """Remove `path`, if it exists."""
    try:
        current().files.remove(path)
    except OSError as error:
        text = f"cannot remove {path}: {error.strerror}; remove it yourself"
        raise TopologyWriteError(text, code="remove-failed") from error


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """Keep `data` in `path` inside the block, then remove it unless another file has replaced it."""
    mine = write_file(path, data)
    try:
        yield path
    finally:
        with suppress(OSError):
            there = current().files.status(path)
            if mine is not None and there is not None and os.path.samestat(mine, there):
                remove_file(path)


def _refuse_irregular(path: Path) -> None:
    there = current().files.status(path)
    if there is not None and not stat.S_ISREG(there.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(there.st_mode) else "not a regular file"
        raise TopologyWriteError(f"cannot write {path}: it is {kind}; remove it", code="not-a-regular-file")


@contextmanager
def private_directory(path: Path) -> Iterator[None]:
    """Keep a new private directory inside the block. Raise TopologyWriteError if that fails."""
    try:
        current().files.make_directory(path)
    except OSError as error:
        text = f"cannot create {path}: {error.strerror}; check TMPDIR"
        raise TopologyWriteError(text, code="directory-failed") from error
    try:
        yield
    finally:
        current().files.remove_directory(path)


def prepare_standard_streams() -> None:
    """Make output work with any encoding, and keep other files from getting the descriptors of closed streams."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if the caller closed it
            stream.reconfigure(errors="backslashreplace")
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
