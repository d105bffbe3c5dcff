"""The remains of a run on this host: processes, directories, the host's lock."""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from bootstrap.control.lock import record_of
from bootstrap.system import current

RUN_VARIABLE: Final = "CLUSTER_WIREPROTO_RUN"
"""Identifies the run and its host in the environment of each rank, inherited by guard, worker and program."""
MOST: Final = 100

_Path = Annotated[str, msgspec.Meta(max_length=4096)]
_Pid = Annotated[int, msgspec.Meta(ge=1, le=0x7FFFFFFF)]


class Left(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="left"):
    """Return the remains, with no more than MOST processes and directories."""

    processes: Annotated[tuple[_Pid, ...], msgspec.Meta(max_length=MOST)] = ()
    directories: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=MOST)] = ()
    locked: bool = False
    """A process of the run still holds the host's lock."""

    def __post_init__(self) -> None:
        if not all(path.isprintable() for path in self.directories):
            raise ValueError("a path has control characters")

    def __str__(self) -> str:
        parts = [
            f"processes {', '.join(map(str, self.processes))}" if self.processes else "",
            f"directories {', '.join(self.directories)}" if self.directories else "",
            "the host's lock" if self.locked else "",
        ]
        return " and ".join(filter(None, parts))

    def __bool__(self) -> bool:
        return bool(self.processes or self.directories or self.locked)


def what_is_left(run: str, ip: str, link_port: int) -> Left:
    """Return what is left of a run on the host with address `ip` and link port `link_port`.

    Ignore another run that has taken the lock meanwhile.
    """
    system = current()
    there, files = system.processes(), system.files
    processes = {*there.with_variable(RUN_VARIABLE, run)}
    record = record_of(ip, link_port)
    if record is None or (there.alive(record.holder) and record.holder.pid not in processes):
        return Left(processes=tuple(sorted(processes))[:MOST])
    processes |= {process.pid for process in record.children if there.alive(process)}
    directories = sorted(
        path for path in record.directories if path.isprintable() and files.status(Path(path)) is not None
    )
    return Left(
        processes=tuple(sorted(processes))[:MOST],
        directories=tuple(directories)[:MOST],
        locked=there.alive(record.holder),
    )
