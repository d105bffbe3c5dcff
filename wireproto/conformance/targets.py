"""Targets: how the peer under test is started, and how a connection to it is made."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from wireproto.conformance.verdicts import Undecided, Verdict
from wireproto.session import Role

_FATAL_STATUS: Final = 128
"""A shell exits with this and the number of the signal that ended its command."""


class Ended(NamedTuple):
    """The exit of a peer that was not stopped."""

    how: str
    code: int
    """The return code as in subprocess: negative for a signal."""

    def is_crash(self, role: Role) -> bool:
        """Return whether this is a crash. A rank 0 may exit with a status for a failed session."""
        if role is Role.RESPONDER:
            return self.code != 0
        return self.code < 0 or self.code > _FATAL_STATUS


def _alive() -> Ended | None:
    return None


@dataclass(frozen=True)
class Running:
    """A peer that was started."""

    ended: Callable[[], Ended | None] = _alive
    """The exit, unless the peer was stopped; None while it runs."""
    stderr: Callable[[], Sequence[str]] = tuple
    """The last lines of its standard error."""


Launcher = Callable[[str, int], AbstractAsyncContextManager[Running]]
"""Starts a peer under test: rank 1 must listen at the address, rank 0 connect to it. Stops it on exit."""

_RETRY: Final = 0.02
_DYING: Final = 0.05
"""Seconds between the end of a process's connections and its exit."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def free_ports(host: str, first: int) -> Iterator[int]:
    """Return the free ports of a host from `first` on."""
    for port in range(first, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        yield port


class Target(Protocol):
    """Peers of one role, one at a time."""

    @property
    def role(self) -> Role:
        """The peer's."""

    @property
    def restarts(self) -> bool:
        """Whether `restart` returns a peer without earlier connections."""

    @property
    def returns(self) -> bool:
        """Whether to wait for a rank 0 to reconnect after a session."""

    async def fresh(self) -> None:
        """Return the peer for the next case: a new one, or the same if it is kept. Raise OSError on failure."""

    async def restart(self, *, refused: float = 0.0) -> None:
        """Stop the peer, and start another one. Raise OSError on failure.

        Connections of a rank 0 are refused for the first `refused` seconds.
        """

    async def connect(self, seconds: float) -> Streams:
        """Return the next connection with the peer. Raise Undecided if there is none in time."""

    async def refuse(self, seconds: float) -> None:
        """Stop listening for some seconds, or until the peer exits: connections of a rank 0 are refused."""

    @property
    def has_ended(self) -> bool:
        """Whether the peer's process has."""

    async def crash(self, *, was_closed: bool) -> str:
        """Return how the peer's process crashed, or nothing. `was_closed`: it ended a connection and may be exiting."""

    def stderr(self) -> Sequence[str]:
        """The last lines of the peer's standard error."""

    async def stop(self) -> None:
        """Stop everything."""


class _Launched:
    role: Role

    def __init__(self, host: str, port: int, launcher: Launcher | None, *, keep: bool) -> None:
        self._host, self._port = host, port
        self._launcher = launcher
        self._keep = keep
        self._stack = AsyncExitStack()
        self._running: Running | None = None
        self._is_left_over = False
        """Whether the peer is that of an earlier case, without a connection in this one."""

    @property
    def restarts(self) -> bool:
        return self._launcher is not None

    @property
    def returns(self) -> bool:
        return self._keep

    async def fresh(self) -> None:
        if not self._keep or self._running is None or self._running.ended() is not None:
            await self.restart()
        else:
            self._is_left_over = True

    async def restart(self, *, refused: float = 0.0) -> None:
        self._is_left_over = False
        await self.stop()
        await self._prepare()
        if self._launcher is not None:
            async with self._refusing() if refused else nullcontext():
                self._running = await self._stack.enter_async_context(self._launcher(self._host, self._port))
                await self._lives(refused)

    async def refuse(self, seconds: float) -> None:
        async with self._refusing():
            await self._lives(seconds)

    @asynccontextmanager
    async def _refusing(self) -> AsyncIterator[None]:
        """Stop listening."""
        yield

    async def _lives(self, seconds: float) -> None:
        """Wait for some seconds, or until the peer exits."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.has_ended:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _DYING))

    async def _prepare(self) -> None:
        """Prepare what the peer needs before it starts."""

    async def crash(self, *, was_closed: bool) -> str:
        if self._running is None:
            return ""
        deadline = asyncio.get_running_loop().time() + (_DYING if was_closed else 0)
        while (ended := self._running.ended()) is None:
            if asyncio.get_running_loop().time() >= deadline:
                return ""
            await asyncio.sleep(_DYING / 10)
        return ended.how if ended.is_crash(self.role) else ""

    def stderr(self) -> Sequence[str]:
        return () if self._running is None else self._running.stderr()

    async def stop(self) -> None:
        await self._stack.aclose()
        self._running = None

    @property
    def has_ended(self) -> bool:
        return self._running is not None and self._running.ended() is not None

    async def _replaced(self) -> bool:
        """Restart a kept peer that exited since the last case; return whether it did."""
        was_left_over = self._is_left_over
        if was_left_over:
            await self.restart()
        return was_left_over

    def _unreachable(self, text: str) -> Undecided:
        ended = None if self._running is None else self._running.ended()
        return Undecided(Verdict.INCONCLUSIVE, text if ended is None else f"{text}; {ended.how}")


class RankOneTarget(_Launched):
    """A rank 1 that listens at `host`:`port`, started by `launcher` if given.

    `keep`: one process serves all cases while it runs.
    """

    role = Role.RESPONDER

    def __init__(self, host: str, port: int, launcher: Launcher | None = None, *, keep: bool = False) -> None:
        super().__init__(host, port, launcher, keep=keep)

    async def fresh(self) -> None:
        if self.restarts:
            await super().fresh()

    async def connect(self, seconds: float) -> Streams:
        refused = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        streams = await asyncio.open_connection(self._host, self._port)
                    except OSError as error:
                        refused = f": {error.strerror or error}"
                        if self.has_ended and not await self._replaced():
                            break
                        await asyncio.sleep(_RETRY)
                    else:
                        self._is_left_over = False
                        return streams
        where = f"{self._host}:{self._port}"
        waited = "" if self.has_ended else f" in {seconds:g} s"
        raise self._unreachable(f"no connection to {where}{waited}{refused}")


class RankZeroTarget(_Launched):
    """A rank 0 that connects to us at `host`:`port`, started by `launcher` if given. Port 0 is any free port.

    `keep`: one process leads all sessions while it runs, and reconnects at times of its own.
    """

    role = Role.INITIATOR

    def __init__(self, host: str, port: int, launcher: Launcher | None = None, *, keep: bool = False) -> None:
        super().__init__(host, port, launcher, keep=keep)
        self._listens = False
        self._arrived: asyncio.Queue[Streams] = asyncio.Queue()

    async def fresh(self) -> None:
        if self.restarts or not self._listens:
            await super().fresh()

    async def _prepare(self) -> None:
        """Open a new listener for each peer: pending connections of the last one are dropped."""
        self._stack.callback(self._turn_away)
        await self._listen()
        self._listens = True

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self._stack.callback(self._server.close)

    @asynccontextmanager
    async def _refusing(self) -> AsyncIterator[None]:
        address = self._server.sockets[0].getsockname()
        self._server.close()
        with socket.socket() as kept:  # so that no other process gets the port
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(address)
            yield
        await self._listen()

    async def connect(self, seconds: float) -> Streams:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    streams = await self._next()
                    if streams is not None and not streams[0].at_eof():
                        self._is_left_over = False
                        return streams
                    if streams is None and self.has_ended and not await self._replaced():
                        break
        waited = "" if self.has_ended else f" in {seconds:g} s"
        raise self._unreachable(f"no connection at {self._host}:{self._port}{waited}")

    async def _next(self) -> Streams | None:
        """Return the next connection; None if none arrives for a moment."""
        try:
            return await asyncio.wait_for(self._arrived.get(), _DYING)
        except TimeoutError:
            return None

    def _turn_away(self) -> None:
        """Close all connections, including unused ones."""
        while not self._arrived.empty():
            _, writer = self._arrived.get_nowait()
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._arrived.put_nowait((reader, writer))
