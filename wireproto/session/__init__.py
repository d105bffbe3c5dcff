"""The connection, without I/O: bytes in → events out, messages in → bytes out. [SESSION-*]

One `Session` is one TCP connection, seen from one side. Role and revision are set at the start, and never guessed. What
may come and go in which state stands in the tables `RECEIVES` and `SENDS`, from which the diagram in spec/ is drawn.
The types of an extension are unknown until it is agreed. [EXT-UNINVITED]

The caller's mistake raises `StateError` and changes nothing. The peer's raises `RemoteError`, at the one place where
its bytes come in, and ends the session. Any other exception is a bug of this package.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, TextIO, TypeAlias

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import HEADER, LinkDecoder, check_length, encode_link_frame
from wireproto.errors import HandshakeError, StateError, TruncatedError, WireError
from wireproto.messages import (
    MAX_LINK_LENGTH,
    REGISTRY,
    SPEC_BY_CLASS,
    ClusterMsgType,
    Direction,
    JacclBootstrapPayload,
    Message,
    PongPayload,
    Revision,
)
from wireproto.session.handshake import Initiator, Pin, Responder, SessionSecrets, Signer
from wireproto.session.seal import OVERHEAD, Seal

MAX_HANDSHAKE_LENGTH: Final = 64 * 1024
"""The longest link frame before the handshake is done: until then the length is a stranger's word. [SESSION-LEN-MAX]"""


_SHORT: Final = 64 * 1024


class Role(Enum):
    """Which side of the connection this is."""

    INITIATOR = "rank 0"
    """Connects, says hello, asks."""
    RESPONDER = "rank 1"
    """Any rank but 0: listens, answers."""


class State(Enum):
    """Where a session stands."""

    IDLE = "idle"
    """Nothing is said yet."""
    HELLO_SENT = "hello sent"
    """The initiator waits for the ack."""
    ESTABLISHED = "established"
    """The session key is there; the peer has not yet shown that it has it, too."""
    CONFIRMED = "confirmed"
    """A box of the peer's has opened."""
    CLOSED = "closed"
    """Ended in order: by sessionEnd, or by the end of the stream."""
    FAILED = "failed"
    """Ended by the peer's mistake."""


Table: TypeAlias = dict[State, dict[ClusterMsgType, State]]


def _steady(direction: Direction, state: State) -> dict[ClusterMsgType, State]:
    """In the open session: all that travels in a direction, the handshake apart."""
    handshake = (ClusterMsgType.HANDSHAKE_HELLO, ClusterMsgType.HANDSHAKE_ACK)
    types = (spec.msg_type for spec in REGISTRY if spec.direction in (direction, Direction.BOTH))
    return {
        each: State.CLOSED if each is ClusterMsgType.SESSION_END else state for each in types if each not in handshake
    }


def _open(direction: Direction) -> Table:
    return {state: _steady(direction, state) for state in (State.ESTABLISHED, State.CONFIRMED)}


RECEIVES: Final[dict[Role, Table]] = {
    Role.INITIATOR: {
        State.HELLO_SENT: {ClusterMsgType.HANDSHAKE_ACK: State.ESTABLISHED},
        **_open(Direction.RANK_1_TO_0),
    },
    Role.RESPONDER: {
        State.IDLE: {ClusterMsgType.HANDSHAKE_HELLO: State.ESTABLISHED},
        **_open(Direction.RANK_0_TO_1),
    },
}
"""What a message from the peer leads to. In the open session, a type that is not here is ignored. [SESSION-IGNORE]"""

SENDS: Final[dict[Role, Table]] = {
    Role.INITIATOR: {
        State.IDLE: {ClusterMsgType.HANDSHAKE_HELLO: State.HELLO_SENT},
        **_open(Direction.RANK_0_TO_1),
    },
    Role.RESPONDER: _open(Direction.RANK_1_TO_0),
}
"""What a message to the peer leads to. The responder's ack goes out with the hello's transition."""


BOX_OPENS: Final = {State.ESTABLISHED: State.CONFIRMED}
"""What the peer's first box that opens leads to. [SESSION-CONFIRM]"""


@dataclass(frozen=True)
class Established:
    """The handshake is done."""

    peer_key: bytes
    """The peer's identity key, X ‖ Y."""
    reply: bytes
    """To be sent at once: the responder's ack; empty for the initiator."""


@dataclass(frozen=True)
class Confirmed:
    """The peer's first box has opened: it has the session key. Comes at most once, before the message in that box."""


@dataclass(frozen=True)
class MessageReceived:
    """A message that belongs here."""

    message: Message


@dataclass(frozen=True)
class MessageIgnored:
    """A known type that does not belong here: to be logged, and to have no effect. [SESSION-IGNORE]"""

    message: Message


@dataclass(frozen=True)
class Closed:
    """The session has ended."""

    orderly: bool
    """By sessionEnd; otherwise the stream just ended, between two frames."""


Event: TypeAlias = Established | Confirmed | MessageReceived | MessageIgnored | Closed


