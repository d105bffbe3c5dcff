"""The tools of a case: the peer under test, and the other rank, scripted with any fault.

Each step is recorded before it runs, so the record of a case reads as a script. A fault of the peer raises `Missed`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from wireproto.conformance import byhand
from wireproto.conformance.byhand import Identity, Introduction
from wireproto.conformance.frames import (
    ACK,
    BOOTSTRAP,
    HELLO,
    PING,
    PONG,
    SESSION_END,
    is_plain,
    link_frame,
    shown,
    strictly,
)
from wireproto.conformance.side import Side
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import Missed, Record, Undecided, Verdict
from wireproto.conformance.wire import Silence, Wire
from wireproto.messages import JacclBootstrapPayload, Message, Revision, SessionEnd
from wireproto.session import Role

_ONE_SESSION: Final = "the peer exits after one session"
_GOING_ON: Final = (b"\x04", b"\x40", b"\x42", b"\x43")
"""The frames of a rank 1 in an open session: pongs, and frames of extensions."""

Point = TypeVar("Point")
_FEW: Final = 3
"""Points for a rank 0 in the standard profile."""
"""The input of one session in a case."""


@dataclass(frozen=True)
class Patience:
    """Time limits, in seconds."""

    start: float = 10.0
    """Limit for a connection with a fresh peer."""
    answer: float = 6.0
    """Limit for an action or answer of the peer."""
    close: float = 3.0
    """Limit for the end of a connection after a fault."""
    quiet: float = 0.3
    """Time after which a rank 0 counts as not closing; a rank 1 is sent a ping instead."""
    ping_every: float = 5.0
    pong: float = 3.0
    handshake: float = 10.0
    first_box: float = 15.0
    reconnect: float = 10.0
    retry: float = 1.0
    """Pause between a rank 0's refused attempts."""
    slack: float = 4.0
    """Tolerance for a late peer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a whole run."""

    identity: Identity
    peer_key: bytes | None = None
    """The identity key that the peer must show, X ‖ Y; None for any."""
    revision: Revision = Revision.V2
    patience: Patience = Patience()
    has_extensions: bool | None = None
    """Whether the peer has extensions; None to find out from its offers."""
    names_file: bool = False
    """Whether the session ID of a jacclBootstrap names a file on the peer."""
    broken: frozenset[str] = frozenset()
    """Requirements that the peer is known to break. Sessions from the grammar do not report them."""
    full: bool = False
    """Whether to send all generated content instead of a sample of each kind."""


