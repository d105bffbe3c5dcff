"""One process that holds MLX or runs the user's command, with all that it starts."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import msgspec
import psutil

from bootstrap.control.watchers import Watchers, runs
from bootstrap.errors import USED_UP, BootstrapError
from bootstrap.events import EVENTS, EventDict
from bootstrap.link.gather import VARIABLE

WORKER = ("-m", "bootstrap.worker")
GRACE_SECONDS: Final = 1.0
"""From TERM to KILL for a worker. Native init holds the GIL, so a worker may never see the first."""
KILL_SECONDS: Final = 3.0
"""How long a process may take to end after KILL before it is left to the system."""
OUTPUT: Final = ("stdout", "stderr")
LONGEST_LINE: Final = 64 * 1024
POLL_SECONDS: Final = 0.02
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
"""Of prctl(2)."""
_IMPORT_PATH = [str(Path(entry).absolute()) for entry in sys.path]
_CRASHES: Final = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
"""Native code can end so because another rank failed; any other signal came from outside."""


class ChildError(BootstrapError):
    """A child reported an error, or ended when it should not have."""

    def __init__(self, message: str, *, code: str, stage: str = "worker") -> None:
        super().__init__(message, code=code)
        self.stage = stage


class CommandError(ChildError):
    """The user's command failed.

    `command-failed`: an exit status other than 0, or an abort, as native code ends where another rank has gone.
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
    """Return the exit status as a shell gives it: 128 plus the signal for a process that a signal ended."""
    return status if status >= 0 else 128 - status