class RemoteError(WireError):
    """The peer's mistake: `error` as it was found, whose code, offset (in its frame) and path this has, too.

    `must_close` says whether the connection is still open, and has to be closed from here.
    """

    def __init__(self, error: WireError, *, must_close: bool = True) -> None:
        super().__init__(error.code, error.detail, offset=error.offset, path=error.path)
        self.error = error
        self.must_close = must_close

    def __reduce__(self) -> tuple[object, ...]:
        return partial(RemoteError, must_close=self.must_close), (self.error,)


class Session:
    """One connection, seen from one side.

    `pin` is the identity key that the peer must show. `key_log` gets a line that opens the whole session to whoever has
    it: see `key_log_line`. `extensions` are those that this side supports; revision 1 has none. [EXT-REVISION]
    """

    def __init__(
        self,
        role: Role,
        signer: Signer,
        pin: Pin,
        revision: Revision = Revision.V2,
        key_log: TextIO | None = None,
        extensions: Collection[str] = (),
    ) -> None:
        self.role = role
        self.revision = revision
        self.extensions = frozenset(extensions if revision is Revision.V2 else ())
        """What this side supports."""
        self.offered: frozenset[str] = frozenset()
        """What rank 1's pongs have named so far, as far as this side supports it: what rank 0 can choose from."""
        self.agreed: frozenset[str] = frozenset()
        """What the last jacclBootstrap has chosen: the extensions whose frames come and go."""
        self.state = State.IDLE
        self.peer_key = b""
        """The peer's identity key, X ‖ Y, once the handshake is done."""
        self._signer = signer
        self._pin = pin
        self._key_log = key_log
        self._ended_in_order = False
        self._link = LinkDecoder(MAX_HANDSHAKE_LENGTH)
        self._initiator: Initiator | None = None
        self._seal: Seal | None = None
        self._plain = bytearray()
        self._sent = bytearray()

    # -- bytes in ------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> Iterator[Event]:
        """Takes bytes of the stream; the events are to be taken all, before the next bytes come in."""
        self._check_open()
        return self._events(self._link.feed(data))

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Where the next bytes of the stream go: asyncio's way, without a copy."""
        self._check_open()
        return self._link.get_buffer(sizehint)

    def buffer_updated(self, count: int) -> Iterator[Event]:
        """Says that `count` bytes were written to what `get_buffer` returned; the events, as in `receive_data`."""
        self._check_open()
        return self._events(self._link.buffer_updated(count))

    def receive_eof(self) -> Closed:
        """Says that the stream has ended. Raises `RemoteError` where it ended inside a frame. [LINK-EOF]"""
        if self.state is not State.CLOSED:
            self._check_open()
            try:
                self._link.eof()
            except TruncatedError as error:
                self.state = State.FAILED
                raise RemoteError(error, must_close=False) from error
            self.state = State.CLOSED
        return Closed(self._ended_in_order)

    # -- messages out --------------------------------------------------------------------------------------------------

    def start(self) -> bytes:
        """The initiator's first bytes: the hello. Raises `StateError` for a responder, and a second time."""
        following = self._following(SENDS, ClusterMsgType.HANDSHAKE_HELLO)
        self._initiator = Initiator(self._signer, self._pin)
        self.state = following
        return encode_link_frame(self._initiator.hello, MAX_HANDSHAKE_LENGTH)

    def send(self, message: Message) -> bytes | memoryview:
        """The bytes of a message, as one link frame; a long one's memory is used again once the view is let go.

        Raises `StateError` where the message does not belong, or names an extension that it must not name, and what
        `encode_frame` and `encode_link_frame` raise.
        """
        frame = encode_frame(message, self.revision, self.agreed)
        following = self._following(SENDS, SPEC_BY_CLASS[type(message)].msg_type)
        if self._seal is None:
            raise StateError("session-state", "the handshake is start()'s and receive_data()'s to make")
        if isinstance(message, PongPayload):
            _check_named(message.extensions, self.extensions)
        if isinstance(message, JacclBootstrapPayload):
            _check_named(message.extensions, self.offered)
        data = self._sealed(frame, self._seal) if self.revision is Revision.V2 else encode_link_frame(frame)
        self._move(following)
        self._agree(message)
        return data

    def seal_tensor(self, plaintext: bytes | memoryview) -> bytes:
        """A tensor box, for the payloads that carry one. Raises `StateError` before the handshake is done."""
        return self._key().encrypt(plaintext)

    def open_tensor(self, box: bytes) -> bytes:
        """What a tensor box holds. Raises `SealError`: the connection has to be closed then. [SESSION-BOX]

        In revision 1, where frames are not sealed, this is what confirms the peer.
        """
        plaintext = self._key().decrypt(box)
        self.state = BOX_OPENS.get(self.state, self.state)
        return plaintext

    # -- within --------------------------------------------------------------------------------------------------------

    def _events(self, frames: Iterator[memoryview]) -> Iterator[Event]:
        try:
            for frame in frames:
                if self._seal is None:
                    yield self._shake_hands(frame)
                else:
                    yield from self._open_frame(frame, self._seal)
                if self.state is State.CLOSED:
                    return  # what comes behind sessionEnd is nobody's, be it a frame or not
        except WireError as error:
            self.state = State.FAILED
            raise RemoteError(error) from error

    def _shake_hands(self, frame: memoryview) -> Established:
        reply = b""
        if self.role is Role.INITIATOR:
            if self._initiator is None:
                raise HandshakeError("handshake-unexpected", "the peer speaks before the hello")
            secrets = self._initiator.finish(frame)
            self.state = self._following(RECEIVES, ClusterMsgType.HANDSHAKE_ACK)
        else:
            ack, secrets = Responder(self._signer, self._pin).respond(frame)
            reply = encode_link_frame(ack, MAX_HANDSHAKE_LENGTH)
            self.state = self._following(RECEIVES, ClusterMsgType.HANDSHAKE_HELLO)
        self._seal = Seal(secrets.key)
        self.peer_key = secrets.peer_key
        self._link.max_length = MAX_LINK_LENGTH
        if self._key_log is not None:
            self._key_log.write(key_log_line(secrets))
            self._key_log.flush()
        return Established(secrets.peer_key, reply)

    def _open_frame(self, frame: memoryview, seal: Seal) -> Iterator[Event]:
        if self.revision is Revision.V2:
            frame = self._opened(frame, seal)
            if self.state in BOX_OPENS:
                self.state = BOX_OPENS[self.state]
                yield Confirmed()
                if self.state is State.CLOSED:
                    return  # the caller sent sessionEnd just now
        message = decode_frame(frame, self.revision, self.agreed)
        following = RECEIVES[self.role][self.state].get(SPEC_BY_CLASS[type(message)].msg_type)
        if following is None:
            yield MessageIgnored(message)
            return
        if isinstance(message, JacclBootstrapPayload) and self.revision is Revision.V2:
            _check_named(message.extensions, self.offered)
        self._move(following)
        self._agree(message)
        yield MessageReceived(message)
        if following is State.CLOSED:
            yield Closed(orderly=True)

    def _opened(self, box: memoryview, seal: Seal) -> memoryview:
        """What a box holds, in a buffer that is used again: fresh memory costs more than opening a box."""
        size = max(len(box) - OVERHEAD, 0)
        if not size <= len(self._plain) <= 4 * size + _SHORT:
            self._plain = bytearray(size)
        plain = memoryview(self._plain)[:size]
        seal.decrypt_into(box, plain)
        return plain

    def _sealed(self, frame: bytes, seal: Seal) -> bytes | memoryview:
        """The link frame around a frame's box."""
        length = len(frame) + OVERHEAD
        check_length(length, MAX_LINK_LENGTH, None)
        if length <= _SHORT:
            return HEADER.pack(length) + seal.encrypt(frame)
        size = HEADER.size + length
        data = memoryview(self._buffer(size))[:size]
        HEADER.pack_into(data, 0, length)
        seal.encrypt_into(frame, data[HEADER.size :])
        return data

    def _buffer(self, size: int) -> bytearray:
        """That of the last long frame, if it is large enough and nobody holds a view of it."""
        try:
            self._sent.append(0)
            self._sent.pop()
        except BufferError:
            self._sent = bytearray()
        if not size <= len(self._sent) <= 4 * size:
            self._sent = bytearray(size)
        return self._sent

    def _key(self) -> Seal:
        if self._seal is None:
            raise StateError("session-state", "there is no session key before the handshake is done")
        return self._seal

    def _move(self, following: State) -> None:
        """To the state that a message leads to; only sessionEnd leads to the closed one."""
        self.state = following
        self._ended_in_order = following is State.CLOSED

    def _agree(self, message: Message) -> None:
        """Keeps what a message says about extensions. [EXT-OFFER, EXT-CHOICE, EXT-REVISION]"""
        if isinstance(message, PongPayload):
            self.offered |= self.extensions.intersection(message.extensions)
        elif isinstance(message, JacclBootstrapPayload):
            self.agreed = self.offered.intersection(message.extensions)

    def _following(self, table: dict[Role, Table], msg_type: ClusterMsgType) -> State:
        following = table[self.role].get(self.state, {}).get(msg_type)
        if following is None:
            detail = f"{msg_type.wire_name} does not belong to {self.role.value} when {self.state.value}"
            raise StateError("session-state", detail)
        return following

    def _check_open(self) -> None:
        if self.state in (State.CLOSED, State.FAILED):
            raise StateError("session-state", f"the session is {self.state.value}")


def _check_named(names: Collection[str], allowed: frozenset[str]) -> None:
    """Raises `StateError` for an extension that a message must not name. [EXT-OFFER, EXT-CHOICE]"""
    for name in names:
        if name not in allowed:
            raise StateError("extension-not-offered", f"{name} is not among {sorted(allowed)}", path="extensions")


def key_log_line(secrets: SessionSecrets) -> str:
    """`CLUSTER_SESSION_KEY NONCE KEY`, the hello's nonce and the session key in hex, as in SSLKEYLOGFILE. [KEY-LOG]"""
    return f"CLUSTER_SESSION_KEY {secrets.hello_nonce.hex()} {secrets.key.hex()}\n"
