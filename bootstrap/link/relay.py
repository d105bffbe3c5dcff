"""Keeps native JACCL's side channel on this host: TCP over loopback here, sealed frames between the hosts.

    rank 0    native root ◀── TCP, as ranks 1, 2, … ── control process ══ link
    others    native worker ── TCP, to its coordinator ─▶ control process ══ link

Native code trusts its input, so every gather is checked first, and only the command's connection is accepted. Start
order does not matter: rank 0 retries until the native root listens, and on other ranks the control process listens
before native code starts. A command may form groups one after the other; all of them use the same port. Rank 0 speaks
to a root only if the command's processes listen there.
[EXT-SIDE-CHANNEL-NATIVE]
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

from bootstrap.errors import system_reason
from bootstrap.link.gather import SideChannelError
from bootstrap.link.sessions import alongside
from bootstrap.link.side_channel import SideChannel
from bootstrap.system import current
from wireproto.errors import StateError, TruncatedError, WireError
from wireproto.jaccl import MAX_SIZE, InitGathers, Worker
from wireproto.jaccl.records import I32

HOST: Final = "127.0.0.1"
RETRY_SECONDS: Final = 0.01
"""Between two attempts to reach rank 0's root. Other local processes can connect to it until all relays have."""
STRANGER_SECONDS: Final = 0.2
"""The same, after another program has answered there."""
HELLO_SECONDS: Final = 5.0
"""How long a connection may take to send its rank; a native worker sends it at once."""
MAX_CANDIDATES: Final = 64
"""Connections not yet admitted. More of them wait until one ends or may be closed."""
CROWD_SECONDS: Final = 0.5
"""How long a connection has at least while others wait: to send its rank, and then to be identified."""
LEFT_SECONDS: Final = 0.3
"""How long a process whose connection has ended may take to exit, and tell why by its status."""
_CHUNK: Final = 64 * 1024

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Native(Protocol):
    """The process with native JACCL, and its descendants."""

    def is_running(self) -> bool: ...

    async def owns(self, address: tuple[str, int]) -> bool | None:
        """Whether it has a TCP socket with this local address and port; None if unknown."""


class Relay:
    """One rank's relay, see `relay`."""

    port: int
    """On HOST: where native JACCL finds its side channel, or on rank 0 opens it."""

    def __init__(self, rank: int, size: int, side_channel: SideChannel, native: Native, *, ring: bool) -> None:
        self._rank, self._size, self._ring = rank, size, ring
        self._side_channel, self._native = side_channel, native
        self._init = InitGathers(size, ring=ring)

    async def serve(self) -> None:
        """Relay the gathers of one init after the other, until the process ends during one. Raise SideChannelError."""
        while await self._serve_once():
            self._init = InitGathers(self._size, ring=self._ring)

    async def _serve_once(self) -> bool:
        """Relay the gathers of one init until native code disconnects. Return whether the init was complete."""
        async with self._connected() as streams:
            try:
                await self._pass_on(streams)
            except EOFError:
                pass
            except WireError as error:
                raise self._fault(str(error), "side-channel-malformed") from error
        if self._init.length is None:
            return True
        await asyncio.sleep(LEFT_SECONDS)
        if self._native.is_running():
            raise self._fault("native JACCL disconnected before the init was complete", "side-channel-lost")
        return False

    def _connected(self) -> AbstractAsyncContextManager[list[Stream]]:
        """Keep the connections to native code inside the block."""
        raise NotImplementedError

    async def _pass_on(self, streams: list[Stream]) -> None:
        """Relay the gathers. Raise EOFError when native code disconnects, WireError if it breaks the rules."""
        raise NotImplementedError

    def _fault(self, text: str, code: str) -> SideChannelError:
        return SideChannelError(f"rank {self._rank}, gather {self._init.number} of the init: {text}", code=code)


