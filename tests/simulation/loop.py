"""An event loop whose time advances only when nothing is left to do, with an order decided by a seed."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from random import Random
from typing import Any

from bootstrap import system

MOST_STEPS = 1_000_000
CLEAR_SECONDS = 100.0
CONTROL = system._current
"""The system, and so the process, that a callback belongs to."""


class NoProgressError(Exception):
    """Nothing can happen but something still waits, or events never end."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """One loop for all processes of the world.

    Callbacks of one process run in the order in which they were made ready; those of several processes that are ready
    at the same time run in an order that the seed decides. What belongs to a dead process is dropped, and what belongs
    to a stopped one waits.
    """

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.now = 0.0
        self.start_ssh: Callable[..., Any]
        self.steps = 0
        self.owners: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """All tasks, so that nothing of a dead process is cleaned up by the garbage collector."""
        self.set_task_factory(self._task)
        self._random = random
        self._is_over = False
        self._waiting: deque[asyncio.Handle] = deque()  # of stopped processes
        self._dropped: list[asyncio.Handle] = []  # of dead ones

    def _task(self, loop: Any, coro: Any, context: Context | None = None) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, context=context)
        self.tasks.append(task)
        self.owners.append(CONTROL.get() if context is None else context.get(CONTROL))
        return task

    def left_by(self, process: Any) -> list[str]:
        """Return the tasks and timers of a process that are not over."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        timers = [str(each._callback) for each in scheduled if not each.cancelled() and _process(each) is process]  # type: ignore[attr-defined]
        pairs = zip(self.tasks, self.owners, strict=True)
        own = [task for task, owner in pairs if getattr(owner, "process", None) is process and not task.done()]
        return timers + [str(task.get_coro()) for task in own if task is not process.task]

    def clear(self) -> None:
        """End the unfinished tasks of dead processes, now that they have no effect."""
        self._is_over = True
        self._ready.extend([*self._dropped, *self._waiting])  # type: ignore[attr-defined]
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

    def _run_once(self) -> None:
        """Advance the time until something is due, and run all that is ready by then."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:  # type: ignore[attr-defined]
            self._pop()
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise NoProgressError("somebody waits, and nothing can happen any more")
            self.now = max(self.now, scheduled[0]._when)  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when <= self.now:  # type: ignore[attr-defined]
            ready.append(self._pop())
        for handle, process in [(ready[0], _process(ready.popleft()))] if len(ready) == 1 else self._mixed():
            if handle._cancelled:  # type: ignore[attr-defined]
                continue
            if process is None or self._is_over:
                handle._run()
            elif process.is_dead:  # one of the others may have killed it
                self._dropped.append(handle)
            elif process.is_stopped or process.blocked_until > self.now:
                self._waiting.append(handle)
            else:
                handle._run()
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise NoProgressError("it does not end")

    def _pop(self) -> asyncio.TimerHandle:
        handle = heapq.heappop(self._scheduled)  # type: ignore[attr-defined]
        handle._scheduled = False
        if handle._cancelled:
            self._timer_cancelled_count -= 1
        return handle  # type: ignore[no-any-return]

    def _mixed(self) -> list[tuple[asyncio.Handle, Any]]:
        """Take everything that is ready: in order for each process, processes in random order."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        queues: dict[Any, deque[tuple[asyncio.Handle, Any]]] = {}
        for handle in ready:
            process = _process(handle)
            queues.setdefault(process, deque()).append((handle, process))
        ready.clear()
        turns = list(queues.values())
        if len(turns) == 1:
            return list(turns[0])
        order = []
        while turns:
            turn = self._random.choice(turns)
            order.append(turn.popleft())
            if not turn:
                turns.remove(turn)
        return order

    def go_on(self) -> None:
        """A process has continued."""
        self._ready.extend(self._waiting)  # type: ignore[attr-defined]
        self._waiting.clear()

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Do a thread's work at once, and report it a little later."""
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            Context().run(self.call_later, self._random.uniform(0.0001, 0.005), _settle, future, None, error)
        else:
            Context().run(self.call_later, self._random.uniform(0.0001, 0.005), _settle, future, result, None)
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


def _process(handle: asyncio.Handle) -> Any:
    context: Context = handle._context  # type: ignore[attr-defined]
    found = context.get(CONTROL)
    return None if found is None else getattr(found, "process", None)


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
