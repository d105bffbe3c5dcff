"""The demo's parent: starts one worker a rank, passes on what they say, and sees to it that all of them end."""

import asyncio
import json
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.events import FIELDS, Event
from bootstrap.plan import (
    BackendChoice,
    check_backend,
    check_port,
    check_session_id,
    check_size,
    new_session_id,
)
from bootstrap.ports import reserved_ports
from bootstrap.processes import GRACE_SECONDS, Guard, Worker, end_all
from bootstrap.transport import check_loopback
from bootstrap.worker import Order
from wireproto import JacclBootstrapPayload

WORKER_SLACK = 1.0
"""A worker's own deadline is this much later, so that the supervisor's message is the one that is seen."""
SETTLE_SECONDS = 0.25
"""How long to wait for the cause once a rank has failed."""
CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
"""Native code can end so because another rank failed; any other signal came from outside."""
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What to show. ConfigError for what cannot be."""

    ranks: int = 2
    backend: BackendChoice = "auto"
    host: str = "127.0.0.1"
    port: int | None = None
    session_id: str = field(default_factory=new_session_id)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        check_size(self.ranks)
        check_backend(self.backend)
        check_loopback(self.host)
        if self.port is not None:
            check_port(self.port, self.ranks)
        check_session_id(self.session_id)
        if not MIN_TIMEOUT <= self.timeout <= MAX_TIMEOUT:
            raise ConfigError(
                f"timeout {self.timeout} is wrong, use {MIN_TIMEOUT} to {MAX_TIMEOUT:.0f} seconds", code="bad-timeout"
            )


class Display(Protocol):
    """Where a demo's events and the workers' log lines go."""

    def event(self, event: Event) -> None: ...

    def log(self, rank: int, line: str) -> None: ...


class DemoError(BootstrapError):
    """Why the demo ended early. `rank` is None where no rank is to blame."""

    def __init__(self, message: str, *, code: str, stage: str = "demo", rank: int | None = None) -> None:
        super().__init__(message, code=code)
        self.stage = stage
        self.rank = rank


def run_demo(demo: Demo, display: Display) -> bool:
    """Run `demo` to its end; the last event is `done`. True when the group was formed and checked."""
    supervisor = Supervisor(demo, display)
    failure: dict[str, object] = {}
    try:
        asyncio.run(supervisor.run())
    except BootstrapError as error:
        rank = error.rank if isinstance(error, DemoError) else None
        supervisor.report("error", rank, stage=error.stage, code=error.code, message=str(error))
        failure = {"code": error.code}
    done = {"event": "done", "ok": not failure, "ranks": demo.ranks, "backend": supervisor.backend}
    display.event({**done, **failure, "t_ms": supervisor.now()})
    return not failure


def cause(errors: Sequence[DemoError]) -> DemoError:
    """Of the ranks' errors in the order seen, the one that the others follow from."""
    return next((error for error in errors if error.code == "worker-killed"), errors[0])


