"""The two roles of a session: `RankZero` connects, pings and reconnects; `RankOne` listens and answers.

[SESSION-*, BOOT-*, PLAIN-*]
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
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
    """Every wait of a role, in seconds. [SESSION-TIMES]"""

    connect: float = 10.0
    handshake: float = 10.0
    """From the connection to the session key."""
    confirm: float = 15.0
    """Rank 1: from the session key to the first box that opens."""
    ping_every: float = 5.0
    pong: float = 3.0
    """From a ping to its pong."""
    reconnect: float = 10.0
    """From a failure to the next attempt."""
    retry: float = 1.0
    """The same, where nobody listens yet."""
    send: float = 10.0
    """Until the peer takes what is sent."""
    end: float = 1.0
    """Rank 0: from its sessionEnd to the peer's close. To close first would reset the connection where bytes of the
    peer's are under way; a sessionEnd that was lost would not be sent again."""


LOADING_PING_EVERY = 0.2
"""Seconds between pings to a rank that is still loading, and says so: the bootstrap waits for it."""
MISSED_PONGS = 3
"""This many missed in a row end the session, unless the peer may be in its group init. [SESSION-MISSED, PLAIN-INIT]"""
REPLACED = "link-replaced"
"""The code of a session that another one is to follow."""
MAX_UNCONFIRMED = 8
"""Connections that have not shown the session key; one more ends the oldest of them."""


class Health(NamedTuple):
    """How rank 0 sees the other rank."""

    state: Literal["ready", "degraded", "unavailable"]
    """ready: the last pong came, and said that the model is loaded. unavailable: there is no session."""
    missed: int = 0
    """Pongs missed in a row."""


UNAVAILABLE = Health("unavailable")
DEFAULT_TIMES = Times()
READY = PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)
"""The status of a rank that can take a jacclBootstrap. A reference rank 0 sends none to any other. [PLAIN-LOADED]"""

OnMessage = Callable[[Message], None]
OnConfirmed = Callable[[str, bytes], None]
"""Called with a peer's IP and the identity key that it has proved to hold; LinkError refuses it."""
OnLoading = Callable[[bool], None]
"""Called with each pong: whether the peer says that it still loads MLX, and has named not all its extensions yet."""
OnSeen = Callable[[str | LinkError | None], None]
"""Called with what rank 0 did last, or the error that ended its session; None after a jacclBootstrap or sessionEnd."""


def nothing(*args: object) -> None:
    """For what nobody waits for."""


class SessionLostError(LinkError):
    """A session ended that was still needed. Code and text give the reason where one is known, else `link-lost`."""

    def __init__(self, peer: int, reason: LinkError) -> None:
        if reason.code in ("link-closed", "link-reset"):  # says only that the connection ended
            super().__init__(f"the session with rank {peer} was lost; see what it says", code="link-lost")
        else:
            super().__init__(f"the session with rank {peer} was lost: {reason}", code=reason.code)