class RootRelay(Relay):
    """Rank 0's relay: brings the parts of all other ranks to the native root."""

    def __init__(self, size: int, side_channel: SideChannel, native: Native, *, ring: bool) -> None:
        super().__init__(0, size, side_channel, native, ring=ring)
        self.port = current().network.free_port(HOST)
        self._is_idle = asyncio.Event()  # set unless a result is awaited from the root or being sent

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[list[Stream]]:
        streams: list[Stream] = []
        try:
            while len(streams) < self._size - 1:
                try:
                    stream = await asyncio.open_connection(HOST, self.port, limit=_CHUNK)
                except OSError as error:
                    if streams or not isinstance(error, ConnectionError):
                        text = f"the native root at {HOST}:{self.port} cannot be reached: {system_reason(error)}"
                        raise self._fault(text, "side-channel-lost") from error
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                streams.append(stream)
                if len(streams) == 1 and not await self._is_root():
                    streams.pop()[1].close()
                    await asyncio.sleep(STRANGER_SECONDS)
            yield streams
        finally:
            for _, writer in streams:
                writer.close()

    async def _is_root(self) -> bool:
        """Whether it may be native code that listens on the port, which any program can take before that does."""
        for host in (HOST, "0.0.0.0"):  # noqa: S104 - how native code may listen
            if await self._native.owns((host, self.port)) is not False:
                return True
        return False

    async def _pass_on(self, streams: list[Stream]) -> None:
        ends = [_RootEnd(Worker(rank, self._size), *stream) for rank, stream in enumerate(streams, start=1)]
        self._is_idle.set()
        await alongside(self._lead(ends), *(self._read(end) for end in ends))

    async def _lead(self, ends: "list[_RootEnd]") -> None:
        async def ask(parts: dict[int, bytes]) -> bytes:
            self._is_idle.clear()
            self._init.check(parts)
            for end in ends:
                end.write(end.worker.gather(parts[end.worker.rank]))
            wholes = [await end.results.get() for end in ends]
            if len({*wholes}) > 1:
                raise self._fault("the native root answers the ranks differently", "side-channel-malformed")
            self._init.complete(wholes[0])
            return wholes[0]

        for end in ends:
            end.write(end.worker.start())
        while (length := self._init.length) is not None:
            await self._side_channel.gather_from(length, ask)
            self._is_idle.set()
        await asyncio.get_running_loop().create_future()  # until native code disconnects

    async def _read(self, end: "_RootEnd") -> None:
        while chunk := await _read(end.reader):
            if (result := end.worker.receive(chunk)) is not None:
                end.results.put_nowait(result)
        with suppress(TruncatedError):
            end.worker.receive_eof()
            await self._is_idle.wait()  # the root may disconnect before the others have its last result
        raise EOFError


