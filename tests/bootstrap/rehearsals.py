"""Rehearsals to look at: their plans, rank 0's part under way, strangers, and what is left."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress

import pytest

from bootstrap import Plan
from bootstrap.link import relay as rehearsal
from bootstrap.link.relay import RehearsalError, rehearse
from wireproto.jaccl import Root


def plans(size: int = 2, session_id: str = "S-1") -> list[Plan]:
    """One a rank, each rank with an address of its own; other tests have others."""
    net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
    ips = tuple(f"{net}.{rank + 1}" for rank in range(size))
    port = 20000 + secrets.randbelow(10000)
    return [Plan(rank=rank, ips=ips, port=port, session_id=session_id) for rank in range(size)]


async def failed(part: asyncio.Future[object]) -> tuple[str, str]:
    """The code and the words of a part that fails."""
    with pytest.raises(RehearsalError) as caught:
        await part
    assert caught.value.stage == "rehearsal"
    return caught.value.code, str(caught.value)


@asynccontextmanager
async def leading(plan: Plan) -> AsyncIterator[asyncio.Task[list[str]]]:
    """Rank 0's part, under way; nothing of it is left afterwards."""
    async with watched(plan) as (_, part):
        yield part


@asynccontextmanager
async def watched(plan: Plan) -> AsyncIterator[tuple[Root, asyncio.Task[list[str]]]]:
    """The same, with a view of who has come."""
    async with rehearsal.rehearsal(plan) as part:
        task = asyncio.create_task(part.run())
        try:
            yield part._root, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.001)


def started(*plans: Plan) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(rehearse(plan)) for plan in plans]


class Stranger:
    """A connection with rank 0 from some address, that says what it likes."""

    def __init__(self, plan: Plan, ip: str) -> None:
        self._plan, self._ip = plan, ip

    async def __aenter__(self) -> "Stranger":
        host, port = self._plan.ips[0], self._plan.port
        self.reader, self.writer = await asyncio.open_connection(host, port, local_addr=(self._ip, 0))
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.writer.close()

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def turned_away(self) -> None:
        with suppress(ConnectionResetError):
            assert await self.reader.read() == b""


async def settled() -> None:
    """Let transports that are closed let go of their sockets."""
    for _ in range(3):
        await asyncio.sleep(0)


async def nothing_left(plan: Plan) -> None:
    """No task, and the port can be bound as if it had never been used."""
    await settled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with closing(socket.socket()) as plain:
        plain.bind((plan.ips[0], plan.port))
