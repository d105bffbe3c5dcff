"""The sealed session of a connection, without I/O: bytes in, events out; messages in, bytes out. [SESSION-*]

    session = Session(Config(role=Role.RESPONDER, signer=signer, pin=peer_key))
    session.receive_data(data)  # or get_buffer() and buffer_updated(n); b"" is the end of the stream
    while (event := session.next_event()) is not None: ...
    session.send(message)
    transport.writelines(session.data_to_send())

A `Session` is one side of one TCP connection. Types of an extension are unknown until the extension is agreed.
[EXT-UNINVITED]

`LocalError` is the caller's mistake and leaves the session unchanged. `RemoteError` is the peer's mistake and fails the
session. Both are also instances of the codec's class for the error, such as `HandshakeError` or `SealError`. Any other
exception from `next_event`, `send` or `data_to_send` comes from the signer, the key log or the random source, or is a
bug; it fails the session too. Bytes that arrive after the end are discarded.

Sessions share no state, so each may run in a thread of its own.
"""

import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn, TextIO, TypeAlias

from msgspec import Struct

from wireproto.codec.buffers import byte_view
from wireproto.codec.frame import decode_frame, frame_pieces
from wireproto.codec.link import HEADER, Frame, LinkDecoder, check_length, encode_link_frame, link_frame_pieces
from wireproto.errors import HandshakeError, LocalError, RemoteError, SealError, StateError, WireError, blame
from wireproto.messages import (
    MAX_LINK_LENGTH,
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    ClusterMsgType,
    JacclBootstrapPayload,
    Message,
    PongPayload,
    Revision,
)
from wireproto.session.handshake import (
    IDENTITY_SIZE,
    Initiator,
    KeySigner,
    Pin,
    Responder,
    SessionSecrets,
    Signer,
    TrustAnyKey,
)
from wireproto.session.seal import MAX_BOXES, OVERHEAD, Random, Seal
from wireproto.session.states import BOX_OPENS, RECEIVES, SENDS, Role, State, Table

__all__ = [
    "MAX_HANDSHAKE_LENGTH",
    "Closed",
    "Config",
    "Confirmed",
    "Established",
    "Event",
    "KeyNearLimit",
    "KeySigner",
    "LocalError",
    "MessageIgnored",
    "MessageReceived",
    "RemoteError",
    "Role",
    "Session",
    "Signer",
    "State",
    "TrustAnyKey",
    "key_log_line",
]

MAX_HANDSHAKE_LENGTH: Final = 64 * 1024
"""Longest link frame during the handshake, in bytes, since its length is not authenticated. [SESSION-LEN-MAX]"""

NEAR_LIMIT: Final = MAX_BOXES // 16
"""Number of boxes left when `KeyNearLimit` comes: at 1,000 boxes per second, 17 minutes before the limit."""

_SHORT: Final = 64 * 1024
"""Up to this size a new buffer for each box takes less time than using one again."""

_V2: Final = Revision.V2
_CLOSED: Final = State.CLOSED
_RECEIVES: Final = {
    role: {
        state: {SPEC_BY_TYPE[each].payload: following for each, following in row.items()}
        for state, row in table.items()
    }
    for role, table in RECEIVES.items()
}

_Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a session. Raise TypeError or ValueError for an argument that cannot work."""

    role: Role
    """Which side this is."""
    signer: Signer = field(repr=False)
    """The identity key of this side."""
    pin: Pin
    """The peer's identity key, X ‖ Y, 64 bytes. `TrustAnyKey()` accepts any key, None accepts none. [HANDSHAKE-PIN]"""
    revision: Revision = Revision.V2
    """The revision of the protocol; must be the peer's."""
    extensions: Collection[str] = ()
    """Names of the extensions that this side supports. Revision 1 ignores them. [EXT-REVISION]"""
    key_log: TextIO | None = field(default=None, repr=False)
    """Receives one line with the session key, see `key_log_line`. Whoever has the line can read the session."""
    random: Random = field(default=os.urandom, repr=False)
    """The source of ephemeral keys and nonces. Only tests need another one than the system's."""

    def __post_init__(self) -> None:
        if isinstance(self.extensions, str | bytes | bytearray):
            raise TypeError("extensions must be a collection of names, not one string")
        names = frozenset(self.extensions)
        if not all(isinstance(name, str) for name in names):
            raise TypeError("the names of extensions must be strings")
        if self.key_log is not None and not callable(getattr(self.key_log, "write", None)):
            raise TypeError(f"key_log must be a text stream, not {type(self.key_log).__name__}")
        if not callable(self.random):
            raise TypeError(f"random must be a function, not {type(self.random).__name__}")
        if not callable(getattr(self.signer, "sign", None)):
            raise TypeError(f"signer must have public_key and sign(), unlike {type(self.signer).__name__}")
        if type(self.signer.public_key) is not bytes:
            raise TypeError(f"the signer's public key must be bytes, not {type(self.signer.public_key).__name__}")
        _identity("the signer's public key", self.signer.public_key)
        coerced = {"role": Role(self.role), "revision": _revision(self.revision), "extensions": names}
        if not (self.pin is None or isinstance(self.pin, TrustAnyKey)):
            coerced["pin"] = _identity("pin", self.pin)
        for name, value in coerced.items():
            object.__setattr__(self, name, value)


