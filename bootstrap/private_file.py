"""Small private files, and the directory for them."""

import errno
import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bootstrap.errors import IdentityError
from bootstrap.files import temporary

LOCK_SECONDS: Final = 3.0
"""How long to wait for another process that changes the same file, which normally takes milliseconds."""


def config_directory() -> Path:
    """Return `$XDG_CONFIG_HOME/cluster-wireproto`, else `~/.config/cluster-wireproto`. Ignore relative paths."""
    for variable, below in (("XDG_CONFIG_HOME", ""), ("HOME", ".config")):
        base = Path(os.environ.get(variable, ""))
        if base.is_absolute():
            return base / below / "cluster-wireproto"
    raise IdentityError(
        "neither XDG_CONFIG_HOME nor HOME is an absolute path, so the identity key and the pins have no directory; "
        "set one, or use --identity PATH for the key",
        code="no-home",
    )


class PrivateFile:
    """A small private file: checked before it is read, written whole or not at all, never through a link.

    `remedy` says what to do if the file is not acceptable or cannot be accessed.
    """

    def __init__(self, path: Path, limit: int, remedy: str) -> None:
        self.path = path
        self.quoted = shlex.quote(str(path))
        self._limit = limit
        self._remedy = remedy

    def read(self) -> bytes | None:
        """Return the content; None if the file does not exist."""
        with self._attempt("read"):
            try:
                # Non-blocking, since it may be a pipe.
                fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise self.refusal("is a symbolic link", "symbolic-link") from error
                if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket
                    raise self.refusal("is not a regular file", "not-a-regular-file") from error
                raise
            try:
                self._check(os.fstat(fd))
                with os.fdopen(fd, "rb", closefd=False) as file:
                    data = file.read(self._limit + 1)
            finally:
                os.close(fd)
        if len(data) > self._limit:  # it grew meanwhile
            raise self._too_large()
        return data

    def create(self, data: bytes) -> None:
        """Write it unless it exists; of concurrent processes the first one counts."""
        with self._attempt("write"), self._temporary(data) as new:
            try:
                self.path.hardlink_to(new)
            except FileExistsError:
                pass
            except OSError:
                # This file system has no hard links. With O_EXCL, others could read an incomplete file.
                with self.locked():
                    if not os.path.lexists(self.path):
                        new.replace(self.path)

    def replace(self, data: bytes) -> None:
        if len(data) > self._limit:
            raise self._too_large()
        with self._attempt("write"), self._temporary(data) as new:
            new.replace(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes and threads that change it. The lock file stays, as removing it would be a race."""
        lock = self.path.with_name(self.path.name + ".lock")
        with ExitStack() as stack:
            with self._attempt("lock", lock):
                _make_directory(lock.parent)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = stack.enter_context(os.fdopen(os.open(lock, flags, 0o600), "rb"))
                _lock_within(file.fileno(), LOCK_SECONDS)
            yield

    def refusal(self, fault: str, code: str) -> IdentityError:
        return IdentityError(f"{self.path} {fault}; {self._remedy}", code=code)

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        _make_directory(self.path.parent)
        with temporary(self.path, data, durable=True) as new:
            yield new

    def _check(self, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise self.refusal("is not a regular file", "not-a-regular-file")
        if status.st_uid != os.geteuid():
            raise self.refusal(f"belongs to user {status.st_uid}, not to {os.geteuid()}", "wrong-owner")
        if mode & 0o077:
            text = f"{self.path} is accessible to other users (mode {mode:04o}); run: chmod 600 {self.quoted}"
            raise IdentityError(text, code="permissions")
        if status.st_size > self._limit:
            raise self._too_large()

    def _too_large(self) -> IdentityError:
        return self.refusal(f"is larger than {self._limit} bytes", "too-large")

    @contextmanager
    def _attempt(self, what: str, path: Path | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            message = f"cannot {what} {path or self.path}: {reason}; {self._remedy}"
            raise IdentityError(message, code=f"{what}-failed") from error


def _lock_within(descriptor: int, seconds: float) -> None:
    """Take a lock, blocking this thread for at most `seconds`. Raise OSError after that."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > limit:
                raise OSError(error.errno, f"another process has held the lock for {seconds:g} s") from error
        time.sleep(0.01)


def _make_directory(directory: Path) -> None:
    """Create a directory, each missing level private; `Path.mkdir` would leave all but the last to the umask."""
    missing = [level for level in (directory, *directory.parents) if not level.exists()]
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)
