"""Sessions as a third party sees them: link frames of both directions in, entries of a timeline out."""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.codec.link import HEADER
from wireproto.codec.tensor import decode_activation, decode_token
from wireproto.errors import StateError, WireError
from wireproto.inspection.frames import KEPT, Fault, Found, Frame, Hole, Skipped
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.tcp import Endpoint, Late
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
"""Boxes of a session without a beginning that are tried with every key."""
_AGAINST: Final = (Direction.RANK_1_TO_0, Direction.RANK_0_TO_1)
"""By rank: the direction of the messages that it only receives."""


class Kind(Enum):
    """What an entry is about."""

    OPENED = "opened"
    """A connection is there, between `ends`."""
    MESSAGE = "message"
    """A frame that decodes."""
    SEALED = "sealed"
    """A box that stays closed, because its key is missing."""
    LONG = "long"
    """A frame that is too long to be kept."""
    BROKEN = "broken"
    """Bytes that break the protocol; `error` says how."""
    LOST = "lost"
    """A frame that the capture does not have in whole, or a gap; `lost` says how many bytes are missing."""
    SKIPPED = "skipped"
    """Bytes that were passed over in search of the next frame."""
    LATE = "late"
    """Bytes that came out of order, after their place in the stream had been given up as lost."""
    CLOSED = "closed"
    """The sender's stream has ended; `note` says how."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline.

    The sizes of a sender's entries add up to its stream, but for those of `LATE`.
    """

    kind: Kind
    time: float
    """Seconds since 1970, or from 0 where the source has no clock."""
    connection: int
    """Its number in the capture, from 1."""
    sender: int | None = None
    """The rank that sent it, 0 or 1: each rank but 0 is a rank 1 to rank 0. None for an entry of both."""
    offset: int = 0
    """In the sender's byte stream; negative for bytes before the first one seen."""
    size: int = 0
    """Bytes of the stream that this is about; of a link frame, with its length. 0 for a broken length: the search for
    the next frame starts there, and its bytes are in the `SKIPPED` entry."""
    lost: int = 0
    """How many of them the capture lacks."""
    wire: bytes = b""
    """Those bytes, as far as they were captured and are kept."""
    frame: bytes | None = None
    """The cluster frame in it; empty if its box does not open, None if there is none, or no key."""
    sealed: bool = False
    """Whether it came in a box."""
    message: Message | None = None
    tensor: bytes | None = None
    """The plaintext of the tensor box in the message, if its key is there."""
    error: WireError | None = None
    ends: tuple[Endpoint, Endpoint] | None = None
    """Of the connection, rank 0's first."""
    note: str = ""

    @property
    def spec(self) -> MessageSpec | None:
        """The frame's row in the registry, even if the frame is broken; None if its type is unknown."""
        return SPEC_BY_TYPE.get(self.frame[0]) if self.frame else None


class Session:
    """One connection's frames, read as both ranks read them. [SESSION-*]

    No byte says the revision. A session counts as sealed once one of its boxes has opened, and as unsealed once a frame
    after the handshake can be read or is too short for a box; before that, such frames stay closed. Unsealed frames may
    have the types of revision 2, too: a capture whose boxes were opened has them.
    """

    def __init__(self, number: int, keys: KeyLog | None, initiator: int | None, whole: bool) -> None:
        self.number = number
        self._keys = keys
        self._initiator = initiator  # the side that is rank 0, of 0 and 1; None while that is unknown
        self._first: int | None = None  # the side that spoke first
        self._whole = whole  # nothing is missing, and nothing out of order, so far
        self._nonce: bytes | None = None
        self._seal: Seal | None = None
        self._sealed: bool | None = None
        self._tries = _TRIES
        self._offered: set[str] = set()
        self._agreed: set[str] = set()

    def entry(self, side: int, time: float, found: Found) -> Entry:
        """Return the entry of something found in the stream of a side."""
        about = partial(Entry, time=time, connection=self.number, offset=found.offset)
        if isinstance(found, Frame) and found.length == len(found.body):
            return self._entry(about, side, found)
        self._whole = False
        about = partial(about, sender=self.rank(side))
        match found:
            case Frame(length=length, body=body):
                return about(kind=Kind.LONG, size=HEADER.size + length, wire=HEADER.pack(length) + body)
            case Fault(error=error, data=data, size=size):
                return about(kind=Kind.BROKEN, size=size, wire=data, error=error)
            case Hole(size=size, lost=lost, data=data):
                return about(kind=Kind.LOST, size=size, lost=lost, wire=data)
            case Skipped(size=size, data=data):
                return about(kind=Kind.SKIPPED, size=size, wire=data)

    def late(self, side: int, late: Late) -> Entry:
        """Return the entry of bytes that came too late."""
        about = partial(Entry, kind=Kind.LATE, time=late.time, connection=self.number, sender=self.rank(side))
        return about(offset=late.offset, size=len(late.data), wire=late.data[:KEPT])

    def lack(self) -> None:
        """Take note that frames are missing, or come in an order in which they were not sent."""
        self._whole = False

    def rank(self, side: int) -> int:
        """Return the rank of a side; until the frames tell, the side that speaks first counts as rank 0."""
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
        note = "" if belongs else "unexpected from this rank, and ignored"
        return about(kind=Kind.MESSAGE, sender=rank, message=message, tensor=tensor, note=note)

    def _opened(self, found: Frame) -> tuple[bytes | None, bool]:
        """Return the cluster frame of a link frame, None if it stays closed, and whether it is sealed.

        Raises `WireError` if its box does not open.
        """
        body = found.body
        if self._sealed is None:
            if self._whole and not found.offset:
                return body, False  # of the handshake, or it should be
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
        """Keep what a message says of the session."""
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
        """Return the plaintext of the message's tensor box; None if it has none, or no key. Raises `WireError`."""
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
    """Whether the message's tensor box holds a token, not an activation."""
    return isinstance(message, InferenceToken | PPTokenPayload)


def hidden_dim(activation: bytes) -> int:
    """Return the hiddenDim that fits an activation's size; no message has it."""
    seq_len = int.from_bytes(activation[:4], "little", signed=True)
    return (len(activation) - 4) // (2 * seq_len) if seq_len > 0 else 0


def _readable(body: bytes) -> Message | None:
    """Return the message of an unsealed frame; None if its bytes may be a box."""
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