def _revision(number: object) -> Revision:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"revision must be a Revision, not {type(number).__name__}")
    return Revision(number)


def _identity(what: str, key: object) -> bytes:
    if not isinstance(key, bytes | bytearray | memoryview):
        raise TypeError(f"{what} must be bytes, not {type(key).__name__}")
    key = bytes(key)
    if len(key) != IDENTITY_SIZE:
        raise ValueError(f"{what} must have {IDENTITY_SIZE} bytes (X ‖ Y, without the 0x04 prefix), not {len(key)}")
    return key


class Established(Struct, frozen=True):
    """The handshake is complete. Messages can be sent."""

    peer_key: bytes
    """The peer's identity key, X ‖ Y, 64 bytes."""
    key_log_error: OSError | ValueError | None = None
    """Why the key log could not be written. The session continues without it."""


class Confirmed(Struct, frozen=True):
    """The peer's first box has opened, so it has the session key. Comes at most once, before that box's message."""


class MessageReceived(Struct, frozen=True, gc=False):
    """A message that is allowed in this state."""

    message: Message


class MessageIgnored(Struct, frozen=True, gc=False):
    """A message of a known type that is not allowed in this state. It must have no effect. [SESSION-IGNORE]"""

    message: Message


class KeyNearLimit(Struct, frozen=True):
    """The session key will soon reach its limit: reconnect in time. [SEAL-LIMIT]

    Comes once, after the events of the current chunk of input.
    """

    boxes_left: int
    """Number of boxes that the key may still seal or open."""


class Closed(Struct, frozen=True):
    """The session has ended by the peer's sessionEnd or by the end of the stream. Comes once."""

    orderly: bool
    """Whether one side has sent sessionEnd."""


Event: TypeAlias = Established | Confirmed | MessageReceived | MessageIgnored | KeyNearLimit | Closed
"""The events that `Session.next_event` returns."""


