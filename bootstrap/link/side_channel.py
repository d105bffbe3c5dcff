"""JACCL's gathers over the sealed link, so that no coordinator port is opened.

    worker ── socket pair ── control process ══ sealed frames ══ rank 0's control process ── socket pair ── its worker

The worker's end and the format of the socket pair are in `gather`. Rank 0 is the hub. [EXT-SIDE-CHANNEL]
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from bootstrap.link.gather import GATHER_SECONDS, HEADER, SLACK_SECONDS, SideChannelError
from bootstrap.link.outcome import Send, say
from bootstrap.system import current
from wireproto.messages import MAX_GATHER, Message, SideChannelPart, SideChannelWhole


class SocketPair(NamedTuple):
    """Both ends: this process's, and that of the worker or command."""

    control: socket.socket
    child: socket.socket


@contextmanager
def socket_pair(wanted: bool) -> Iterator[SocketPair | None]:
    """Yield a socket pair, or None unless it is wanted."""
    if not wanted:
        yield None
        return
    pair = SocketPair(*current().network.socket_pair())
    pair.control.setblocking(False)
    try:
        yield pair
    finally:
        for end in pair:
            end.close()


class SideChannel:
    """One rank's part in the gathers of one bootstrap. A fault of any rank ends it with SideChannelError."""

    def __init__(self, rank: int, size: int, send: Send) -> None:
        self._rank = rank
        self._size = size
        self._send = send
        self._sequence = 0
        self._parts: dict[int, bytes] = {}  # rank 0: the parts of the current gather so far
        self._whole: bytes | None = None  # other ranks: rank 0's answer
        self._asked: int | None = None  # the length of this rank's part during a gather
        self._clock: asyncio.TimerHandle | None = None  # runs from the first part of a gather
        self._fault: SideChannelError | None = None
        self._is_over = False
        self._news = asyncio.Event()

    def take(self, peer: int, message: Message) -> None:
        """Take a message from a peer."""
        try:
            match message:
                case SideChannelPart(sequence, part):
                    self._check_sequence(peer, sequence)
                    if peer in self._parts:
                        raise _fault(f"rank {peer} sent its part of gather {sequence} twice", "side-channel-twice")
                    self._parts[peer] = part
                    self._start_clock()
                    self._check_sizes()
                case SideChannelWhole(sequence, whole):
                    self._check_sequence(peer, sequence)
                    if self._asked is None or self._whole is not None:
                        raise _fault(f"rank 0 answered gather {sequence} without a request", "side-channel-turn")
                    if len(whole) != self._size * self._asked:
                        text = f"rank 0 gave {len(whole)} bytes for gather {sequence} of {self._size} × {self._asked}"
                        raise _fault(text, "side-channel-size")
                    self._whole = whole
        except SideChannelError as fault:
            self._fault = self._fault or fault
        self._news.set()

    async def serve(self, channel: socket.socket) -> None:
        """Answer the worker at the other end of `channel` until that closes it."""
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            while True:
                try:
                    (count,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                    if count > MAX_GATHER:
                        raise _fault(f"a gather of {count} bytes per rank exceeds {MAX_GATHER}", "side-channel-size")
                    part = await reader.readexactly(count)
                except asyncio.IncompleteReadError:
                    return
                whole = await self.gather(part)
                writer.write(HEADER.pack(len(whole)) + whole)
        except OSError:
            return  # the worker died, which the run reports
        finally:
            writer.close()

    async def gather(self, part: bytes) -> bytes:
        """Return the parts of all ranks, in rank order. Raise SideChannelError if a rank is late or at fault."""
        self._asked = len(part)
        self._start_clock()
        whole = await (self._lead(part) if self._rank == 0 else self._follow(part))
        self._asked = self._whole = None
        return whole

    async def gather_from(self, length: int, ask: Callable[[dict[int, bytes]], Awaitable[bytes]]) -> bytes:
        """Rank 0: do one gather of `length` bytes per rank with a native root.

        `ask` passes the parts of all other ranks to the root, and returns its result.
        """
        self._asked = length
        self._check_sizes()
        self._start_clock()
        await self._until(lambda: len(self._parts) == self._size - 1)
        asking = asyncio.ensure_future(ask(self._parts))
        asking.add_done_callback(lambda _: self._news.set())
        try:
            await self._until(asking.done)
        finally:
            asking.cancel()
        return await self._answer(asking.result())

    async def fault(self) -> NoReturn:
        """Wait for a fault of any rank, and raise SideChannelError. Once this has ended, no gather has a time limit."""
        try:
            await self._until(lambda: False)
            raise AssertionError
        finally:
            self._is_over = True
            self._stop_clock()

    async def _lead(self, part: bytes) -> bytes:
        self._parts[0] = part
        self._check_sizes()
        await self._until(lambda: len(self._parts) == self._size)
        return await self._answer(b"".join(self._parts[rank] for rank in range(self._size)))

    async def _answer(self, whole: bytes) -> bytes:
        answer = SideChannelWhole(self._sequence, whole)
        self._parts.clear()
        self._asked = None
        self._stop_clock()
        self._sequence += 1  # before the first rank has its answer and continues
        await asyncio.gather(*(say(self._send, peer, answer) for peer in range(1, self._size)))
        return whole

    async def _follow(self, part: bytes) -> bytes:
        await say(self._send, 0, SideChannelPart(self._sequence, part))
        await self._until(lambda: self._whole is not None)
        assert self._whole is not None  # noqa: S101 - just waited for
        start = self._rank * len(part)
        if self._whole[start : start + len(part)] != part:
            raise _fault(f"rank 0 changed this rank's part of gather {self._sequence}", "side-channel-changed")
        self._stop_clock()
        self._sequence += 1
        return self._whole

    def _check_sequence(self, peer: int, sequence: int) -> None:
        if sequence != self._sequence:
            text = f"rank {peer} is at gather {sequence}, and rank {self._rank} at {self._sequence}"
            raise _fault(text, "side-channel-turn")

    def _check_sizes(self) -> None:
        for rank, part in self._parts.items():
            if self._asked is not None and len(part) != self._asked:
                text = f"rank {rank} put {len(part)} bytes into gather {self._sequence}, rank 0 {self._asked}"
                raise _fault(text, "side-channel-size")

    def _start_clock(self) -> None:
        if self._clock is None and not self._is_over:
            seconds = GATHER_SECONDS if self._rank == 0 else GATHER_SECONDS + SLACK_SECONDS
            self._clock = asyncio.get_running_loop().call_later(seconds, self._be_late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _be_late(self) -> None:
        missing = [0]
        if self._rank == 0:
            missing = [r for r in range(self._size) if r not in self._parts and (r or self._asked is None)] or missing
        who = ", ".join(f"rank {rank}" for rank in missing)
        text = f"{who} did not join gather {self._sequence} within {GATHER_SECONDS:g} s"
        self._fault = self._fault or _fault(text, "side-channel-late")
        self._news.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while self._fault is None and not condition():
            self._news.clear()
            await self._news.wait()
        if self._fault is not None:
            raise self._fault


def _fault(text: str, code: str) -> SideChannelError:
    return SideChannelError(text, code=code)
