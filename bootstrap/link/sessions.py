"""The two roles of a session: `RankZero` connects, pings and reconnects; `RankOne` listens and answers.

[SESSION-*, BOOT-*, PLAIN-*]
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from msgspec import to_builtins
from msgspec.structs import replace

from bootstrap.errors import BootstrapError, ConfigError, LinkError
from bootstrap.events import OnStep, silent
from bootstrap.link.record import Capture
from bootstrap.link.transport import Link, MakeSession, connect, listen
from bootstrap.plan import check_port, check_session_id
from wireproto.errors import StateError
from wireproto.messages import (
    OUTCOME_1,
    SPEC_BY_CLASS,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import Closed, Confirmed, Established, KeyNearLimit, MessageIgnored, MessageReceived


@dataclass(frozen=True, kw_only=True)
class Times:
    """All time limits of a role, in seconds. [SESSION-TIMES]"""

    connect: float = 10.0
    handshake: float = 10.0
    """From connection to session key."""
    confirm: float = 15.0
    """Rank 1: from session key to the first box that opens."""
    ping_every: float = 5.0
    pong: float = 3.0
    """From a ping to its pong."""
    reconnect: float = 10.0
    """From a failure to the next connection attempt."""
    retry: float = 1.0
    """The same if the peer is not listening yet."""
    send: float = 10.0
    """Until the peer accepts sent bytes."""
    end: float = 1.0
    """Rank 0: from its sessionEnd to the peer's close. Closing first could reset the connection while the peer's bytes
    are in flight, and then a lost sessionEnd would not be retransmitted."""


LOADING_PING_EVERY = 0.2
"""Seconds between pings to a rank that reports it is still loading: the bootstrap waits for it."""
MISSED_PONGS = 3
"""So many consecutive misses end the session, unless the peer may be in group init. [SESSION-MISSED, PLAIN-INIT]"""
REPLACED = "link-replaced"
"""The code of a session that a new one replaces."""
MAX_UNCONFIRMED = 8
"""Connections that have not proved the session key; one more closes the oldest."""


class Health(NamedTuple):
    """How rank 0 sees the other rank."""

    state: Literal["ready", "degraded", "unavailable"]
    """ready: the last ping was answered, and the model is loaded. unavailable: there is no session."""
    missed: int = 0
    """Consecutive missed pongs."""


UNAVAILABLE = Health("unavailable")
DEFAULT_TIMES = Times()
READY = PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)
"""The status of a rank that accepts a jacclBootstrap. A reference rank 0 sends one only then. [PLAIN-LOADED]"""

OnMessage = Callable[[Message], None]
OnConfirmed = Callable[[str, bytes], None]
"""Called with a peer's IP and its proved identity key; LinkError rejects it."""
OnLoading = Callable[[bool], None]
"""Called with each pong: whether the peer is still loading MLX and may not have named all its extensions."""
OnSeen = Callable[[str | LinkError | None], None]
"""Called with rank 0's last action, or the error that ended its session; None after jacclBootstrap or sessionEnd."""


def nothing(*args: object) -> None:
    """No-op callback."""


class SessionLostError(LinkError):
    """A session ended while it was needed. Code and message give the reason if known, else `link-lost`."""

    def __init__(self, peer: int, reason: LinkError) -> None:
        if reason.code in ("link-closed", "link-reset"):  # not a reason
            super().__init__(f"the session with rank {peer} was lost; see what it says", code="link-lost")
        else:
            super().__init__(f"the session with rank {peer} was lost: {reason}", code=reason.code)


