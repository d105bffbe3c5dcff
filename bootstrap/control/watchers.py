"""Those who end a run's children and remove its directories where the control process cannot."""

from pathlib import Path

from bootstrap.control.lock import Lock
from bootstrap.errors import BootstrapError
from bootstrap.system import Guard, current


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
        processes = current().processes()
        for pid in [pid for pid in self.children if not processes.runs(pid)]:
            self.forget(pid)

    def new_directory(self) -> Path:
        """Return the path of a directory that will not outlive the run: not made yet, and impossible to guess."""
        try:
            system = current()
            directory = system.files.temporary_directory() / f"jaccl-bootstrap-{system.random(8).hex()}"
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
        files = current().files
        for directory in list(self.directories):
            files.remove_directory(directory)
            if files.status(directory) is None:
                self.directories.remove(directory)
                if self._guard is not None:
                    self._guard.forget(directory)
                if self._lock is not None:
                    self._lock.forget_directory(directory)
