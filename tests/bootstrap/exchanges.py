"""Ranks in one process that exchange messages, without sockets, on a virtual clock."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from bootstrap.errors import LinkError
from bootstrap.link.outcome import Send
from wireproto import Message

T = TypeVar("T")


class Timeless(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next event."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        select = self._selector.select

        def jump(timeout: float | None) -> Any:
            assert timeout is not None, "all wait for each other, without a deadline"
            self._seconds += timeout
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self._seconds


def run_timeless(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=Timeless) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class Taker(Protocol):
    def take(self, peer: int, message: Message) -> None: ...


class Links:
    """The links of rank 0 with the others: messages arrive in order, `delay` later."""

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.takers: dict[int, Taker] = {}
        """The receivers of messages, by rank."""
        self.sent: list[tuple[int, int, Message]] = []
        """Sender, receiver, message."""
        self.cut: set[int] = set()
        """The ranks whose link with rank 0 is lost."""
        self._delay = delay
        self._under_way: defaultdict[tuple[int, int], deque[Message]] = defaultdict(deque)
        self._last: defaultdict[tuple[int, int], float] = defaultdict(float)

    def send_of(self, rank: int) -> Send:
        async def send(peer: int, message: Message) -> None:
            if self.cut & {rank, peer}:
                raise LinkError("the link is cut", code="link-closed")
            self.sent.append((rank, peer, message))
            self._under_way[rank, peer].append(message)
            self._last[rank, peer] = max(self._last[rank, peer], now() + self._delay())
            asyncio.get_running_loop().call_at(self._last[rank, peer], self._deliver, rank, peer)

        return send

    def _deliver(self, rank: int, peer: int) -> None:
        message = self._under_way[rank, peer].popleft()
        if peer in self.takers and not self.cut & {rank, peer}:
            self.takers[peer].take(rank, message)
