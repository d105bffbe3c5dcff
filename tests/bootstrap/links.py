"""Two ends of a real link on loopback, for the tests of transport and roles."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from bootstrap.link.sessions import RankOne, RankZero, Times
from bootstrap.link.transport import Link, connect, listen
from wireproto import Revision
from wireproto.session import Config, Established, Role, Session
from wireproto.session.handshake import KeySigner

HOST = "127.0.0.1"
SECONDS = 30.0
"""Seconds for work that takes milliseconds on an idle machine."""
RANK_0, RANK_1, STRANGER = (KeySigner.generate() for _ in range(3))
QUICK = Times(
    connect=10, handshake=10, confirm=10, ping_every=0.02, pong=5, reconnect=0.05, retry=0.02, send=10
)  # fmt: skip

T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(SECONDS):
            return await main()

    return asyncio.run(limited())


def session_0(
    peer_ip: str = HOST,
    *,
    revision: Revision = Revision.V2,
    pin: bytes | None = RANK_1.public_key,
    extensions: Collection[str] = (),
) -> Session:
    return Session(Config(role=Role.INITIATOR, signer=RANK_0, pin=pin, revision=revision, extensions=extensions))


def session_1(
    peer_ip: str = HOST,
    *,
    revision: Revision = Revision.V2,
    pin: bytes | None = RANK_0.public_key,
    extensions: Collection[str] = (),
) -> Session:
    return Session(Config(role=Role.RESPONDER, signer=RANK_1, pin=pin, revision=revision, extensions=extensions))


@asynccontextmanager
async def linked(revision: Revision = Revision.V2) -> AsyncIterator[tuple[Link, Link]]:
    """Both ends, established."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen(HOST, 0, partial(session_1, revision=revision), accepted.set_result)
    port = server.sockets[0].getsockname()[1]
    async with (
        await connect(HOST, port, partial(session_0, revision=revision), seconds=SECONDS) as near,
        await accepted as far,
    ):
        assert isinstance(await near.receive(), Established)
        assert isinstance(await far.receive(), Established)
        yield near, far
        server.close()


class Steps(list[tuple[str, dict[str, Any]]]):
    """Records the reports of a role; `until` waits for an event."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))
        self._news.set()

    def names(self) -> list[str]:
        return [name for name, _ in self]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self if each == name]

    async def until(self, name: str, count: int = 1, **wanted: object) -> dict[str, Any]:
        """Wait for the `count`-th event of that name with these fields; return its fields."""
        while True:
            found = [fields for fields in self.of(name) if wanted.items() <= fields.items()]
            if len(found) >= count:
                return found[count - 1]
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def serving(
    times: Times = QUICK, revision: Revision = Revision.V2, **wanted: Any
) -> AsyncIterator[tuple[RankOne, Steps, int]]:
    """A running rank 1: itself, its reports, its port."""
    steps = Steps()
    make_session = wanted.pop("make_session", partial(session_1, revision=revision))
    rank = RankOne(HOST, 0, make_session, times=times, report=steps, **wanted)
    task = asyncio.create_task(rank.run())
    try:
        yield rank, steps, (await steps.until("listening"))["port"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def leading(
    port: int, times: Times = QUICK, revision: Revision = Revision.V2, **wanted: Any
) -> AsyncIterator[tuple[RankZero, Steps]]:
    """A running rank 0: itself, its reports."""
    steps = Steps()
    make_session = wanted.pop("make_session", partial(session_0, revision=revision))
    rank = RankZero(HOST, port, make_session, times=times, report=steps, **wanted)
    task = asyncio.create_task(rank.run())
    try:
        yield rank, steps
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
