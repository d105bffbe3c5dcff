"""Peers that differ from the reference without breaking a MUST: no case may fail them.

What misses a SHOULD is among them: `non-strict` is no failure.
"""

import asyncio
import base64
import json
import socket
import struct
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import JacclBootstrapPayload, MemoryPressure, Message, PongPayload, SessionEnd
from wireproto.testing.signatures import ORDER

Rank = type[RankOne] | type[RankZero]

# -- of either rank ----------------------------------------------------------------------------------------------------


class WritesAsSwift(Conversation):
    """Keys in another order, and `\\/` in base64."""

    def spell(self, values: dict[str, bytes]) -> bytes:
        texts = {key: base64.b64encode(value).decode() for key, value in reversed(values.items())}
        return json.dumps(texts, separators=(",", ":")).replace("/", "\\/").encode()

    def encode(self, message: Message) -> bytes:
        frame = super().encode(message)
        return frame if b"{" not in frame else frame[:1] + _reordered(frame[1:])


def _reordered(text: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(text).items()))).replace("/", "\\/").encode()


class WritesMore(Conversation):
    """White space, escapes, and keys that this revision does not know."""

    def spell(self, values: dict[str, bytes]) -> bytes:
        return _longer(super().spell(values))

    def encode(self, message: Message) -> bytes:
        frame = super().encode(message)
        return frame if b"{" not in frame else frame[:1] + _longer(frame[1:])


def _longer(text: bytes) -> bytes:
    more = json.loads(text) | {"build": {"é": [1, None, -0.5]}}
    return b"\n" + json.dumps(more, indent=2).encode() + b" \t"


class SignsWithHighS(Conversation):
    """The higher one of s and n − s, which needs a leading zero byte in DER."""

    is_high = True

    def sign(self, commitment: bytes) -> bytes:
        r, s = decode_dss_signature(self.shared.identity.sign(commitment, ec.ECDSA(hashes.SHA256())))
        return encode_dss_signature(r, (max if self.is_high else min)(s, ORDER - s))


class SignsWithLowS(SignsWithHighS):
    """The lower one, as some libraries always do."""

    is_high = False


class WritesInPieces(Conversation):
    """A few bytes at a time."""

    def write_body(self, body: bytes) -> None:
        data = self.header(len(body)) + body
        for at in range(0, len(data), 7):
            if not self.over:
                self.transport.write(data[at : at + 7])


class ResetsConnections(Conversation):
    """It ends them by a reset."""

    def end(self) -> None:
        if not self.over and not self.transport.is_closing():
            own = self.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        super().end()


class HasNoExtensions(Conversation):
    extensions = ()


class AnyLengthBeforeTheHandshake(Conversation):
    """A SHOULD: it does not limit unauthenticated connections."""

    early_limit = Conversation.limit


class RemembersNoNonces(Conversation):
    """A SHOULD: it accepts replayed and reflected boxes."""

    def check_box(self, nonce: bytes) -> None:
        pass


# -- rank 1 ------------------------------------------------------------------------------------------------------------


class ClosesAfterSessionEndLate(RankOne):
    def session_end(self) -> None:
        self.over = True
        asyncio.get_running_loop().call_later(0.1, self.transport.close)


class AnswersAnyTime(RankOne):
    """Its pong is slow, but within rank 0's limit."""

    def pong(self) -> None:
        self.later(0.1, super().pong)


class LongerCrowd(RankOne):
    max_unconfirmed = 100


class SmallCrowd(RankOne):
    max_unconfirmed = 3


class IsBusy(RankOne):
    """Its pongs have other values than the reference's."""

    def send(self, message: Message) -> None:
        if isinstance(message, PongPayload):
            message = PongPayload(True, True, MemoryPressure.CRITICAL, message.extensions)
        super().send(message)


class OffersMore(RankOne):
    """Unknown extensions."""

    def send(self, message: Message) -> None:
        if isinstance(message, PongPayload) and message.extensions:
            message = PongPayload(False, False, MemoryPressure.NORMAL, ("cable-test/12", *message.extensions))
        super().send(message)