class Peer:
    """The peer under test in one case. Its connections are made with `connect` or `session`."""

    def __init__(self, target: Target, settings: Settings, record: Record) -> None:
        self.role = target.role
        self.settings = settings
        self.record = record
        self._target = target
        self._links: list[Link] = []

    async def connect(self, seconds: float | None = None) -> "Link":
        """Return a connection on which it is our turn: a rank 0 has sent its hello. Raise Undecided without one."""
        number = len(self._links) + 1
        self.record.step("connect" if self.role is Role.RESPONDER else "wait for the peer to connect", number)
        try:
            reader, writer = await self._target.connect(seconds or self.settings.patience.start)
        except Undecided as undecided:
            if self.role is Role.RESPONDER and self._links:
                raise Missed("that the peer continues to listen", str(undecided), "SESSION-ROLES") from None
            raise
        link = Link(self, Wire(reader, writer, self.record, number))
        self._links.append(link)
        if self.role is Role.INITIATOR:
            await link.take_introduction()
        return link

    async def session(self) -> "Link":
        """Return a connection after a valid handshake."""
        link = await self.connect()
        await link.shake_hands()
        return link

    async def sessions(self, points: Iterable[Point]) -> AsyncIterator[tuple["Link", Point]]:
        """Yield each point with a session of its own, whose handshake is not what the case is about.

        Stops early if the peer cannot be started again.
        """
        for number, point in enumerate(points):
            if number and not await self.again():
                return
            try:
                link = await self.session()
            except Missed as missed:
                # Each handshake has another signature: nothing else differs.
                raise Missed(missed.expected, missed.came, missed.requirement or "HANDSHAKE-SIGNATURE") from None
            yield link, point
            await link.wire.close()

    def sample(self, points: Sequence[Point], step: int = 1) -> Sequence[Point]:
        """Return all points with --full. Otherwise a rank 1 gets one in `step`, and a rank 0 the first few.

        A rank 0 may have to be started again for each.
        """
        if self.settings.full:
            return points
        return points[::step] if self.role is Role.RESPONDER else points[:_FEW]

    async def session_at_ack(self) -> "Link":
        """Return a rank 0's connection right after our ack, with nothing read since."""
        link = await self.connect()
        await link.send_body("the ack", link.introduction())
        link.open()
        return link

    @property
    def is_met(self) -> bool:
        """Return whether there was a connection."""
        return bool(self._links)

    @property
    def was_closed(self) -> bool:
        """Return whether the peer has ended a connection."""
        return any(link.wire.ended for link in self._links)

    async def crash(self) -> str:
        """Return how the peer's process crashed, or nothing."""
        return await self._target.crash(was_closed=self.was_closed)

    async def refuse(self, seconds: float) -> None:
        """Refuse a rank 0's connections for some seconds."""
        self.record.step(f"stop listening for {seconds:g} s")
        await self._target.refuse(seconds)

    async def comes_again(self) -> "Link":
        """Return the next connection of a rank 0 that lost its last one. Raise Undecided if it serves one session."""
        patience = self.settings.patience
        try:
            return await self.connect(patience.reconnect + patience.slack)
        except Undecided as undecided:
            if self._target.has_ended:
                raise Undecided(Verdict.SKIPPED, _ONE_SESSION) from None
            raise Missed("another connection", str(undecided), "SESSION-RECONNECT") from None

    async def restart(self, *, refused: float = 0.0) -> None:
        """Replace this peer with another, whose connections are refused for some seconds."""
        if not self._target.restarts:
            raise Undecided(Verdict.SKIPPED, "the case needs a second peer, but there is no --restart-command")
        self.record.step("restart the peer" + (f", and listen {refused:g} s later" if refused else ""))
        await self.close()
        await self._target.restart(refused=refused)

    async def again(self) -> bool:
        """Prepare for another connection, by restarting a rank 0. Return False if that is impossible."""
        if self.role is Role.INITIATOR and self._target.restarts:
            await self.restart()
        return self.role is Role.RESPONDER or self._target.restarts

    def misplaced(self) -> bytes:
        """Return a valid but unexpected frame, which must be ignored."""
        return PONG if self.role is Role.RESPONDER else BOOTSTRAP

    @property
    def misplaced_opaque(self) -> bytes:
        """Return the type of an unexpected frame with an opaque payload, limited only by the link frame's length."""
        return b"\x06" if self.role is Role.RESPONDER else b"\x05"

    async def close(self) -> None:
        for link in self._links:
            await link.wire.close()


