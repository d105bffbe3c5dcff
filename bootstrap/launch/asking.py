"""The launcher's requests to a host, over a connection to `jaccl-bootstrap host`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from bootstrap.capabilities import own_version
from bootstrap.errors import ConfigError
from bootstrap.launch.channel import HEARTBEAT_SECONDS
from bootstrap.launch.requests import Answer, Failed, Hello, Over, Request, decode_answer, encode
from bootstrap.launch.ssh import Connection, Host, HostError

CLOSE_SECONDS: Final = 3.0
"""How long a host may take to exit after the last request."""


MAX_ANSWERS: Final = 100
T = TypeVar("T")


class Asking:
    """A host that answers requests, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self.host = connection.host
        self._connection = connection
        self._lines = connection.lines()

    async def one(self, request: Request, kind: type[T], seconds: float | None = None) -> T:
        """Return the host's only answer. Raise HostError as `each` does."""
        answers = await self.each(request, kind, seconds)
        if len(answers) != 1:
            raise HostError(self.host, f"it gave {len(answers)} answers instead of one", code="host-answer")
        return answers[0]

    async def each(self, request: Request, kind: type[T], seconds: float | None = None) -> list[T]:
        """Return the host's answers, all of this kind.

        Raise HostError if it fails, is late, answers something else, or has another version.
        """
        limit = self.host.seconds if seconds is None else seconds
        answers: list[T] = []
        try:
            async with asyncio.timeout(limit):
                async for answer in self._answers(request):
                    if not isinstance(answer, kind) or len(answers) == MAX_ANSWERS:
                        text = f"it sent an unexpected answer, not at most {MAX_ANSWERS} of {kind.__name__}"
                        raise HostError(self.host, text, code="host-answer")
                    answers.append(answer)
                return answers
        except TimeoutError:
            raise self._connection.silence(limit) from None

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
            text = f"it has cluster-wireproto {version or '(unknown)'}, and this host {own_version()}; install the same"
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
    """Send heartbeats, which are empty lines, so that the host waits for more requests."""
    while True:
        if not connection.lags:
            connection.tell(b"\n")
        await asyncio.sleep(HEARTBEAT_SECONDS)
