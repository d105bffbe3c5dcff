"""What holds the deadline, the signals and the workers' lives, whatever is run: nothing is left when it ends."""

import asyncio
import json
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

from bootstrap.advice import advise
from bootstrap.control.child import GRACE_SECONDS, Guard, Worker, end_all
from bootstrap.control.lock import Lock, host_lock
from bootstrap.errors import BootstrapError, ConfigError, refused
from bootstrap.events import FIELDS, Event
from bootstrap.link.outcome import PeerError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_OK

WORKER_SLACK: Final = 1.0
"""A worker's own deadline is this much later, so that the supervisor's message is the one that is seen."""
SETTLE_SECONDS: Final = 0.25
"""How long to wait for the cause once a rank has failed."""
CRASHES: Final = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
"""Native code can end so because another rank failed; any other signal came from outside."""
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0


Heard = Callable[[Worker, Event], bool]
"""Called with a worker's event; True keeps it from the display."""


class Display(Protocol):
    """Where events and the workers' log lines go."""

    def event(self, event: Event) -> None: ...

    def log(self, rank: int, line: str) -> None: ...

    def output(self, rank: int, stream: str, line: str) -> None: ...


class SupervisorError(BootstrapError):
    """Why a run ended early. `rank` is None where no rank is to blame."""

    def __init__(self, message: str, *, code: str, stage: str = "supervisor", rank: int | None = None) -> None:
        super().__init__(message, code=code)
        self.stage = stage
        self.rank = rank


class CommandError(SupervisorError):
    """The user's command failed, with `exit_code`.

    `command-failed` may be the consequence of another rank's failure; `command-killed`, by a signal, is not. An abort
    may: it is how native code ends where another rank has gone.
    """

    def __init__(self, exit_code: int, rank: int) -> None:
        killed = exit_code > 128 and exit_code != 128 + signal.SIGABRT
        code = "command-killed" if killed else "command-failed"
        super().__init__(f"the command ended with exit status {exit_code}", code=code, stage="command", rank=rank)
        self.exit_code = exit_code


def check_timeout(seconds: float) -> None:
    """ConfigError for a deadline that is too short to reach, or out of sight."""
    if not MIN_TIMEOUT <= seconds <= MAX_TIMEOUT:
        raise ConfigError(
            f"timeout {seconds} is wrong, use {MIN_TIMEOUT} to {MAX_TIMEOUT:.0f} seconds", code="bad-timeout"
        )


def supervise(
    act: Callable[["Supervisor"], Coroutine[Any, Any, None]],
    display: Display,
    *,
    timeout: float,
    rank: int | None = None,
    lock_ip: str | None = None,
    **summary: object,
) -> int:
    """Run `act` to its end, or to the deadline, or to a signal; return the exit code.

    The last event is `done`, with `summary` and with what the supervisor has to add. `rank` is whose run this is, where
    it is one rank's; `lock_ip` is its address, whose host's lock is held meanwhile. A signal that comes after `met` is
    the run's proper end. The exit code is that of the command, if one ran and nothing else failed.
    """
    supervisor = Supervisor(display, timeout, rank)
    supervisor.summary.update(summary)
    failure: dict[str, object] = {}
    exit_code = EXIT_OK
    try:
        with nullcontext() if lock_ip is None else host_lock(lock_ip) as lock:
            supervisor.lock = lock
            if lock is not None and lock.left_over:
                supervisor.report("reaped", rank, pids=lock.left_over)
            try:
                asyncio.run(supervisor.run(act))
            except OSError as error:
                raise refused(error) from error
            finally:
                supervisor.tidy_up()
        if (status := supervisor.command_exit_code()) is not None:
            exit_code = supervisor.summary["status"] = status
    except BootstrapError as error:
        blamed = error.rank if isinstance(error, SupervisorError | PeerError) else rank
        advice = advise(error.code, str(error))
        supervisor.report(
            "error",
            blamed,
            stage=error.stage,
            code=error.code,
            message=str(error),
            cause=advice.cause,
            mend=advice.mend,
            retry=advice.retry(supervisor.native),
        )
        failure = {"code": error.code}
        # Where another rank failed first, the command's end is the cause's consequence.
        commands = [each for each in (error, error.__cause__) if isinstance(each, CommandError)]
        exit_code = commands[0].exit_code if commands else EXIT_COULD_NOT_RUN
    done = {"event": "done", "ok": not failure, **supervisor.summary, **failure}
    display.event({**done, "t_ms": supervisor.now()})
    return exit_code


def cause(errors: Sequence[SupervisorError]) -> SupervisorError:
    """Of the ranks' errors in the order seen, the one that the others follow from."""
    return next((error for error in errors if error.code == "worker-killed"), errors[0])


