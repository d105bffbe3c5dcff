"""An event loop whose time advances only when nothing is left to do, with an order decided by a seed."""

import asyncio
import heapq
import socket
from asyncio import format_helpers
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from random import Random
from typing import Any

from bootstrap import system

MOST_STEPS = 1_000_000
CLEAR_SECONDS = 100.0
CONTROL = system._current
"""The system, and so the process, that a callback belongs to."""


class NoProgressError(Exception):
    """Nothing can happen but something still waits, or events never end."""


class Callback(asyncio.TimerHandle):
    """A callback of the loop, now or later. A world makes a thousand, so it has nothing for asyncio's debug mode."""

    __slots__ = ("_process",)
    _repr = _source_traceback = None
    _callback: Callable[..., object]
    _args: tuple[Any, ...]
    _context: Context
    _when: float
    _cancelled: bool
    _process: Any
    """The one that it belongs to, or None."""

    def __init__(
        self,
        loop: "SimulatedLoop",
        when: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        if context is None:
            context = copy_context()
        self._loop, self._when, self._callback, self._args, self._context = loop, when, callback, arguments, context
        self._cancelled = False
        system: Any = context.get(CONTROL)
        self._process = None if system is None else system.process

    def cancel(self) -> None:
        self._cancelled, self._callback, self._args = True, _nothing, ()


class SimulatedLoop(asyncio.BaseEventLoop):
    """One loop for all processes of the world.

    Callbacks of one process run in the order in which they were made ready; those of several processes that are ready
    at the same time run in an order that the seed decides. What belongs to a dead process is dropped, and what belongs
    to a stopped one waits.
    """

    def _write_to_self(self) -> None:
        """Wake up: for a generator that Python collects. The loop never sleeps."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.now = 0.0
        self.start_ssh: Callable[..., Any]
        self.steps = 0
        self.owners: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """All tasks, so that nothing of a dead process is cleaned up by the garbage collector."""
        self._random = random
        self._is_over = False
        self._due: deque[Callback] = deque()
        self._timers: list[tuple[float, Callback]] = []  # a heap
        self._waiting: deque[Callback] = deque()  # of stopped processes
        self._dropped: list[Callback] = []  # of dead ones

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        self.owners.append(CONTROL.get() if context is None else context.get(CONTROL))
        return task

    def left_by(self, process: Any) -> list[str]:
        """Return the tasks and timers of a process that are not over."""
        timers = [str(each._callback) for _, each in self._timers if not each._cancelled and each._process is process]
        pairs = zip(self.tasks, self.owners, strict=True)
        own = [task for task, owner in pairs if getattr(owner, "process", None) is process and not task.done()]
        return timers + [str(task.get_coro()) for task in own if task is not process.task]

    def clear(self) -> None:
        """End the unfinished tasks of dead processes, now that they have no effect."""
        self._is_over = True
        self._due.extend([*self._dropped, *self._waiting])
        pending = [task for task in self.tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            with suppress(NoProgressError):
                self.run_until_complete(asyncio.wait(pending, timeout=CLEAR_SECONDS))
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.close()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Callback:
        made = Callback(self, self.now, callback, args, context)
        self._due.append(made)
        return made

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Callback:
        made = Callback(self, when, callback, args, context)
        heapq.heappush(self._timers, (when, made))
        return made

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Callback:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Run until the loop is stopped: advance the time until something is due, and run all that is due by then."""
        due, timers = self._due, self._timers
        while True:
            while timers and timers[0][1]._cancelled:
                heapq.heappop(timers)
            if not due:
                if not timers:
                    raise NoProgressError("somebody waits, and nothing can happen any more")
                self.now = max(self.now, timers[0][0])
            while timers and timers[0][0] <= self.now:
                due.append(heapq.heappop(timers)[1])
            for each in (due.popleft(),) if len(due) == 1 else self._mixed():
                if each._cancelled:
                    continue
                process = each._process
                if process is not None and not self._is_over:
                    if process.is_dead:  # one of the others may have killed it
                        self._dropped.append(each)
                        continue
                    if process.is_stopped or process.blocked_until > self.now:
                        self._waiting.append(each)
                        continue
                try:
                    each._context.run(each._callback, *each._args)
                except BaseException as error:
                    self._report(each, error)
            if self._stopping:  # type: ignore[attr-defined]
                return
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise NoProgressError("it does not end")

    def _report(self, failed: Callback, error: BaseException) -> None:
        """Handle an error of a callback as asyncio does."""
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise error
        shown = format_helpers._format_callback_source(failed._callback, failed._args)
        self.call_exception_handler({"message": f"Exception in callback {shown}", "exception": error})

    def _mixed(self) -> list[Callback]:
        """Take everything that is due: in order for each process, processes in random order."""
        due = list(self._due)
        self._due.clear()
        queues: dict[Any, deque[Callback]] = {each._process: deque() for each in due}
        if len(queues) == 1:
            return due
        for each in due:
            queues[each._process].append(each)
        turns = list(queues.values())
        order = []
        while turns:
            turn = self._random.choice(turns)
            order.append(turn.popleft())
            if not turn:
                turns.remove(turn)
        return order

    def go_on(self) -> None:
        """A process has continued."""
        self._due.extend(self._waiting)
        self._waiting.clear()

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Do a thread's work at once, and report it a little later."""
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_later(self._random.uniform(0.0001, 0.005), _settle, future, None, error, context=Context())
        else:
            self.call_later(self._random.uniform(0.0001, 0.005), _settle, future, result, None, context=Context())
        return future

    # -- the network's part, given by the world ------------------------------------------------------------------------

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        if (sock := options.get("sock")) is None:
            return await self._machine().connect(protocol_factory, host, port)
        protocol = protocol_factory()
        return sock.hand_over(protocol), protocol

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return self._machine().serve(protocol_factory, port)

    async def subprocess_exec(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        return await self.start_ssh(protocol_factory, args)

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:  # type: ignore[override]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))]

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        self._own_process().handlers[sig] = (callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._own_process().handlers.pop(sig, None) is not None

    def set_exception_handler(self, handler: Any) -> None:
        """Take a handler, of one process or, where none is running, of the world; the world's gets what is a bug."""
        if CONTROL.get() is None:
            super().set_exception_handler(handler)

    def _own_process(self) -> Any:
        return CONTROL.get().process  # type: ignore[union-attr]

    async def sock_accept(self, sock: Any) -> Any:
        return await sock.accept()

    async def sock_recv(self, sock: Any, nbytes: int) -> Any:
        return await sock.receive(nbytes)

    def _machine(self) -> Any:
        return CONTROL.get().network  # type: ignore[attr-defined]


def _nothing() -> None: ...


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