class RankZero:
    """Maintains a session with the rank `peer` that listens at `host`:`port`, while `run` runs.

    `on_message` gets every message from the peer except pongs, and must return at once.
    """

    def __init__(
        self,
        host: str,
        port: int,
        make_session: MakeSession,
        *,
        peer: int = 1,
        own_ip: str = "0.0.0.0",  # noqa: S104 - the system picks the address to leave by
        times: Times = DEFAULT_TIMES,
        on_message: OnMessage = nothing,
        on_confirmed: OnConfirmed = nothing,
        on_loading: OnLoading = nothing,
        capture: Capture | None = None,
        report: OnStep = silent,
    ) -> None:
        self.health = UNAVAILABLE
        self.inference_in_flight = False
        """No pings are sent while this is set."""
        self._host, self._port, self._peer = host, port, peer
        self._own_ip = own_ip
        self._make_session, self._capture = make_session, capture
        self._times = times
        self._on_message, self._on_confirmed, self._on_loading = on_message, on_confirmed, on_loading
        self._report = report
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
        self._is_loading = False  # the last pong named extensions, and no loaded model
        self._unanswered = 0  # pings
        self._pongs_until_init_is_over = 0
        """Of those to come: one for each ping that was sent before jacclBootstrap, and one for a ping sent after it."""

    async def run(self) -> None:
        """Connect, serve, and reconnect after a failure, until cancelled or stopped.

        Raises LinkError only where another attempt cannot help: when the peer fails the handshake.
        """
        while True:
            try:
                await self._serve()
            except LinkError as error:
                if error.code.startswith("handshake-"):
                    raise
                if self._is_stopped:
                    return
                soon = {"link-refused": self._times.retry, REPLACED: self._drop_wait}
                wait = soon.get(error.code, self._times.reconnect)
                self._report(
                    "link-lost", peer=self._peer, host=self._host, code=error.code, message=str(error), retry_s=wait
                )
                await asyncio.sleep(wait)

    async def established(self) -> None:
        """Wait until there is a session. That is enough to bootstrap: the peer's model need not be loaded."""
        await self._established.wait()

    async def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        """Send jacclBootstrap as soon as there is a session. [BOOT-SEND]

        Raises SessionLostError where that is a new session, in which the peer has not offered what the payload names.
        """
        await self.established()
        self._pongs_until_init_is_over = self._unanswered + 1
        try:
            await self.send(payload)
        except StateError as error:
            text = f"the session with rank {self._peer} is another one by now: {error}"
            raise SessionLostError(self._peer, LinkError(text, code="link-lost")) from error
        self._report("bootstrap-sent", peer=self._peer, port=payload.port, session_id=payload.session_id)

    async def send(self, message: Message) -> None:
        """Send one message over the session; LinkError where there is none, or the peer does not take it."""
        if self._link is None:
            raise LinkError(f"there is no session with rank {self._peer}", code="link-closed")
        await self._link.send(message, self._times.send)

    async def ponged(self) -> None:
        """Wait for the first pong of the current session."""
        await self.established()
        await asyncio.shield(self._ponged)

    async def offered(self) -> frozenset[str]:
        """Return the extensions that the peer's pongs name.

        Waits for a pong; where the peer has extensions, for one that says that the model is loaded: only then it names
        all of them. Waits in the next session where this one ends without any: silence offers nothing and refuses
        nothing. [EXT-OFFER, PLAIN-OFFER]
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
        """Let go of the session; `run` makes another one: at once, if the peer can say when it is ready for that.

        One without outcome/1 may still be in its last init, which the next group's would meet.
        """
        if self._link is not None:
            self._drop_wait = 0.0 if OUTCOME_1 in self._link.session.offered else self._times.reconnect
            self._link.close(LinkError("a new session is to take the place of this one", code=REPLACED))

    async def stop(self) -> None:
        """End the session in order, if there is one; `run` makes no other. It is to be cancelled after that."""
        self._is_stopped = True
        link = self._link
        if link is not None:
            with suppress(LinkError):
                await link.send(SessionEnd(), self._times.send)
                await link.ended(self._times.end)

    async def _serve(self) -> None:
        link = await connect(
            self._host,
            self._port,
            self._make_session,
            seconds=self._times.connect,
            own_ip=self._own_ip,
            capture=self._capture,
        )
        async with link:
            self._report("connected", peer=self._peer, host=self._host, port=self._port)
            await next_event(link, Established, self._times.handshake, "the peer's ack")
            self._report("established", peer=self._peer)
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
                    self._on_loading(self._is_loading)
                    self._heard.set()
                    self._take_pong()
                    self._see(Health("ready" if pong.model_loaded else "degraded"))
                    self._report("pong", peer=self._peer, **to_builtins(pong))
                case MessageReceived(message):
                    self._on_message(message)
                case MessageIgnored(message):
                    self._report("ignored", peer=self._peer, name=wire_name(message))
                case Confirmed():
                    self._on_confirmed(link.peer_ip, link.session.peer_key)
                    self._report("confirmed", peer=self._peer)
                case Established() | Closed() | KeyNearLimit():
                    pass  # what follows says why

    def _take_pong(self) -> None:
        self._answered.set()
        if not self._ponged.done():
            self._ponged.set_result(None)
        self._unanswered = max(0, self._unanswered - 1)
        self._pongs_until_init_is_over = max(0, self._pongs_until_init_is_over - 1)

    async def _ping(self, link: Link) -> None:
        """Send a ping at once, so that the peer has a box to open, and then one in every interval."""
        loop = asyncio.get_running_loop()
        with suppress(LinkError):  # `_receive` raises it too
            while True:
                started = loop.time()
                if not self.inference_in_flight:
                    self._answered.clear()
                    self._unanswered += 1
                    await link.send(Ping(), self._times.send)
                    try:
                        async with asyncio.timeout(self._times.pong):
                            await self._answered.wait()
                    except TimeoutError:
                        self._miss(link)
                every = LOADING_PING_EVERY if self._is_loading else self._times.ping_every
                await asyncio.sleep(max(0.0, started + min(every, self._times.ping_every) - loop.time()))

    def _miss(self, link: Link) -> None:
        missed = self.health.missed + 1
        self._see(Health("degraded", missed))
        if missed >= MISSED_PONGS and not self._may_be_in_init(link):
            text = f"rank {self._peer} left {missed} pings without a pong; see whether its process still runs"
            link.close(LinkError(text, code="ping-timeout"))

    def _may_be_in_init(self, link: Link) -> bool:
        """Whether the peer is one that reads nothing while its group forms, and may be doing that. [PLAIN-INIT]"""
        is_plain = self._ponged.done() and OUTCOME_1 not in link.session.offered
        return is_plain and self._pongs_until_init_is_over > 0

    def _see(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self._report("health", peer=self._peer, state=health.state, missed=health.missed)


Over: TypeAlias = asyncio.Future[LinkError | None]
"""The end of a session: None where rank 0 ended it in order, else the reason."""


class RankOne:
    """Any rank but 0, of `size`: listens at `own_ip`:`port` for rank 0, while `run` runs.

    `status` and `offers`, the extensions to name, are called for each pong; `holds` says whether a group is up.
    `on_message` gets every message except pings and jacclBootstrap, and must return at once. `on_seen` is told what
    last happened in the session before a jacclBootstrap came: a ping, say.
    """

    def __init__(
        self,
        own_ip: str,
        port: int,
        make_session: MakeSession,
        *,
        size: int = 2,
        on_message: OnMessage = nothing,
        on_confirmed: OnConfirmed = nothing,
        on_seen: OnSeen = nothing,
        offers: Callable[[], frozenset[str]] | None = None,
        holds: Callable[[], bool] = lambda: False,
        status: Callable[[], PongPayload] = lambda: READY,
        times: Times = DEFAULT_TIMES,
        capture: Capture | None = None,
        report: OnStep = silent,
    ) -> None:
        self._own_ip, self._port = own_ip, port
        self._make_session, self._capture = make_session, capture
        self._size = size
        self._on_message, self._on_confirmed, self._status = on_message, on_confirmed, status
        self._on_seen = on_seen
        self._offers, self._holds = offers, holds
        self._times = times
        self._report = report
        self._unconfirmed: dict[Link, None] = {}  # in the order in which they came
        self._current: Link | None = None
        self._bootstraps: asyncio.Queue[tuple[JacclBootstrapPayload, Over]] = asyncio.Queue()
        self._over: Over | None = None  # of the session that brought the last one
        self._ended_early = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled. LinkError if the address cannot be listened at."""
        server = await listen(
            self._own_ip,
            self._port,
            self._make_session,
            self._accept,
            capture=self._capture,
        )
        try:
            host, port = server.sockets[0].getsockname()
            self._report("listening", host=host, port=port)
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def bootstrap(self) -> JacclBootstrapPayload:
        """The next jacclBootstrap that came; one a session, what follows is ignored. [BOOT-RECEIVE]"""
        payload, self._over = await self._bootstraps.get()
        return payload

    async def send(self, message: Message) -> None:
        """Send one message over the session; LinkError where there is none, or the peer does not take it."""
        if self._current is None:
            raise LinkError("there is no session with rank 0", code="link-closed")
        await self._current.send(message, self._times.send)

    def drop(self) -> None:
        """Let go of the session: rank 0 is to make another one."""
        if self._current is not None:
            self._current.close(LinkError("this rank waits for a new session", code=REPLACED))

    async def ended_early(self) -> None:
        """Wait until rank 0 has ended its session in order without a jacclBootstrap, and has no new one."""
        await self._ended_early.wait()

    @property
    def has_ended_early(self) -> bool:
        """Whether that is how it is now."""
        return self._ended_early.is_set()

    async def over(self) -> LinkError | None:
        """Wait for the end of the session that brought the last jacclBootstrap; return the reason unless in order."""
        assert self._over is not None  # noqa: S101 - `bootstrap` was called
        return await asyncio.shield(self._over)

    async def ended_in_order(self, seconds: float) -> bool:
        """Wait for the end of that session for so long; say whether rank 0 has ended it in order."""
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
            oldest.close(LinkError("too many connections that are not confirmed", code="link-crowded"))
        task = asyncio.create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
            self._report("link-lost", peer=None, host=link.peer_ip, code=error.code, message=str(error), retry_s=None)
        finally:
            over.set_result(reason)
            if self._current is link:
                self._current = None
                self._on_seen(None if reason is not None and reason.code == REPLACED else reason)
                if not bootstrapped:
                    self._ended_early.set()

    async def _admit(self, link: Link) -> None:
        """Let a connection become the session, once it has shown what it takes. [SESSION-CONFIRM]"""
        await next_event(link, Established, self._times.handshake, "the peer's hello")
        self._report("connected", peer=0, host=link.peer_ip, port=link.peer_port)
        self._report("established", peer=0)
        if link.session.revision is Revision.V1:
            # Nothing that this revision sends shows the key, so a newcomer must not displace a session that lives.
            if self._current is not None:
                raise LinkError("there is a session already", code="link-taken")
        else:
            await next_event(link, Confirmed, self._times.confirm, "the peer's first box")
            self._on_confirmed(link.peer_ip, link.session.peer_key)
            self._report("confirmed", peer=0)
        if self._current is not None and self._holds():
            # Its connection is alive: TCP would have ended one whose peer has vanished. [SESSION-REPLACE]
            raise LinkError("a group is up over the session with rank 0", code="link-taken")
        if self._current is not None:
            self._current.close(LinkError("a newer session took the place of this one", code=REPLACED))
        self._current = link
        self._ended_early.clear()  # an earlier session's
        self._on_seen("its session")
        while not self._bootstraps.empty():
            self._bootstraps.get_nowait()  # an earlier session's

    async def _answer(self, link: Link, over: Over) -> bool:
        """Serve the session until rank 0 ends it in order; say whether it brought a jacclBootstrap."""
        bootstrapped = False
        while True:
            match await link.receive():
                case MessageReceived(Ping()):
                    # A peer that has ended the session meanwhile takes no answer; what it said before still counts.
                    with suppress(LinkError):
                        await link.send(self._pong(link), self._times.send)
                    if not bootstrapped:
                        self._on_seen("a ping")
                case MessageReceived(JacclBootstrapPayload() as payload) if not bootstrapped:
                    bootstrapped = True
                    fields = {"port": payload.port, "session_id": payload.session_id}
                    self._report("bootstrap-received", peer=0, **fields)
                    check_bootstrap(payload, self._size)
                    self._on_seen(None)
                    agreed = replace(payload, extensions=tuple(sorted(link.session.agreed)))  # [EXT-REVISION]
                    self._bootstraps.put_nowait((agreed, over))
                case MessageReceived(JacclBootstrapPayload() as payload):
                    # A process forms one group, so another frame cannot be followed.
                    self._report("ignored", peer=0, name=wire_name(payload))
                case MessageReceived(SessionEnd()):
                    pass  # its Closed follows
                case MessageReceived(message):
                    self._on_message(message)
                case MessageIgnored(message):
                    self._report("ignored", peer=0, name=wire_name(message))
                case Closed(orderly=True):
                    self._report("session-ended", peer=0)
                    return bootstrapped

    def _pong(self, link: Link) -> PongPayload:
        """The status, with what this side can do beyond the plain protocol. [EXT-OFFER]"""
        offers = link.session.extensions if self._offers is None else link.session.extensions & self._offers()
        return replace(self._status(), extensions=tuple(sorted(offers)))