class Supervisor:
    """One run: its clock, its events, its workers."""

    def __init__(self, display: Display, timeout: float, rank: int | None = None) -> None:
        self.origin = time.monotonic()
        self.deadline = self.origin + timeout
        self.summary: dict[str, object] = {}
        """What `done` tells besides."""
        self.late: SupervisorError | None = None
        """The error at the deadline, where more is known than which worker came how far."""
        self.lock: Lock | None = None
        self.native = False
        """Whether native code was set to work."""
        self._display = display
        self._timeout = timeout
        self._rank = rank
        self._guard: Guard | None = None
        self._directories: list[Path] = []
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints: set[str] = set()
        self._last: dict[int, str] = {}
        self._first_to_fail: asyncio.Task[None] | None = None
        self._ending = False
        self._heard: Heard = lambda worker, event: False
        self._command: Worker | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._stop: asyncio.Future[None]
        self._is_met = False

    def now(self) -> float:
        """Milliseconds since the start."""
        return round((time.monotonic() - self.origin) * 1000, 1)

    def show(self, event: Event) -> None:
        """An event of a worker that was kept from the display."""
        self._display.event(event)

    def report(self, event: str, rank: int | None, **fields: object) -> None:
        self._display.event({"event": event, "rank": rank, **fields, "t_ms": self.now()})

    async def run(self, act: Callable[["Supervisor"], Coroutine[Any, Any, None]]) -> None:
        """Raises BootstrapError; whichever way it ends, no process and no file of a worker is left."""
        self._guard = Guard(self.lock)  # before anything is left behind
        asyncio.get_running_loop().set_exception_handler(self._complain)
        stop = self._stopped_by_signal_or_deadline()
        main = asyncio.create_task(act(self))
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            (stop if stop.done() else main).result()
        finally:
            stop.cancel()
            self._ending = True
            main.cancel()
            await self.end_workers()
            self._guard.dismiss()
            await _collect([main])

    def tidy_up(self) -> None:
        """Once more, behind the event loop: where descriptors were short, no directory could be removed before."""
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)

    def met(self) -> None:
        """The group is there: the deadline is met, and a signal is the proper end."""
        self._is_met = True
        if self._alarm is not None:
            self._alarm.cancel()

    @property
    def is_met(self) -> bool:
        return self._is_met

    @property
    def stopped_by(self) -> BootstrapError | None:
        """What ends the run from outside: a signal, or the deadline."""
        failure = self._stop.exception() if self._stop.done() and not self._stop.cancelled() else None
        return failure if isinstance(failure, BootstrapError) else None

    async def anew(self) -> None:
        """End what runs, and start the deadline again."""
        self._is_met = False
        self._ending = True
        await self.end_workers()
        self._ending = False
        self.deadline = time.monotonic() + self._timeout
        self._set_alarm()

    async def start(
        self, rank: int, heard: Heard = lambda worker, event: False, channel: socket.socket | None = None
    ) -> Worker:
        """Start a worker, with its end of a side channel; `heard` is called with each of its events."""
        self._heard = heard
        worker = await Worker.start(rank, channel)
        self._adopt(worker)
        self.guard_over(worker.directory)  # which it makes when it has its order
        self._tasks += [asyncio.create_task(self._follow(worker)), asyncio.create_task(self._log(worker))]
        return worker

    async def run_command(
        self,
        rank: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        channel: socket.socket | None = None,
    ) -> None:
        """Run a user's command to its end, and pass on what it writes. CommandError unless its exit status is 0."""
        worker = self._command = await Worker.start_command(rank, arguments, environment, directory, channel)
        self._adopt(worker)
        self.native = True
        streams = {"stdout": worker.lines(), "stderr": worker.log_lines()}
        outputs = [asyncio.create_task(self._pass_on(rank, name, lines)) for name, lines in streams.items()]
        self._tasks += outputs
        end = asyncio.create_task(worker.ended())
        pending: set[asyncio.Task[Any]] = {end, *outputs}
        while not end.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        left_over = worker.kill(signal.SIGTERM)
        await asyncio.wait(outputs, timeout=GRACE_SECONDS)
        if not left_over:  # else it is still the guard's
            self._forget(worker)
        self.report("command-ended", rank, status=worker.exit_code)
        if worker.exit_code:
            raise CommandError(worker.exit_code, rank)

    async def watch(self) -> None:
        """Return when all workers have ended well; raise the error of the rank that is the cause."""
        pending = set(self._tasks)
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            first = self._first_to_fail
            if first is not None and first.done():
                # The other ranks notice a killed one, and may be heard first.
                await asyncio.wait(self._tasks, timeout=SETTLE_SECONDS)
                ended = [task.exception() for task in (first, *self._tasks) if task.done()]
                raise cause([error for error in ended if isinstance(error, SupervisorError)])
        for task in self._tasks:
            task.result()

    async def end_workers(self) -> None:
        """End all workers; nothing of theirs is left."""
        workers, self._workers = self._workers, []
        tasks, self._tasks = self._tasks, []
        await end_all(workers)
        await _collect(tasks)
        for worker in workers:
            self._forget(worker)
            self._release(worker)
        self._first_to_fail = None

    def command_exit_code(self) -> int | None:
        """That of the command, which has ended; None where none ran."""
        return None if self._command is None else self._command.exit_code

    def guard_over(self, directory: Path) -> None:
        """See to it that a directory does not outlive the run; to be called before it is made."""
        assert self._guard is not None  # noqa: S101 - the run has begun
        self._directories.append(directory)
        self._guard.remove(directory)
        if self.lock is not None:
            self.lock.watch_directory(directory)

    def _release(self, worker: Worker) -> None:
        """Nothing of a worker is left; where descriptors are short its directory may be, for `tidy_up`."""
        directory = worker.directory
        if directory.exists() or directory not in self._directories:
            return
        self._directories.remove(directory)
        if self._guard is not None:
            self._guard.forget_directory(directory)
        if self.lock is not None:
            self.lock.forget(worker.pid, directory)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the event loop says of its own: that the system has no more for it, such as descriptors, or a bug."""
        error = context.get("exception")
        if "_start_serving" in context["message"]:
            return  # a second after descriptors were short asyncio listens again, even if that was closed meanwhile
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        text = f"{context['message']}: {error.strerror or error}"
        if text not in self._complaints:  # it may go on for as long as the run
            self._complaints.add(text)
            self.report("warning", self._rank, message=text)

    def _adopt(self, worker: Worker) -> None:
        self._workers.append(worker)
        assert self._guard is not None  # noqa: S101 - its directory is guarded already
        self._guard.watch(worker)
        if self.lock is not None:
            self.lock.watch(worker.pid)
        self._last[worker.rank] = "started"
        self.report("started", worker.rank, pid=worker.pid)

    def _forget(self, worker: Worker) -> None:
        if self._guard is not None:
            self._guard.forget(worker)

    def _stopped_by_signal_or_deadline(self) -> asyncio.Future[None]:
        """A future that ends when the run has to; it fails, unless the group was there."""
        loop = asyncio.get_running_loop()
        stop = self._stop = loop.create_future()
        # Read when somebody waits, if somebody still does.
        stop.add_done_callback(lambda done: done.cancelled() or done.exception())

        def interrupt() -> None:
            if stop.done():
                return
            if self.is_met:
                self.summary["stopped"] = True
                stop.set_result(None)
            else:
                stop.set_exception(SupervisorError("interrupted", code="interrupted", rank=self._rank))

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup asked for that
            loop.add_signal_handler(number, interrupt)
        self._set_alarm()
        return stop

    def _set_alarm(self) -> None:
        def fail() -> None:
            if not self._stop.done():
                self._stop.set_exception(self.late or self._too_late())

        self._alarm = asyncio.get_running_loop().call_later(self._timeout, fail)

    def _too_late(self) -> SupervisorError:
        states = ", ".join(f"rank {rank} after '{event}'" for rank, event in sorted(self._last.items()))
        return SupervisorError(
            f"no group within {self._timeout:g} s ({states or 'no worker yet'}); see the log lines, or raise --timeout",
            code="deadline",
            rank=self._rank,
        )

    async def _follow(self, worker: Worker) -> None:
        """Pass on a rank's events until it ends. Raises SupervisorError unless it ends well, with its sum checked."""
        async for line in worker.lines():
            self._take(worker, line)
        complete = self._last[worker.rank] in ("sum-checked", "sum-skipped")
        if not complete:
            self._blame()  # now, before the others' complaints come in
        status = await worker.ended()
        self._forget(worker)
        if status != 0 or not complete:
            self._blame()
            how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
            raise SupervisorError(
                f"the worker ended early, by {how} after '{self._last[worker.rank]}'; see its log lines",
                code="worker-killed" if status < 0 and -status not in CRASHES else "worker-died",
                stage="worker",
                rank=worker.rank,
            )

    def _take(self, worker: Worker, line: bytes) -> None:
        event = _parse(line)
        if event is None:
            self._blame()
            raise SupervisorError(
                f"the worker wrote what is no event: {line[:80]!r}",
                code="worker-output",
                stage="worker",
                rank=worker.rank,
            )
        if event["event"] == "error":
            self._blame()
            raise SupervisorError(
                str(event["message"]), code=str(event["code"]), stage=str(event["stage"]), rank=worker.rank
            )
        if self._ending:
            return
        self._last[worker.rank] = str(event["event"])
        self.native |= event["event"] == "environment-set"
        if event["event"] == "group-ready":
            self.summary["backend"] = event["backend"]
        if not self._heard(worker, event):
            self._display.event(event)

    def _blame(self) -> None:
        if self._first_to_fail is None:
            self._first_to_fail = asyncio.current_task()

    async def _log(self, worker: Worker) -> None:
        async for line in worker.log_lines():
            self._display.log(worker.rank, line.decode(errors="replace").rstrip())

    async def _pass_on(self, rank: int, stream: str, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self._display.output(rank, stream, line.decode(errors="replace").rstrip("\r"))


def _parse(line: bytes) -> Event | None:
    """One event, with all fields that its kind has; None for anything else."""
    try:
        event = json.loads(line)
        return event if {"rank", "t_ms", *FIELDS[event["event"]]} <= event.keys() else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


async def _collect(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for what the dead left in their pipes; their failures are known or beside the point by now."""
    if not tasks:
        return
    _, pending = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
