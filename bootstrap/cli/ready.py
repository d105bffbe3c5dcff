"""Tells the parent of this process that the group is up: `--ready-file`, and systemd's sd_notify(3)."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bootstrap.control.run import Run
from bootstrap.errors import BootstrapError
from bootstrap.files import absolute, written


class Readiness:
    """Follows a run until it ends. The ready file goes with the run, also if the guard has to clean up.

    systemd gets READY=1 and STOPPING=1, and WATCHDOG=1 twice per watchdog interval.
    """

    def __init__(self, run: Run, path: Path | None) -> None:
        self._run, self._path = run, None if path is None else absolute(path)
        self._address = os.environ.pop("NOTIFY_SOCKET", "")  # not for the program in the group
        allowed, process = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._interval = int(allowed) / 2e6 if allowed.isdigit() and process == str(os.getpid()) else None

    async def watch(self) -> None:
        """Report each change until cancelled."""
        alive = asyncio.create_task(self._stay_alive())
        if self._path is not None and self._path.is_file() and not self._path.is_symlink():
            self._path.unlink()  # left by a run that was killed together with its guard
        try:
            while True:
                await self._run.changed(met=True)
                self._tell("READY=1")
                with self._file():
                    await self._run.changed(met=False)
        finally:
            alive.cancel()
            self._tell("STOPPING=1")

    async def _stay_alive(self) -> None:
        while self._interval:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._interval)

    @contextmanager
    def _file(self) -> Iterator[None]:
        """Keep the ready file, if one is wanted, inside the block. Stop the run if it cannot be written."""
        with ExitStack() as kept:
            if self._path is not None:
                try:
                    kept.enter_context(written(self._path, b"%d\n" % os.getpid()))
                    self._run.watchers.watch_file(self._path)
                except BootstrapError as error:
                    self._run.stop(error)
            yield

    def _tell(self, state: str) -> None:
        """Send a state to systemd, if it started this process. It may be gone or busy."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