def check_bootstrap(payload: JacclBootstrapPayload, size: int) -> None:
    """LinkError for a payload that the wire carries but no group of `size` can use. [BOOT-SESSION-ID]"""
    try:
        check_port(payload.port, size)
        check_session_id(payload.session_id)
    except ConfigError as error:
        raise LinkError(f"rank 0 sent a jacclBootstrap that cannot be used: {error}", code="bad-bootstrap") from error


EventT = TypeVar("EventT", Established, Confirmed)
ResultT = TypeVar("ResultT")


async def next_event(link: Link, expected: type[EventT], seconds: float, what: str) -> EventT:
    """The next event, which has to be of the class `expected`; LinkError if it is late, or the link ends first."""
    try:
        async with asyncio.timeout(seconds):
            event = await link.receive()
    except TimeoutError:
        raise LinkError(f"{what} did not come within {seconds:g} s", code="link-timeout") from None
    if not isinstance(event, expected):
        raise LinkError(f"the link ended before {what}", code="link-closed")
    return event


def wire_name(message: Message) -> str:
    return SPEC_BY_CLASS[type(message)].msg_type.wire_name


async def alongside(work: Coroutine[None, None, ResultT], *services: Coroutine[None, None, None]) -> ResultT:
    """The result of `work`, while `services` run. A service that fails ends the work; its error is raised.

    The services run until the work has ended, also where it is cancelled and has something to say on its way out.
    """
    tasks = [asyncio.create_task(service) for service in services]
    main = asyncio.create_task(work)
    for task in (main, *tasks):
        # Also where this is cancelled a second time, and asks none of them.
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
        finally:  # also where this is cancelled again meanwhile
            # At once where the work is done: a service that went on could fail meanwhile, and nobody would learn why.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
