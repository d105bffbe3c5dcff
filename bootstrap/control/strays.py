"""Descendants of this process whose parents may have exited, for a run that owns the process."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from bootstrap.control.child import GRACE_SECONDS, KILL_SECONDS
from bootstrap.system.processes import POLL_SECONDS

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
"""See prctl(2)."""


def descendants() -> frozenset[int]:
    """Return the numbers of all descendants of this process."""
    return frozenset(each.pid for each in psutil.Process().children(recursive=True))


def reap_orphans(keep: frozenset[int]) -> None:
    """Reap adopted descendants that have exited."""
    with suppress(OSError, psutil.Error):
        for each in psutil.Process().children():
            if each.pid not in keep and each.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(each.pid, os.WNOHANG)


async def end_strays(keep: frozenset[int]) -> None:
    """End all descendants of this process except those in `keep`. On Linux see `adopting`."""

    def strays() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        try:
            everyone = psutil.Process().children(recursive=True)
        except (OSError, psutil.Error):  # out of descriptors
            return found
        for each in everyone:
            with suppress(psutil.Error):
                if each.pid in keep:
                    continue
                if each.status() == psutil.STATUS_ZOMBIE:
                    with suppress(OSError):
                        os.waitpid(each.pid, os.WNOHANG)
                else:
                    found.append(each)
        return found

    loop = asyncio.get_running_loop()
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        for each in strays():
            with suppress(psutil.Error):
                each.send_signal(number)
        limit = loop.time() + seconds
        while strays() and loop.time() < limit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


@contextmanager
def adopting() -> Iterator[None]:
    """Adopt descendants whose parent has exited, so that they can be found. Linux only."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import ctypes

    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
