"""The required result of a side's stream, without keys: from a list of the frames that its peer really sent.

The specification's promises in the plainest form. A box counts if the peer of this session sealed it and it has not
come before; any other is refused. Revision 1 authenticates only the handshake and the tensor boxes.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

from wireproto import (
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    Message,
    PongPayload,
    Revision,
    SessionEnd,
    WireError,
    decode_frame,
    session,
)
from wireproto.messages import MAX_LINK_LENGTH, SPEC_BY_CLASS, Direction
from wireproto.session import (
    MAX_HANDSHAKE_LENGTH,
    Closed,
    Confirmed,
    Established,
    Event,
    KeyNearLimit,
    MessageIgnored,
    MessageReceived,
    State,
)
from wireproto.session.seal import NONCE, OVERHEAD

COMES_TO: Final = (Direction.RANK_1_TO_0, Direction.RANK_0_TO_1)
INTRODUCTIONS: Final = (HandshakeHello, HandshakeAck)

_SentT = TypeVar("_SentT")


class Refused(NamedTuple):
    """A failure of the session, or a refused call."""

    code: str


class Refusal(Exception):  # noqa: N818 - an outcome, not an error
    """Carries a code out of the checks."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Ledger:
    """The frames really sent by one side in this session, and its key."""

    def __init__(self, identity: bytes, introductions: Mapping[bytes, bytes | None]) -> None:
        self.identity = identity
        self.introductions = dict(introductions)
        """Bodies of hellos and acks that this identity ever signed, each with the hello that it answers."""
        self.own_hello: bytes | None = None
        self.messages: dict[bytes, Message] = {}
        """By the body of their link frame."""
        self.tensors: dict[bytes, bytes] = {}
        """Plaintexts, by their box."""
        self.nonces: dict[bytes, None] = {}
        """Of all boxes."""
        self.key = ""


