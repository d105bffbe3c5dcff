"""JACCL on all hosts, but for its devices: native with a side channel over TCP, or with gathers that another makes.

It trusts what it is given, as native code does: a wrong gather, or a stray connection, is told in `Groups.broken`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from zlib import crc32

from bootstrap.link.gather import GATHER_SECONDS, HEADER, SLACK_SECONDS
from bootstrap.link.relay import HOST
from tests.simulation.groups import Groups
from tests.simulation.machine import SimulatedProcess
from tests.simulation.network import Address
from wireproto.errors import WireError
from wireproto.jaccl import OWN_ENTRY, Destination, mapped_gid, mesh_init, ring_init
from wireproto.jaccl.records import I32, OWN_ID

Gather = Callable[[bytes], Awaitable[bytes]]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

TRIES: Final = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each attempt of a native worker to connect."""


async def form(
    groups: Groups, process: SimulatedProcess, rank: int, size: int, session: str, gather: Gather, *, is_ring: bool
) -> bool:
    """Form a mesh or a ring; False where that fails."""
    own = Destination(1, _number(session), gid=mapped_gid(process.machine.ip))
    if is_ring:
        init = ring_init(rank, size, [own], [own])
    else:
        init = mesh_init(rank, size, [OWN_ENTRY if peer == rank else own for peer in range(size)])  # type: ignore[assignment]
    groups.join(process, session)
    try:
        part = next(init)
        while True:
            part = init.send(await gather(part))
    except StopIteration as done:
        lists = [*done.value[0], *done.value[1]] if is_ring else done.value
    except (EOFError, OSError):
        return False
    except WireError as error:
        groups.broken.append(f"native code of rank {rank} got a wrong gather: {error}")
        return False
    met = {each.queue_pair_number for each in sum(map(tuple, lists), ()) if each.local_id != OWN_ID}
    if met != {_number(session)}:
        groups.broken.append(f"the inits of {session} and another session met")
        return False
    groups.formed.setdefault(session, set()).add(rank)
    return True


def _number(session: str) -> int:
    return crc32(session.encode()) & 0x7FFFFFFF


async def asked(process: SimulatedProcess) -> Gather:
    """Return a gather that the control process makes, at the other end of a socket pair."""
    reader, writer = await asyncio.open_connection(sock=process.channel)

    async def gather(part: bytes) -> bytes:
        writer.write(HEADER.pack(len(part)) + part)
        async with asyncio.timeout(GATHER_SECONDS + 2 * SLACK_SECONDS):
            (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            return await reader.readexactly(length)

    return gather


async def native(groups: Groups, rank: int, size: int, coordinator: Address) -> Gather:
    """Return a gather over native JACCL's own side channel. OSError or EOFError where that fails."""
    host, port = coordinator
    if host != HOST and groups.must_be_relayed:
        groups.broken.append(f"native code of rank {rank} uses the network, and all ranks have side-channel/1")
    workers = await (_root(groups, size, host, port) if rank == 0 else _worker(rank, host, port))

    async def gather(part: bytes) -> bytes:
        if rank:
            (reader, writer), *_ = workers.values()
            writer.write(part)
            return await reader.readexactly(size * len(part))
        parts = [part] + [await workers[peer][0].readexactly(len(part)) for peer in range(1, size)]
        for _, writer in workers.values():
            writer.write(b"".join(parts))
        return b"".join(parts)

    return gather


async def _root(groups: Groups, size: int, host: str, port: int) -> dict[int, Stream]:
    streams: asyncio.Queue[Stream] = asyncio.Queue()
    server = await asyncio.start_server(lambda *stream: streams.put_nowait(stream), host, port)
    try:
        accepted = [await streams.get() for _ in range(size - 1)]
    finally:
        server.close()
    workers = {}
    for reader, writer in accepted:
        (rank,) = I32.unpack(await reader.readexactly(I32.size))
        if rank in workers or not 0 < rank < size:
            groups.broken.append(f"a connection that says rank {rank} met the native root")
            raise EOFError
        workers[rank] = (reader, writer)
    return workers


async def _worker(rank: int, host: str, port: int) -> dict[int, Stream]:
    for seconds in TRIES:
        await asyncio.sleep(seconds)
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            continue
        writer.write(I32.pack(rank))
        return {0: (reader, writer)}
    raise EOFError
