"""The system's own processes, see `Processes`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Final, NamedTuple

import msgspec
import psutil

from bootstrap.system import Guard, Process, Start
from bootstrap.system.guard import start_ticks

LONGEST_LINE: Final = 64 * 1024
POLL_SECONDS: Final = 0.02
UNKNOWN_STATUS: Final = 255
"""The exit status of a child that something else in this process has reaped, as in asyncio."""
GUARD: Final = ("-I", "-S", str(Path(__file__).with_name("guard.py")))


class Identity(NamedTuple):
    """A process, distinguished from a later one with the same number by its start time, whatever the clock does."""

    pid: Annotated[int, msgspec.Meta(ge=2, le=0x7FFFFFFF)]
    start: str
    """Linux: the boot ID and the clock ticks since boot. Elsewhere: the kernel's start time."""


def identity(pid: int | None = None) -> Identity:
    pid = os.getpid() if pid is None else pid
    try:
        if not sys.platform.startswith("linux"):
            return Identity(pid, repr(psutil.Process(pid).create_time()))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, psutil.Error) as error:
        raise ProcessLookupError(pid) from error
    return Identity(pid, f"{boot} {ticks}")


def alive(process: Identity) -> bool:
    try:
        return identity(process.pid) == process and psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


def kill(process: Identity) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def pause(then: Callable[[], None]) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    then()


def runs(pid: int) -> bool:
    """Whether a process has not exited; True if unknown."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True


def with_variable(name: str, value: str) -> Iterator[int]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            is_mine = process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE
            if is_mine and process.environ().get(name) == value:
                yield process.pid


def owns(pids: Sequence[int] | None, address: tuple[str, int]) -> bool | None:
    answer: bool | None = False
    for pid in [os.getpid()] if pids is None else pids:
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


class SystemProcess:
    """A child of this process, see `Process`."""

    def __init__(self, process: "subprocess.Popen[bytes]", pipes: Mapping[str, IO[bytes]], passed: Mapping[str, int]):
        self.pid = process.pid
        self.streams: Mapping[str, asyncio.StreamReader] = {}
        self.passed = passed
        self._process, self._pipes = process, pipes
        self._transports: list[asyncio.ReadTransport] = []

    async def connect(self) -> None:
        self.streams = {name: asyncio.StreamReader(LONGEST_LINE) for name in self._pipes}
        for name, pipe in self._pipes.items():
            protocol = partial(asyncio.StreamReaderProtocol, self.streams[name])
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(protocol, pipe)
            self._transports.append(transport)

    def poll(self) -> int | None:
        if self._process.returncode is None and hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                self._process.returncode = UNKNOWN_STATUS  # else 0, as if it had succeeded
        return self._process.poll()

    def exit_status(self) -> int | None:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return None
        with suppress(ChildProcessError):  # reaped
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if found is None:
                return None
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._process.returncode

    def runs(self) -> bool:
        return runs(self.pid)

    def is_alone(self) -> bool:
        for each in psutil.pids():
            with suppress(OSError, psutil.Error):
                if each != self.pid and os.getpgid(each) == self.pid and runs(each):
                    return False
        return True

    def signal(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True

    async def exited(self) -> None:
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                await _readable(os.pidfd_open(self.pid))
        while self.runs():  # noqa: ASYNC110 - no other way on this system
            await asyncio.sleep(POLL_SECONDS)

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):
            os.set_blocking(self._process.stdin.fileno(), False)
            os.write(self._process.stdin.fileno(), data)  # less than a pipe holds

    def close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        for pipe in list(self._pipes.values())[len(self._transports) :]:
            pipe.close()
        self.close_stdin()


def start(wanted: Start) -> Process:
    with ExitStack() as passing, ExitStack() as opened:
        passed, pipes = {}, {}
        for name in wanted.more:
            reading, passed[name] = os.pipe()
            passing.callback(os.close, passed[name])
            pipes[name] = opened.enter_context(os.fdopen(reading, "rb", buffering=0))
        if wanted.writes and wanted.stdin:
            passed["stdin"] = os.dup(0)
            passing.callback(os.close, passed["stdin"])
        process = subprocess.Popen(
            wanted.arguments,
            pass_fds=[*passed.values(), *([] if wanted.channel is None else [wanted.channel])],
            stdin=subprocess.PIPE if wanted.writes else None if wanted.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=wanted.environment,
            cwd=wanted.cwd,
        )
        opened.pop_all()
        assert process.stdout is not None  # noqa: S101 - they are pipes
        assert process.stderr is not None  # noqa: S101
        own = zip(wanted.outputs, (process.stdout, process.stderr), strict=True)
        return SystemProcess(process, {**dict(own), **pipes}, passed)


class SystemGuard:
    """See `Guard`. It holds the lock until everything is cleaned up."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid = process.pid
        self._process = process
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        self._stdin = process.stdin
        os.set_blocking(self._stdin.fileno(), False)

    def remove(self, directory: Path) -> None:
        self._tell("remove", str(directory))

    def unlink(self, file: Path) -> None:
        self._tell("unlink", str(file))

    def watch(self, pid: int) -> None:
        self._tell("kill", pid, start_ticks(pid))

    def forget(self, what: int | Path) -> None:
        self._tell("forget", what if isinstance(what, int) else str(what))

    def dismiss(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        with suppress(OSError):
            self._stdin.close()

    def _tell(self, *what: object) -> None:
        with suppress(OSError):  # the guard was killed or stopped; the run works without it
            os.write(self._stdin.fileno(), json.dumps(what).encode() + b"\n")


def guard(lock: int | None = None, record: Path | None = None) -> Guard:
    return SystemGuard(
        subprocess.Popen(
            [sys.executable, *GUARD, *([] if record is None else [str(record)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    )


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