class Link(Side):
    """One connection with the peer, with scripted steps."""

    def __init__(self, peer: Peer, wire: Wire) -> None:
        super().__init__(peer.role, peer.settings.revision, peer.settings.identity)
        self.peer = peer
        self.wire = wire
        self.their_frame = b""
        """The peer's hello or ack, a cluster frame."""
        self._owes_pong = False
        self._settings = peer.settings
        self._patience = peer.settings.patience

    # -- bytes out -----------------------------------------------------------------------------------------------------

    def step(self, text: str) -> None:
        self.peer.record.step(text, self.wire.number)

    async def send_bytes(self, what: str, data: bytes) -> None:
        self.step(f"send {what}")
        await self.wire.send(data, self._patience.answer)

    async def send_body(self, what: str, body: bytes) -> None:
        """Send a link frame around `body`, sealed or not."""
        await self.send_bytes(what, link_frame(body))

    async def send(self, what: str, frame: bytes) -> None:
        """Send a cluster frame, in a box if the revision has them."""
        if frame[:1] == PONG[:1]:
            self._owes_pong = False
        await self.send_body(what, self.body(frame))

    async def send_others(self, count: int) -> None:
        """Send many unexpected messages in one step."""
        self.step(f"send {count:,} unexpected messages")
        for _ in range(count):
            await self.wire.send(link_frame(self.body(self.peer.misplaced())), self._patience.answer)
            await asyncio.sleep(0)  # parallel cases have timers

    async def send_long(self, first: bytes, length: int) -> None:
        """Send a link frame of this length, whose cluster frame starts with `first`, without holding it in memory."""
        self.step(f"send a link frame of {length:,} bytes")
        await self.wire.send(length.to_bytes(8, "little"), self._patience.answer)
        for piece in self.body_pieces(first, length):
            await self.wire.send(piece, self._patience.answer)

    # -- the handshake -------------------------------------------------------------------------------------------------

    async def shake_hands(self, frame: bytes | None = None) -> None:
        """Complete a valid handshake; `frame` is our part, if it is not the default."""
        what = "the hello" if self.peer.role is Role.RESPONDER else "the ack"
        await self.send_body(what, self.introduction() if frame is None else frame)
        await self.establish()

    async def establish(self) -> None:
        """Complete the handshake after our hello or ack, until both sides have the session."""
        if self.peer.role is Role.RESPONDER:
            await self.take_introduction()
            self.open()
        else:
            self.open()
            self.step("expect a first frame")
            await self.frame()

    def open(self) -> None:
        """Derive the session key, and record it."""
        super().open()
        assert self.key is not None  # noqa: S101
        self.peer.record.key_log.append(f"CLUSTER_SESSION_KEY {self.salt[:32].hex()} {self.key.hex()}")

    async def take_introduction(self) -> None:
        """Receive the peer's hello or ack."""
        first, name = (HELLO, "hello") if self.peer.role is Role.INITIATOR else (ACK, "ack")
        self.step(f"expect the {name}")
        # Whether an ack follows depends on our hello, which is what the case tests.
        frame = await self._body(f"the {name}", "HANDSHAKE-FIRST" if self.peer.role is Role.INITIATOR else None)
        if frame[:1] != first:
            raise Missed(f"the {name}, type 0x{first.hex()}", shown(frame), "HANDSHAKE-FIRST")
        try:
            self.theirs = Introduction.read(frame[1:])
        except ValueError as error:
            raise Missed(f"the payload of a {name}", f"{shown(frame)} ({error})", "PAYLOAD-HELLO") from None
        self.their_frame = frame

    # -- bytes in ------------------------------------------------------------------------------------------------------

    async def frame(self, seconds: float | None = None) -> bytes:
        """Return the next cluster frame, opened if sealed. Raise Missed if there is none or the connection ends."""
        body = await self._body("a frame", seconds=seconds)
        self.bodies.append(body)
        opened = self._opened(body)
        self._owes_pong |= opened == PING
        return opened

    async def next_frame(self, seconds: float) -> bytes | None:
        """Return the next cluster frame, or None once the peer has closed. Raise Silence on a timeout."""
        body = await self.wire.frame(seconds)
        if body is None:
            return None
        self.bodies.append(body)
        return self._opened(body)

    async def message(self, seconds: float | None = None) -> Message:
        """Return the next frame's message. Raise Missed unless it is strictly valid."""
        return strictly(await self.frame(seconds), self._settings.revision)

    async def expect_pong(self) -> bytes:
        """Return the frame that answers a ping. A separate case checks its payload."""
        frame = await self.frame()
        if frame[:1] != PONG[:1]:
            raise Missed("a pong", shown(frame), "SESSION-PONG")
        return frame

    async def ping(self) -> bytes:
        """Send a ping to a rank 1, and expect a pong."""
        await self.send("a ping", PING)
        self.step("expect a pong")
        return await self.expect_pong()

    async def answer_pings(self, pong: bytes = PONG) -> None:
        """Answer unanswered pings with one pong, like a rank 1."""
        if self._owes_pong:
            await self.send("a pong", pong)

    async def expect_bootstrap(self, pong: bytes = PONG) -> JacclBootstrapPayload:
        """Return a rank 0's jacclBootstrap. Answer pings before it: rank 0 may wait for a pong. [PLAIN-OFFER]"""
        self.step("expect a jacclBootstrap")
        deadline = self._now() + self._patience.ping_every + self._patience.slack
        while True:
            await self.answer_pings(pong)
            try:
                message = await self.message(max(deadline - self._now(), 0.0))
            except Missed as missed:
                if missed.requirement is None:
                    raise Missed("a jacclBootstrap", missed.came, "BOOT-SEND") from None
                raise
            if isinstance(message, JacclBootstrapPayload):
                return message
            if isinstance(message, SessionEnd):
                raise Missed("a jacclBootstrap", "sessionEnd", "BOOT-SEND")

    async def expect_alive(self, why: str = "the session to continue") -> None:
        """Check that the peer accepted what was sent: a rank 1 answers a ping, a rank 0 does not close."""
        if self.peer.role is Role.RESPONDER:
            try:
                await self.ping()
            except Missed as missed:
                if missed.requirement in (None, "SESSION-PONG"):
                    raise Missed(why, missed.came) from None
                raise
            return
        self.step(f"expect that the peer does not close for {self._patience.quiet:g} s")
        deadline = self._now() + self._patience.quiet
        while (left := deadline - self._now()) > 0:
            await self.answer_pings()
            try:
                body = await self.wire.frame(left)
            except Silence:
                return
            if body is None:
                raise Missed(why, self.wire.ended)
            frame = self._opened(body)
            if frame == SESSION_END:
                return  # an orderly end: after a fault, the peer would close without sessionEnd
            self._owes_pong |= frame == PING

    async def expect_closed(self, *, probe: bool = True) -> None:
        """Check that the peer closes without sending anything.

        A ping follows, so that a rank 1 that accepts the fault is detected sooner, unless an incomplete frame was sent.
        """
        if self.key is not None and self.peer.role is Role.RESPONDER and probe:
            await self.send("a ping, which must not be answered", PING)
        self.step("expect that the peer closes without sending anything")
        deadline = self._now() + self._patience.close
        while True:
            try:
                body = await self.wire.frame(max(deadline - self._now(), 0.0))
            except Silence:
                raise Missed("the end of the connection", await self._still_there()) from None
            if body is None:
                return
            self._judge_word(body)

    async def _still_there(self) -> str:
        """Return what a peer did instead of closing: a rank 0 continues with its next ping, or stalls."""
        if self.key is None or self.peer.role is Role.RESPONDER:
            return "nothing"
        seconds = self._patience.ping_every + self._patience.pong
        self.step(f"see whether it continues within {seconds:g} s")
        try:
            body = await self.wire.frame(seconds)
        except Silence:
            return f"nothing: it stalled, and sent no ping for {seconds + self._patience.close:g} s"
        if body is None:
            return f"{self.wire.ended}, but not within {self._patience.close:g} s"
        return f"it continued with {shown(self._opened(body))}"

    async def expect_silence(self, requirement: str | None = None) -> None:
        """Check that nothing arrives for a moment."""
        self.step(f"expect nothing for {self._patience.quiet:g} s")
        try:
            body = await self.wire.frame(self._patience.quiet)
        except Silence:
            return
        came = self.wire.ended if body is None else shown(self._opened(body) if self.key else body)
        raise Missed("silence", came, requirement)

    async def anything_comes(self) -> bool:
        """Return whether any frame arrives before the connection ends."""
        try:
            return await self.wire.frame(self._patience.quiet) is not None
        except Silence:
            return False
        except Missed:
            return True

    async def expect_no_frame(self, first: bytes) -> None:
        """Check that no frame of a type arrives for a moment; others may."""
        deadline = self._now() + self._patience.quiet
        while (left := deadline - self._now()) > 0:
            await self.answer_pings()
            try:
                body = await self.wire.frame(left)
            except Silence:
                return
            if body is None:
                return
            frame = self._opened(body)
            self._owes_pong |= frame == PING
            if frame[:1] == first:
                raise Missed("no such frame", shown(frame))

    # -- internals -----------------------------------------------------------------------------------------------------

    def _judge_word(self, body: bytes) -> None:
        """Raise Missed for a frame that arrives where the connection must end."""
        frame = body if self.key is None else self._opened(body)
        if self.key is None:
            raise Missed("the end of the connection", shown(frame))
        if self.peer.role is Role.INITIATOR and frame[:1] != SESSION_END:
            return  # it was already in transit
        if frame[:1] in _GOING_ON or self.peer.role is Role.INITIATOR:
            raise Missed("the end of the connection", f"it continued with {shown(frame)}")
        raise Missed("the end of the connection, without a frame", shown(frame), "SESSION-SILENT")

    async def _body(self, expected: str, requirement: str | None = None, seconds: float | None = None) -> bytes:
        seconds = self._patience.answer if seconds is None else seconds
        try:
            body = await self.wire.frame(seconds)
        except Silence:
            raise Missed(expected, f"nothing in {seconds:.1f} s", requirement) from None
        if body is None:
            raise Missed(expected, self.wire.ended, requirement)
        return body

    def _opened(self, body: bytes) -> bytes:
        if self.key is None:
            return body
        frame = byhand.opened(self.key, body)
        if self._settings.revision is Revision.V1:
            if frame is not None:
                raise Missed("an unsealed frame, as in revision 1", "a sealed box", "REV-EXPLICIT")
            return body
        if frame is not None:
            return frame
        assert self.theirs is not None  # noqa: S101
        if is_plain(body):
            raise Missed("a sealed box", f"{shown(body)}, unsealed", "SEAL-FRAMES")
        rule, why = byhand.diagnose_box(self.secret(), self.salt, body)
        raise Missed("a box that opens with the session key", f"{len(body)} bytes: {why}", rule)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