class Ideal:
    """One side, with the interface of `Session`, but it returns failures instead of raising them."""

    def __init__(
        self, rank: int, revision: Revision, supported: frozenset[str], limit: int, ledgers: tuple[Ledger, Ledger]
    ) -> None:
        self.state = State.IDLE
        self.boxes = 0
        """Sealed and opened."""
        self.offered: frozenset[str] = frozenset()
        self.agreed: frozenset[str] = frozenset()
        self.heard: bytes | None = None
        """The accepted introduction."""
        self._rank, self._revision, self._supported, self._limit = rank, revision, supported, limit
        self._own, self._peer = ledgers
        self._decodable: frozenset[str] = frozenset()
        self._stream = b""
        self._chunks: list[bytes] = []  # that follow it
        self._is_reading = False
        self._is_near_limit = False
        self._stream_ended = False
        self._ended_here = False
        self._opened: dict[bytes, None] = {}
        self._due: Event | None = None  # the next event, already decided
        self._confirming: Message | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self.state in (State.ESTABLISHED, State.CONFIRMED)

    @property
    def is_over(self) -> bool:
        """Whether the stream is finished."""
        return self.state in (State.CLOSED, State.FAILED)

    def receive(self, data: bytes, is_in_place: bool) -> None:
        """Take bytes, or the end of the stream. Bytes written in place are read at once, if nothing waits."""
        if data and is_in_place and not self._is_reading and not self._chunks:
            self._stream += data
            self._is_reading = True
        elif data:
            self._chunks.append(data)
        elif not self._stream_ended:
            self._stream_ended = True
            if self._ended_here:
                self._due = Closed(orderly=True)

    def next_event(self) -> Event | Refused | None:
        """Return the next required event of the stream."""
        try:
            if self._due is not None:
                due, self._due = self._due, None
                return due
            if self.is_over:
                return None
            if self._confirming is not None:
                message, self._confirming = self._confirming, None
                return self._message(message)
            return self._frame()
        except Refusal as refusal:
            return self._fail(refusal.code)

    def open_tensor(self, box: bytes) -> bytes | Refused:
        """Return the required result of a tensor box."""
        try:
            self._check_box(box)
            plaintext = self._theirs(self._peer.tensors).get(box)
            if plaintext is None:
                raise Refusal("seal-tag")
            self._count_opened(box)
        except Refusal as refusal:
            return self._fail(refusal.code)
        if self.state is State.ESTABLISHED:
            self.state = State.CONFIRMED
        return plaintext

    def seal_tensor(self) -> Refused | None:
        """Return whether a box can be sealed."""
        if not self.is_open:
            return Refused("session-state")
        return Refused("seal-exhausted") if self.boxes == self._limit else None

    def send(self, message: Message) -> Refused | None:
        """Return whether a message can be sent, and record it if so."""
        spec = SPEC_BY_CLASS[type(message)]
        if not spec.is_known(self._revision, self.agreed):
            return Refused("type-unknown")
        if not self.is_open or spec.direction not in (COMES_TO[1 - self._rank], Direction.BOTH):
            return Refused("session-state")
        if isinstance(message, JacclBootstrapPayload) and not self.offered.issuperset(message.extensions):
            return Refused("extension-not-offered")
        if self._revision is Revision.V2 and self.boxes == self._limit:
            return Refused("seal-exhausted")
        if isinstance(message, PongPayload):
            self.offered |= {*message.extensions}
        elif isinstance(message, JacclBootstrapPayload):
            self.agreed = frozenset(message.extensions)
            self._decodable |= self.agreed
        elif isinstance(message, SessionEnd):
            self.state = State.CLOSED
            self._ended_here = True
            self._forget()
            if self._stream_ended:
                self._due = Closed(orderly=True)
        return None

    # -- the checks, in their order ------------------------------------------------------------------------------------

    def _frame(self) -> Event | None:
        if self.state is State.IDLE and self._rank == 0 and self._own.own_hello:
            self.state = State.HELLO_SENT
        while (body := self._body()) is None:
            self._is_reading = False
            if self.is_open and not self._is_near_limit and self._limit - self.boxes <= session.NEAR_LIMIT:
                self._is_near_limit = True
                return KeyNearLimit(self._limit - self.boxes)
            if self._chunks:
                self._stream += self._chunks.pop(0)
                self._is_reading = True
                continue
            if not self._stream_ended:
                return None
            if self._stream:
                raise Refusal("truncated")
            self.state = State.CLOSED
            return Closed(orderly=False)
        if not self.is_open:
            return self._introduction(body)
        if self._revision is Revision.V1:
            return self._message(_decoded(body, Revision.V1))
        self._check_box(body)
        message = self._theirs(self._peer.messages).get(body)
        if message is None:
            raise Refusal("seal-tag")
        self._count_opened(body)
        if self.state is State.ESTABLISHED:
            self.state = State.CONFIRMED
            self._confirming = message
            return Confirmed()
        return self._message(message)

    def _body(self) -> bytes | None:
        stream = self._stream
        if len(stream) < 8:
            return None
        length = int.from_bytes(stream[:8], "little")
        if not length:
            raise Refusal("link-length-zero")
        if length > (MAX_LINK_LENGTH if self.is_open else MAX_HANDSHAKE_LENGTH):
            raise Refusal("link-length-limit")
        if len(stream) < 8 + length:
            return None
        self._stream = stream[8 + length :]
        return stream[8 : 8 + length]

    def _introduction(self, body: bytes) -> Established:
        """Rank 1 accepts any hello of the peer, even a replay; rank 0 only the answer to its own. [HANDSHAKE-*]"""
        if self.state is State.IDLE and self._rank == 0:
            raise Refusal("handshake-unexpected")
        known = self._peer.introductions
        if not (body in known and (self._rank or (self._own.own_hello and known[body] == self._own.own_hello))):
            raise Refusal(self._wrong_introduction(body))
        self.state = State.ESTABLISHED
        self.heard = body
        return Established(self._peer.identity)

    def _wrong_introduction(self, body: bytes) -> str:
        try:
            message = decode_frame(body)
        except WireError as error:
            return "handshake-length" if error.code == "field-length" else "handshake-malformed"
        if not isinstance(message, INTRODUCTIONS[1 - self._rank]):
            return "handshake-unexpected"
        if message.se_pub_key_raw != self._peer.identity:
            return "handshake-wrong-pin"
        return "handshake-signature"

    def _check_box(self, box: bytes) -> None:
        nonce = box[:NONCE]
        if len(box) < OVERHEAD:
            raise Refusal("truncated")
        if nonce in self._own.nonces:
            raise Refusal("seal-reflection")
        if nonce in self._opened:
            raise Refusal("seal-replay")

    def _theirs(self, sent: dict[bytes, _SentT]) -> dict[bytes, _SentT]:
        """Return what the peer sent, if it has the same key: nothing else opens."""
        return sent if self._own.key and self._own.key == self._peer.key else {}

    def _count_opened(self, box: bytes) -> None:
        if self.boxes == self._limit:
            raise Refusal("seal-exhausted")
        self._opened[box[:NONCE]] = None
        self.boxes += 1

    def _message(self, message: Message) -> Event:
        spec = SPEC_BY_CLASS[type(message)]
        if not spec.is_known(self._revision, self._decodable):
            raise Refusal("type-unknown")
        if isinstance(message, INTRODUCTIONS) or spec.direction not in (COMES_TO[self._rank], Direction.BOTH):
            return MessageIgnored(message)
        if isinstance(message, PongPayload):
            self.offered |= self._supported.intersection(message.extensions)
        elif isinstance(message, JacclBootstrapPayload) and self._revision is Revision.V2:
            if not self.offered.issuperset(message.extensions):
                raise Refusal("extension-not-offered")
            self.agreed = self._decodable = frozenset(message.extensions)
        elif isinstance(message, SessionEnd):
            self.state = State.CLOSED
            self._due = Closed(orderly=True)
            self._forget()
        return MessageReceived(message)

    def _fail(self, code: str) -> Refused:
        self.state = State.FAILED
        self._forget()
        return Refused(code)

    def _forget(self) -> None:
        self._stream = b""
        self._chunks.clear()
        self._confirming = None


def _decoded(frame: bytes, revision: Revision) -> Message:
    try:
        return decode_frame(frame, revision)
    except WireError as error:
        raise Refusal(error.code) from error
