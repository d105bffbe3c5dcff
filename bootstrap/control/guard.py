"""Ends the workers and removes their directories when the supervisor was killed and could not.

Run by the supervisor as a script, on the standard library alone. stdin has a JSON array a line: `["remove", path]` for
a directory, `["kill", pid]` for a worker that started (`pid` is its process group too), `["forget", …]` for a worker
that has ended, or a directory that is gone. The supervisor kills the guard when its work is done, so the end of stdin
means that the supervisor is dead. That holds on every POSIX system, and for a worker that sits in native code, where a
parent-death signal or a thread could not end it and tidy up.

Arguments: the path of the run's lock file, if it has one; the guard inherits the lock itself, which is so held until
all is tidy.
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
    workers: set[int] = set()
    directories: set[str] = set()
    for line in sys.stdin:
        match json.loads(line):
            case ["remove", directory]:
                directories.add(directory)
            case ["kill", pid]:
                workers.add(pid)
            case ["forget", what]:
                workers.discard(what)
                directories.discard(what)
    _signal(workers, signal.SIGTERM)
    limit = time.monotonic() + GRACE_SECONDS
    while _signal(workers, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    _signal(workers, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    for lock in sys.argv[1:]:
        with suppress(OSError):
            os.unlink(lock)  # noqa: PTH108 - pathlib takes longer to import than all else here


def _signal(workers: set[int], number: int) -> bool:
    """Send a signal to each worker's process group; say whether any was there."""
    there = False
    for pid in workers:
        try:
            os.killpg(pid, number)
            there = True
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            pass
    return there


if __name__ == "__main__":
    main()
