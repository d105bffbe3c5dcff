"""What a case has in its hands: the peer under test, and the other rank played by hand, as wrongly as is wanted.

A step says what it does before it does it, so that the record of a case reads as a script. What the peer does wrong
raises `Missed`.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

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

_ONE_SESSION: Final = "the peer goes through one session, and ends"
_GOING_ON: Final = (b"\x04", b"\x40", b"\x42", b"\x43")
"""What a rank 1 sends in a session that goes on: pongs, and the frames of extensions."""


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds."""

    start: float = 10.0
    """For a connection with a fresh peer."""
    answer: float = 6.0
    """For what a peer does of its own, or in answer."""
    close: float = 3.0
    """For the end of a connection that a fault has to end."""
    quiet: float = 0.3
    """In which a rank 0 that takes offence would have closed; a rank 1 is asked by a ping instead."""
    ping_every: float = 5.0
    pong: float = 3.0
    handshake: float = 10.0
    reconnect: float = 10.0
    retry: float = 1.0
    """Between a rank 0's attempts where nobody listens."""
    slack: float = 4.0
    """How much later than that a peer may be."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for a whole run."""

    identity: Identity
    peer_key: bytes | None = None
    """The identity key that the peer has to show, X ‖ Y; None for any."""
    revision: Revision = Revision.V2
    patience: Patience = Patience()
    has_extensions: bool | None = None
    """Whether the peer has any; None where its offers show it."""
    names_file: bool = False
    """Whether the session ID of a jacclBootstrap names a file on the peer."""
    broken: frozenset[str] = frozenset()
    """Requirements that the peer is known to break: sessions from the grammar leave out what breaks one of them."""
    full: bool = False
    """Whether every generated content is sent, instead of some of each kind."""


class Peer:
    """The peer under test in one case. Its connections are made with `connect` or `session`."""

    def __init__(self, target: Target, settings: Settings, record: Record) -> None:
        self.role = target.role
        self.settings = settings
        self.record = record
        self._target = target
        self._links: list[Link] = []

    async def connect(self, seconds: float | None = None) -> "Link":
        """A connection on which it is our turn: with a rank 0, its hello is there. Undecided where none comes."""
        number = len(self._links) + 1
        self.record.step("connect" if self.role is Role.RESPONDER else "wait for the peer to connect", number)
        try:
            reader, writer = await self._target.connect(seconds or self.settings.patience.start)
        except Undecided as undecided:
            if self.role is Role.RESPONDER and self._links:
                raise Missed("that the peer goes on listening", str(undecided), "SESSION-ROLES") from None
            raise
        link = Link(self, Wire(reader, writer, self.record, number))
        self._links.append(link)
        if self.role is Role.INITIATOR:
            await link.take_introduction()
        return link

    async def session(self) -> "Link":
        """A connection after a handshake without fault."""
        link = await self.connect()
        await link.shake_hands()
        return link

    async def session_at_ack(self) -> "Link":
        """A rank 0's connection just behind our ack: nothing of what the peer then sends is taken yet."""
        link = await self.connect()
        await link.send_body("the ack", link.introduction())
        link.open()
        return link

    @property
    def is_met(self) -> bool:
        """Whether there was a connection."""
        return bool(self._links)

    @property
    def was_closed(self) -> bool:
        """Whether the peer has ended a connection."""
        return any(link.wire.ended for link in self._links)

    async def crash(self) -> str:
        """How the peer's process has died, or nothing."""
        return await self._target.crash(was_closed=self.was_closed)

    async def refuse(self, seconds: float) -> None:
        """Refuse a rank 0's connections for so long."""
        self.record.step(f"listen no more for {seconds:g} s")
        await self._target.refuse(seconds)

    async def comes_again(self) -> "Link":
        """The next connection of a rank 0 that has lost the last one. Undecided where it was asked for one session."""
        patience = self.settings.patience
        try:
            return await self.connect(patience.reconnect + patience.slack)
        except Undecided as undecided:
            if self._target.has_ended:
                raise Undecided(Verdict.SKIPPED, _ONE_SESSION) from None
            raise Missed("another connection", str(undecided), "SESSION-RECONNECT") from None

    async def restart(self, *, refused: float = 0.0) -> None:
        """Another peer in place of this one; its connections are refused for so many seconds."""
        if not self._target.restarts:
            raise Undecided(Verdict.SKIPPED, "it needs a second peer, and there is no --restart-command")
        self.record.step("restart the peer" + (f", and listen {refused:g} s later" if refused else ""))
        await self.close()
        await self._target.restart(refused=refused)

    async def again(self) -> bool:
        """Make another connection possible: a rank 0 is restarted. False where that cannot be."""
        if self.role is Role.INITIATOR and self._target.restarts:
            await self.restart()
        return self.role is Role.RESPONDER or self._target.restarts

    def misplaced(self) -> bytes:
        """Return a good frame that does not belong where it comes: to be ignored."""
        return PONG if self.role is Role.RESPONDER else BOOTSTRAP

    @property
    def misplaced_opaque(self) -> bytes:
        """The type of one with an opaque payload, whose length is limited only by the link frame's."""
        return b"\x06" if self.role is Role.RESPONDER else b"\x05"

    async def close(self) -> None:
        for link in self._links:
            await link.wire.close()