@dataclass(eq=False)
class RankZero:
    """Maintains a session with the rank `peer`, which listens at `host`:`port`, while `run` runs.

    `on_message` gets every message of the peer except pongs, and must not block.
    """

    host: str
    port: int
    make_session: MakeSession
    _: KW_ONLY
    peer: int = 1
    own_ip: str = "0.0.0.0"  # noqa: S104 - the system picks the source address
    times: Times = DEFAULT_TIMES
    on_message: OnMessage = nothing
    on_confirmed: OnConfirmed = nothing
    on_loading: OnLoading = nothing
    capture: Capture | None = None
    report: OnStep = silent

    def __post_init__(self) -> None:
        self.health = UNAVAILABLE
        self.inference_in_flight = False
        """Set to send no pings."""
        self._link: Link | None = None
        self._is_stopped = False
        self._drop_wait = 0.0
        self._established = asyncio.Event()
        self._lost: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()
        self._answered = asyncio.Event()
        self._heard = asyncio.Event()
        self._new_session()

    def _new_session(self) -> None:
        self._ponged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_loading = False  # the last pong named extensions but no loaded model
        self._unanswered = 0  # pings
        self._pongs_until_init_is_over = 0
        """One for each ping sent before jacclBootstrap that is still unanswered, and one for a ping sent after it."""

    async def run(self) -> None:
        """Connect, serve, and reconnect after a failure, until cancelled or stopped.

        Raise LinkError only if reconnecting cannot help: when the handshake fails.
        """
        while True:
            try:
                await self._serve()
            except LinkError as error:
                if error.code.startswith("handshake-"):
                    raise
                if self._is_stopped:
                    return
                soon = {"link-refused": self.times.retry, REPLACED: self._drop_wait}
                wait = soon.get(error.code, self.times.reconnect)
                self.report(
                    "link-lost", peer=self.peer, host=self.host, code=error.code, message=str(error), retry_s=wait
                )
                await asyncio.sleep(wait)

    @property
    def is_up(self) -> bool:
        """Whether there is a session."""
        return self._link is not None

    async def established(self) -> None:
        """Wait for a session. The peer's model need not be loaded."""
        await self._established.wait()

    async def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        """Send jacclBootstrap as soon as there is a session. [BOOT-SEND]

        Raise SessionLostError if it is a new session, in which the peer has not offered the payload's extensions.
        """
        await self.established()
        self._pongs_until_init_is_over = self._unanswered + 1
        try:
            await self.send(payload)
        except StateError as error:
            text = f"the session with rank {self.peer} was replaced by a new one: {error}"
            raise SessionLostError(self.peer, LinkError(text, code="link-lost")) from error
        self.report("bootstrap-sent", peer=self.peer, port=payload.port, session_id=payload.session_id)

    async def send(self, message: Message) -> None:
        """Send one message. Raise LinkError without a session, or if the peer does not accept it."""
        if self._link is None:
            raise LinkError(f"there is no session with rank {self.peer}", code="link-closed")
        await self._link.send(message, self.times.send)

    async def ponged(self) -> None:
        """Wait for the first pong of the current session."""
        await self.established()
        await asyncio.shield(self._ponged)

    async def offered(self) -> frozenset[str]:
        """Return the extensions that the peer's pongs name. [EXT-OFFER, PLAIN-OFFER]

        Wait for a pong; if the peer has extensions, for one with a loaded model, which names all of them. If the
        session ends without a pong, wait in the next one: silence neither offers nor refuses.
        """
        while True:
            await self.established()
            either: set[asyncio.Future[Any]] = {self._ponged, self._lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            while self._is_loading:
                self._heard.clear()
                await self._heard.wait()
            if self._link is not None and self._ponged.done():
                return self._link.session.offered

    async def lost(self) -> LinkError:
        """Wait until there is no session; return the reason."""
        return await asyncio.shield(self._lost)

    def drop(self) -> None:
        """Drop the session; `run` makes a new one, at once if the peer has outcome/1.

        Any other peer may still be in its last init, with which the next group's init would collide.
        """
        if self._link is not None:
            self._drop_wait = 0.0 if OUTCOME_1 in self._link.session.offered else self.times.reconnect
            self._link.close(LinkError("a new session replaces this one", code=REPLACED))

    async def stop(self) -> None:
        """End the session cleanly, if there is one; `run` makes no new one. Cancel it afterwards."""
        self._is_stopped = True
        link = self._link
        if link is not None:
            with suppress(LinkError):
                await link.send(SessionEnd(), self.times.send)
                await link.ended(self.times.end)

    async def _serve(self) -> None:
        link = await connect(
            self.host,
            self.port,
            self.make_session,
            seconds=self.times.connect,
            own_ip=self.own_ip,
            capture=self.capture,
        )
        async with link:
            self.report("connected", peer=self.peer, host=self.host, port=self.port)
            await next_event(link, Established, self.times.handshake, "the peer's ack")
            self.report("established", peer=self.peer)
            self._link = link
            self.health = Health("degraded")
            self._new_session()
            self._lost = asyncio.get_running_loop().create_future()
            self._established.set()
            pings = asyncio.create_task(self._ping(link))
            reason = LinkError("this rank ended the session", code="link-closed")
            try:
                await self._receive(link)
            except LinkError as error:
                reason = error
                raise
            finally:
                pings.cancel()
                self._link = None
                self._is_loading = False
                self._heard.set()
                self._lost.set_result(reason)
                self._established.clear()
                self.health = UNAVAILABLE

    async def _receive(self, link: Link) -> None:
        while True:
            match await link.receive():
                case MessageReceived(PongPayload() as pong):
                    self._is_loading = bool(link.session.offered) and not pong.model_loaded
                    self.on_loading(self._is_loading)
                    self._heard.set()
                    self._take_pong()
                    self._see(Health("ready" if pong.model_loaded else "degraded"))
                    self.report("pong", peer=self.peer, **to_builtins(pong))
                case MessageReceived(message):
                    self.on_message(message)
                case MessageIgnored(message):
                    self.report("ignored", peer=self.peer, name=wire_name(message))
                case Confirmed():
                    self.on_confirmed(link.peer_ip, link.session.peer_key)
                    self.report("confirmed", peer=self.peer)
                case Established() | Closed() | KeyNearLimit():
                    pass  # an error or the end follows

    def _take_pong(self) -> None:
        self._answered.set()
        if not self._ponged.done():
            self._ponged.set_result(None)
        self._unanswered = max(0, self._unanswered - 1)
        self._pongs_until_init_is_over = max(0, self._pongs_until_init_is_over - 1)

    async def _ping(self, link: Link) -> None:
        """Send a ping at once, so that the peer gets a first box, and then one per interval."""
        loop = asyncio.get_running_loop()
        with suppress(LinkError):  # `_receive` raises it, too
            while True:
                started = loop.time()
                if not self.inference_in_flight:
                    self._answered.clear()
                    self._unanswered += 1
                    await link.send(Ping(), self.times.send)
                    try:
                        async with asyncio.timeout(self.times.pong):
                            await self._answered.wait()
                    except TimeoutError:
                        self._miss(link)
                every = LOADING_PING_EVERY if self._is_loading else self.times.ping_every
                await asyncio.sleep(max(0.0, started + min(every, self.times.ping_every) - loop.time()))

    def _miss(self, link: Link) -> None:
        missed = self.health.missed + 1
        self._see(Health("degraded", missed))
        if missed >= MISSED_PONGS and not self._may_be_in_init(link):
            text = f"rank {self.peer} did not answer {missed} pings; check whether its process still runs"
            link.close(LinkError(text, code="ping-timeout"))

    def _may_be_in_init(self, link: Link) -> bool:
        """Whether the peer does not read during group init, and may be in it. [PLAIN-INIT]"""
        is_plain = self._ponged.done() and OUTCOME_1 not in link.session.offered
        return is_plain and self._pongs_until_init_is_over > 0

    def _see(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self.report("health", peer=self.peer, state=health.state, missed=health.missed)


Over: TypeAlias = asyncio.Future[LinkError | None]
"""The end of a session: None if rank 0 ended it cleanly, else the reason."""


@dataclass(eq=False)
class RankOne:
    """Any rank but 0, of `size`: listens at `own_ip`:`port` for rank 0, while `run` runs.

    `status` and `offers` (the extensions to name) are called for each pong; `holds` tells whether a group is up.
    `on_message` gets every message except pings and jacclBootstrap, and must not block. `on_seen` gets what last
    happened in the session before a jacclBootstrap, such as a ping. `on_new` is called when there is a new session.
    """

    own_ip: str
    port: int
    make_session: MakeSession
    _: KW_ONLY
    size: int = 2
    on_message: OnMessage = nothing
    on_confirmed: OnConfirmed = nothing
    on_seen: OnSeen = nothing
    on_new: Callable[[], None] = nothing
    offers: Callable[[], frozenset[str]] | None = None
    holds: Callable[[], bool] = lambda: False
    status: Callable[[], PongPayload] = lambda: READY
    times: Times = DEFAULT_TIMES
    capture: Capture | None = None
    report: OnStep = silent

    def __post_init__(self) -> None:
        self._unconfirmed: dict[Link, None] = {}  # oldest first
        self._current: Link | None = None
        self._bootstraps: asyncio.Queue[tuple[JacclBootstrapPayload, Over, Link]] = asyncio.Queue()
        self._over: Over | None = None  # of the session that brought the last bootstrap
        self._served: Link | None = None  # the only session for which a loaded model counts, after its bootstrap
        self._ended_early = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], None] = {}  # oldest first

    async def run(self) -> None:
        """Serve until cancelled. Raise LinkError if listening fails."""
        server = await listen(self.own_ip, self.port, self.make_session, self._accept, capture=self.capture)
        try:
            host, port = server.sockets[0].getsockname()
            self.report("listening", host=host, port=port)
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def bootstrap(self) -> JacclBootstrapPayload:
        """Return the next jacclBootstrap. Each session has one, further ones are ignored. [BOOT-RECEIVE]"""
        self._served = None
        payload, self._over, self._served = await self._bootstraps.get()
        return payload

    async def send(self, message: Message) -> None:
        """Send one message. Raise LinkError without a session, or if the peer does not accept it."""
        if self._current is None:
            raise LinkError("there is no session with rank 0", code="link-closed")
        await self._current.send(message, self.times.send)

    def drop(self) -> None:
        """Drop the session of the last jacclBootstrap, so that rank 0 makes a new one. It may have done so already."""
        if self._current is not None and self._current is self._served:
            self._current.close(LinkError("this rank waits for a new session", code=REPLACED))

    async def ended_early(self) -> None:
        """Wait until rank 0 has ended its session cleanly without a jacclBootstrap, and has no new one."""
        await self._ended_early.wait()

    @property
    def has_ended_early(self) -> bool:
        """Whether that is the case now."""
        return self._ended_early.is_set()

    async def over(self) -> LinkError | None:
        """Wait for the end of the session of the last jacclBootstrap. Return the reason; None for a clean end."""
        assert self._over is not None  # noqa: S101 - `bootstrap` was called
        return await asyncio.shield(self._over)

    async def ended_in_order(self, seconds: float) -> bool:
        """Wait so long for the end of that session. Return whether rank 0 ended it cleanly."""
        over = asyncio.ensure_future(self.over())
        try:
            await asyncio.wait({over}, timeout=seconds)
            return over.done() and over.result() is None
        finally:
            over.cancel()

    def _accept(self, link: Link) -> None:
        self._unconfirmed[link] = None
        if len(self._unconfirmed) > MAX_UNCONFIRMED:
            oldest = next(iter(self._unconfirmed))
            oldest.close(
                LinkError("too many unconfirmed connections; find out which program opens them", code="link-crowded")
            )
        task = asyncio.create_task(self._serve(link))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, link: Link) -> None:
        over: Over = asyncio.get_running_loop().create_future()
        reason: LinkError | None = LinkError("this rank ended the session", code="link-closed")
        bootstrapped = True
        try:
            async with link:
                try:
                    await self._admit(link)
                finally:
                    self._unconfirmed.pop(link, None)
                bootstrapped = await self._answer(link, over)
            reason = None
        except BootstrapError as error:
            reason = error if isinstance(error, LinkError) else LinkError(str(error), code=error.code)
            self.report("link-lost", peer=None, host=link.peer_ip, code=error.code, message=str(error), retry_s=None)
        finally:
            over.set_result(reason)
            if self._current is link:
                self._current = None
                self.on_seen(None if reason is not None and reason.code == REPLACED else reason)
                if not bootstrapped:
                    self._ended_early.set()

    async def _admit(self, link: Link) -> None:
        """Make a connection the session once it has proved its key. [SESSION-CONFIRM]"""
        await next_event(link, Established, self.times.handshake, "the peer's hello")
        self.report("connected", peer=0, host=link.peer_ip, port=link.peer_port)
        self.report("established", peer=0)
        if link.session.revision is Revision.V1:
            # This revision proves no key, so a new connection must not replace a live session.
            if self._current is not None:
                raise LinkError("another session is up already", code="link-taken")
        else:
            await next_event(link, Confirmed, self.times.confirm, "the peer's first box")
            self.on_confirmed(link.peer_ip, link.session.peer_key)
            self.report("confirmed", peer=0)
        if self._current is not None and self.holds():
            # Its connection is alive: keep-alive closes that of a vanished peer. [SESSION-REPLACE]
            raise LinkError("a group is up over the session with rank 0", code="link-taken")
        if self._current is not None:
            self._current.close(LinkError("a newer session replaced this one", code=REPLACED))
        self._current = link
        self._ended_early.clear()  # an earlier session's
        self.on_seen("its session")
        self.on_new()
        while not self._bootstraps.empty():
            self._bootstraps.get_nowait()  # an earlier session's

    async def _answer(self, link: Link, over: Over) -> bool:
        """Serve the session until rank 0 ends it cleanly. Return whether it brought a jacclBootstrap."""
        bootstrapped = False
        while True:
            match await link.receive():
                case MessageReceived(Ping()):
                    # A peer that has ended the session accepts no answer, but its earlier messages count.
                    with suppress(LinkError):
                        await link.send(self._pong(link), self.times.send)
                    if not bootstrapped:
                        self.on_seen("a ping")
                case MessageReceived(JacclBootstrapPayload() as payload) if not bootstrapped:
                    bootstrapped = True
                    fields = {"port": payload.port, "session_id": payload.session_id}
                    self.report("bootstrap-received", peer=0, **fields)
                    check_bootstrap(payload, self.size)
                    self.on_seen(None)
                    agreed = replace(payload, extensions=tuple(sorted(link.session.agreed)))  # [EXT-REVISION]
                    self._bootstraps.put_nowait((agreed, over, link))
                case MessageReceived(JacclBootstrapPayload() as payload):
                    # A process forms one group, so it cannot act on another frame.
                    self.report("ignored", peer=0, name=wire_name(payload))
                case MessageReceived(SessionEnd()):
                    pass  # its Closed follows
                case MessageReceived(message):
                    self.on_message(message)
                case MessageIgnored(message):
                    self.report("ignored", peer=0, name=wire_name(message))
                case Closed(orderly=True):
                    self.report("session-ended", peer=0)
                    return bootstrapped

    def _pong(self, link: Link) -> PongPayload:
        """Return the status with the extensions that this rank offers. [EXT-OFFER]"""
        offers = link.session.extensions if self.offers is None else link.session.extensions & self.offers()
        status = self.status()
        is_loaded = status.model_loaded and self._served in (None, link)
        return replace(status, model_loaded=is_loaded, extensions=tuple(sorted(offers)))


