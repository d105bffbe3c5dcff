"""Bugs in the open session."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.wireproto.conformance.peers.conversation import Fault
from tests.wireproto.conformance.peers.mutant import ONE, V1, ZERO, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import PongPayload, SessionEnd


@mutant("SESSION-PONG", roles=ONE)
class PingUnanswered(RankOne):
    """No pongs are sent."""

    def pong(self) -> None:
        pass


@mutant("SESSION-PONG", roles=ONE)
class PongTwice(RankOne):
    """Each ping is answered by two pongs."""

    def pong(self) -> None:
        super().pong()
        super().pong()


@mutant("SESSION-PONG", roles=ONE)
class PongLate(RankOne):
    """A pong takes longer than rank 0 waits."""

    def pong(self) -> None:
        self.later(0.7, super().pong)


@mutant("SESSION-PONG", roles=ONE)
class PongUnasked(RankOne):
    """A pong is sent without a ping."""

    def established(self, key: bytes) -> None:
        super().established(key)
        self.later(0.02, super().pong)


@mutant("SESSION-END", roles=ONE)
class SessionEndIgnored(RankOne):
    """sessionEnd has no effect."""

    def session_end(self) -> None:
        pass


@mutant("SESSION-END", roles=ONE)
class SessionEndLate(RankOne):
    """Bytes after sessionEnd are still read."""

    def session_end(self) -> None:
        self.later(0.05, self.end)


@mutant("SESSION-ROLES", roles=ONE)
class OneSessionOnly(RankOne):
    """The peer stops listening after the first session."""

    def session_end(self) -> None:
        self.shared.memory["stop listening"]()
        super().session_end()


@mutant("LINK-EOF", "SESSION-ROLES", roles=ONE)
class EndOfStreamEndsTheServer(RankOne):
    """The end of a stream ends the process."""

    def eof_received(self) -> bool:
        self.shared.memory["stop listening"]()
        return super().eof_received()


@mutant("HANDSHAKE-ONLY", roles=ONE)
class StateKept(RankOne):
    """The last session's key opens the next connection."""

    def established(self, key: bytes) -> None:
        super().established(key)
        self.shared.memory["key"] = key

    def shake_hands(self, frame: bytes) -> None:
        if frame[0] == 1 or "key" not in self.shared.memory:
            super().shake_hands(frame)
        else:
            self.key = self.shared.memory["key"]
            self.take(frame)


@mutant("HANDSHAKE-KEY", roles=ONE)
class KeyKept(RankOne):
    """A box may be sealed with the last session's key."""

    def established(self, key: bytes) -> None:
        self.old = self.shared.memory.get("key", key)
        self.shared.memory["key"] = key
        super().established(key)

    def open_box(self, box: bytes) -> bytes:
        try:
            return super().open_box(box)
        except Fault:
            try:
                return AESGCM(self.old).decrypt(box[:12], box[12:], None)
            except (InvalidTag, ValueError):
                raise Fault("the box does not open") from None


@mutant("SESSION-DISPLACE", roles=ONE)
class NewestCounts(RankOne):
    """A new connection ends the one before."""

    def begin(self) -> None:
        super().begin()
        last = self.shared.memory.get("last")
        if last is not None:
            last.end()
        self.shared.memory["last"] = self


@mutant("SESSION-DISPLACE", roles=ONE)
class OneAtATime(RankOne):
    """A connection is served when the one before has ended."""

    def begin(self) -> None:
        self.shared.memory.setdefault("queue", []).append(self)
        super().begin()

    def data_received(self, data: bytes) -> None:
        if self.shared.memory["queue"][0] is self:
            super().data_received(data)

    def gone(self) -> None:
        super().gone()
        self.shared.memory["queue"].remove(self)


@mutant("SESSION-DISPLACE", roles=ONE)
class FaultEndsAll(RankOne):
    """A fault on one connection ends all."""

    def faulty(self) -> None:
        super().faulty()
        if self.shared.current is not None:
            self.shared.current.end()


@mutant("SESSION-DISPLACE", roles=ONE)
class HelloDisplaces(RankOne):
    """A hello alone replaces the existing session."""

    def established(self, key: bytes) -> None:
        super().established(key)
        self.replace()


@mutant("SESSION-REPLACE", roles=ONE)
class NotReplaced(RankOne):
    """Sessions pile up."""

    def replace(self) -> None:
        pass


