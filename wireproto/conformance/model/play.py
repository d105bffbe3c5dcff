"""Plays a script to a live peer, and finds where it disagrees with the model."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import msgspec

from wireproto.conformance.frames import OFFER, PONG, SESSION_END, link_frame, offered, shown, strictly
from wireproto.conformance.model.drawing import PING
from wireproto.conformance.model.introductions import BLIND, introduce
from wireproto.conformance.model.rules import End, Listener, Model, Outcome
from wireproto.conformance.model.script import Act, Hand, Script, bursts, rewritten
from wireproto.conformance.peer import Peer
from wireproto.conformance.verdicts import Missed
from wireproto.conformance.wire import Silence
from wireproto.messages import (
    EXTENSIONS,
    SPEC_BY_CLASS,
    Direction,
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    Revision,
)
from wireproto.session import Role
from wireproto.session.seal import NONCE

_SEGMENT: Final = 0.002
"""Seconds after which bytes are sent in a new segment."""
_INTRODUCTION: Final = Act(do="introduce")
_END: Final = Act(do="frame", data=SESSION_END.hex())
CRASHES: Final = "crashes of"
Does = Literal["takes", "does not take", "does not answer", "sends", "crashes of"]


@dataclass(frozen=True)
class Disagreement:
    """A reaction of the peer that the rules do not allow."""

    does: Does
    shape: str
    """The act that it reacts to, in a few words."""
    rule: str
    expected: str
    came: str

    @property
    def kind(self) -> str:
        """Disagreements with the same kind and rule are one finding."""
        return f"{self.does} {self.shape}"

    @property
    def is_certain(self) -> bool:
        """Whether the rule is certain: a refused frame shows only when the next answer is due."""
        return self.does != "does not take"


class _Disagrees(Exception):  # noqa: N818 - what the peer does
    def __init__(self, disagreement: Disagreement) -> None:
        super().__init__(disagreement.kind)
        self.disagreement = disagreement


async def met(peer: Peer) -> Listener:
    """Return the properties of a peer; find out its extensions, unless it is known to have none."""
    settings = peer.settings
    extensions: tuple[str, ...] = ()
    if settings.has_extensions is not False and settings.revision is Revision.V2:
        with suppress(Missed):
            if peer.role is Role.RESPONDER:
                names = offered(await (await peer.session()).ping())
                extensions = tuple(name for name in EXTENSIONS if name in names)
            else:
                link = await peer.session_at_ack()
                await link.send("a pong that offers an extension", OFFER)
                extensions = EXTENSIONS if (await link.expect_bootstrap()).extensions else ()
        await peer.close()
    return Listener(peer.role, settings.revision, extensions, settings.names_file)


async def play(peer: Peer, listener: Listener, script: Script) -> Disagreement | None:
    """Play a script to a peer that is ready for another connection; return its first disagreement.

    Raises `Undecided` if there is no connection.
    """
    try:
        await _Play(peer, listener, script).run()
    except _Disagrees as disagrees:
        return disagrees.disagreement
    except Missed as missed:  # before the script began
        return Disagreement("does not take", "a connection", missed.requirement or "SESSION-ROLES", *_of(missed))
    return None


class _Play:
    def __init__(self, peer: Peer, listener: Listener, script: Script) -> None:
        self._peer = peer
        self._listener = listener
        self._acts = script.acts
        self._patience = peer.settings.patience
        self._began = self._now()
        self._may_hold_group = False

    async def run(self) -> None:
        await self._connect(next((act for act in self._acts if act.do == "introduce"), _INTRODUCTION))
        groups = list(bursts(self._acts))
        for burst, following in zip(groups, (*groups[1:], None), strict=True):
            match burst[0].do:
                case "strangers":
                    await self._strangers(burst[0])
                case "newcomer":
                    if not await self._newcomer(burst[0]):
                        return
                case _:
                    if not await self._burst(burst, following[0] if following else None):
                        return
        if self._end is End.EITHER or self._link.key is None:
            return
        if self._peer.role is Role.RESPONDER and not self._is_blind:
            await self._finish()
        else:
            await self._quiet()

    async def _connect(self, act: Act) -> None:
        self._link = await self._peer.connect()
        if act.part:
            about, self._introduction = introduce(self._link, act.part, act.way)
            self._link.step(f"prepare our {'hello' if self._peer.role is Role.RESPONDER else 'ack'}: {about}")
        else:
            self._introduction = rewritten(self._link.introduction(), act.at)
        self._is_blind = act.part == BLIND
        self._hand = Hand(self._link, self._introduction)
        self._model = Model(self._listener, self._link)
        self._end = End.OPEN

    # -- bytes out -----------------------------------------------------------------------------------------------------

    async def _burst(self, burst: tuple[Act, ...], following: Act | None = None) -> bool:
        """Send acts that belong together, and check the reaction. Return False once the connection must have ended."""
        if any(act.do == "own box" for act in burst) and not self._link.bodies and self._link.key is not None:
            with suppress(Missed):
                await self._link.frame()
        outcome = self._model.burst(burst, self._introduction, following)
        self._may_hold_group |= outcome.has_bootstrap
        self._end = outcome.end
        self._link.step(f"send {', '.join(map(_told, burst[: outcome.sent]))}")
        after = burst[1:] + ((following,) if following else ())
        for pause, data in self._segments(burst[: outcome.sent], after):
            await asyncio.sleep(pause)
            await self._link.wire.send(data, self._patience.answer)
        if self._peer.role is Role.RESPONDER:
            return await self._settle(outcome, burst[outcome.sent - 1])
        if outcome.end is End.CLOSED:
            if burst[0].part:
                self._link.key = None  # the peer must not know the key
            await self._closed(outcome, probe=False)
            return False
        return True

    def _segments(self, burst: tuple[Act, ...], after: tuple[Act, ...]) -> list[tuple[float, bytes]]:
        """Yield pieces of bytes, each with the pause before it."""
        segments: list[tuple[float, bytes]] = []
        is_joined = False
        for number, act in enumerate(burst):
            data = self._hand.bytes_of(act, after[number] if number < len(after) else None)
            cuts = [0, *(cut for cut in act.cuts if cut < len(data)), len(data)]
            pieces = [data[start:stop] for start, stop in pairwise(cuts)]
            if is_joined:
                pause, last = segments.pop()
                pieces[0] = last + pieces[0]
                segments.append((pause, pieces.pop(0)))
            segments += [(_SEGMENT, piece) for piece in pieces]
            if act.pause:
                segments[-1] = (act.pause * self._patience.handshake, segments[-1][1])
            is_joined = act.joined
        return segments

    # -- bytes in ------------------------------------------------------------------------------------------------------

    async def _settle(self, outcome: Outcome, last: Act) -> bool:
        """Expect of a rank 1 the ack, one pong for each ping, and the end if it is due."""
        if outcome.has_ack:
            try:
                await self._link.take_introduction()
                self._link.open()
            except Missed as missed:
                if outcome.end is not End.OPEN and self._link.wire.ended:
                    return False  # a reset can overtake the ack
                self._disagree("does not take", outcome, missed, "our hello", missed.requirement or "HANDSHAKE-HELLO")
        for _ in range(outcome.pongs):
            if not await self._pong(outcome):
                return False
        if outcome.end is End.CLOSED:
            await self._closed(outcome, probe=last.do not in ("bytes", "wrapped length", "part"))
            return False
        return True

    async def _pong(self, outcome: Outcome) -> bool:
        """Receive a pong. Return False if the connection ended, where it may."""
        deadline = self._now() + self._patience.answer
        while True:
            try:
                frame = await self._frame(deadline - self._now())
            except Silence:
                self._disagree("does not answer", outcome, Missed("a pong", "nothing"), "a ping", "SESSION-PONG")
            if frame is None:
                if outcome.end is End.OPEN:
                    self._disagree("does not take", outcome, Missed("the session to continue", self._link.wire.ended))
                return False
            if frame[:1] == PONG[:1]:
                return True

    async def _frame(self, seconds: float) -> bytes | None:
        """Return the peer's next frame, which must be allowed, or None at the end."""
        try:
            frame = await self._link.next_frame(max(seconds, 0.0))
            if frame is not None:
                self._judge(frame)
        except Missed as missed:
            rule = missed.requirement or "SESSION-STATE"
            raise _Disagrees(Disagreement("sends", "a wrong frame", rule, *_of(missed))) from None
        return frame

    def _judge(self, frame: bytes) -> None:
        message = strictly(frame, self._listener.revision)
        spec = SPEC_BY_CLASS[type(message)]
        theirs = Direction.RANK_1_TO_0 if self._peer.role is Role.RESPONDER else Direction.RANK_0_TO_1
        is_misplaced = spec.direction not in (theirs, Direction.BOTH)
        if is_misplaced or isinstance(message, HandshakeHello | HandshakeAck):
            raise Missed("a message that it may send", shown(frame), "SESSION-STATE")
        if spec.extension and spec.extension not in self._listener.extensions:
            raise Missed("no message of an extension", shown(frame), "EXT-UNINVITED")
        if isinstance(message, JacclBootstrapPayload) and set(message.extensions) - set(EXTENSIONS):
            raise Missed("only offered extensions", shown(frame), "EXT-CHOICE")

    async def _closed(self, outcome: Outcome, *, probe: bool) -> None:
        try:
            await self._link.expect_closed(probe=probe)
        except Missed as missed:
            if missed.requirement is not None:
                raise _Disagrees(
                    Disagreement("sends", f"a frame after {outcome.shape}", missed.requirement, *_of(missed))
                ) from None
            self._disagree("takes", outcome, missed)

    async def _finish(self) -> None:
        """Check that a rank 1 answers a last ping, sends nothing else, and accepts a sessionEnd."""
        ping, end = (msgspec.structs.replace(act, nonce=os.urandom(NONCE).hex()) for act in (PING, _END))
        outcome = self._model.burst((ping,), self._introduction, None)
        await self._link.send_bytes("a last ping", self._hand.bytes_of(ping, None))
        if not outcome.pongs:
            return  # the peer waits for the rest of a link frame
        await self._pong(outcome)
        outcome = self._model.burst((end,), self._introduction, None)
        await self._link.send_bytes("sessionEnd", self._hand.bytes_of(end, None))
        try:
            await self._link.expect_closed(probe=False)
        except Missed as missed:
            if "pong" in missed.came:
                self._disagree("sends", outcome, missed, "more pongs than pings", "SESSION-PONG")
            self._disagree("takes", outcome, missed)

    async def _quiet(self) -> None:
        """Check that a rank 0 continues for a moment, unless it ends orderly or has missed too many pongs.

        The same holds for a rank 1 whose session key we cannot know.
        """
        take = self._link.wire.frame if self._is_blind else self._frame
        deadline = self._now() + self._patience.quiet
        self._link.step(f"expect that the peer does not close for {self._patience.quiet:g} s")
        while (left := deadline - self._now()) > 0:
            try:
                frame = await take(left)
            except Silence:
                return
            if frame == SESSION_END or self._is_late():
                return
            if frame is None:
                outcome = self._model.last
                self._disagree("does not take", outcome, Missed("the session to continue", self._link.wire.ended))

    def _is_late(self) -> bool:
        """Return whether a rank 0 may have given up by now, because no ping was answered."""
        return self._now() - self._began > 2 * self._patience.ping_every

    # -- other connections ---------------------------------------------------------------------------------------------

    async def _strangers(self, act: Act) -> None:
        self._model.beside()
        self._end = self._model.last.end
        for _ in range(act.count):
            other = await self._peer.connect()
            if act.part:
                about, frame = introduce(other, act.part, act.way)
                await other.send_bytes(f"a hello: {about}", link_frame(frame))
            elif act.at < 0:
                with suppress(Missed):
                    await other.shake_hands()
            else:
                await other.send_bytes(f"{act.at} bytes of a hello", link_frame(other.introduction())[: act.at])
            if not act.stays:
                await other.wire.close()

    async def _newcomer(self, act: Act) -> bool:
        """Continue on another connection, confirmed by a ping. Return False if the peer need not accept it."""
        if act.at:
            await (self._link.wire.close() if act.at == 1 else self._link.wire.reset())
        old = self._link
        may_refuse = self._may_hold_group or self._listener.revision is Revision.V1
        is_replaced = self._model.is_settled and not act.at and not may_refuse
        await self._connect(_INTRODUCTION)
        ping = msgspec.structs.replace(PING, nonce=os.urandom(NONCE).hex())
        try:
            is_taken = all([await self._burst((each,)) for each in (_INTRODUCTION, ping)])
            if is_taken and is_replaced and "SESSION-REPLACE" not in self._peer.settings.broken:
                await old.expect_closed(probe=False)
            return is_taken
        except Missed as missed:
            raise _Disagrees(Disagreement("does not take", "a newcomer", "SESSION-REPLACE", *_of(missed))) from None
        except _Disagrees as disagrees:
            if may_refuse:
                return False
            found = disagrees.disagreement
            rule = "SESSION-ROLES" if act.at else "SESSION-REPLACE"
            raise _Disagrees(Disagreement("does not take", "a newcomer", rule, found.expected, found.came)) from None

    # -- internals -----------------------------------------------------------------------------------------------------

    def _disagree(
        self, does: Does, outcome: Outcome, missed: Missed, shape: str | None = None, rule: str | None = None
    ) -> None:
        raise _Disagrees(
            Disagreement(does, shape or outcome.shape, rule or missed.requirement or outcome.rule, *_of(missed))
        ) from None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _of(missed: Missed) -> tuple[str, str]:
    return missed.expected, missed.came


def _told(act: Act) -> str:
    """Return an act in a few words, for the record."""
    data = bytes.fromhex(act.data)
    if act.part:
        return f"{act.do}: {act.part}"
    what = act.do if not data or act.do in ("bytes", "part") else f"{act.do}: {shown(data)}"
    how = f" in {len(act.cuts) + 1} pieces" * bool(act.cuts) + " joined with the next" * act.joined
    return what + how
