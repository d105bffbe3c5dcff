"""A run inside somebody's program: its typed events, and its end as an exception."""

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
"""With more events than this in the queue, a command's output waits."""


class RunningRank:
    """A rank that runs. Iterate over it for its events, which are kept until they are taken.

    The iteration ends when the rank has ended well, and raises BootstrapError when it has failed: CommandError with the
    command's `exit_code`, PeerError for another rank's failure.
    """

    def __init__(self, task: "asyncio.Task[None]", events: "EventQueue") -> None:
        self._task, self._events = task, events
        self._was_raised = self._is_left = False
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
        """Wait for the end of the rank, whether or not its events are taken."""
        await self.settled()
        self.raise_failure()

    async def settled(self) -> None:
        """Wait for the end of the rank, however it ends."""
        await asyncio.wait({self._task})

    def leave(self) -> None:
        """Expect the rank to be stopped: that is no failure."""
        self._is_left = not self._task.done()

    def raise_failure(self) -> None:
        """Raise the failure of a rank that has ended, once."""
        error = self._task.exception()
        if error is not None and not self._was_raised and not (self._is_left and isinstance(error, Stopped)):
            self._was_raised = True
            raise error

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._events.end()
        if not task.cancelled():
            task.exception()  # asyncio complains about one that nobody looks at


class EventQueue:
    """Keeps typed events until they are taken; a command's output waits while many are there."""

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
        """Say that no more events come."""
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
        await asyncio.Event().wait()  # it can always be kept
        raise AssertionError

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


@asynccontextmanager
async def running(
    run: Run, act: Callable[[Run], Coroutine[Any, Any, None]], events: EventQueue
) -> AsyncIterator[RunningRank]:
    """Run inside the block; leaving it stops the run in order, and raises its failure if nobody has seen it."""
    rank = RunningRank(asyncio.create_task(run.main(act)), events)
    try:
        yield rank
    finally:
        rank.leave()
        run.stop(Stopped(signal.SIGTERM))
        await rank.settled()
    rank.raise_failure()
