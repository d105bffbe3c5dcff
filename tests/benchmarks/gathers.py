"""A gather over the sealed link, as the workers of two ranks in two processes see it."""

import asyncio
import os
import socket
import sys
import time
from contextlib import suppress
from functools import partial

from harness import Row, benchmark

from bootstrap.link.side_channel import VARIABLE, Gather, SideChannel, side_channel_factory
from bootstrap.link.transport import Link, connect, listen
from wireproto.messages import SIDE_CHANNEL_1, JacclBootstrapPayload, MemoryPressure, PongPayload
from wireproto.session import Config, MessageReceived, Role, Session
from wireproto.session.handshake import KeySigner

PART = os.urandom(64)
"""Two Destinations, as in the init of a mesh of two ranks."""
SIGNERS = (KeySigner.generate(), KeySigner.generate())
OFFER = PongPayload(False, False, MemoryPressure.NORMAL, (SIDE_CHANNEL_1,))
CHOICE = JacclBootstrapPayload(29400, "S-1", (SIDE_CHANNEL_1,))


def _session(role: Role, peer_ip: str) -> Session:
    own, peer = (0, 1) if role is Role.INITIATOR else (1, 0)
    pin = SIGNERS[peer].public_key
    return Session(Config(role=role, signer=SIGNERS[own], pin=pin, extensions=(SIDE_CHANNEL_1,)))


async def _receive(link: Link, peer: int, side_channel: SideChannel) -> None:
    while True:
        match await link.receive():
            case MessageReceived(PongPayload()):
                await link.send(CHOICE, 10)
            case MessageReceived(message):
                side_channel.take(peer, message)


async def _gather(link: Link, rank: int, count: int) -> list[float]:
    """The seconds that each of `count` gathers took, from the worker's call to its return."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with far:
        os.environ[VARIABLE] = str(far.fileno())
        factory = side_channel_factory()
    assert factory is not None
    side_channel = SideChannel(rank, 2, lambda peer, message: link.send(message, 10))
    services = [side_channel.serve(near), _receive(link, 1 - rank, side_channel)]
    tasks = [asyncio.create_task(service) for service in services]
    try:
        return await asyncio.to_thread(_work, factory(rank, 2), count)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _work(gather: Gather, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        gather(PART, len(PART))
        times.append(time.perf_counter() - start)
    return times


async def _rank_0(port: int, count: int) -> None:
    link = await connect("127.0.0.1", port, partial(_session, Role.INITIATOR), seconds=10)
    async with link:
        await link.receive()
        await _gather(link, 0, count)


async def _rank_1(count: int) -> list[float]:
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen("127.0.0.1", 0, partial(_session, Role.RESPONDER), accepted.set_result)
    port = server.sockets[0].getsockname()[1]
    keys = [signer.scalar.hex() for signer in SIGNERS]
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, str(port), str(count), *keys)
    try:
        async with asyncio.timeout(60):
            async with await accepted as link:
                await link.receive()
                await link.send(OFFER, 10)
                await link.receive()  # confirmed
                await link.receive()  # and what rank 0 has chosen
                return await _gather(link, 1, count)
    finally:
        server.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def gather(rounds: int) -> Row:
    """The ratio is the median in milliseconds."""
    name = "gather of 64 bytes, 2 ranks"
    took = benchmark(name, asyncio.run(_rank_1(40 * rounds)))
    bound = benchmark("1 ms", [0.001])
    return Row(name, "1 ms, in ms", took, bound, took.median() * 1e3, ("<=", 1))


if __name__ == "__main__":
    _, port, count, *keys = sys.argv
    SIGNERS = tuple(KeySigner.from_scalar(bytes.fromhex(key)) for key in keys)  # type: ignore[assignment]
    asyncio.run(_rank_0(int(port), int(count)))
