"""Ends the children of a run and removes its directories if the control process was killed.

The control process runs it as a script with only the standard library. stdin has a JSON array per line:
`["remove", path]` for a directory, `["unlink", path]` for a file, `["kill", pid, ticks]` for a child (`pid` is also its
process group, `ticks` its start from /proc, or 0 without one), `["forget", …]` for a child or directory that is gone.
The control process kills the guard at the end, so the end of stdin means that the control process is dead. This works
on every POSIX system, also for a child inside native code, which no parent-death signal or thread could end.

The guard inherits the run's lock, and so holds it until everything is cleaned up. Argument: the run's record, if any.
"""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress

GRACE_SECONDS = 1.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children: dict[int, int] = {}
    directories: set[str] = set()
    files: set[str] = set()
    for line in sys.stdin:
        match json.loads(line):
            case ["remove", directory]:
                directories.add(directory)
            case ["unlink", file]:
                files.add(file)
            case ["kill", pid, ticks]:
                children[pid] = ticks
            case ["forget", what]:
                children.pop(what, None)
                directories.discard(what)
    _signal(children, signal.SIGTERM)
    limit = time.monotonic() + GRACE_SECONDS
    while _signal(children, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    _signal(children, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    for file in (*files, *sys.argv[1:]):
        with suppress(OSError):
            os.unlink(file)  # noqa: PTH108 - importing pathlib takes longer than everything else here


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if /proc does not say."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _signal(children: dict[int, int], number: int) -> bool:
    """Signal each child's process group unless its number was reused. Return whether there was one."""
    there = False
    for pid, ticks in children.items():
        now = start_ticks(pid)
        if ticks and now and now != ticks:
            continue
        try:
            os.killpg(pid, number)
            there = True
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            pass
    return there


if __name__ == "__main__":
    main()