@mutant("SESSION-NEWCOMER", roles=ONE, revision=V1)
class NewcomerDisplaces(RankOne):
    """In revision 1 a hello alone replaces the existing session."""

    def established(self, key: bytes) -> None:
        super().established(key)
        self.replace()


@mutant("SESSION-CROWD", roles=ONE)
class CrowdKeepsOut(RankOne):
    """New connections above a limit are refused."""

    def begin(self) -> None:
        if len(self.shared.unconfirmed) >= self.max_unconfirmed:
            self.end()
        else:
            super().begin()


@mutant("SESSION-TIMES", roles=ONE)
class WaitsForEver(RankOne):
    """A silent connection is never closed."""

    def handshake_timeout(self) -> None:
        pass


@mutant("SESSION-PING", roles=ZERO)
class FirstPingLate(RankZero):
    """The first ping comes after the first interval."""

    def first_ping(self) -> None:
        self.later(self.shared.ping_every, self.ping)


@mutant("SESSION-PING", roles=ZERO)
class PingOnce(RankZero):
    """There is one ping per session."""

    def ping(self) -> None:
        super().ping()
        self.timers[-1].cancel()


@mutant("SESSION-PING", roles=ZERO)
class PingsTooOften(RankZero):
    """Pings come ten times as often."""

    def ping(self) -> None:
        super().ping()
        self.timers[-1].cancel()
        self.later(self.shared.ping_every / 10, self.ping)


@mutant("SESSION-MISSED", roles=ZERO)
class NeverGivesUp(RankZero):
    """Missed pongs have no effect."""

    def miss(self) -> None:
        pass


@mutant("PLAIN-INIT", roles=ZERO)
class InitCutShort(RankZero):
    """Three missed pongs end the session even while the peer's group forms."""

    def may_be_in_init(self) -> bool:
        return False


@mutant("SESSION-MISSED", roles=ZERO)
class InitNeverOver(RankZero):
    """After jacclBootstrap, missed pongs have no effect."""

    def may_be_in_init(self) -> bool:
        return self.pongs_until_init_is_over > 0 or self.ponged


@mutant("SESSION-PING", roles=ZERO)
class GivesUpAtOnce(RankZero):
    """The first missed pong ends the session."""

    max_missed = 1


@mutant("SESSION-PONG", roles=ZERO)
class ModelRequired(RankZero):
    """A pong without a loaded model ends the session."""

    def pong(self, payload: PongPayload) -> None:
        if not payload.model_loaded:
            raise Fault("no model")


@mutant("SESSION-MISSED", roles=ZERO)
class MissedPongsAddUp(RankZero):
    """A pong does not reset the count of missed ones."""

    def pong(self, payload: PongPayload) -> None:
        missed = self.missed
        super().pong(payload)
        self.missed = missed


@mutant("SESSION-RECONNECT", roles=ZERO)
class NoReconnect(RankZero):
    """There is no further attempt after a failure."""

    def gone(self) -> None:
        pass


@mutant("SESSION-RECONNECT", roles=ZERO)
class ReconnectsAtOnce(RankZero):
    """It does not wait after a failure."""

    def gone(self) -> None:
        self.shared.reconnect_after = 0.01
        super().gone()


@mutant("SESSION-RECONNECT", roles=ZERO)
class NoReconnectAfterReset(RankZero):
    """It gives up after a reset."""

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            super().connection_lost(error)


@mutant("SESSION-RECONNECT", roles=ZERO)
class OnceRefusedForEver(RankZero):
    """It gives up after a refused connection."""

    tries_again_when_refused = False


@mutant("SESSION-RECONNECT", roles=ZERO)
class HammersWhenRefused(RankZero):
    """It does not wait after an attempt that is refused."""

    pause_when_refused = 0.01


@mutant("SESSION-RECONNECT", roles=ZERO)
class HammersAfterAFailedHandshake(RankZero):
    """It does not wait after a failed handshake."""

    def gone(self) -> None:
        if self.key is None:
            self.shared.reconnect_after = 0.01
        super().gone()


@mutant("SESSION-END-SEND", roles=ZERO)
class StaysAfterSessionEnd(RankZero):
    """It sends sessionEnd after the first pong, and does not close."""

    def pong(self, payload: PongPayload) -> None:
        self.send(SessionEnd())