class Link(Side):
    """One connection, the other rank played by hand."""

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
        """A link frame around `body`, be it sealed or not."""
        await self.send_bytes(what, link_frame(body))

    async def send(self, what: str, frame: bytes) -> None:
        """A cluster frame, in a box where the revision wants one."""
        if frame[:1] == PONG[:1]:
            self._owes_pong = False
        await self.send_body(what, self.body(frame))

    async def send_others(self, count: int) -> None:
        """So many messages that do not belong here, without a step for each."""
        self.step(f"send {count:,} messages that do not belong here")
        for _ in range(count):
            await self.wire.send(link_frame(self.body(self.peer.misplaced())), self._patience.answer)
            await asyncio.sleep(0)  # cases beside this one have timers

    async def send_long(self, first: bytes, length: int) -> None:
        """A link frame of this length, whose cluster frame begins with `first`; here it is never in memory whole."""
        self.step(f"send a link frame of {length:,} bytes")
        await self.wire.send(length.to_bytes(8, "little"), self._patience.answer)
        for piece in self.body_pieces(first, length):
            await self.wire.send(piece, self._patience.answer)

    # -- the handshake -------------------------------------------------------------------------------------------------

    async def shake_hands(self, frame: bytes | None = None) -> None:
        """The rest of a handshake without fault; `frame` is our part of it, if it is to be encoded in another way."""
        what = "the hello" if self.peer.role is Role.RESPONDER else "the ack"
        await self.send_body(what, self.introduction() if frame is None else frame)
        await self.establish()

    async def establish(self) -> None:
        """What follows our hello or ack, until the session is there on both sides."""
        if self.peer.role is Role.RESPONDER:
            await self.take_introduction()
            self.open()
        else:
            self.open()
            self.step("expect a first frame")
            await self.frame()

    def open(self) -> None:
        """Derive the session key, and note it."""
        super().open()
        assert self.key is not None  # noqa: S101
        self.peer.record.key_log.append(f"CLUSTER_SESSION_KEY {self.salt[:32].hex()} {self.key.hex()}")

    async def take_introduction(self) -> None:
        """The peer's hello or ack."""
        first, name = (HELLO, "hello") if self.peer.role is Role.INITIATOR else (ACK, "ack")
        self.step(f"expect the {name}")
        # Whether an ack comes depends on our hello, and that is what the case is about.
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
        """The next cluster frame, opened where it is sealed. Missed where none comes, or the connection ends."""
        body = await self._body("a frame", seconds=seconds)
        self.bodies.append(body)
        opened = self._opened(body)
        self._owes_pong |= opened == PING
        return opened

    async def next_frame(self, seconds: float) -> bytes | None:
        """The next cluster frame; None once the peer has closed. Silence where neither comes in time."""
        body = await self.wire.frame(seconds)
        if body is None:
            return None
        self.bodies.append(body)
        return self._opened(body)

    async def message(self, seconds: float | None = None) -> Message:
        """The next frame's message. Missed where it is not to the letter."""
        return strictly(await self.frame(seconds), self._settings.revision)

    async def expect_pong(self) -> bytes:
        """The answer to a ping, a frame; whether its payload is to the letter, one case asks."""
        frame = await self.frame()
        if frame[:1] != PONG[:1]:
            raise Missed("a pong", shown(frame), "SESSION-PONG")
        return frame

    async def ping(self) -> bytes:
        """Asks a rank 1 for a pong."""
        await self.send("a ping", PING)
        self.step("expect a pong")
        return await self.expect_pong()

    async def answer_pings(self, pong: bytes = PONG) -> None:
        """As a rank 1 does: one pong for the pings that came, and that none has answered."""
        if self._owes_pong:
            await self.send("a pong", pong)

    async def expect_bootstrap(self, pong: bytes = PONG) -> JacclBootstrapPayload:
        """A rank 0's jacclBootstrap. Pings before it are answered: rank 0 may wait for a pong. [PLAIN-OFFER]"""
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

    async def expect_alive(self, why: str = "the session to go on") -> None:
        """The peer has taken what was sent, and goes on: a rank 1 answers a ping, a rank 0 at least does not close."""
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
                return  # in order, and not for a fault: that would have been silent
            self._owes_pong |= frame == PING

    async def expect_closed(self, *, probe: bool = True) -> None:
        """The peer closes, and says nothing more.

        To see sooner that a rank 1 takes what it has to refuse, a ping follows, unless what was sent is no whole frame.
        """
        if self.key is not None and self.peer.role is Role.RESPONDER and probe:
            await self.send("a ping, which must not be answered", PING)
        self.step("expect that the peer closes, without a word")
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
        """What a peer does that has not closed: a rank 0 goes on, with its next ping, or stalls."""
        if self.key is None or self.peer.role is Role.RESPONDER:
            return "nothing"
        seconds = self._patience.ping_every + self._patience.pong
        self.step(f"see whether it goes on within {seconds:g} s")
        try:
            body = await self.wire.frame(seconds)
        except Silence:
            return f"nothing: it stalls, and has sent no ping for {seconds + self._patience.close:g} s"
        if body is None:
            return f"{self.wire.ended}, though not within {self._patience.close:g} s"
        return f"it went on with {shown(self._opened(body))}"

    async def expect_silence(self, requirement: str | None = None) -> None:
        """Nothing comes for a moment."""
        self.step(f"expect nothing for {self._patience.quiet:g} s")
        try:
            body = await self.wire.frame(self._patience.quiet)
        except Silence:
            return
        came = self.wire.ended if body is None else shown(self._opened(body) if self.key else body)
        raise Missed("silence", came, requirement)

    async def anything_comes(self) -> bool:
        """Whether a frame comes, whatever is in it, before the connection ends."""
        try:
            return await self.wire.frame(self._patience.quiet) is not None
        except Silence:
            return False
        except Missed:
            return True

    async def expect_no_frame(self, first: bytes) -> None:
        """No frame of a type comes for a moment; others can."""
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

    # -- within --------------------------------------------------------------------------------------------------------

    def _judge_word(self, body: bytes) -> None:
        """A frame that comes where the connection has to end."""
        frame = body if self.key is None else self._opened(body)
        if self.key is None:
            raise Missed("the end of the connection", shown(frame))
        if self.peer.role is Role.INITIATOR and frame[:1] != SESSION_END:
            return  # it was under way
        if frame[:1] in _GOING_ON or self.peer.role is Role.INITIATOR:
            raise Missed("the end of the connection", f"it went on with {shown(frame)}")
        raise Missed("the end of the connection without a word", shown(frame), "SESSION-SILENT")

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
                raise Missed("a frame that is not sealed, as in revision 1", "a sealed box", "REV-EXPLICIT")
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