def check_bootstrap(payload: JacclBootstrapPayload, size: int) -> None:
    """Raise LinkError for a well-formed payload that no group of `size` can use. [BOOT-SESSION-ID]"""
    try:
        check_port(payload.port, size)
        check_session_id(payload.session_id)
    except ConfigError as error:
        raise LinkError(f"rank 0 sent an unusable jacclBootstrap: {error}", code="bad-bootstrap") from error


EventT = TypeVar("EventT", Established, Confirmed)
ResultT = TypeVar("ResultT")


async def next_event(link: Link, expected: type[EventT], seconds: float, what: str) -> EventT:
    """Return the next event. Raise LinkError unless it is `expected` and in time."""
    try:
        async with asyncio.timeout(seconds):
            event = await link.receive()
    except TimeoutError:
        raise LinkError(f"{what} did not arrive within {seconds:g} s", code="link-timeout") from None
    if not isinstance(event, expected):
        raise LinkError(f"the link ended before {what}", code="link-closed")
    return event


def wire_name(message: Message) -> str:
    return SPEC_BY_CLASS[type(message)].msg_type.wire_name


async def alongside(work: Coroutine[None, None, ResultT], *services: Coroutine[None, None, None]) -> ResultT:
    """Return the result of `work`, while `services` run. A service that fails ends the work; its error is raised.

    The services run until the work has ended, even if it is cancelled, so that it can use them in its clean-up.
    """
    tasks = [asyncio.create_task(service) for service in services]
    main = asyncio.create_task(work)
    for task in (main, *tasks):
        # Also if this is cancelled a second time and never asks for the results.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    pending = {main, *tasks}
    try:
        while not main.done():
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        return main.result()
    finally:
        try:
            if main.cancel():
                await asyncio.gather(main, return_exceptions=True)
        finally:  # also if this is cancelled again meanwhile
            # At once after the work: a service that continued could fail unnoticed.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