class TakesItsTimeForTheAck(RankOne):
    """Slow signatures, as from a Secure Enclave."""

    early = b""

    def data_received(self, data: bytes) -> None:
        if self.key is not None:
            super().data_received(data)
            return
        if not self.early:
            self.later(0.1, self.take_early)
        self.early += data

    def take_early(self) -> None:
        data, self.early = self.early, b""
        super().data_received(data)


class HasFourConnectionsEach(RankOne):
    """Its ring listens on four ports for each neighbour: the highest port is lower."""

    def check_port(self, port: int) -> None:
        super().check_port(port)
        if port + 4 + 3 > 65535:
            raise Fault("port")


class KeepsItsGroup(RankOne):
    """A SHOULD: while a group is up it answers a new connection, then closes it."""

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        super().bootstrap(payload)
        self.shared.memory["group"] = self

    def replace(self) -> None:
        if self.shared.current is not None and self.shared.memory.get("group") is self.shared.current:
            raise Fault("another group is up")
        super().replace()


class TakesLongSilence(RankOne):
    """A SHOULD: it waits for a hello without limit."""

    def handshake_timeout(self) -> None:
        pass


# -- rank 0 ------------------------------------------------------------------------------------------------------------


class EndsInOrder(RankZero):
    """Ends its session after its bootstrap and a pong."""

    def first_ping(self) -> None:
        super().first_ping()
        self.later(0.3, self.finish)

    def finish(self) -> None:
        if self.ponged:
            self.send(SessionEnd())
            self.end()


class TakesItsTimeForTheHello(RankZero):
    def hello(self) -> None:
        self.later(0.1, super().hello)


class BootstrapsAfterAPong(RankZero):
    """It waits for the offer."""

    is_waiting = False

    def bootstrap(self) -> None:
        self.is_waiting = not self.ponged
        if self.ponged:
            super().bootstrap()

    def pong(self, payload: PongPayload) -> None:
        super().pong(payload)
        if self.is_waiting:
            self.bootstrap()


class ChoosesNoExtension(RankZero):
    def choose(self) -> frozenset[str]:
        return frozenset()


class PingsMoreOften(RankZero):
    def later(self, seconds: float, act: Callable[[], None]) -> None:
        super().later(seconds * 0.8 if act == self.ping else seconds, act)


class MissesFour(RankZero):
    """A SHOULD: it ends its session one ping later."""

    max_missed = 4


class ReconnectsLater(RankZero):
    def gone(self) -> None:
        self.shared.reconnect_after = 0.7
        super().gone()


class ReconnectsAtOnce(RankZero):
    """A SHOULD: it does not wait."""

    def gone(self) -> None:
        self.shared.reconnect_after = 0.01
        super().gone()


class GivesUpAfterAWrongAck(RankZero):
    def gone(self) -> None:
        if self.key is not None:
            super().gone()


class NamesItsSessions(RankZero):
    """A SHOULD: its session ID is no UUID."""

    def session_id(self) -> str:
        return f"run-{self.shared.memory.setdefault('runs', 0)}.a"


BOTH: Final[tuple[type[Conversation], ...]] = (
    WritesAsSwift, WritesMore, SignsWithHighS, SignsWithLowS, WritesInPieces, ResetsConnections, HasNoExtensions,
    AnyLengthBeforeTheHandshake, RemembersNoNonces,
)  # fmt: skip
ONE: Final[tuple[Rank, ...]] = (
    ClosesAfterSessionEndLate, AnswersAnyTime, LongerCrowd, SmallCrowd, IsBusy, OffersMore, TakesItsTimeForTheAck,
    HasFourConnectionsEach, KeepsItsGroup, TakesLongSilence,
)  # fmt: skip
ZERO: Final[tuple[Rank, ...]] = (
    EndsInOrder, TakesItsTimeForTheHello, BootstrapsAfterAPong, ChoosesNoExtension, PingsMoreOften, MissesFour,
    ReconnectsLater, ReconnectsAtOnce, GivesUpAfterAWrongAck, NamesItsSessions,
)  # fmt: skip
HARMLESS: Final[dict[str, Rank]] = {
    f"rank{role.rank}.{cls.__name__}": cls if issubclass(cls, role) else type(cls.__name__, (cls, role), {})
    for role, more in ((RankOne, ONE), (RankZero, ZERO))
    for cls in (*BOTH, *more)
}
"""By name."""