class Supervisor:
    def __init__(self, demo: Demo, display: Display) -> None:
        self.backend: str = demo.backend
        self._demo = demo
        self._display = display
        self._origin = time.monotonic()
        self._workers: list[Worker] = []
        self._last: dict[int, str] = {}
        self._addresses: dict[int, asyncio.Future[tuple[str, int]]] = {}
        self._first_to_fail: asyncio.Task[None] | None = None
        self._ending = False

    def now(self) -> float:
        """Milliseconds since the start."""
        return round((time.monotonic() - self._origin) * 1000, 1)

    def report(self, event: str, rank: int | None, **fields: object) -> None:
        self._display.event({"event": event, "rank": rank, **fields, "t_ms": self.now()})

    async def run(self) -> None:
        """Form the group. Raises BootstrapError; whichever way it ends, no process, file or port is left."""
        stop = self._stopped_by_signal_or_deadline()
        try:
            with reserved_ports(self._demo.host, self._demo.ranks, self._demo.port) as port:
                guard = Guard()
                tasks: list[asyncio.Task[None]] = []
                try:
                    await self._start(port, guard, tasks)
                    await self._watch(tasks, stop)
                finally:
                    self._ending = True
                    await end_all(self._workers)
                    guard.dismiss()
                    for address in self._addresses.values():
                        address.cancel()  # so that nobody waits for a dead rank's
                    await _collect(tasks)
        finally:
            stop.cancel()

    def _stopped_by_signal_or_deadline(self) -> asyncio.Future[None]:
        """A future that fails when the demo has to end. What comes after that changes nothing."""
        loop = asyncio.get_running_loop()
        stop: asyncio.Future[None] = loop.create_future()
        # Read when somebody waits, if somebody still does.
        stop.add_done_callback(lambda done: done.cancelled() or done.exception())

        def fail(failure: DemoError) -> None:
            if not stop.done():
                stop.set_exception(failure)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup asked for that
            loop.add_signal_handler(number, fail, DemoError("interrupted", code="interrupted"))
        loop.call_later(self._demo.timeout, lambda: fail(self._too_late()))
        return stop

    def _too_late(self) -> DemoError:
        states = ", ".join(f"rank {rank} after '{event}'" for rank, event in sorted(self._last.items()))
        return DemoError(
            f"no group within {self._demo.timeout:g} s ({states}); see the log lines, or raise --timeout",
            code="deadline",
        )

    async def _start(self, port: int, guard: Guard, tasks: list[asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        for rank in range(self._demo.ranks):
            worker = await Worker.start(rank)
            self._workers.append(worker)
            guard.watch(worker)  # before its order, so before it can leave anything behind
            self._last[rank] = "started"
            self.report("started", rank, pid=worker.pid)
            self._addresses[rank] = loop.create_future()
            tasks += [loop.create_task(self._follow(worker, guard)), loop.create_task(self._log(worker))]
        leader, *others = self._workers
        for worker in others:
            await worker.order(self._order(worker))
        tasks.append(loop.create_task(self._order_leader(leader, others, port)))

    async def _order_leader(self, leader: Worker, others: Iterable[Worker], port: int) -> None:
        peers = tuple([await self._addresses[worker.rank] for worker in others])
        payload = JacclBootstrapPayload(port=port, session_id=self._demo.session_id)
        await leader.order(self._order(leader, payload, peers))

    def _order(
        self,
        worker: Worker,
        bootstrap: JacclBootstrapPayload | None = None,
        peers: tuple[tuple[str, int], ...] = (),
    ) -> Order:
        return Order(
            rank=worker.rank,
            ips=(self._demo.host,) * self._demo.ranks,
            host=self._demo.host,
            backend=self._demo.backend,
            directory=str(worker.directory),
            origin=self._origin,
            deadline=self._origin + self._demo.timeout + WORKER_SLACK,
            bootstrap=bootstrap,
            peers=peers,
        )

    async def _watch(self, tasks: list[asyncio.Task[None]], stop: asyncio.Future[None]) -> None:
        """Return when all tasks have; raise the error of the rank that is the cause."""
        pending: set[asyncio.Future[None]] = {stop, *tasks}
        while pending != {stop}:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is stop or not isinstance(task.exception(), DemoError):
                    task.result()
            first = self._first_to_fail
            if first is not None and first.done():
                # The other ranks notice a killed one, and may be heard first.
                await asyncio.wait(tasks, timeout=SETTLE_SECONDS)
                ended = [task.exception() for task in (first, *tasks) if task.done()]
                errors = [error for error in ended if isinstance(error, DemoError)]
                raise cause(errors)

    async def _follow(self, worker: Worker, guard: Guard) -> None:
        """Pass on a rank's events until it ends. Raises DemoError unless it ends well, with its sum checked."""
        async for line in worker.lines():
            self._take(worker, line)
        complete = self._last[worker.rank] == "sum-checked"
        if not complete:
            self._blame()  # now, before the others' complaints come in
        status = await worker.ended()
        guard.forget(worker)
        if status != 0 or not complete:
            self._blame()
            how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
            raise DemoError(
                f"the worker ended early, by {how} after '{self._last[worker.rank]}'; see its log lines",
                code="worker-killed" if status < 0 and -status not in CRASHES else "worker-died",
                stage="worker",
                rank=worker.rank,
            )

    def _take(self, worker: Worker, line: bytes) -> None:
        event = _parse(line)
        if event is None:
            self._blame()
            raise DemoError(
                f"the worker wrote what is no event: {line[:80]!r}",
                code="worker-output",
                stage="worker",
                rank=worker.rank,
            )
        if event["event"] == "error":
            self._blame()
            raise DemoError(str(event["message"]), code=str(event["code"]), stage=str(event["stage"]), rank=worker.rank)
        if self._ending:
            return
        self._last[worker.rank] = str(event["event"])
        if event["event"] == "listening":
            self._addresses[worker.rank].set_result((str(event["host"]), int(str(event["port"]))))
        if event["event"] == "group-ready":
            self.backend = str(event["backend"])
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
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
