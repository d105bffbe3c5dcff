"""Sessions seen by a third party: link frames of both directions in, timeline entries out."""

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
"""Boxes tried with every key, if the beginning of a session was not captured."""
_AGAINST: Final = (Direction.RANK_1_TO_0, Direction.RANK_0_TO_1)
"""The direction of the messages that a rank only receives, by rank."""


class Kind(Enum):
    """The subject of an entry."""

    OPENED = "opened"
    """A connection between `ends` was found."""
    MESSAGE = "message"
    """A frame that decodes."""
    SEALED = "sealed"
    """A box that cannot be opened, because its key is missing."""
    LONG = "long"
    """A frame too long to be kept."""
    BROKEN = "broken"
    """Bytes that break the protocol, with the `error`."""
    LOST = "lost"
    """An incompletely captured frame, or a gap; `lost` bytes are missing."""
    SKIPPED = "skipped"
    """Bytes skipped in search of the next frame."""
    LATE = "late"
    """Bytes captured out of order, after they had been counted as lost."""
    CLOSED = "closed"
    """The end of the sender's stream, with the reason in `note`."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline.

    The sizes of a sender's entries, except for `LATE`, add up to its stream.
    """

    kind: Kind
    time: float
    """Seconds since 1970, or since the start if the source has no clock."""
    connection: int
    """The connection's number in the capture, from 1."""
    sender: int | None = None
    """The sender: 0, or 1 for any other rank. None for an entry of both."""
    offset: int = 0
    """Offset in the sender's byte stream; negative for bytes before the first one seen."""
    size: int = 0
    """Bytes of the stream, including the length of a link frame. 0 for a broken length: the search for the next frame
    starts there, and its bytes are in the `SKIPPED` entry."""
    lost: int = 0
    """Bytes missing from the capture."""
    wire: bytes = b""
    """The bytes that were captured and kept."""
    frame: bytes | None = None
    """The cluster frame; empty if its box does not open, None if there is none or its key is missing."""
    sealed: bool = False
    """Whether the frame was in a box."""
    message: Message | None = None
    tensor: bytes | None = None
    """The plaintext of the tensor box in the message, if its key is known."""
    error: WireError | None = None
    ends: tuple[Endpoint, Endpoint] | None = None
    """The endpoints of the connection, rank 0's first."""
    note: str = ""

    @property
    def spec(self) -> MessageSpec | None:
        """The frame's row in the registry, even if the frame is broken; None if its type is unknown."""
        return SPEC_BY_TYPE.get(self.frame[0]) if self.frame else None


class Session:
    """The frames of one connection, read as both ranks read them. [SESSION-*]

    The revision is not on the wire. A session counts as sealed once one of its boxes has opened, and as unsealed once a
    frame after the handshake decodes or is too short for a box. Until then such frames are reported as unopened.
    Unsealed frames may have the types of revision 2, because a decrypted capture has them.
    """

    def __init__(self, number: int, keys: KeyLog | None, initiator: int | None, whole: bool) -> None:
        self.number = number
        self._keys = keys
        self._initiator = initiator  # the side, 0 or 1, that is rank 0; None if unknown
        self._first: int | None = None  # the side that spoke first
        self._whole = whole  # nothing was missing or out of order so far
        self._nonce: bytes | None = None
        self._seal: Seal | None = None
        self._sealed: bool | None = None
        self._tries = _TRIES
        self._offered: set[str] = set()
        self._agreed: set[str] = set()

    def entry(self, side: int, time: float, found: Found) -> Entry:
        """Return the entry of a finding in the stream of a side."""
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
        """Return the entry of bytes captured too late."""
        about = partial(Entry, kind=Kind.LATE, time=late.time, connection=self.number, sender=self.rank(side))
        return about(offset=late.offset, size=len(late.data), wire=late.data[:KEPT])

    def lack(self) -> None:
        """Record that frames are missing or out of order."""
        self._whole = False

    def rank(self, side: int) -> int:
        """Return the rank of a side. Until the frames show it, the first sender counts as rank 0."""
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
        note = "" if belongs else "unexpected from this rank; ignored"
        return about(kind=Kind.MESSAGE, sender=rank, message=message, tensor=tensor, note=note)

    def _opened(self, found: Frame) -> tuple[bytes | None, bool]:
        """Return the cluster frame of a link frame, None if it cannot be opened, and whether it is sealed.

        Raises `WireError` if its box does not open.
        """
        body = found.body
        if self._sealed is None:
            if self._whole and not found.offset:
                return body, False  # a handshake frame, or something in its place
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
        """Update the state of the session from a message."""
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
                    raise StateError("extension-not-offered", "extension not offered", offset=0)
                self._agreed = self._offered.intersection(names, EXTENSIONS)

    def _tensor(self, message: Message) -> bytes | None:
        """Return the plaintext of the message's tensor box, None without a box or key. Raises `WireError`."""
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
    """Return whether the message's tensor box holds a token rather than an activation."""
    return isinstance(message, InferenceToken | PPTokenPayload)


def hidden_dim(activation: bytes) -> int:
    """Return the hiddenDim computed from an activation's size; it is not on the wire."""
    seq_len = int.from_bytes(activation[:4], "little", signed=True)
    return max(len(activation) - 4, 0) // (2 * seq_len) if seq_len > 0 else 0


def _readable(body: bytes) -> Message | None:
    """Return the message of an unsealed frame, or None if its bytes may be a box."""
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
