"""The operating-system processes of a run: one worker a rank, and the guard over them."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from bootstrap.control.lock import Lock
from bootstrap.errors import USED_UP, BootstrapError
from bootstrap.link.side_channel import VARIABLE
from bootstrap.worker import Order

WORKER = ("-m", "bootstrap.worker")
GUARD = ("-I", "-S", str(Path(__file__).with_name("guard.py")))
GRACE_SECONDS = 1.0
"""From TERM to KILL. Native init holds the GIL, so a worker may never come to see the first."""
COMMAND_GRACE_SECONDS = 5.0
"""The same for a user's command, which may have something to save."""
LONGEST_LINE = 64 * 1024
"""A longer line of output is passed on in pieces."""
_IMPORT_PATH = [str(Path(entry).absolute()) for entry in sys.path]


def new_directory() -> Path:
    """Where one rank may keep its file; not made yet, and its name cannot be guessed."""
    return Path(tempfile.gettempdir(), f"jaccl-bootstrap-{secrets.token_hex(8)}")


class Worker:
    """One rank's process, in a session of its own: a Ctrl-C on the terminal is for the supervisor alone."""

    def __init__(self, rank: int, process: Process, directory: Path, grace: float) -> None:
        self.rank = rank
        self.directory = directory
        self.grace = grace
        self._process = process

    @classmethod
    async def start(cls, rank: int, channel: socket.socket | None = None) -> Self:
        """Start the worker that holds MLX; it waits for its order. `channel` is its end of the side channel."""
        # The modules of this process, wherever they come from, and none from the current directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_IMPORT_PATH)}
        process = await _start([sys.executable, "-P", *WORKER], environment, channel, stdin=subprocess.PIPE)
        return cls(rank, process, new_directory(), GRACE_SECONDS)

    @classmethod
    async def start_command(
        cls,
        rank: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        channel: socket.socket | None,
    ) -> Self:
        """Start a user's command. BootstrapError if the system refuses it; OSError if it has nothing left for any."""
        try:
            process = await _start(arguments, environment, channel, stdin=subprocess.DEVNULL)
        except OSError as error:
            if error.errno in USED_UP:
                raise
            raise BootstrapError(
                f"cannot start {arguments[0]}: {error.strerror}; check the command", code="command-refused"
            ) from error
        return cls(rank, process, directory, COMMAND_GRACE_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def order(self, order: Order) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):  # a worker that died says so by the end of its output
            stdin.write(msgspec.json.encode(order) + b"\n")
            await stdin.drain()

    def lines(self) -> AsyncIterator[bytes]:
        assert self._process.stdout is not None  # noqa: S101
        return _lines(self._process.stdout)

    def log_lines(self) -> AsyncIterator[bytes]:
        assert self._process.stderr is not None  # noqa: S101
        return _lines(self._process.stderr)

    async def ended(self) -> int:
        """Wait for the end; return the exit status, or minus the signal."""
        return await self._process.wait()

    @property
    def exit_code(self) -> int:
        """What a shell says of the end: the exit status, or 128 plus the signal. Only once it has ended."""
        status = self._process.returncode
        assert status is not None  # noqa: S101
        return status if status >= 0 else 128 - status

    def kill(self, number: int) -> bool:
        """Send a signal to the worker's whole process group; say whether there is one. 0 only asks."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True


class _Streams(SubprocessStreamProtocol):
    """A process's pipes, and its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LONGEST_LINE, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class _Process(Process):
    """One whose end is seen at once: asyncio's waits for the pipes, too, which a child may hold open."""

    def __init__(self, transport: asyncio.SubprocessTransport, streams: _Streams) -> None:
        super().__init__(transport, streams, asyncio.get_running_loop())
        self._streams = streams

    async def wait(self) -> int:
        await self._streams.exited.wait()
        assert self.returncode is not None  # noqa: S101
        return self.returncode


async def _start(
    arguments: Sequence[str], environment: Mapping[str, str], channel: socket.socket | None, *, stdin: int
) -> Process:
    """A process in a session of its own. Whoever is cancelled meanwhile leaves nothing of it."""
    if channel is not None:
        environment = {**environment, VARIABLE: str(channel.fileno())}
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(
        loop.subprocess_exec(
            lambda: _Streams(loop),
            *arguments,
            pass_fds=() if channel is None else (channel.fileno(),),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
    )
    try:
        transport, streams = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio would kill the process alone, and nothing that it has started.
        with suppress(OSError):
            transport, streams = await starting
            os.killpg(transport.get_pid(), signal.SIGKILL)
            await streams.exited.wait()
            transport.close()
        raise
    return _Process(transport, streams)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Each line without its end; a longer one than `LONGEST_LINE` in pieces, and the last even if it has no end."""
    held = b""
    while chunk := await stream.read(LONGEST_LINE):
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(held) >= LONGEST_LINE:
            yield held
            held = b""
    if held:
        yield held


async def end_all(workers: Iterable[Worker]) -> None:
    """TERM, a grace, KILL; then nothing of the workers is left, in the process table or on disk.

    That holds for what a worker started, too, even where the worker itself ended long before.
    """
    there = [worker for worker in workers if worker.kill(signal.SIGTERM)]
    if there:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(worker.grace for worker in there)):
                await asyncio.gather(*(worker.ended() for worker in there))
                while any(worker.kill(0) for worker in there):  # noqa: ASYNC110 - nobody tells of a group's end
                    await asyncio.sleep(0.01)
        for worker in there:
            worker.kill(signal.SIGKILL)
        await asyncio.gather(*(worker.ended() for worker in there))
    for worker in workers:
        shutil.rmtree(worker.directory, ignore_errors=True)


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

    def remove(self, directory: Path) -> None:
        self._tell("remove", str(directory))

    def watch(self, worker: Worker) -> None:
        self._tell("kill", worker.pid)

    def forget(self, worker: Worker) -> None:
        self._tell("forget", worker.pid)

    def forget_directory(self, directory: Path) -> None:
        self._tell("forget", str(directory))

    def _tell(self, verb: str, what: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # somebody killed the guard; the run works without
            self._process.stdin.write(json.dumps([verb, what]).encode() + b"\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """End the guard without its work being done."""
        self._process.kill()
        self._process.communicate()
