"""JACCL's mesh init played once over plain TCP before the native one: code that cannot crash finds what is wrong.

Rank 0 listens on the coordinator address and port before it sends jacclBootstrap, so the others find it at their first
try. The workers close first: a port whose listener closed first would be kept by the system for a while. Each rank's
queue pair number comes from the session ID, so that ranks of different sessions notice. [EXT-REHEARSAL]
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from bootstrap.errors import BootstrapError, system_reason
from bootstrap.plan import Plan
from wireproto.errors import TruncatedError, WireError
from wireproto.jaccl import OWN_ENTRY, Connection, Destination, Destinations, Root, Worker, mapped_gid, mesh_init

SECONDS: Final = 2.0
"""The whole rehearsal, from the bootstrap frame on."""
_RETRY_SECONDS: Final = 0.05
_CHUNK: Final = 4096

T = TypeVar("T")


class RehearsalError(BootstrapError):
    """The side channel does not work on the coordinator address and port; nothing native has run."""

    stage = "rehearsal"


@asynccontextmanager
async def rehearsal(plan: Plan) -> AsyncIterator["Rehearsal"]:
    """Rank 0's part, listening inside the block. RehearsalError if the coordinator port cannot be had."""
    host, port = plan.ips[0], plan.port
    part = Rehearsal(plan)
    try:
        # Without SO_REUSEPORT, with which MLX would share the port with a stranger and never know.
        server = await asyncio.start_server(part.accept, host, port, reuse_address=True, limit=_CHUNK)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        text = "another program listens there" if in_use else os.strerror(error.errno or 0)
        raise RehearsalError(
            f"cannot listen on the coordinator's {host}:{port}: {text}",
            code="port-in-use" if in_use else "port-refused",
        ) from error
    try:
        yield part
    finally:
        server.close()
        await part.close()


class Rehearsal:
    """Rank 0 as the root of the side channel."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._root = Root(plan.size)
        self._news = asyncio.Event()
        self._fault: RehearsalError | None = None
        self._writers: dict[Connection, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turned_away: dict[str, None] = {}  # each reason once, in the order in which they came

    async def run(self) -> list[str]:
        """Play it with all workers; say who else came and was turned away. RehearsalError if it fails."""
        try:
            async with asyncio.timeout(SECONDS):
                await self._play()
        except TimeoutError:
            missing = ", ".join(f"rank {rank} ({self._plan.ips[rank]})" for rank in self._root.missing)
            others = f"; turned away: {'; '.join(self._turned_away)}" if self._turned_away else ""
            raise RehearsalError(
                f"{missing or 'a rank'} did not play its part at {self._plan.coordinator} within {SECONDS:g} s{others}",
                code="rehearsal-timeout",
            ) from None
        return list(self._turned_away)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self) -> None:
        init = mesh_init(0, self._plan.size, _destinations(self._plan))
        result = b""
        try:
            own = next(init)
            await self._until(lambda: len(self._root.workers) == self._plan.size - 1)
            while True:
                self._root.gather(own)
                result = await self._until(self._root.result)
                for worker in self._root.workers.values():
                    self._writers[worker].write(result)
                own = init.send(result)
        except StopIteration as done:
            _check_session(self._plan, done.value)
        except WireError as error:
            raise self._fault or _foreign(f"the ranks' side channels do not fit each other: {error}") from error
        await self._until(lambda: self._writers.keys().isdisjoint(self._root.workers.values()))

    async def _until(self, condition: Callable[[], T | None]) -> T:
        while not (result := condition()):
            if self._fault is not None:
                raise self._fault
            self._news.clear()
            await self._news.wait()
        return result

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a worker's, or a stranger's, which ends nothing but itself."""
        ip = writer.get_extra_info("peername")[0]
        connection: Connection | None = None
        try:
            if ip not in self._plan.ips[1:]:
                self._turned_away[f"{ip}, which is no rank's address"] = None
                return
            connection = self._root.connect()
            self._writers[connection] = writer
            while chunk := await _read(reader):
                connection.receive(chunk)
                rank = connection.rank
                if rank is not None and ip != self._plan.ips[rank]:
                    self._fault = _foreign(f"a HELLO for rank {rank} came from {ip}, not from {self._plan.ips[rank]}")
                self._news.set()
            connection.receive_eof()
        except WireError as error:
            if connection is None or connection.rank is None:
                self._turned_away[f"{ip}, which said no HELLO ({error})"] = None
            else:
                self._fault = _fault(f"rank {connection.rank} at {ip}", error)
        finally:
            writer.close()
            if connection is not None:
                self._writers.pop(connection, None)
            self._news.set()


async def rehearse(plan: Plan) -> None:
    """A worker's part. RehearsalError if it fails, or takes longer than `SECONDS`."""
    refused = False
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(
                        plan.ips[0], plan.port, local_addr=(plan.ips[plan.rank], 0)
                    )
                    break
                except ConnectionRefusedError:
                    refused = True
                    await asyncio.sleep(_RETRY_SECONDS)
            refused = False
            try:
                await _play_worker(plan, reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        if refused:
            text, code = f"nobody listens at the coordinator {plan.coordinator}", "rehearsal-refused"
        else:
            text, code = f"the coordinator {plan.coordinator} did not answer within {SECONDS:g} s", "rehearsal-timeout"
        raise RehearsalError(text, code=code) from None
    except OSError as error:
        raise RehearsalError(
            f"the coordinator {plan.coordinator} cannot be reached: {system_reason(error)}",
            code="rehearsal-unreachable",
        ) from error
    except WireError as error:
        raise _fault(f"the coordinator {plan.coordinator}", error) from error


async def _play_worker(plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    channel = Worker(plan.rank, plan.size)
    init = mesh_init(plan.rank, plan.size, _destinations(plan))
    writer.write(channel.start())
    try:
        own = next(init)
        while True:
            writer.write(channel.gather(own))
            while (result := channel.receive(await _chunk(reader, channel))) is None:
                pass
            own = init.send(result)
    except StopIteration as done:
        _check_session(plan, done.value)


async def _chunk(reader: asyncio.StreamReader, channel: Worker) -> bytes:
    chunk = await _read(reader)
    if not chunk:
        channel.receive_eof()
    return chunk


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:  # a reset is an end, too
        return b""


def _destinations(plan: Plan) -> list[Destination]:
    own = Destination(0, _session_number(plan), gid=mapped_gid(plan.ips[plan.rank]))
    return [OWN_ENTRY if rank == plan.rank else own for rank in range(plan.size)]


def _session_number(plan: Plan) -> int:
    """The first 31 bits of the session ID's SHA-256."""
    return int.from_bytes(hashlib.sha256(plan.session_id.encode()).digest()[:4]) >> 1


def _check_session(plan: Plan, lists: tuple[Destinations, ...]) -> None:
    for rank, entries in enumerate(lists):
        for peer, entry in enumerate(entries):
            if peer != rank and entry.queue_pair_number != _session_number(plan):
                raise _foreign(f"rank {rank} at the coordinator {plan.coordinator} belongs to another session")


def _fault(who: str, error: WireError) -> RehearsalError:
    if isinstance(error, TruncatedError):
        return RehearsalError(f"{who} left in the middle; see what it says", code="rehearsal-lost")
    return _foreign(f"{who} does not keep to the side channel: {error}")


def _foreign(text: str) -> RehearsalError:
    return RehearsalError(text, code="rehearsal-foreign")
