"""Where the peer under test comes from: how it is started, and how a connection with it is made."""

import asyncio
import os
import shlex
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Final, NamedTuple, Protocol

from wireproto.conformance.verdicts import Missed, Undecided, Verdict
from wireproto.session import Role


class Ended(NamedTuple):
    """How a peer has ended that was not stopped."""

    how: str
    crashed: bool


Launcher = Callable[[str, int], AbstractAsyncContextManager[Callable[[], Ended | None]]]
"""Starts a peer under test: rank 1 has to listen at the address, rank 0 to connect to it. What it gives says how the
peer has ended, if it has; on leaving the peer is stopped."""

STOP_SECONDS: Final = 2.0
_RETRY: Final = 0.02
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target(Protocol):
    """Peers of one role, one at a time."""

    @property
    def role(self) -> Role:
        """The peer's."""

    @property
    def restarts(self) -> bool:
        """Whether `fresh` gives a peer that has had no connection yet."""

    async def fresh(self) -> None:
        """Stops the peer, and starts another one. OSError where that cannot be."""

    async def connect(self, seconds: float) -> Streams:
        """The next connection with the peer. Undecided where there is none in time."""

    async def settle(self) -> None:
        """Missed if the peer has crashed."""

    async def stop(self) -> None:
        """Stops all."""


class _Launched:
    def __init__(self, launcher: Launcher | None) -> None:
        self._launcher = launcher
        self._stack = AsyncExitStack()
        self._ended: Callable[[], Ended | None] = _lives

    @property
    def restarts(self) -> bool:
        return self._launcher is not None

    async def settle(self) -> None:
        ended = self._ended()
        if ended is not None and ended.crashed:
            raise Missed("a peer that lives on", ended.how)

    async def stop(self) -> None:
        await self._stack.aclose()

    def _unreachable(self, text: str) -> Undecided:
        ended = self._ended()
        return Undecided(Verdict.INCONCLUSIVE, text if ended is None else f"{text}; {ended.how}")

    async def _start(self, host: str, port: int) -> None:
        if self._launcher is not None:
            self._ended = await self._stack.enter_async_context(self._launcher(host, port))


class RankOneTarget(_Launched):
    """A rank 1 that listens at `host`:`port`, where we connect; started by `launcher` if there is one."""

    role = Role.RESPONDER

    def __init__(self, host: str, port: int, launcher: Launcher | None = None) -> None:
        super().__init__(launcher)
        self._address = host, port

    async def fresh(self) -> None:
        if self.restarts:
            await self.stop()
            await self._start(*self._address)

    async def connect(self, seconds: float) -> Streams:
        host, port = self._address
        refused = ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await asyncio.open_connection(host, port)
                    except OSError as error:
                        refused = f": {error.strerror or error}"
                        await asyncio.sleep(_RETRY)
        except TimeoutError:
            raise self._unreachable(f"no connection to {host}:{port} in {seconds:g} s{refused}") from None


class RankZeroTarget(_Launched):
    """A rank 0 that connects to us at `host`:`port`; started by `launcher` if there is one. Port 0 is any free one."""

    role = Role.INITIATOR

    def __init__(self, host: str, port: int, launcher: Launcher | None = None) -> None:
        super().__init__(launcher)
        self._host, self._port = host, port
        self._listens = False
        self._arrived: asyncio.Queue[Streams] = asyncio.Queue()

    async def fresh(self) -> None:
        """A listener of its own for each peer: what the last one still had under way is gone with it."""
        if self.restarts or not self._listens:
            await self.stop()
            server = await asyncio.start_server(self._accept, self._host, self._port)
            self._port = server.sockets[0].getsockname()[1]
            self._stack.callback(self._turn_away)
            self._stack.callback(server.close)
            self._listens = True
            await self._start(self._host, self._port)

    async def connect(self, seconds: float) -> Streams:
        try:
            async with asyncio.timeout(seconds):
                return await self._arrived.get()
        except TimeoutError:
            raise self._unreachable(f"no connection at {self._host}:{self._port} in {seconds:g} s") from None

    def _turn_away(self) -> None:
        """Closes what came, and what no case took."""
        while not self._arrived.empty():
            _, writer = self._arrived.get_nowait()
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._arrived.put_nowait((reader, writer))


def command_launcher(command: str) -> Launcher:
    """Runs a command, in words as a shell splits them; CONFORM_HOST and CONFORM_PORT tell it the address."""
    words = shlex.split(command)

    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Callable[[], Ended | None]]:
        environment = {**os.environ, "CONFORM_HOST": host, "CONFORM_PORT": str(port)}
        with tempfile.TemporaryFile() as errors:
            process = await asyncio.create_subprocess_exec(
                *words,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            stopping = False

            def ended() -> Ended | None:
                code = process.returncode
                if stopping or code is None:
                    return None
                errors.seek(0)
                lines = errors.read()[-4096:].decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "")
                name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                return Ended(f"the peer has ended with {name}" + (f": {last}" if last else ""), crashed=code < 0)

            try:
                yield ended
            finally:
                stopping = True
                await _stop(process)

    return launch


def _lives() -> None:
    """For a peer of which nothing is known."""


async def _stop(process: asyncio.subprocess.Process) -> None:
    """The whole process group: a shell's children, too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
                return
