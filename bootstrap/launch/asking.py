"""The launcher's requests to a host, over one connection to `jaccl-bootstrap host`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from bootstrap.capabilities import own_version
from bootstrap.errors import ConfigError
from bootstrap.launch.channel import HEARTBEAT_SECONDS
from bootstrap.launch.requests import Answer, Failed, Hello, Over, Request, decode_answer, encode
from bootstrap.launch.ssh import Connection, Host, HostError

CLOSE_SECONDS: Final = 3.0
"""For a host to end once it is asked nothing more."""


class Asking:
    """A host that takes requests, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self.host = connection.host
        self._connection = connection
        self._lines = connection.lines()

    async def ask(self, request: Request, seconds: float | None = None) -> list[Answer]:
        """Return the host's answers. HostError if it fails, does not answer in time, or is of another version."""
        limit = self.host.seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                return [answer async for answer in self._answers(request)]
        except TimeoutError:
            last = next(reversed(self._connection.errors), "it said nothing")
            raise HostError(self.host, f"no answer within {limit:g} s ({last})", code="host-silent") from None

    async def _answers(self, request: Request) -> AsyncIterator[Answer]:
        self._connection.tell(encode(request))
        async for line in self._lines:
            try:
                answer = decode_answer(line)
            except ConfigError as error:
                text = f"{error}; its shell's startup files must not print"
                raise HostError(self.host, text, code="host-answer") from error
            match answer:
                case Hello(version=version):
                    self._check(version)
                case Failed(code=code, message=message):
                    raise HostError(self.host, message, code=code)
                case Over():
                    return
                case _:
                    yield answer
        raise self._connection.failure(await self._connection.ended())

    def _check(self, version: str) -> None:
        if version != own_version():
            text = f"it has version {version or 'unknown'} of cluster-wireproto, and this host {own_version()}"
            raise HostError(self.host, text, code="package-version")


@asynccontextmanager
async def asking(host: Host) -> AsyncIterator[Asking]:
    """Connect to a host for requests inside the block."""
    connection = await Connection.start(host, ["host"], lambda text: None)
    beating = asyncio.create_task(_beat(connection))
    try:
        yield Asking(connection)
        beating.cancel()
        connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.ended()
    finally:
        beating.cancel()
        await connection.kill()


async def _beat(connection: Connection) -> None:
    """Have the host wait for more requests: an empty line is a heartbeat."""
    while True:
        if not connection.lags:
            connection.tell(b"\n")
        await asyncio.sleep(HEARTBEAT_SECONDS)
