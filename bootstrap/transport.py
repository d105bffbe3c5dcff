"""Bytes between a TCP socket and messages: one message at a time, each with a deadline."""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

from bootstrap.errors import ConfigError, LinkError
from bootstrap.plan import check_ip
from wireproto import LinkDecoder, Message, WireError, decode_frame, encode_frame, encode_link_frame

MAX_FRAME = 64 * 1024  # nothing that a bootstrap sends comes near; an announced length is a stranger's word
_CHUNK = 16 * 1024
_CODES: dict[type[OSError], str] = {
    ConnectionRefusedError: "link-refused",
    ConnectionResetError: "link-reset",
    BrokenPipeError: "link-reset",
}


def check_loopback(host: str) -> None:
    """ConfigError unless `host` is a loopback address."""
    if not check_ip(host).is_loopback:
        raise ConfigError(
            f"address {host} is not loopback and the link is not authenticated yet, use one such as 127.0.0.1",
            code="not-loopback",
        )


class Link:
    """One connection. Every failure is a LinkError; `timeout` is in seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = LinkDecoder(max_length=MAX_FRAME)
        self._received: deque[tuple[Message, int]] = deque()
        # asyncio turns Nagle off only on sockets that were made with an explicit IPPROTO_TCP.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with suppress(OSError):  # the connection is gone, which is what was wanted
            await self._writer.wait_closed()

    async def send(self, message: Message, timeout: float) -> int:  # noqa: ASYNC109 - a deadline a call
        """Send one message; return the bytes of its cluster frame."""
        frame = encode_frame(message)
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(encode_link_frame(frame))
                await self._writer.drain()
        except OSError as error:
            raise _link_error(error, "sending on the link") from error
        return len(frame)

    async def receive(self, timeout: float) -> tuple[Message, int]:  # noqa: ASYNC109
        """Return the next message and the bytes of its cluster frame."""
        try:
            async with asyncio.timeout(timeout):
                while not self._received:
                    await self._read()
        except OSError as error:
            raise _link_error(error, "waiting for a frame") from error
        except WireError as error:
            raise LinkError(f"the other rank sent what is no frame: {error}", code=error.code) from error
        return self._received.popleft()

    async def _read(self) -> None:
        chunk = await self._reader.read(_CHUNK)
        if not chunk:
            self._decoder.eof()
            raise LinkError("the other rank closed the link; see what it logged", code="link-closed")
        for frame in self._decoder.feed(chunk):
            self._received.append((decode_frame(frame), len(frame)))


class Listener:
    """A listening socket on `host`, port chosen by the system. Takes one connection at a time."""

    def __init__(self, host: str) -> None:
        check_loopback(host)
        try:
            self._socket = socket.create_server((host, 0), backlog=1)
        except OSError as error:
            raise _link_error(error, f"listening on {host}") from error
        self._socket.setblocking(False)
        self.host = host
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def accept(self, timeout: float) -> Link:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                accepted, _ = await asyncio.get_running_loop().sock_accept(self._socket)
                return Link(*await asyncio.open_connection(sock=accepted))
        except OSError as error:
            raise _link_error(error, f"waiting for rank 0 on {self.host}:{self.port}") from error


def listen(host: str) -> Listener:
    return Listener(host)


async def connect(host: str, port: int, timeout: float) -> Link:  # noqa: ASYNC109
    check_loopback(host)
    try:
        async with asyncio.timeout(timeout):
            return Link(*await asyncio.open_connection(host, port))
    except OSError as error:
        raise _link_error(error, f"connecting to {host}:{port}") from error


def _link_error(error: OSError, doing: str) -> LinkError:
    # asyncio.timeout raises TimeoutError, which is an OSError without a number.
    if isinstance(error, TimeoutError):
        return LinkError(
            f"{doing} took too long; raise the deadline, or see what the other rank waits for", code="link-timeout"
        )
    code = _CODES.get(type(error), "link-failed")
    return LinkError(f"{doing} failed: {error.strerror or error}; see what the other rank logged", code=code)
