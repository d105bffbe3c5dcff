"""A process that holds MLX or runs the user's command, with everything that it starts."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import msgspec

from bootstrap.control.watchers import Watchers
from bootstrap.errors import USED_UP, BootstrapError
from bootstrap.events import EVENTS, EventDict
from bootstrap.link.gather import VARIABLE
from bootstrap.system import Process, Start, current
from bootstrap.system.processes import LONGEST_LINE, POLL_SECONDS

WORKER = ("-m", "bootstrap.worker")
GRACE_SECONDS: Final = 1.0
"""From TERM to KILL for a worker. Native init holds the GIL, so a worker may never handle TERM."""
KILL_SECONDS: Final = 3.0
"""How long to wait for a process after KILL."""
OUTPUT: Final = ("stdout", "stderr")
IMPORT_PATH: Final = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
"""PYTHONPATH with which a child imports the same modules as this process."""
_CRASHES: Final = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
"""Native code can crash like this because another rank failed. Any other signal came from outside."""


class ChildError(BootstrapError):
    """A child reported an error, or ended too early."""

    def __init__(self, message: str, *, code: str, stage: str = "worker") -> None:
        super().__init__(message, code=code)
        self.stage = stage


class CommandError(ChildError):
    """The user's command failed.

    `command-failed`: an exit status other than 0, or an abort, as when native code loses another rank.
    `command-crashed`: any other crash. `command-killed`: any other signal.
    """

    def __init__(self, status: int) -> None:
        """`status` is the exit status, or minus the signal."""
        if status >= 0 or -status == signal.SIGABRT:
            code = "command-failed"
        else:
            code = "command-crashed" if -status in _CRASHES else "command-killed"
        super().__init__(f"the command ended {how_ended(status)}", code=code, stage="command")
        self.exit_code = exit_code(status)


def how_ended(status: int) -> str:
    return f"with exit status {status}" if status >= 0 else f"by signal {signal.Signals(-status).name}"


def exit_code(status: int) -> int:
    """Return the exit status as in a shell: 128 plus the signal if a signal ended the process."""
    return status if status >= 0 else 128 - status


class Child:
    """A process that leads its own session and process group, so that the terminal signals only the control process.

    Its exit is noticed without reaping it, so that it keeps its number until `end` has ended its group. After that no
    signal is sent to the number.
    """

    def __init__(self, process: Process, grace: float, watchers: "Watchers") -> None:
        self.pid = process.pid
        self.grace = grace
        self.status: int | None = None
        """The exit status, or minus the signal; None until it is reaped."""
        self.output: tuple[int, int] | None = None
        """The worker's descriptors for stdout and stderr of its program; None without one."""
        self.stdin: int | None = None
        """The same for stdin; None for /dev/null."""
        self.last = "started"
        """The name of its last event."""
        self.hurry = asyncio.Event()
        """Set to end all grace periods now."""
        self.reaped = False
        self.is_worker = False
        self._process = process
        self._watchers = watchers
        self._exited = asyncio.Event()
        self._exited_watch: asyncio.Task[None] | None = None

    @classmethod
    async def worker(
        cls,
        backend: str,
        watchers: "Watchers",
        channel: socket.socket | None = None,
        *,
        program: bool = False,
        stdin: bool = False,
    ) -> Self:
        """Start the process that holds MLX. `channel` is its end of the side channel.

        Its streams are `events` and `log`, with a `program` also `stdout` and `stderr`. With `stdin` the program reads
        this process's standard input.
        """
        environment = {**os.environ, "PYTHONPATH": IMPORT_PATH}
        if program:
            environment["PYTHONUNBUFFERED"] = "1"
        wanted = Start(
            arguments=[sys.executable, "-P", *WORKER, backend],
            environment=environment,
            outputs=("events", "log"),
            more=OUTPUT if program else (),
            writes=True,
            stdin=stdin,
        )
        child = await cls._start(wanted, channel, GRACE_SECONDS, watchers)
        if program:
            passed = child._process.passed
            child.output, child.stdin = (passed["stdout"], passed["stderr"]), passed.get("stdin")
        child.is_worker = True
        return child

    @classmethod
    async def command(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        watchers: "Watchers",
        grace: float,
        channel: socket.socket | None = None,
        *,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> Self:
        """Start a command. BootstrapError if the system refuses it; OSError if it has nothing left for any."""
        wanted = Start(arguments=arguments, environment=environment, outputs=OUTPUT, stdin=stdin, cwd=cwd)
        try:
            return await cls._start(wanted, channel, grace, watchers)
        except OSError as error:
            if error.errno in USED_UP:
                raise
            text = f"cannot start {arguments[0]}: {error.strerror}; check the command"
            raise BootstrapError(text, code="command-refused") from error

    @classmethod
    async def _start(cls, wanted: Start, channel: socket.socket | None, grace: float, watchers: "Watchers") -> Self:
        own = {name: value for name, value in wanted.environment.items() if name != VARIABLE}  # an outer run's
        descriptor = None if channel is None else channel.fileno()
        if descriptor is not None:
            own[VARIABLE] = str(descriptor)
        process = current().processes().start(replace(wanted, environment=own, channel=descriptor))
        child = cls(process, grace, watchers)
        watchers.watch(child.pid)
        child._exited_watch = asyncio.create_task(child._watch())
        watchers.starting.add(child)
        try:
            await process.connect()
        except BaseException:  # the caller was cancelled before it had the child
            child.send(signal.SIGKILL)
            await child.end(signal.SIGKILL)
            child.close()
            raise
        finally:
            watchers.starting.discard(child)
        return child

    # -- output --------------------------------------------------------------------------------------------------------

    async def next_event(self) -> EventDict:
        """Return a worker's next event. Raise ChildError if it reports an error, writes anything else, or ends."""
        line = await self.line("events")
        if line is None:
            await self.exited()
            await self.end()
            raise self._ended_early()
        event = parse(line)
        if event is None:
            raise ChildError(f"the worker wrote a line that is not an event: {line[:80]!r}", code="worker-output")
        if event["event"] == "error":
            raise ChildError(str(event["message"]), code=str(event["code"]), stage=str(event["stage"]))
        self.last = str(event["event"])
        return event

    async def log_line(self) -> str | None:
        """Return the next log line, in the demo a line of stderr; None at the end."""
        line = await self.line("log" if self.is_worker else "stderr")
        return None if line is None else line.decode(errors="backslashreplace").rstrip()

    async def read(self, stream: str) -> bytes:
        """Return the next bytes of a stream, b"" at its end."""
        return await self._process.streams[stream].read(LONGEST_LINE)

    def tell(self, order: msgspec.Struct | None) -> None:
        """Send a worker its order, or None to continue. If it has died, its events say so by their end."""
        self._process.write(msgspec.json.encode(order) + b"\n")

    async def line(self, stream: str) -> bytes | None:
        """Return the next line of a stream without its newline; None at the end."""
        reader = self._process.streams[stream]
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial or None
        except asyncio.LimitOverrunError as error:
            return await reader.readexactly(error.consumed)
        return line[:-1]

    def _ended_early(self) -> ChildError:
        status = self.status if self.status is not None else 0
        killed = status < 0 and -status not in _CRASHES
        if self.last == "started" and not killed:
            text = f"loading MLX failed: the worker ended {how_ended(status)}; see its log lines"
            return ChildError(text, code="mlx-crashed")
        text = f"the worker ended early, {how_ended(status)} after '{self.last}'; see its log lines"
        return ChildError(text, code="worker-killed" if killed else "worker-died")

    def becomes_program(self, grace: float) -> None:
        """Have a worker run the program of its order. From now on it has the `grace` of a command."""
        self.is_worker, self.grace = False, grace
        self.tell(None)

    # -- end -----------------------------------------------------------------------------------------------------------

    @property
    def has_exited(self) -> bool:
        return self._exited.is_set()

    @property
    def failed_with(self) -> int | None:
        """The status of a process that has failed although its group goes on; None for any other."""
        return None if self._process.is_alone() else self._process.exit_status() or None

    async def exited(self) -> None:
        """Wait until the process has exited. Its descendants may still run."""
        await self._exited.wait()

    def send(self, number: int) -> bool:
        """Signal the whole process group. Return whether there is one."""
        return not self.reaped and self._process.signal(number)

    async def end(self, number: int = signal.SIGTERM) -> bool:
        """End the process and its group: `number`, a grace period, TERM, KILL. Return whether nothing is left.

        The time is bounded: a process that survives KILL is left to the system.
        """
        steps: list[tuple[int, float]] = [(number, self.grace)]
        if number != signal.SIGTERM:
            steps.append((signal.SIGTERM, GRACE_SECONDS))
        for step, seconds in [*steps, (signal.SIGKILL, KILL_SECONDS)]:
            if self._is_alone() or not self.send(step):
                break
            self.send(signal.SIGCONT)  # a stopped process would not notice
            await self._alone(seconds, patient=step == signal.SIGKILL)
        if not self.reaped:
            await self._reap()
        if self._exited_watch is not None:
            self._exited_watch.cancel()
        return self.reaped

    def close(self) -> None:
        """Close its streams."""
        self._process.close()

    async def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() + KILL_SECONDS
        if has_ended := not self._process.runs():
            self._watchers.forget(self.pid)  # before its number is free
        while (status := self._process.poll()) is None and loop.time() < limit:
            if not self._process.runs():
                await asyncio.sleep(POLL_SECONDS)  # a tracer may hold it
            else:
                return
        if status is not None:
            if not has_ended:
                self._watchers.forget(self.pid)
            self.status, self.reaped = status, True
            self._exited.set()
            self._process.close_stdin()

    async def _alone(self, seconds: float, *, patient: bool) -> None:
        """Wait for a while until the group has ended; unless `patient`, stop waiting in a hurry."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + seconds
        while not self._is_alone() and loop.time() < limit and (patient or not self.hurry.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _is_alone(self) -> bool:
        """Whether the process has exited and its group is empty."""
        return not self._process.runs() and self._process.is_alone()

    async def _watch(self) -> None:
        """Notice the exit without reaping the process, so that it keeps its number."""
        await self._process.exited()
        self._exited.set()


def parse(line: bytes) -> EventDict | None:
    """Return the event in a line; None for anything else."""
    try:
        event: EventDict = json.loads(line)
        msgspec.convert(event, EVENTS[str(event["event"])])
        return event if {"rank", "t_ms"} <= event.keys() else None
    except (ValueError, TypeError, KeyError, RecursionError, msgspec.ValidationError):
        return None
