"""A gather over the sealed link, measured by the workers of two ranks, or by native JACCL at a relay."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from bootstrap.link.gather import VARIABLE, Gather, side_channel_factory
from bootstrap.link.relay import HOST, relay
from bootstrap.link.side_channel import SideChannel
from bootstrap.link.transport import Link, connect, listen
from tests.benchmarks.harness import Row, benchmark
from wireproto.jaccl import OWN_ENTRY, Destination, Worker, mapped_gid, mesh_init
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


class _Native:
    """The process with native JACCL, which is this one."""

    def is_running(self) -> bool:
        return True

    async def owns(self, address: tuple[str, int]) -> bool | None:
        return True


async def _relayed(link: Link, rank: int, count: int) -> list[float]:
    """The same, with native code that makes the gathers at a relay."""
    side_channel = SideChannel(rank, 2, lambda peer, message: link.send(message, 10))
    async with relay(rank, 2, side_channel, _Native(), ring=False) as part:
        tasks = [asyncio.create_task(service) for service in (part.serve(), _receive(link, 1 - rank, side_channel))]
        try:
            times = await asyncio.to_thread(_form_groups, rank, part.port, count)
            if rank == 0:  # the root has its last result before rank 1 has
                await asyncio.wait(tasks[1:])
            return times
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _form_groups(rank: int, port: int, count: int) -> list[float]:
    """Act like native JACCL, init after init. The first gather of each is left out: it waits for a rank."""
    times: list[float] = []
    peer = Destination(1, rank, gid=mapped_gid("169.254.1.1"))
    while len(times) < count:
        with _connection(rank, port) as connection:
            init = mesh_init(rank, 2, [peer, OWN_ENTRY] if rank else [OWN_ENTRY, peer])
            own, is_first = next(init), True
            while own:
                start = time.perf_counter()
                if rank == 0:
                    connection.sendall(result := own + _exactly(connection, len(own)))
                else:
                    connection.sendall(own)
                    result = _exactly(connection, 2 * len(own))
                if not is_first:
                    times.append(time.perf_counter() - start)
                is_first = False
                try:
                    own = init.send(result)
                except StopIteration:
                    break
    return times


@contextmanager
def _connection(rank: int, port: int) -> Iterator[socket.socket]:
    if rank == 0:
        with socket.create_server((HOST, port)) as listener:
            connection, _ = listener.accept()
        _exactly(connection, 4)
    else:
        while True:
            with suppress(ConnectionRefusedError):
                connection = socket.create_connection((HOST, port))
                break
            time.sleep(0.001)
        connection.sendall(Worker(rank, 2).start())
    with connection:
        yield connection


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise EOFError
    return data


MEASURES: dict[str, Callable[[Link, int, int], Awaitable[list[float]]]] = {"function": _gather, "relay": _relayed}


async def _rank_0(measure: str, port: int, count: int) -> None:
    link = await connect("127.0.0.1", port, partial(_session, Role.INITIATOR), seconds=10)
    async with link:
        await link.receive()
        await MEASURES[measure](link, 0, count)


async def _rank_1(measure: str, count: int) -> list[float]:
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen("127.0.0.1", 0, partial(_session, Role.RESPONDER), accepted.set_result)
    port = server.sockets[0].getsockname()[1]
    keys = [signer.scalar.hex() for signer in SIGNERS]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.gathers", measure, str(port), str(count), *keys
    )
    try:
        async with asyncio.timeout(60):
            async with await accepted as link:
                await link.receive()
                await link.send(OFFER, 10)
                await link.receive()  # confirmed
                await link.receive()  # and the choice of rank 0
                return await MEASURES[measure](link, 1, count)
    finally:
        server.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def rows(rounds: int) -> list[Callable[[], Row]]:
    names = {"function": "gather of 64 bytes, 2 ranks", "relay": "gather over the relay, 2 ranks"}
    return [partial(_row, name, measure, 40 * rounds) for measure, name in names.items()]


def _row(name: str, measure: str, count: int) -> Row:
    """The ratio is the median in milliseconds."""
    took = benchmark(name, asyncio.run(_rank_1(measure, count)))
    bound = benchmark("1 ms", [0.001])
    return Row(name, "1 ms, in ms", took, bound, took.median() * 1e3, ("<=", 1))


if __name__ == "__main__":
    _, measure, port, count, *keys = sys.argv
    SIGNERS = tuple(KeySigner.from_scalar(bytes.fromhex(key)) for key in keys)  # type: ignore[assignment]
    asyncio.run(_rank_0(measure, int(port), int(count)))
