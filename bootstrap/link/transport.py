"""Moves bytes between a TCP socket and a `wireproto` session: one `Link` per connection."""

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, cast

from bootstrap.errors import IdentityError, LinkError, system_reason
from bootstrap.link.record import Capture, LinkCapture
from wireproto.errors import RemoteError, SealError
from wireproto.messages import Message
from wireproto.session import Event, Role, Session, State

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 10, 5, 3
CLOSE_SECONDS: Final = 1.0
"""How long the last bytes of a link may take to be sent."""

MAX_WAITING: Final = 4 * 1024 * 1024
_TCP_RXT_CONNDROPTIME: Final = 0x80  # macOS; the socket module has no name for it

_CODES: Final[dict[type[OSError], str]] = {
    ConnectionRefusedError: "link-refused",
    ConnectionResetError: "link-reset",
    BrokenPipeError: "link-reset",
}

MakeSession = Callable[[str], Session]
"""Returns the session for a connection with the peer at an IP address."""


class Link(asyncio.BufferedProtocol):
    """One connection and its session. Every failure is a LinkError; times are in seconds.

    Reading pauses while more than `MAX_WAITING` bytes and a frame are unread, so that a peer cannot exhaust the
    memory of a busy one.
    """

    session: Session
    peer_ip: str
    peer_port: int

    def __init__(
        self,
        make_session: MakeSession,
        on_connection: Callable[["Link"], None] | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._make_session = make_session
        self._on_connection = on_connection
        self._capture = capture
        self._recorded: LinkCapture | None = None
        self._lent = memoryview(b"")  # where the next bytes go
        self._events: deque[Event] = deque()
        self._waiting = 0  # bytes received since all events were taken
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._gone = asyncio.Event()
        self._failure: LinkError | None = None

    # -- for a role ----------------------------------------------------------------------------------------------------

    async def receive(self) -> Event:
        """Return the next event. Once all are taken, raise LinkError with how the link ended."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if not self._events:
            self._waiting = 0
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return event

    async def send(self, message: Message, timeout: float) -> None:  # noqa: ASYNC109 - a deadline a call
        """Send one message. Raise LinkError if the peer does not accept it in time."""
        if not self._is_open():
            raise self._failure or LinkError("the session has ended", code="link-closed")
        try:
            self.session.send(message)
        except SealError as error:
            failure = LinkError(f"a new session is needed: {error}", code=error.code)
            self.close(failure)
            raise failure from error
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
        except TimeoutError:
            failure = LinkError("the other rank accepts no more bytes; see what it is waiting for", code="link-timeout")
            self.close(failure)
            raise failure from None

    def close(self, failure: LinkError) -> None:
        """Close the connection after sending what is queued. `receive` raises `failure` from now on."""
        if self._failure is None:
            self._failure = failure
        self._news.set()
        self._transport.close()

    async def ended(self, seconds: float) -> None:
        """Wait so long for the end of the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()

    # -- for asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writable.set()
        tune(transport.get_extra_info("socket"))
        self.peer_ip, self.peer_port = transport.get_extra_info("peername")
        self.session = self._make_session(self.peer_ip)
        connects = self.session.role is Role.INITIATOR
        if self._capture is not None:
            own, peer = transport.get_extra_info("sockname"), (self.peer_ip, self.peer_port)
            self._recorded = self._capture.link(own, peer, connects=connects)
        self._flush()
        if self._on_connection is not None:
            self._on_connection(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        self._lent = self.session.get_buffer(sizehint)
        return self._lent

    def buffer_updated(self, nbytes: int) -> None:
        if not self._is_open():
            return  # the link has ended: drop the rest
        if self._recorded is not None:
            self._recorded.received(self._lent[:nbytes])
        self.session.buffer_updated(nbytes)
        self._take_events()
        if self.session.state is State.CLOSED:
            self.close(LinkError("the other rank ended the session", code="link-closed"))
        elif self._events:
            self._waiting += nbytes
            if self._waiting > MAX_WAITING and self._is_open():
                self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> None:
        if self._is_open():
            self.session.receive_data(b"")
            self._take_events()
        self.close(LinkError("the other rank closed the link; see its log", code="link-closed"))

    def connection_lost(self, exc: Exception | None) -> None:
        failure = LinkError("the link is closed", code="link-closed")
        self.close(link_error(exc, "the link") if isinstance(exc, OSError) else failure)
        self._writable.set()
        self._gone.set()
        if self._recorded is not None:
            self._recorded.ended()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take_events(self) -> None:
        try:
            while (event := self.session.next_event()) is not None:
                self._events.append(event)
                self._flush()  # the ack goes out even if a bad frame follows the hello
        except RemoteError as error:
            self.close(LinkError(f"the other rank broke the protocol: {error}", code=error.code))
        except IdentityError as error:
            self.close(LinkError(str(error), code=error.code))

    def _flush(self) -> None:
        try:
            pieces = self.session.data_to_send()
        except IdentityError as error:
            self.close(LinkError(str(error), code=error.code))
            return
        if pieces:
            if self._recorded is not None:
                for piece in pieces:
                    self._recorded.sent(piece)
            if len(pieces) > 1:
                self._transport.writelines(pieces)
            else:  # before Python 3.12, writelines() copies
                self._transport.write(pieces[0])

    def _is_open(self) -> bool:
        return self._failure is None and self.session.state not in (State.CLOSED, State.FAILED)


async def connect(
    host: str,
    port: int,
    make_session: MakeSession,
    *,
    seconds: float,
    own_ip: str = "0.0.0.0",  # noqa: S104 - the system picks the address to leave by
    capture: Capture | None = None,
) -> Link:
    """Connect from an own address, if one is given, and send the hello."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            _, link = await loop.create_connection(
                lambda: Link(make_session, None, capture), host, port, local_addr=(own_ip, 0)
            )
    except OSError as error:
        raise link_error(error, f"connecting to {host}:{port}") from error
    return link


async def listen(
    own_ip: str,
    port: int,
    make_session: MakeSession,
    on_connection: Callable[[Link], None],
    *,
    capture: Capture | None = None,
) -> asyncio.Server:
    """Listen at an own address. `on_connection` gets each connection before any bytes are read from it."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(
            lambda: Link(make_session, on_connection, capture), own_ip, port, backlog=16, reuse_address=True
        )
    except OSError as error:
        raise link_error(error, f"listening on {own_ip}:{port}") from error


def tune(connection: socket.socket) -> None:
    """Disable Nagle; enable keep-alive, which notices a vanished peer after 25 s. [SESSION-TCP]

    TCP sends no keep-alive while sent data is unacknowledged, so that has the same limit.
    """
    vanished = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, KEEPALIVE_IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RXT_CONNDROPTIME, vanished)
    else:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, vanished * 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def link_error(error: OSError, doing: str) -> LinkError:
    # asyncio.timeout raises a TimeoutError without an errno.
    if isinstance(error, TimeoutError):
        text = f"{doing} took too long; raise the deadline, or see what the other rank is waiting for"
        return LinkError(text, code="link-timeout")
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "link-failed")
    return LinkError(f"{doing} failed: {system_reason(error)}", code=code)
