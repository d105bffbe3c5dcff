"""Those who end a run's children and remove its directories where the control process cannot."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from bootstrap.control.guard import start_ticks
from bootstrap.control.lock import Lock
from bootstrap.errors import BootstrapError

GUARD = ("-I", "-S", str(Path(__file__).with_name("guard.py")))


class Guard:
    """The process that tidies up when this one is killed; see `bootstrap.control.guard`.

    It holds `lock` as long as there is something to tidy up.
    """

    def __init__(self, lock: Lock | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *GUARD, *([] if lock is None else [str(lock.path)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if lock is None else (lock.descriptor,),
        )
        self.pid = self._process.pid
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        os.set_blocking(stdin.fileno(), False)

    def remove(self, directory: Path) -> None:
        self._tell("remove", str(directory))

    def unlink(self, file: Path) -> None:
        self._tell("unlink", str(file))

    def watch(self, pid: int) -> None:
        self._tell("kill", pid, start_ticks(pid))

    def forget(self, what: int | Path) -> None:
        self._tell("forget", what if isinstance(what, int) else str(what))

    def _tell(self, *what: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):  # somebody killed or stopped the guard; the run works without
            os.write(self._process.stdin.fileno(), json.dumps(what).encode() + b"\n")

    def dismiss(self) -> None:
        """End the guard without its work being done."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        assert self._process.stdin is not None  # noqa: S101
        with suppress(OSError):
            self._process.stdin.close()


class Watchers:
    """All who end the run's children and remove its directories where this process cannot: guard, lock, next run."""

    def __init__(self, guard: Guard | None = None, lock: Lock | None = None) -> None:
        self.directories: list[Path] = []
        self.children: set[int] = set()
        """Process numbers of children that are not reaped yet."""
        self._guard, self._lock = guard, lock

    def watch(self, pid: int) -> None:
        self.children.add(pid)
        if self._guard is not None:
            self._guard.watch(pid)
        if self._lock is not None:
            self._lock.watch(pid)

    def forget(self, pid: int) -> None:
        """A child has ended, and its number is about to become free."""
        self.children.discard(pid)
        if self._guard is not None:
            self._guard.forget(pid)
        if self._lock is not None:
            self._lock.forget(pid)

    def forget_ended(self) -> None:
        """Forget the children that have ended unseen: one whose start was cancelled, and then its end as well."""
        for pid in [pid for pid in self.children if not runs(pid)]:
            self.forget(pid)

    def new_directory(self) -> Path:
        """Return the path of a directory that will not outlive the run: not made yet, and impossible to guess."""
        try:
            directory = Path(tempfile.gettempdir(), f"jaccl-bootstrap-{secrets.token_hex(8)}")
        except FileNotFoundError as error:
            text = "no directory for temporary files can be written to; make room, or set TMPDIR to one that can"
            raise BootstrapError(text, code="directory-failed") from error
        self.directories.append(directory)
        if self._guard is not None:
            self._guard.remove(directory)
        if self._lock is not None:
            self._lock.watch_directory(directory)
        return directory

    def watch_file(self, path: Path) -> None:
        """Have the guard remove a file when this process is killed."""
        if self._guard is not None:
            self._guard.unlink(path)

    def remove_directories(self) -> None:
        """Remove what is left; a directory stays listed where descriptors are too short to read it."""
        for directory in list(self.directories):
            shutil.rmtree(directory, ignore_errors=True)
            if not directory.exists():
                self.directories.remove(directory)
                if self._guard is not None:
                    self._guard.forget(directory)
                if self._lock is not None:
                    self._lock.forget_directory(directory)


def runs(pid: int) -> bool:
    """Whether a process has not exited; also if the system cannot say."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True
