"""Sessions as a third party sees them: link frames of both directions in, entries of a time line out."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from wireproto.codec.frame import decode_frame
from wireproto.codec.link import HEADER
from wireproto.codec.tensor import decode_activation, decode_token
from wireproto.errors import StateError, WireError
from wireproto.inspection.frames import Fault, Found, Frame, Hole, Skipped
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.tcp import Endpoint
from wireproto.messages import (
    EXTENSIONS,
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    Direction,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    Message,
    MessageSpec,
    PayloadKind,
    PongPayload,
    PPActivationPayload,
    PPTokenPayload,
)
from wireproto.session.seal import OVERHEAD, Seal

_TRIES: Final = 8
"""So many boxes of a session without a beginning are tried with every key."""


_AGAINST: Final = (Direction.RANK_1_TO_0, Direction.RANK_0_TO_1)
"""By rank: how the messages go that it receives, and does not send."""


class Kind(Enum):
    """What an entry tells of."""

    OPENED = "opened"
    """A connection is there, between `ends`."""
    MESSAGE = "message"
    """A frame that decodes."""
    SEALED = "sealed"
    """A box that stays closed, for want of its key."""
    LONG = "long"
    """A frame that is too long to be kept."""
    BROKEN = "broken"
    """Bytes that break the protocol; `error` says how."""
    LOST = "lost"
    """Bytes that the capture lacks."""
    SKIPPED = "skipped"
    """Bytes that were passed over in search of the next frame."""
    CLOSED = "closed"
    """The sender's stream has ended; `note` says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the time line."""

    kind: Kind
    time: float
    """Seconds since 1970, or from 0 where the source has no clock."""
    connection: int
    """Its number in the capture, from 1."""
    sender: int | None = None
    """The rank that sent it, 0 or 1: each rank but 0 is a rank 1 to rank 0. None for what is nobody's."""
    offset: int = 0
    """In the sender's byte stream."""
    size: int = 0
    """Bytes of the stream that this is about; of a link frame, with its length."""
    wire: bytes = b""
    """Of the link frame, as it was captured, as far as it is kept."""
    frame: bytes | None = None
    """The cluster frame in it; empty where its box does not open, None where there is none, or no key."""
    sealed: bool = False
    """Whether that came in a box."""
    message: Message | None = None
    tensor: bytes | None = None
    """What the tensor box in the message holds, where its key is there."""
    error: WireError | None = None
    ends: tuple[Endpoint, Endpoint] | None = None
    """Of the connection, rank 0's first."""
    note: str = ""

    @property
    def spec(self) -> MessageSpec | None:
        """The row of the registry that the frame belongs to, even if it is broken; None where that is unknown."""
        return SPEC_BY_TYPE.get(self.frame[0]) if self.frame else None


