"""A run inside a program of the caller: typed events, and failure as an exception."""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from bootstrap.control.output import Lines
from bootstrap.control.run import Run, Stopped
from bootstrap.events import EVENTS, Event, EventDict, Log

MANY_EVENTS: Final = 1000
"""A command's output waits while more events than this are queued."""


class RunningRank:
    """A running rank. Iterate over it for its events, which are kept until taken.

    The iteration stops when the rank has succeeded, and raises BootstrapError when it has failed: CommandError with the
    command's `exit_code`, PeerError for another rank's failure.
    """

    def __init__(self, task: "asyncio.Task[None]", events: "EventQueue") -> None:
        self._task, self._events = task, events
        self._is_left = False
        self.was_raised = False
        """Whether the caller has had the failure."""
        task.add_done_callback(self._end)

    def __aiter__(self) -> "RunningRank":
        return self

    async def __anext__(self) -> Event:
        event = await self._events.next()
        if event is None:
            self.raise_failure()
            raise StopAsyncIteration
        return event

    async def ended(self) -> None:
        """Wait until the rank has ended, whether or not its events are taken. Raise its failure."""
        await self.settled()
        self.raise_failure()

    async def settled(self) -> None:
        """Wait until the rank has ended. Raise nothing."""
        await asyncio.wait({self._task})

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    def leave(self) -> None:
        """Expect the rank to be stopped, which then is no failure."""
        self._is_left = not self.has_ended

    def raise_failure(self) -> None:
        """Raise the failure of an ended rank, if there is one."""
        error = self._task.exception()
        if error is not None and not (self._is_left and isinstance(error, Stopped)):
            self.was_raised = True
            raise error

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._events.end()
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that is never retrieved


class EventQueue:
    """Keeps typed events until they are taken; a command's output waits while many are queued."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._is_over = False
        self._lines = Lines(self.event)

    async def next(self) -> Event | None:
        """Return the next event; None once there will be no more."""
        while not self._events and not self._is_over:
            self._news.clear()
            await self._news.wait()
        return self._events.popleft() if self._events else None

    def end(self) -> None:
        """Mark the end of the events."""
        self._is_over = True
        self._news.set()

    def event(self, event: EventDict) -> None:
        self._put(msgspec.convert(event, EVENTS[str(event["event"])]))

    def log(self, rank: int | None, line: str) -> None:
        self._put(Log(rank=rank, line=line))

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        self._lines.take(rank, stream, data)

    def quiet(self, rank: int | None, stream: str) -> None:
        self._lines.quiet(rank, stream)

    def full(self, stream: str) -> bool:
        return len(self._events) > MANY_EVENTS

    async def failed(self) -> OSError:
        await asyncio.Event().wait()  # a queue cannot fail
        raise AssertionError

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


async def _settled(rank: RunningRank) -> None:
    """Wait until the rank has ended, even if this is cancelled again, which anyio does all the time."""
    cancelled: asyncio.CancelledError | None = None
    while not rank.has_ended:
        try:
            await rank.settled()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


@asynccontextmanager
async def running(
    run: Run, act: Callable[[Run], Coroutine[Any, Any, None]], events: EventQueue
) -> AsyncIterator[RunningRank]:
    """Run inside the block. Leaving it stops the run cleanly, and raises its failure if that was not raised yet."""
    rank = RunningRank(asyncio.create_task(run.main(act)), events)
    try:
        yield rank
    finally:
        rank.leave()
        run.stop(Stopped(signal.SIGTERM))
        await _settled(rank)
    if not rank.was_raised:
        rank.raise_failure()
