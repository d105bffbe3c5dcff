"""Cleanup after a run whose own process cannot do it: by the guard, and the next run by the lock's record."""

from pathlib import Path
from typing import TYPE_CHECKING

from bootstrap.control.lock import Lock
from bootstrap.errors import BootstrapError
from bootstrap.system import Guard, current

if TYPE_CHECKING:
    from bootstrap.control.child import Child


class Watchers:
    """Tells guard and lock which children to end and which directories to remove if this process cannot."""

    def __init__(self, guard: Guard | None = None, lock: Lock | None = None) -> None:
        self.directories: list[Path] = []
        self.children: set[int] = set()
        """Process numbers of children that are not reaped yet."""
        self.starting: set[Child] = set()
        """Children whose streams are not connected yet, so that the run does not have them."""
        self._guard = guard
        self._told: list[Guard | Lock] = [each for each in (guard, lock) if each is not None]

    def watch(self, pid: int) -> None:
        self.children.add(pid)
        for each in self._told:
            each.watch(pid)

    def forget(self, pid: int) -> None:
        """Drop a child that has ended, before its number is free."""
        self.children.discard(pid)
        for each in self._told:
            each.forget(pid)

    def forget_ended(self) -> None:
        """Drop children that ended unnoticed: those whose start was cancelled, and then their end as well."""
        processes = current().processes()
        for pid in [pid for pid in self.children if not processes.runs(pid)]:
            self.forget(pid)

    def new_directory(self) -> Path:
        """Return an unguessable path for a directory that will not outlive the run. The caller creates it."""
        try:
            system = current()
            directory = system.files.temporary_directory() / f"jaccl-bootstrap-{system.random(8).hex()}"
        except FileNotFoundError as error:
            text = "no directory for temporary files is writable; free space, or set TMPDIR to one that is"
            raise BootstrapError(text, code="directory-failed") from error
        self.directories.append(directory)
        for each in self._told:
            each.remove(directory)
        return directory

    def watch_file(self, path: Path) -> None:
        """Have the guard remove a file if this process is killed."""
        if self._guard is not None:
            self._guard.unlink(path)

    def remove_directories(self) -> None:
        """Remove the directories. One that cannot be read for lack of descriptors stays listed."""
        files = current().files
        for directory in list(self.directories):
            files.remove_directory(directory)
            if files.status(directory) is None:
                self.directories.remove(directory)
                for each in self._told:
                    each.forget(directory)
