"""What holds the deadline, the signals and the workers' lives, whatever is run: nothing is left when it ends."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.events import FIELDS, Event
from bootstrap.processes import GRACE_SECONDS, Guard, Worker, end_all

WORKER_SLACK: Final = 1.0
"""A worker's own deadline is this much later, so that the supervisor's message is the one that is seen."""
SETTLE_SECONDS: Final = 0.25
"""How long to wait for the cause once a rank has failed."""
CRASHES: Final = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
"""Native code can end so because another rank failed; any other signal came from outside."""
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0


Heard = Callable[[Worker, Event], None]


class Display(Protocol):
    """Where events and the workers' log lines go."""

    def event(self, event: Event) -> None: ...

    def log(self, rank: int, line: str) -> None: ...


class SupervisorError(BootstrapError):
    """Why a run ended early. `rank` is None where no rank is to blame."""

    def __init__(self, message: str, *, code: str, stage: str = "supervisor", rank: int | None = None) -> None:
        super().__init__(message, code=code)
        self.stage = stage
        self.rank = rank


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
    **summary: object,
) -> bool:
    """Run `act` to its end, or to the deadline, or to a signal; True when it ended well.

    The last event is `done`, with `summary` and with what the supervisor has to add. `rank` is whose run this is, where
    it is one rank's.
    """
    supervisor = Supervisor(display, timeout, rank)
    supervisor.summary.update(summary)
    failure: dict[str, object] = {}
    try:
        asyncio.run(supervisor.run(act))
    except BootstrapError as error:
        blamed = error.rank if isinstance(error, SupervisorError) else rank
        supervisor.report("error", blamed, stage=error.stage, code=error.code, message=str(error))
        failure = {"code": error.code}
    done = {"event": "done", "ok": not failure, **supervisor.summary, **failure}
    display.event({**done, "t_ms": supervisor.now()})
    return not failure


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
        self._display = display
        self._timeout = timeout
        self._rank = rank
        self._guard: Guard | None = None
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._last: dict[int, str] = {}
        self._first_to_fail: asyncio.Task[None] | None = None
        self._ending = False
        self._heard: Heard = lambda worker, event: None

    def now(self) -> float:
        """Milliseconds since the start."""
        return round((time.monotonic() - self.origin) * 1000, 1)

    def report(self, event: str, rank: int | None, **fields: object) -> None:
        self._display.event({"event": event, "rank": rank, **fields, "t_ms": self.now()})

    async def run(self, act: Callable[["Supervisor"], Coroutine[Any, Any, None]]) -> None:
        """Raises BootstrapError; whichever way it ends, no process and no file of a worker is left."""
        stop = self._stopped_by_signal_or_deadline()
        main = asyncio.create_task(act(self))
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            (stop if stop.done() else main).result()
        finally:
            stop.cancel()
            self._ending = True
            main.cancel()
            await end_all(self._workers)
            if self._guard is not None:
                self._guard.dismiss()
            await _collect([main, *self._tasks])

    async def start(self, rank: int, heard: Heard = lambda worker, event: None) -> Worker:
        """Start a worker; `heard` is called with each of its events."""
        if self._guard is None:
            self._guard = Guard()
        self._heard = heard
        worker = await Worker.start(rank)
        self._workers.append(worker)
        self._guard.watch(worker)  # before its order, so before it can leave anything behind
        self._last[rank] = "started"
        self.report("started", rank, pid=worker.pid)
        self._tasks += [asyncio.create_task(self._follow(worker)), asyncio.create_task(self._log(worker))]
        return worker

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

    def _stopped_by_signal_or_deadline(self) -> asyncio.Future[None]:
        """A future that fails when the run has to end. What comes after that changes nothing."""
        loop = asyncio.get_running_loop()
        stop: asyncio.Future[None] = loop.create_future()
        # Read when somebody waits, if somebody still does.
        stop.add_done_callback(lambda done: done.cancelled() or done.exception())

        def fail(failure: SupervisorError) -> None:
            if not stop.done():
                stop.set_exception(failure)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup asked for that
            interrupted = SupervisorError("interrupted", code="interrupted", rank=self._rank)
            loop.add_signal_handler(number, fail, interrupted)
        loop.call_later(self._timeout, lambda: fail(self._too_late()))
        return stop

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
        complete = self._last[worker.rank] == "sum-checked"
        if not complete:
            self._blame()  # now, before the others' complaints come in
        status = await worker.ended()
        if self._guard is not None:
            self._guard.forget(worker)
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
        if event["event"] == "group-ready":
            self.summary["backend"] = event["backend"]
        self._heard(worker, event)
        self._display.event(event)

    def _blame(self) -> None:
        if self._first_to_fail is None:
            self._first_to_fail = asyncio.current_task()

    async def _log(self, worker: Worker) -> None:
        async for line in worker.log_lines():
            self._display.log(worker.rank, line.decode(errors="replace").rstrip())


def _parse(line: bytes) -> Event | None:
    """One event, with all fields that its kind has; None for anything else."""
    try:
        event = json.loads(line)
        return event if {"rank", "t_ms", *FIELDS[event["event"]]} <= event.keys() else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


async def _collect(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for what the dead left in their pipes; their failures are known or beside the point by now."""
    _, pending = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
