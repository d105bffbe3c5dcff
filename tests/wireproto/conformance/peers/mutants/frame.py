"""Bugs in cluster frames and their types."""

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.mutant import ONE, PONG, V1, ZERO, Tolerant, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import (
    HandshakeAck,
    HandshakeHello,
    Message,
    Ping,
    SessionEnd,
)


@mutant("SESSION-BOX")
class UnknownTypeIgnored(Tolerant):
    """An unknown type is skipped."""

    codes = ("type-unknown",)


@mutant("SESSION-SILENT", roles=ONE)
class FaultAnswered(RankOne):
    """A fault is answered before the connection ends."""

    def faulty(self) -> None:
        if self.key:
            self.send(HandshakeAck(bytes(64), bytes(32), bytes(32), b""))
        super().faulty()


@mutant("SESSION-ROLES", roles=ONE)
class FaultEndsTheServer(RankOne):
    """A fault ends the process."""

    def faulty(self) -> None:
        self.shared.memory["stop listening"]()
        super().faulty()


@mutant("FRAME-TYPE")
class EmptyFrameAccepted(Conversation):
    """An empty box is skipped."""

    def take_frame(self, frame: bytes) -> None:
        if frame:
            super().take_frame(frame)


@mutant("PAYLOAD-EMPTY")
class PayloadNotEmptyAccepted(Tolerant):
    """Bytes after a type without a payload are skipped."""

    codes = ("payload-not-empty",)


@mutant("SESSION-IGNORE")
class MisplacedRefused(Conversation):
    """A known but unexpected type ends the connection."""

    def misplaced(self, message: Message) -> None:
        raise Fault("misplaced")


@mutant("SESSION-BOX", roles=ONE)
class MisplacedNotDecoded(RankOne):
    """Only the type of an unexpected frame is checked."""

    def take_frame(self, frame: bytes) -> None:
        if frame[:1] != b"\x04":
            super().take_frame(frame)


@mutant("SESSION-BOX", roles=ZERO)
class MisplacedBootstrapNotDecoded(RankZero):
    """Only the type of a jacclBootstrap to rank 0 is checked."""

    def take_frame(self, frame: bytes) -> None:
        if frame[:1] != b"\x07":
            super().take_frame(frame)


@mutant("PAYLOAD-OPAQUE")
class OpaqueEmptyRefused(Conversation):
    """An opaque payload must be a box."""

    def look_at(self, frame: bytes) -> None:
        if frame in (b"\x05", b"\x06"):
            raise Fault("no box")


@mutant("SESSION-IGNORE", "SEAL-FRAMES", roles=ONE)
class SecondHelloAnswered(RankOne):
    """A second hello begins a second handshake."""

    def misplaced(self, message: Message) -> None:
        if isinstance(message, HandshakeHello):
            self.write_introduction(b"\x02", self.own_ack_commitment(message.nonce))


@mutant("SESSION-IGNORE", "HANDSHAKE-KEY", roles=ZERO)
class SecondAckTaken(RankZero):
    """A second ack makes a new key."""

    def misplaced(self, message: Message) -> None:
        if isinstance(message, HandshakeAck):
            self.key = self.derive(message.ephemeral_x25519_pub_key, self.nonce, message.nonce)


@mutant("SESSION-STATE", roles=ZERO)
class PingAnsweredByRank0(RankZero):
    """A ping is answered by rank 0, too."""

    def misplaced(self, message: Message) -> None:
        if isinstance(message, Ping):
            self.send(PONG)


@mutant("SESSION-IGNORE", roles=ZERO)
class SessionEndObeyedByRank0(RankZero):
    """Rank 1 can end the session."""

    def misplaced(self, message: Message) -> None:
        if isinstance(message, SessionEnd):
            self.end()


@mutant("FRAME-TYPE", revision=V1)
class TypesOfRevision2(Conversation):
    """The types of revision 2 are known in revision 1."""

    def decode(self, frame: bytes) -> Message | None:
        if 0x08 <= frame[0] <= 0x0D:
            return None
        return super().decode(frame)


@mutant("REV-EXPLICIT", revision=V1)
class RevisionGuessed(Conversation):
    """In revision 1 a box is opened, if it is one."""

    def decode(self, frame: bytes) -> Message | None:
        try:
            return super().decode(self.open_box(frame))
        except Fault:
            return super().decode(frame)


@mutant("REV-EXPLICIT", revision=V1)
class AlwaysSealed(Conversation):
    """Revision 1 is sealed like revision 2."""

    def write_body(self, body: bytes) -> None:
        super().write_body(self.seal(body) if self.key else body)