class Session:
    """One side of one connection. See the module for how to drive it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._role, self._revision = config.role, config.revision
        self._enter(State.IDLE)
        self._supported = frozenset(config.extensions if config.revision is Revision.V2 else ())
        self._offered: frozenset[str] = frozenset()
        self._agreed: frozenset[str] = frozenset()
        self._decodable: frozenset[str] = frozenset()
        self._peer_key = b""
        self._link = LinkDecoder(MAX_HANDSHAKE_LENGTH)
        self._frames: Iterator[Frame] | None = None  # in the link decoder; None once exhausted
        self._waiting: deque[bytes] = deque()  # bytes after those
        self._lent: memoryview | None = None
        self._spare = memoryview(b"")  # lent while the link decoder cannot take bytes
        self._stream_ended = False
        self._ended_here = False  # by sessionEnd
        self._closed_is_due = False  # the event of an orderly end was not returned yet
        self._plaintext: Frame | None = None  # of the box that confirmed the peer
        self._initiator: Initiator | None = None
        self._seal: Seal | None = None
        self._warned = False
        self._out: list[memoryview] = []
        self._opened = bytearray()
        self._sealed = bytearray()

    @property
    def role(self) -> Role:
        """Which side this is."""
        return self._role

    @property
    def revision(self) -> Revision:
        """The revision of the protocol."""
        return self._revision

    @property
    def state(self) -> State:
        """The state after the events taken so far."""
        return self._state

    @property
    def peer_key(self) -> bytes:
        """The peer's identity key, X ‖ Y, 64 bytes; empty before `Established`."""
        return self._peer_key

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that this side supports."""
        return self._supported

    @property
    def offered(self) -> frozenset[str]:
        """The extensions that rank 1's pongs have offered so far, as far as this side supports them. [EXT-OFFER]"""
        return self._offered

    @property
    def agreed(self) -> frozenset[str]:
        """The extensions that the last jacclBootstrap has chosen; their messages can be sent. [EXT-CHOICE]"""
        return self._agreed

    @property
    def boxes_left(self) -> int:
        """Number of boxes that the session key may still seal or open; 0 without a key. [SEAL-LIMIT]"""
        return 0 if self._seal is None else self._seal.left

    # -- bytes in ------------------------------------------------------------------------------------------------------

    def receive_data(self, data: _Buffer) -> None:
        """Take the next bytes of the stream; `b""` is its end. They are processed by `next_event`.

        `data` is copied unless it is `bytes`. Raise `LocalError` for bytes after the end of the stream.
        """
        if data.__class__ is not bytes:
            data = memoryview(data).tobytes()
        if data:
            self._check_stream()
            if self._is_open:
                self._waiting.append(data)
        elif not self._stream_ended:
            self._stream_ended = True
            if self._ended_here:
                self._closed_is_due = True

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return a writable buffer for the next bytes of the stream, as for asyncio's `BufferedProtocol`.

        It has at least one byte and is valid until `buffer_updated`. Long frames are received in place, without a copy.
        """
        if self._frames is None and not self._waiting and self._is_open:
            self._lent = self._link.get_buffer(sizehint)
        else:
            if not self._spare:
                self._spare = memoryview(bytearray(_SHORT))
            self._lent = self._spare
        return self._lent

    def buffer_updated(self, count: int) -> None:
        """Take the first `count` bytes of the buffer that `get_buffer` returned last.

        Raise ValueError if the buffer is shorter, and `LocalError` without a buffer.
        """
        if type(count) is not int:
            raise TypeError(f"count must be an int, not {type(count).__name__}")
        lent = self._lent
        if lent is None:
            _refuse("session-state", "buffer_updated() needs a buffer from get_buffer() first")
        if not 0 <= count <= len(lent):
            raise ValueError(f"{count} bytes cannot have been written to a buffer of {len(lent)}")
        if count:
            self._check_stream()
        self._lent = None
        if not self._is_open or not count:
            return
        if lent is self._spare:
            self._waiting.append(lent[:count].tobytes())
        else:
            self._frames = self._link.buffer_updated(count)

    def next_event(self) -> Event | None:
        """Return the next event; None if more bytes are needed or the session has ended.

        Raise `RemoteError` for a mistake of the peer, after all events before it. In revision 2 a box is opened only
        when its event is due.
        """
        if not self._is_open:
            due, self._closed_is_due = self._closed_is_due, False
            return Closed(orderly=True) if due else None
        try:
            if (plaintext := self._plaintext) is not None:
                self._plaintext = None
                return self._message(plaintext, None)
            while True:
                if self._frames is not None:
                    for frame in self._frames:
                        if (seal := self._seal) is None:
                            return self._introduction(frame)
                        return self._message(frame, seal if self._revision is _V2 else None)
                    self._frames = None
                if not self._warned and self._seal is not None and self._seal.left <= NEAR_LIMIT:
                    self._warned = True
                    return KeyNearLimit(self._seal.left)
                if not self._waiting:
                    return self._end_of_stream()
                self._lent = None
                self._frames = self._link.feed(self._waiting.popleft())
        except WireError as error:
            self._end(State.FAILED)
            if isinstance(error, RemoteError):
                raise
            raise blame(RemoteError, error) from error
        except BaseException:
            self._end(State.FAILED)
            raise

    # -- messages out --------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message for `data_to_send`.

        Raise `LocalError` for a message that is not allowed in this state, names an extension that was not offered,
        cannot be encoded or is too long, and once the key has reached its limit.
        """
        if type(message) not in SPEC_BY_CLASS:
            raise TypeError(f"{type(message).__name__} is not a message")
        try:
            frame = frame_pieces(message, self.revision, self._agreed)
            following = self._following(SENDS, SPEC_BY_CLASS[type(message)].msg_type)
            if self._seal is None:
                raise StateError("session-state", "the session itself sends the handshake messages")
            if isinstance(message, PongPayload):
                _check_named(message.extensions, self._supported)
            if isinstance(message, JacclBootstrapPayload):
                _check_named(message.extensions, self._offered)
            pieces = self._box(*frame, self._seal) if self._revision is _V2 else link_frame_pieces(b"".join(frame))
        except WireError as error:
            raise blame(LocalError, error) from error
        except BaseException:
            self._end(State.FAILED)
            raise
        self._out.extend(map(memoryview, pieces))
        self._agree(message)
        if following is State.CLOSED:
            self._ended_here = True
            self._closed_is_due = self._stream_ended  # the event is still to be returned
            self._end(following)

    def data_to_send(self) -> list[memoryview]:
        """Return the bytes to send that were not returned before, in pieces for `writelines`.

        The first bytes of an initiator are its hello. A failed session sends nothing. [HANDSHAKE-FIRST, SESSION-SILENT]
        """
        if self._state is State.IDLE and self.role is Role.INITIATOR and not self._stream_ended:
            try:
                config = self._config
                self._initiator = Initiator(config.signer, config.pin, config.random)
            except BaseException:
                self._end(State.FAILED)
                raise
            self._queue_introduction(self._initiator.hello)
            self._enter(self._following(SENDS, ClusterMsgType.HANDSHAKE_HELLO))
        pieces, self._out = self._out, []
        return pieces

    def seal_tensor(self, plaintext: _Buffer) -> bytes:
        """Return the tensor box of a plaintext from `wireproto.codec.tensor`: 28 bytes more. [SEAL-LAYOUT]

        Raise `LocalError` before `Established`, after the end, for a box that no frame can hold, and once the key has
        reached its limit.
        """
        seal = self._key()
        with byte_view(plaintext) as flat:
            try:
                check_length(len(flat) + OVERHEAD, MAX_LINK_LENGTH, None)
                return seal.encrypt(flat)
            except WireError as error:
                raise blame(LocalError, error) from error
            except BaseException:
                self._end(State.FAILED)
                raise

    def open_tensor(self, box: _Buffer) -> bytes:
        """Return the plaintext of a tensor box, for `wireproto.codec.tensor`. [SESSION-BOX]

        Raise `LocalError` before `Established` and after the end. Raise `RemoteError`, which is also a `SealError`, for
        a box that does not open; the session has then failed.

        In revision 1, whose frames are not sealed, the first box that opens confirms the peer.
        """
        seal = self._key()
        with byte_view(box) as flat:
            try:
                plaintext = seal.decrypt(flat)
            except WireError as error:
                self._end(State.FAILED)
                raise blame(RemoteError, error, SealError) from error
        self._enter(BOX_OPENS.get(self._state, self._state))
        return plaintext

    # -- internals -----------------------------------------------------------------------------------------------------

    def _end_of_stream(self) -> Closed | None:
        if not self._stream_ended:
            return None
        self._link.eof()
        self._end(State.CLOSED)
        return Closed(orderly=False)

    def _introduction(self, frame: Frame) -> Established:
        """Take the peer's hello or ack."""
        config = self._config
        if self.role is Role.INITIATOR:
            if self._initiator is None:
                raise HandshakeError("handshake-unexpected", "the peer sent bytes before the hello")
            initiator, self._initiator = self._initiator, None  # its private key could open the session
            secrets = initiator.finish(frame)
            self._enter(self._following(RECEIVES, ClusterMsgType.HANDSHAKE_ACK))
        else:
            ack, secrets = Responder(config.signer, config.pin, config.random).respond(frame)
            self._queue_introduction(ack)
            self._enter(self._following(RECEIVES, ClusterMsgType.HANDSHAKE_HELLO))
        self._seal = Seal(secrets.key, config.random)
        self._peer_key = secrets.peer_key
        self._link.max_length = MAX_LINK_LENGTH
        return Established(secrets.peer_key, self._log_key(secrets))

    def _queue_introduction(self, frame: bytes) -> None:
        self._out.append(memoryview(encode_link_frame(frame, MAX_HANDSHAKE_LENGTH)))

    def _log_key(self, secrets: SessionSecrets) -> OSError | ValueError | None:
        if (log := self._config.key_log) is not None:
            try:
                log.write(key_log_line(secrets))
                log.flush()
            except (OSError, ValueError) as error:  # a full disk, a closed file
                return error
        return None

    def _message(self, frame: Frame, seal: Seal | None) -> Event:
        """Process a cluster frame, or its box if there is a seal. Benchmark row: "10,000 sealed frames"."""
        plain = frame
        if seal is not None:
            try:
                plain = seal.decrypt(frame) if len(frame) <= _SHORT else self._open(frame, seal)
            except WireError as error:
                raise blame(RemoteError, error, SealError) from error
            if self._confirms is not None:
                self._enter(self._confirms)
                self._plaintext = plain
                return Confirmed()
        message = decode_frame(plain, self._revision, self._decodable)
        try:
            following = self._receives[message.__class__]
        except KeyError:
            return MessageIgnored(message)
        if message.__class__ is JacclBootstrapPayload or message.__class__ is PongPayload:
            if message.extensions or self._agreed:
                if message.__class__ is JacclBootstrapPayload and self._revision is _V2:
                    _check_named(message.extensions, self._offered)
                self._agree(message)
        elif following is _CLOSED:
            self._end(following)
            self._closed_is_due = True
        return MessageReceived(message)

    def _open(self, box: Frame, seal: Seal) -> memoryview:
        """Return the plaintext of a long box, in a reused buffer: fresh memory costs more than opening the box."""
        size = len(box) - OVERHEAD
        if not size <= len(self._opened) <= 4 * size + _SHORT:
            self._opened = bytearray(size)
        plaintext = memoryview(self._opened)[:size]
        seal.decrypt_into(box, plaintext)
        return plaintext

    def _box(self, first: bytes, second: bytes, seal: Seal) -> tuple[_Buffer, ...]:
        """Return the link frame around the box of a cluster frame in two pieces. [SEAL-FRAMES]"""
        length = len(first) + len(second) + OVERHEAD
        check_length(length, MAX_LINK_LENGTH, None)
        if length <= _SHORT:
            return (HEADER.pack(length) + seal.encrypt(first + second),)
        size = HEADER.size + length
        piece = memoryview(self._reusable(size))[:size]
        HEADER.pack_into(piece, 0, length)
        seal.encrypt_into(first, piece[HEADER.size :], second)
        return (piece,)

    def _reusable(self, size: int) -> bytearray:
        """Return the buffer of the last long frame if it fits and no view of it exists, else a new one."""
        try:
            self._sealed.append(0)
            self._sealed.pop()
        except BufferError:
            self._sealed = bytearray()
        if not size <= len(self._sealed) <= 4 * size:
            self._sealed = bytearray(size)
        return self._sealed

    def _key(self) -> Seal:
        if self._seal is None:
            _refuse("session-state", f"there is no session key while the session is {self._state.value}")
        return self._seal

    def _check_stream(self) -> None:
        if self._stream_ended:
            _refuse("session-state", "the stream has ended; no more bytes can follow")

    def _enter(self, state: State) -> None:
        """Enter a state, and look up its properties once instead of for each frame."""
        self._state = state
        self._is_open = state is not State.CLOSED and state is not State.FAILED
        self._receives = _RECEIVES[self._role].get(state, {})
        self._confirms = BOX_OPENS.get(state)  # the state after a box opens

    def _end(self, state: State) -> None:
        """Enter a final state, and release everything that is no longer needed."""
        self._enter(state)
        self._frames = None
        self._waiting.clear()
        self._plaintext = None
        self._initiator = None
        self._seal = None
        if state is State.FAILED:
            self._out.clear()

    def _agree(self, message: Message) -> None:
        """Note which extensions a message names. [EXT-OFFER, EXT-CHOICE, EXT-REVISION]"""
        if isinstance(message, PongPayload):
            self._offered |= self._supported.intersection(message.extensions)
        elif isinstance(message, JacclBootstrapPayload):
            self._agreed = self._offered.intersection(message.extensions)
            # Rank 1 may have sent frames under an earlier agreement before it received this one. [EXT-IN-FLIGHT]
            earlier = self._decodable if self.role is Role.INITIATOR else frozenset()
            self._decodable = earlier | self._agreed

    def _following(self, table: dict[Role, Table], msg_type: ClusterMsgType) -> State:
        following = table[self.role].get(self._state, {}).get(msg_type)
        if following is None:
            detail = f"{self.role.value} cannot send {msg_type.wire_name} when {self._state.value}"
            raise StateError("session-state", detail)
        return following


def _refuse(code: str, detail: str) -> NoReturn:
    raise blame(LocalError, StateError(code, detail))


def _check_named(names: Collection[str], allowed: frozenset[str]) -> None:
    """Raise `StateError` for an extension that a message must not name. [EXT-OFFER, EXT-CHOICE]"""
    for name in names:
        if name not in allowed:
            raise StateError("extension-not-offered", f"{name} is not among {sorted(allowed)}", path="extensions")


def key_log_line(secrets: SessionSecrets) -> str:
    """Return `CLUSTER_SESSION_KEY NONCE KEY`: the hello's nonce and the session key, in hex. [KEY-LOG]"""
    return f"CLUSTER_SESSION_KEY {secrets.hello_nonce.hex()} {secrets.key.hex()}\n"
