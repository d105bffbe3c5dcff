"""Ends the workers and removes their directories when the supervisor was killed and could not.

Run by the supervisor as a script, on the standard library alone. stdin has a JSON array a line: `[pid, directory]` for
a worker that started (`pid` is its process group too), `[pid, null]` for one that ended. The supervisor kills the guard
when its work is done, so the end of stdin means that the supervisor is dead. That holds on every POSIX system, and
for a worker that sits in native code, where a parent-death signal or a thread could not end it and tidy up.
"""

import json
import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 1.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    workers: dict[int, str] = {}
    for line in sys.stdin:
        pid, directory = json.loads(line)
        workers.pop(pid, None)
        if directory is not None:
            workers[pid] = directory
    _signal(workers, signal.SIGTERM)
    limit = time.monotonic() + GRACE_SECONDS
    while _signal(workers, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    _signal(workers, signal.SIGKILL)
    for directory in workers.values():
        shutil.rmtree(directory, ignore_errors=True)


def _signal(workers: dict[int, str], number: int) -> bool:
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
