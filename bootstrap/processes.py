"""The operating-system processes of a run: one worker a rank, and the guard over them."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from bootstrap.worker import Order

WORKER = ("-m", "bootstrap.worker")
GUARD = ("-I", "-S", str(Path(__file__).with_name("guard.py")))
GRACE_SECONDS = 1.0
"""From TERM to KILL. Native init holds the GIL, so a worker may never come to see the first."""
_LONGEST_LINE = 1 << 20
_IMPORT_PATH = [str(Path(entry).absolute()) for entry in sys.path]


def new_directory() -> Path:
    """Where one rank may keep its file; not made yet, and its name cannot be guessed."""
    return Path(tempfile.gettempdir(), f"jaccl-bootstrap-{secrets.token_hex(8)}")


class Worker:
    """One rank's process, in a session of its own: a Ctrl-C on the terminal is for the supervisor alone."""

    def __init__(self, rank: int, process: Process) -> None:
        self.rank = rank
        self.directory = new_directory()
        self._process = process

    @classmethod
    async def start(cls, rank: int) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            *WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
            # The modules of this process, wherever they come from, and none from the current directory.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_IMPORT_PATH)},
        )
        return cls(rank, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def order(self, order: Order) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):  # a worker that died says so by the end of its output
            stdin.write(msgspec.json.encode(order) + b"\n")
            await stdin.drain()
            stdin.close()

    def lines(self) -> AsyncIterator[bytes]:
        assert self._process.stdout is not None  # noqa: S101
        return aiter(self._process.stdout)

    def log_lines(self) -> AsyncIterator[bytes]:
        assert self._process.stderr is not None  # noqa: S101
        return aiter(self._process.stderr)

    async def ended(self) -> int:
        """Wait for the end; return the exit status, or minus the signal."""
        return await self._process.wait()

    def kill(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self.pid, number)


async def end_all(workers: Iterable[Worker]) -> None:
    """TERM, a grace, KILL; then nothing of the workers is left, in the process table or on disk."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [worker for worker in workers if worker.alive]
        if not alive:
            break
        for worker in alive:
            worker.kill(number)
        ends = [asyncio.create_task(worker.ended()) for worker in alive]
        await asyncio.wait(ends, timeout=GRACE_SECONDS if number == signal.SIGTERM else None)
    for worker in workers:
        shutil.rmtree(worker.directory, ignore_errors=True)


class Guard:
    """The process that tidies up when this one is killed; see `bootstrap.guard`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, worker: Worker) -> None:
        self._tell(worker.pid, str(worker.directory))

    def forget(self, worker: Worker) -> None:
        self._tell(worker.pid, None)

    def _tell(self, pid: int, directory: str | None) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # somebody killed the guard; the run works without
            self._process.stdin.write(json.dumps([pid, directory]).encode() + b"\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """End the guard without its work being done."""
        self._process.kill()
        self._process.communicate()