class Session:
    """One connection's frames, read as both ranks read them. [SESSION-*]

    No byte says the revision. Here a session is sealed once a box of it has opened, and unsealed once a frame behind
    the handshake can be read or is too short for a box; before that, such frames stay closed. What is unsealed is read
    with the types of revision 2 as well: so looks a capture whose seals were opened.
    """

    def __init__(self, number: int, keys: KeyLog | None, initiator: int | None, whole: bool) -> None:
        self.number = number
        self._keys = keys
        self._initiator = initiator  # the side that is rank 0, of 0 and 1; None while that is unknown
        self._first: int | None = None  # the side that spoke first
        self._whole = whole  # nothing is missing so far
        self._nonce: bytes | None = None
        self._seal: Seal | None = None
        self._sealed: bool | None = None
        self._tries = _TRIES
        self._offered: set[str] = set()
        self._agreed: set[str] = set()

    def entry(self, side: int, time: float, found: Found) -> Entry:
        """The entry of what was found in the stream of a side."""
        about = partial(Entry, time=time, connection=self.number, offset=found.offset)
        if isinstance(found, Frame) and found.length == len(found.body):
            return self._entry(about, side, found)
        self._whole = False
        about = partial(about, sender=self.rank(side))
        match found:
            case Frame(length=length, body=body):
                return about(kind=Kind.LONG, size=HEADER.size + length, wire=HEADER.pack(length) + body)
            case Fault(error=error, data=data):
                return about(kind=Kind.BROKEN, size=len(data), wire=data, error=error)
            case Hole(size=size, data=data):
                return about(kind=Kind.LOST, size=size, wire=data)
            case Skipped(size=size):
                return about(kind=Kind.SKIPPED, size=size)

    def rank(self, side: int) -> int:
        """The rank of a side; as long as nothing tells, who speaks first is taken for rank 0."""
        if self._first is None:
            self._first = side
        return int(side != (self._first if self._initiator is None else self._initiator))

    # -- one frame -----------------------------------------------------------------------------------------------------

    def _entry(self, about: Callable[..., Entry], side: int, found: Frame) -> Entry:
        about = partial(about, size=HEADER.size + found.length, wire=HEADER.pack(found.length) + found.body)
        message = None
        try:
            frame, sealed = self._opened(found)
        except WireError as error:
            return about(kind=Kind.BROKEN, sender=self.rank(side), frame=b"", sealed=True, error=error)
        if frame is None:
            self._whole = False
            return about(kind=Kind.SEALED, sender=self.rank(side), sealed=True)
        about = partial(about, frame=frame, sealed=sealed)
        try:
            message = decode_frame(frame, extensions=self._agreed if self._whole else EXTENSIONS)
            self._learn(side, message)
            tensor = self._tensor(message)
        except WireError as error:
            return about(kind=Kind.BROKEN, sender=self.rank(side), message=message, error=error)
        rank = self.rank(side)
        belongs = SPEC_BY_CLASS[type(message)].direction is not _AGAINST[rank]
        note = "" if belongs else "does not belong here, and is ignored"
        return about(kind=Kind.MESSAGE, sender=rank, message=message, tensor=tensor, note=note)

    def _opened(self, found: Frame) -> tuple[bytes | None, bool]:
        """The cluster frame of a link frame, None if it stays closed, and whether it is sealed. Raises `WireError`."""
        body = found.body
        if self._sealed is None:
            if self._whole and not found.offset:
                return body, False  # the handshake's, or it ought to be
            message = _readable(body)
            if message is not None:
                if not isinstance(message, HandshakeHello | HandshakeAck):
                    self._sealed = False
                return body, False
            if len(body) <= OVERHEAD:
                self._sealed = False
        if self._sealed is False:
            return body, False
        seal = self._find_seal(body)
        if seal is None:
            return None, True
        frame = seal.decrypt(memoryview(body))
        self._sealed = True
        return frame, True

    def _find_seal(self, box: bytes) -> Seal | None:
        if self._seal is None and self._keys is not None:
            if self._nonce is not None:
                key = self._keys.find(self._nonce)
                self._seal = None if key is None else Seal(key)
            elif self._tries:
                self._tries -= 1
                self._seal = next((Seal(key) for key in self._keys.all() if _opens(key, box)), None)
        return self._seal

    def _learn(self, side: int, message: Message) -> None:
        """Keeps what a message says of the session."""
        direction = SPEC_BY_CLASS[type(message)].direction
        if self._initiator is None and direction is not Direction.BOTH:
            self._initiator = side if direction is Direction.RANK_0_TO_1 else 1 - side
        match message:
            case HandshakeHello(nonce=nonce) if self._nonce is None:
                self._nonce = nonce
            case PongPayload(extensions=names):
                self._offered.update(names)
            case JacclBootstrapPayload(extensions=names):
                if self._whole and not self._offered.issuperset(names):
                    raise StateError("extension-not-offered", "an extension is named that was not offered", offset=0)
                self._agreed = self._offered.intersection(names, EXTENSIONS)

    def _tensor(self, message: Message) -> bytes | None:
        """What the message's tensor box holds; None where it has none, or there is no key. Raises `WireError`."""
        match message:
            case InferenceStep(box=box) | InferenceToken(box=box):
                pass
            case PPActivationPayload(sealed_activation=box) | PPTokenPayload(sealed_token=box):
                pass
            case _:
                return None
        seal = self._find_seal(box)
        if seal is None:
            return None
        plaintext = seal.decrypt(memoryview(box))
        if carries_token(message):
            decode_token(plaintext)
        else:
            decode_activation(plaintext, hidden_dim(plaintext))
        return plaintext


def carries_token(message: Message | None) -> bool:
    """Whether the message's tensor box holds a token, and no activation."""
    return isinstance(message, InferenceToken | PPTokenPayload)


def hidden_dim(activation: bytes) -> int:
    """The hiddenDim that an activation's size is right for; it does not travel."""
    seq_len = int.from_bytes(activation[:4], "little", signed=True)
    return (len(activation) - 4) // (2 * seq_len) if seq_len > 0 else 0


def _readable(body: bytes) -> Message | None:
    """The message of an unsealed frame, if its bytes cannot well be anything else."""
    spec = SPEC_BY_TYPE.get(body[0])
    if spec is None or spec.kind not in (PayloadKind.JSON, PayloadKind.EMPTY):
        return None
    try:
        return decode_frame(body, extensions=EXTENSIONS)
    except WireError:
        return None


def _opens(key: bytes, box: bytes) -> bool:
    try:
        Seal(key).decrypt(memoryview(box))
    except WireError:
        return False
    return True