class _RootEnd:
    """The connection to the native root for one other rank."""

    def __init__(self, worker: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.worker = worker
        self.results: asyncio.Queue[bytes] = asyncio.Queue()
        self.write = writer.write
        self.reader = reader


class WorkerRelay(Relay):
    """Another rank's relay: the root for its native worker."""

    def __init__(self, rank: int, size: int, side_channel: SideChannel, native: Native, *, ring: bool) -> None:
        super().__init__(rank, size, side_channel, native, ring=ring)
        self._listener = current().network.listen(HOST, current().network.free_port(HOST))
        self.port = self._listener.getsockname()[1]
        self._writer: asyncio.StreamWriter | None = None  # of the worker
        self._is_asking = False  # its part is sent, the result is not there yet

    def close(self) -> None:
        self._listener.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[list[Stream]]:
        if self._listener.fileno() == -1:  # closed since the last worker connected
            try:
                self._listener = current().network.listen(HOST, self.port)
            except OSError as error:
                text = f"another program has taken {HOST}:{self.port}: {system_reason(error)}"
                raise self._fault(text, "side-channel-lost") from error
        try:
            yield [await self._worker()]
        finally:
            if self._writer is not None:
                self._writer.close()
            self._writer = None

    async def _worker(self) -> Stream:
        """Wait for the worker's connection; close all others and the listener."""
        admission = _Admission(self._listener, self._is_native)
        try:
            connection = await admission.worker()
        finally:
            self._listener.close()
        reader, self._writer = await asyncio.open_connection(sock=connection, limit=_CHUNK)
        return reader, self._writer

    async def _is_native(self, rank: int, connection: socket.socket) -> bool:
        """Whether a connection that sent `rank` is the native worker's. If its rank is wrong, that is a fault."""
        if not 0 <= rank < MAX_SIZE:
            return False
        is_own = await self._native.owns(connection.getpeername())
        if is_own and rank != self._rank:
            text = f"native JACCL reports rank {rank}; do not change MLX_RANK in the command"
            raise self._fault(text, "side-channel-rank")
        return rank == self._rank and is_own is not False

    async def _pass_on(self, streams: list[Stream]) -> None:
        ((reader, writer),) = streams
        self._is_asking = False
        parts: asyncio.Queue[bytes] = asyncio.Queue()
        await alongside(self._follow(parts, writer), self._take_parts(reader, parts))

    async def _follow(self, parts: "asyncio.Queue[bytes]", writer: asyncio.StreamWriter) -> None:
        while self._init.length is not None:
            part = await parts.get()
            self._init.check({self._rank: part})
            whole = await self._side_channel.gather(part)
            self._init.complete(whole)
            self._is_asking = False
            writer.write(whole)
        await asyncio.get_running_loop().create_future()  # until native code disconnects

    async def _take_parts(self, reader: asyncio.StreamReader, parts: "asyncio.Queue[bytes]") -> None:
        buffer = bytearray()
        while chunk := await _read(reader):
            buffer += chunk
            wanted = 0 if self._is_asking else self._init.length or 0
            if len(buffer) > wanted:
                detail = f"rank {self._rank} sent {len(buffer)} bytes instead of {wanted}"
                raise StateError("jaccl-early", detail)
            if len(buffer) == wanted:
                self._is_asking = True
                parts.put_nowait(bytes(buffer))
                buffer.clear()
        raise EOFError


class _Admission:
    """Finds the native worker among the connections to a listener, which any local program can open."""

    def __init__(self, listener: socket.socket, is_native: Callable[[int, socket.socket], Awaitable[bool]]) -> None:
        self._listener, self._is_native = listener, is_native
        self._admitted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._worker: socket.socket | None = None
        self._candidates: dict[asyncio.Task[None], float] = {}
        """With the time when each was last heard, oldest first."""

    async def worker(self) -> socket.socket:
        """Return the worker's connection and close all others. Raise what `is_native` raises."""
        accepting = asyncio.create_task(self._accept())
        try:
            return await self._admitted
        finally:
            tasks = [accepting, *self._candidates]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptors are left
                await asyncio.sleep(RETRY_SECONDS)
                continue
            task = asyncio.create_task(self._admit(connection))
            self._candidates[task] = loop.time()
            task.add_done_callback(partial(self._over, connection))
            while len(self._candidates) == MAX_CANDIDATES:
                oldest, heard = next(iter(self._candidates.items()))
                left = heard + CROWD_SECONDS - loop.time()
                if left > 0:
                    await asyncio.wait(self._candidates, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                else:
                    del self._candidates[oldest]
                    oldest.cancel()

    async def _admit(self, connection: socket.socket) -> None:
        try:
            rank = await _hello(connection)
            task = asyncio.current_task()
            assert task is not None  # noqa: S101
            del self._candidates[task]
            self._candidates[task] = asyncio.get_running_loop().time()
            if await self._is_native(rank, connection) and not self._admitted.done():
                self._admitted.set_result(connection)
                self._worker = connection
        except (OSError, EOFError):
            pass
        except SideChannelError as fault:
            if not self._admitted.done():
                self._admitted.set_exception(fault)

    def _over(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._candidates.pop(task, None)
        if connection is not self._worker:
            connection.close()


@asynccontextmanager
async def relay(rank: int, size: int, side_channel: SideChannel, native: Native, *, ring: bool) -> AsyncIterator[Relay]:
    """Yield a side channel for this host's native JACCL; run `serve` inside the block.

    Ranks other than 0 listen from the start of the block.
    """
    if rank == 0:
        yield RootRelay(size, side_channel, native, ring=ring)
        return
    part = WorkerRelay(rank, size, side_channel, native, ring=ring)
    try:
        yield part
    finally:
        part.close()


async def _hello(connection: socket.socket) -> int:
    """Return the rank that a connection sends. Raise OSError or EOFError."""
    hello = b""
    async with asyncio.timeout(HELLO_SECONDS):
        while len(hello) < I32.size:
            chunk = await asyncio.get_running_loop().sock_recv(connection, I32.size - len(hello))
            if not chunk:
                raise EOFError
            hello += chunk
    return int(I32.unpack(hello)[0])


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:  # a reset is an end too
        return b""