class Child:
    """A process that leads a session and a process group of its own: the terminal signals the control process alone.

    Its exit is noticed without reaping it, so its number belongs to it until `end` has ended its group. After that
    nothing is sent to the number.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", grace: float, watchers: "Watchers") -> None:
        self.pid = process.pid
        self.grace = grace
        self.status: int | None = None
        """The exit status, or minus the signal; None until it is reaped."""
        self.output: tuple[int, int] | None = None
        """A worker's own descriptors for stdout and stderr of a program that it is to run; None without one."""
        self.stdin: int | None = None
        """The same for its stdin; None for /dev/null."""
        self.last = "started"
        """The name of its last event."""
        self.hurry = asyncio.Event()
        """Set to end all graces now."""
        self.reaped = False
        self.is_worker = False
        self._process = process
        self._watchers = watchers
        self._exited = asyncio.Event()
        self._streams: dict[str, asyncio.StreamReader] = {}
        self._transports: list[asyncio.ReadTransport] = []
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

        Its streams are `events` and `log`; for a `program` that it runs later there are `stdout` and `stderr` as well,
        and with `stdin` this process's.
        """
        # The modules of this process, wherever they come from, and none from the current directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_IMPORT_PATH)}
        if program:
            environment["PYTHONUNBUFFERED"] = "1"
        arguments = [sys.executable, "-P", *WORKER, backend]
        with _pipes(OUTPUT if program else ()) as pipes, _duplicate(0 if stdin else None) as own_stdin:
            passed = [writing for _, writing in pipes.values()] + ([] if own_stdin is None else [own_stdin])
            child = await cls._start(
                arguments,
                environment,
                channel,
                subprocess.PIPE,
                GRACE_SECONDS,
                watchers,
                names=("events", "log"),
                more={name: reading for name, (reading, _) in pipes.items()},
                passed=passed,
            )
            if program:
                child.output, child.stdin = (passed[0], passed[1]), own_stdin
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
        try:
            source = None if stdin else subprocess.DEVNULL
            return await cls._start(arguments, environment, channel, source, grace, watchers, cwd=cwd)
        except OSError as error:
            if error.errno in USED_UP:
                raise
            raise BootstrapError(
                f"cannot start {arguments[0]}: {error.strerror}; check the command", code="command-refused"
            ) from error

    @classmethod
    async def _start(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        channel: socket.socket | None,
        stdin: int | None,
        grace: float,
        watchers: "Watchers",
        *,
        names: tuple[str, str] = OUTPUT,
        more: Mapping[str, int] = MappingProxyType({}),
        passed: Sequence[int] = (),
        cwd: str | None = None,
    ) -> Self:
        """`names` are those of the streams that it writes as its stdout and stderr.

        `more` are the ends of other pipes that it writes, by name; the `passed` descriptors are its own as well.
        """
        own = {name: value for name, value in environment.items() if name != VARIABLE}  # not an outer run's
        if channel is not None:
            own[VARIABLE] = str(channel.fileno())
        child = cls(
            subprocess.Popen(  # noqa: ASYNC220 - it returns once the program is loaded
                arguments,
                pass_fds=[*passed, *([] if channel is None else [channel.fileno()])],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=own,
                cwd=cwd,
            ),
            grace,
            watchers,
        )
        watchers.watch(child.pid)
        child._exited_watch = asyncio.create_task(child._watch())
        try:
            for name, pipe in zip(names, (child._process.stdout, child._process.stderr), strict=True):
                await child._read(name, pipe)
            for name, reading in more.items():
                await child._read(name, os.fdopen(os.dup(reading), "rb"))
        except BaseException:  # the caller was cancelled, and has no child to end
            child.send(signal.SIGKILL)
            await child.end(signal.SIGKILL)
            child.close()
            for pipe in (child._process.stdout, child._process.stderr):
                assert pipe is not None  # noqa: S101
                pipe.close()
            raise
        return child

    async def _read(self, name: str, pipe: Any) -> None:
        """Take what comes from a pipe as a stream of this name."""
        reader = self._streams[name] = asyncio.StreamReader(LONGEST_LINE)
        protocol = partial(asyncio.StreamReaderProtocol, reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(protocol, pipe)
        self._transports.append(transport)

    # -- what it says --------------------------------------------------------------------------------------------------

    async def next_event(self) -> EventDict:
        """Return a worker's next event. ChildError for an error that it reports, for anything else, and for its end."""
        line = await self.line("events")
        if line is None:
            await self.exited()
            await self.end()
            raise self._ended_early()
        event = parse(line)
        if event is None:
            raise ChildError(f"the worker wrote something that is no event: {line[:80]!r}", code="worker-output")
        if event["event"] == "error":
            raise ChildError(str(event["message"]), code=str(event["code"]), stage=str(event["stage"]))
        self.last = str(event["event"])
        return event

    async def log_line(self) -> str | None:
        """Return the next log line, which a run of the demo's writes to stderr; None at the end."""
        line = await self.line("log" if self.is_worker else "stderr")
        return None if line is None else line.decode(errors="backslashreplace").rstrip()

    async def read(self, stream: str) -> bytes:
        """Return the next bytes of a stream, b"" at its end."""
        return await self._streams[stream].read(LONGEST_LINE)

    def tell(self, order: msgspec.Struct | None) -> None:
        """Give a worker its order, or with None the word to go on. One that died says so by the end of its events."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):
            os.set_blocking(stdin.fileno(), False)
            os.write(stdin.fileno(), msgspec.json.encode(order) + b"\n")  # less than a pipe holds

    async def line(self, stream: str) -> bytes | None:
        """Return the next line of a stream without its end; None once all are taken."""
        reader = self._streams[stream]
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
        return ChildError(
            f"the worker ended early, {how_ended(status)} after '{self.last}'; see its log lines",
            code="worker-killed" if killed else "worker-died",
        )

    def becomes_program(self, grace: float) -> None:
        """Have a worker run the program of its order. From now on it is the user's, with the `grace` of a command."""
        self.is_worker, self.grace = False, grace
        self.tell(None)

    # -- its end -------------------------------------------------------------------------------------------------------

    @property
    def has_exited(self) -> bool:
        return self._exited.is_set()

    async def exited(self) -> None:
        """Wait until the process has exited. What it has started may still run."""
        await self._exited.wait()

    def send(self, number: int) -> bool:
        """Signal the whole process group; say whether there is one. 0 only asks."""
        if self.reaped:
            return False
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True

    async def end(self, number: int = signal.SIGTERM) -> bool:
        """End the process and its group: `number`, a grace, TERM, KILL. Return whether nothing is left.

        Bounded: a process that KILL does not end is left to the system.
        """
        steps: list[tuple[int, float]] = [(number, self.grace)]
        if number != signal.SIGTERM:
            steps.append((signal.SIGTERM, GRACE_SECONDS))
        for step, seconds in [*steps, (signal.SIGKILL, KILL_SECONDS)]:
            if self._is_alone() or not self.send(step):
                break
            self.send(signal.SIGCONT)  # one that is stopped would not notice
            await self._alone(seconds, patient=step == signal.SIGKILL)
        if not self.reaped:
            await self._reap()
        if self._exited_watch is not None:
            self._exited_watch.cancel()
        return self.reaped

    def close(self) -> None:
        """Read nothing more of what it writes, and tell it nothing more."""
        for transport in self._transports:
            transport.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() + KILL_SECONDS
        if has_ended := not runs(self.pid):
            self._watchers.forget(self.pid)  # before its number is free
        while (status := self._process.poll()) is None and loop.time() < limit:
            if not runs(self.pid):
                await asyncio.sleep(POLL_SECONDS)  # a tracer may keep it from its parent
            else:
                return
        if status is not None:
            if not has_ended:
                self._watchers.forget(self.pid)
            self.status, self.reaped = status, True
            self._exited.set()
            if self._process.stdin is not None:
                self._process.stdin.close()

    async def _alone(self, seconds: float, *, patient: bool) -> None:
        """Wait until the group has ended, for a while, or until there is no more time to lose."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + seconds
        while not self._is_alone() and loop.time() < limit and (patient or not self.hurry.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _is_alone(self) -> bool:
        """Whether the process has exited and nobody else of its group is left."""
        return not runs(self.pid) and not _group(self.pid)

    async def _watch(self) -> None:
        """Notice the exit, and leave the process as it is: its number is not free before it is reaped."""
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                await _readable(os.pidfd_open(self.pid))
        while runs(self.pid):  # noqa: ASYNC110 - no other way on this system
            await asyncio.sleep(POLL_SECONDS)
        self._exited.set()


@contextmanager
def _pipes(names: Sequence[str]) -> Iterator[dict[str, tuple[int, int]]]:
    """Keep a pipe for each name inside the block, as its ends for reading and for writing."""
    pipes: dict[str, tuple[int, int]] = {}
    try:
        for name in names:
            pipes[name] = os.pipe()
        yield pipes
    finally:
        for each in pipes.values():
            for end in each:
                os.close(end)


@contextmanager
def _duplicate(descriptor: int | None) -> Iterator[int | None]:
    """Keep a duplicate of a descriptor inside the block; None for None."""
    if descriptor is None:
        yield None
        return
    own = os.dup(descriptor)
    try:
        yield own
    finally:
        os.close(own)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _group(pid: int) -> list[int]:
    """Return the live members of a process group other than its leader."""
    members = []
    for each in psutil.pids():
        with suppress(OSError, psutil.Error):
            if each != pid and os.getpgid(each) == pid and runs(each):
                members.append(each)
    return members


def owns(pids: Sequence[int], address: tuple[str, int]) -> bool | None:
    """Return whether one of these processes, or a descendant, has a TCP socket with this local address and port.

    None if none is found, but not all processes can be looked into, as those of another user.
    """
    answer: bool | None = False
    for pid in pids:
        try:
            process = psutil.Process(pid)
            processes = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        except (OSError, psutil.Error):
            return None
        for each in processes:
            try:
                if any(socket.laddr == address for socket in each.net_connections("tcp4")):
                    return True
            except psutil.NoSuchProcess:
                pass
            except (OSError, psutil.Error):
                answer = None
    return answer


def parse(line: bytes) -> EventDict | None:
    """Return one event with all fields that its kind has; None for anything else."""
    try:
        event: EventDict = json.loads(line)
        msgspec.convert(event, EVENTS[str(event["event"])])
        return event if {"rank", "t_ms"} <= event.keys() else None
    except (ValueError, TypeError, KeyError, RecursionError, msgspec.ValidationError):
        return None


async def end_strays(before: frozenset[int], children: Sequence[Child] = ()) -> None:
    """End all descendants of this process but `children`, and those that were there `before`. Linux: see `adopting`."""
    keep = {child.pid for child in children} | before

    def strays() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        try:
            everyone = psutil.Process().children(recursive=True)
        except (OSError, psutil.Error):  # no descriptors left
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
    """Be the parent of descendants whose own parent has ended, so that they can be found. Linux has this."""
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
