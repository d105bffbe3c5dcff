"""Hypothesis strategies for the protocol. Each states what it guarantees about its values.

    from wireproto.testing import strategies

    @given(strategies.encoded_frames())
    def test_my_decoder(frame: strategies.EncodedFrame) -> None:
        assert my_decoder(frame.data) == frame.message

Importing this module registers every payload class and the classes below, so `st.from_type(JacclBootstrapPayload)`
works. Values shrink towards the canonical frame of a small message.
"""

from collections.abc import Iterable
from random import Random
from typing import Any, Final, Literal, NamedTuple

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.frame import encode_frame
from wireproto.messages import (
    EXTENSIONS,
    REGISTRY,
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    ClusterMsgType,
    Direction,
    Message,
    PayloadKind,
    Revision,
    SessionEnd,
)
from wireproto.session import Role
from wireproto.testing.encodings import edge_values, foreign_frame
from wireproto.testing.fixed_keys import KnownHandshake, KnownSide, box
from wireproto.testing.malformed import VIOLATIONS, BrokenFrame, BrokenStream, broken_frame, broken_streams
from wireproto.testing.vectors import Hex, Payload, Secrets, SessionEvent, SessionStep, SessionTest


class Tape(Random):
    """A `Random` that draws from these bytes, then zeros, for which `encodings` makes the plainest choice."""

    def __init__(self, tape: bytes) -> None:
        super().__init__(0)
        self._tape = tape
        self._rest = iter(tape)

    def random(self) -> float:
        return next(self._rest, 0) / 256

    def getrandbits(self, k: int) -> int:
        return sum(next(self._rest, 0) << at for at in range(0, k, 8)) % (1 << k)

    def __repr__(self) -> str:
        return f"Tape({self._tape!r})"


tapes: Final = st.integers(0, 200).flatmap(lambda size: st.binary(min_size=size, max_size=size)).map(Tape)
"""Sources of choices for `encodings` and `malformed` that hypothesis can shrink."""
seeded_randoms: Final = st.integers(0, 2**32 - 1).map(Random)
"""Seeded sources of choices: faster, but examples do not shrink."""

# -- messages ---------------------------------------------------------------------------------------------------------


def messages(*classes: type[Message]) -> st.SearchStrategy[Message]:
    """Generate messages of these classes, by default of all.

    Guaranteed: `encode_frame(message, Revision.V2, EXTENSIONS)` accepts the message. Opaque data and unlimited strings
    are short; values with a limit reach it.
    """
    return st.one_of(*(_MESSAGES[cls] for cls in classes or _MESSAGES))


def _field_values(field: inspect.Field) -> st.SearchStrategy[Any]:
    values = _values(field.type)
    return values if field.required else st.just(field.default) | values


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType(ge=int(low), le=int(high)):
            free: st.SearchStrategy[Any] = st.integers(low, high)
        case inspect.BytesType(min_length=int(length)):
            free = st.binary(min_size=length, max_size=length)
        case inspect.BytesType():
            free = st.binary(max_size=60)
        case inspect.StrType(pattern=None):
            free = st.text(max_size=12)
        case inspect.StrType(pattern=str(pattern), max_length=limit):
            free = st.from_regex(pattern).filter(lambda text: limit is None or len(text) <= limit)
        case inspect.VarTupleType(item_type=item):
            unique = isinstance(item, inspect.StrType)
            return st.lists(_values(item), max_size=6, unique=unique).map(tuple)
        case _:
            return st.sampled_from(edge_values(kind))
    return st.one_of(st.sampled_from(edge_values(kind)), free)  # shrinks to the first, plainest value


_MESSAGES: Final[dict[type[Message], st.SearchStrategy[Message]]] = {
    spec.payload: st.builds(
        spec.payload, **{field.name: _field_values(field) for field in payload_fields(spec.payload).values()}
    )
    for spec in REGISTRY
}

# -- cluster frames ---------------------------------------------------------------------------------------------------


class EncodedFrame(NamedTuple):
    """A cluster frame and its message."""

    data: bytes
    message: Message


def frames(*classes: type[Message]) -> st.SearchStrategy[EncodedFrame]:
    """Generate canonical frames.

    Guaranteed: `decode_frame(data, Revision.V2, EXTENSIONS)` returns the message, and `encode_frame` the same bytes.
    """
    return messages(*classes).map(lambda message: EncodedFrame(encode_frame(message, Revision.V2, EXTENSIONS), message))


def encoded_frames(*classes: type[Message]) -> st.SearchStrategy[EncodedFrame]:
    """Generate frames in every encoding that a sender may choose: key order, whitespace, escapes, unknown keys.

    Guaranteed: `decode_frame(data, Revision.V2, EXTENSIONS)` returns the message. [JSON-SPELLING, JSON-UNKNOWN-KEY]
    """
    return st.builds(
        lambda message, random: EncodedFrame(foreign_frame(random, message), message), messages(*classes), tapes
    )


def broken_frames(violation: str | None = None) -> st.SearchStrategy[BrokenFrame]:
    """Generate frames with exactly one violation: the named one, or any of `malformed.VIOLATIONS`.

    Guaranteed: `decode_frame(frame, Revision.V2, EXTENSIONS)` raises a `WireError` with its code.
    """
    fitting = [each for each in VIOLATIONS if violation in (None, each.name)]
    return st.sampled_from(fitting).flatmap(
        lambda each: st.builds(
            lambda message, random: broken_frame(random, message, each.name),
            messages(*(cls for cls in _MESSAGES if each.applies(cls))),
            tapes,
        )
    )


def arbitrary_frames() -> st.SearchStrategy[bytes]:
    """Generate short byte strings, most of them with a known or almost known type byte. Nothing is guaranteed."""
    types = sorted({*SPEC_BY_TYPE, 0x00, 0x0E, 0x3F, 0x44, 0x80, 0xFE})
    typed = st.builds(lambda head, rest: bytes([head]) + rest, st.sampled_from(types), st.binary(max_size=60))
    return st.one_of(typed, st.binary(max_size=30))


# -- link streams -----------------------------------------------------------------------------------------------------


class LinkStream(NamedTuple):
    """A stream of link frames in chunks."""

    bodies: tuple[bytes, ...]
    chunks: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """The whole stream."""
        return b"".join(self.chunks)


def chunkings(data: bytes) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Generate ways to split `data` into chunks, some of them empty. Guaranteed: the chunks joined are `data`."""
    places = st.lists(st.integers(0, len(data)), max_size=8).map(sorted)
    return st.one_of(
        places.map(lambda cuts: tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))),
        st.just(tuple(data[at : at + 1] for at in range(len(data)))),
    )


@st.composite
def link_streams(draw: st.DrawFn, bodies: st.SearchStrategy[bytes] | None = None) -> LinkStream:
    """Generate streams of complete link frames in chunks, with these bodies or any short ones.

    Guaranteed: a `LinkDecoder` fed with the chunks yields the bodies, and its `eof` does not raise.
    """
    each = st.binary(min_size=1, max_size=20) if bodies is None else bodies
    drawn = tuple(draw(st.lists(each, max_size=5)))
    return LinkStream(drawn, draw(chunkings(_link(*drawn))))


def broken_link_streams() -> st.SearchStrategy[BrokenStream]:
    """Generate link streams with exactly one violation, at the end.

    Guaranteed: a `LinkDecoder` yields the bodies, then raises an error with the code, in `eof` at the latest.
    """
    bodies = st.lists(st.binary(min_size=1, max_size=20), max_size=3).map(tuple)
    return st.builds(lambda whole, random: [*broken_streams(random, whole)], bodies, tapes).flatmap(st.sampled_from)


def _link(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(8, "little") + body for body in bodies)


# -- handshakes, sealed streams ---------------------------------------------------------------------------------------

_sides: Final = st.builds(
    KnownSide,
    st.integers(1, 2**256 - 2**225).map(lambda number: number.to_bytes(32)),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)


def handshakes() -> st.SearchStrategy[KnownHandshake]:
    """Generate handshakes with known keys.

    Guaranteed: a `Responder` that pins rank 0's key accepts the hello. An `Initiator` with rank 0's ephemeral key and
    nonce accepts the ack. If the responder has rank 1's, both derive `key`.
    """
    return st.builds(KnownHandshake, _sides, _sides)


class SealedStream(NamedTuple):
    """A stream of link frames with a sealed box in each."""

    key: bytes
    """The session key, 32 bytes."""
    messages: tuple[Message, ...]
    boxes: tuple[bytes, ...]
    """The bodies of the link frames, one per message."""
    data: bytes
    """The whole stream."""


@st.composite
def sealed_streams(draw: st.DrawFn) -> SealedStream:
    """Generate streams that one side of revision 2 sends after the handshake, under a known key.

    Guaranteed: each box opens with the key and holds the canonical frame of its message. No nonce is repeated.
    """
    key = draw(st.binary(min_size=32, max_size=32))
    plain = [each for each in _MESSAGES if SPEC_BY_CLASS[each].extension is None]
    held = tuple(draw(st.lists(messages(*plain), max_size=4)))
    nonces = draw(st.lists(_nonces, min_size=len(held), max_size=len(held), unique=True))
    boxes = tuple(box(key, nonce, encode_frame(each)) for nonce, each in zip(nonces, held, strict=True))
    return SealedStream(key, held, boxes, _link(*boxes))


_nonces: Final = st.binary(min_size=12, max_size=12)

# -- whole sessions ---------------------------------------------------------------------------------------------------


@st.composite
def sessions(draw: st.DrawFn, role: Role | None = None, revision: Revision | None = None) -> SessionTest:
    """Generate sessions of one side, as scripts in the format of `spec/vectors/session.json`.

    Guaranteed: a `Session` with the script's secrets accepts each step, returns its events, and ends in its state. The
    peer's messages include some that are not allowed in that direction or state; sent messages do not.
    """
    side = draw(st.sampled_from(Role)) if role is None else role
    number = draw(st.sampled_from([Revision.V2, Revision.V1])) if revision is None else revision
    keys = draw(handshakes())
    script = _Script(side, number, keys)
    script.handshake()
    incoming, outgoing = _plain(number), _plain(number, script.outgoing)
    nonces = iter(draw(st.lists(_nonces, min_size=12, max_size=12, unique=True)))
    for goes_out in draw(st.lists(st.booleans(), max_size=6)):
        if script.state != "closed":
            script.step(goes_out, draw(outgoing if goes_out else incoming), next(nonces))
    script.end(draw(st.booleans()), next(nonces))
    return script.test


def _plain(revision: Revision, *directions: Direction) -> st.SearchStrategy[Message]:
    """Messages of a revision that name no extension. With `directions`, only those, without the handshake's."""
    introductions = (ClusterMsgType.HANDSHAKE_HELLO, ClusterMsgType.HANDSHAKE_ACK)
    specs = [spec for spec in REGISTRY if spec.is_known(revision)]
    if directions:
        specs = [spec for spec in specs if spec.direction in directions and spec.msg_type not in introductions]
    strategies = messages(*(spec.payload for spec in specs if spec.payload is not SessionEnd))
    return strategies.map(_without_extensions)


def _without_extensions(message: Message) -> Message:
    return msgspec.structs.replace(message, extensions=()) if hasattr(message, "extensions") else message


class _Script:
    """Builds the script of a session."""

    def __init__(self, role: Role, revision: Revision, handshake: KnownHandshake) -> None:
        self.role = role
        self.revision = revision
        self.state: Literal["established", "confirmed", "closed"] = "established"
        self._handshake = handshake
        self._steps: list[SessionStep] = []
        self.outgoing = Direction.RANK_0_TO_1 if role is Role.INITIATOR else Direction.RANK_1_TO_0

    def handshake(self) -> None:
        hello, ack = Hex(_link(self._handshake.hello)), Hex(_link(self._handshake.ack))
        if self.role is Role.INITIATOR:
            self._steps.append(SessionStep(do="start", bytes=hello))
            self._receive(ack, SessionEvent(event="established"))
        else:
            self._receive(hello, SessionEvent(event="established", reply=ack))

    def step(self, goes_out: bool, message: Message, nonce: bytes) -> None:
        frame = encode_frame(message, self.revision)
        data = Hex(_link(box(self._handshake.key, nonce, frame) if self.revision is Revision.V2 else frame))
        is_end = isinstance(message, SessionEnd)
        if goes_out:
            used = Hex(nonce) if self.revision is Revision.V2 else None
            self._steps.append(SessionStep(do="send", bytes=data, message=payload_of(message), nonce=used))
            self.state = "closed" if is_end else self.state
            return
        events = []
        if self.revision is Revision.V2 and self.state == "established":
            self.state = "confirmed"
            events.append(SessionEvent(event="confirmed"))
        direction = SPEC_BY_CLASS[type(message)].direction
        belongs = direction is not self.outgoing and not frame[0] < ClusterMsgType.PING
        events.append(SessionEvent(event="message" if belongs else "ignored", message=payload_of(message)))
        if is_end and belongs:
            self.state = "closed"
            events.append(SessionEvent(event="closed", orderly=True))
        self._receive(data, *events)

    def end(self, in_order: bool, nonce: bytes) -> None:
        if in_order:
            self.step(self.role is Role.INITIATOR, SessionEnd(), nonce)
        is_told = in_order and self.role is Role.RESPONDER  # with the peer's sessionEnd
        events = () if is_told else (SessionEvent(event="closed", orderly=in_order),)
        self._steps.append(SessionStep(do="end", events=events))
        self.state = "closed"

    def _receive(self, data: Hex, *events: SessionEvent) -> None:
        self._steps.append(SessionStep(do="receive", bytes=data, events=events))

    @property
    def test(self) -> SessionTest:
        sides = (self._handshake.rank_0, self._handshake.rank_1)
        own, peer = sides if self.role is Role.INITIATOR else sides[::-1]
        secrets = Secrets(
            identity_private=Hex(own.scalar),
            identity=Hex(own.public_key),
            ephemeral_private=Hex(own.ephemeral),
            ephemeral=Hex(own.public),
            nonce=Hex(own.nonce),
            pin=Hex(peer.public_key),
        )
        return SessionTest(
            id="drawn",
            comment="Drawn by hypothesis",
            requirements=(),
            result="valid",
            role=self.role.value,
            revision=self.revision.value,
            secrets=secrets,
            steps=tuple(self._steps),
            state=self.state,
        )


def payload_of(message: Message) -> Payload:
    """Return a message in the form that the vectors use."""
    spec = SPEC_BY_CLASS[type(message)]
    values = msgspec.json.decode(msgspec.json.encode(message))
    match spec.kind:
        case PayloadKind.EMPTY:
            values = None
        case PayloadKind.OPAQUE:
            values = values["box"]
        case _:
            pass
    return Payload(type=spec.msg_type.value, payload=values)


# -- registration -----------------------------------------------------------------------------------------------------


def _register(strategies: Iterable[tuple[type, st.SearchStrategy[Any]]]) -> None:
    for cls, strategy in strategies:
        st.register_type_strategy(cls, strategy)


_register(_MESSAGES.items())
_register(
    [
        (EncodedFrame, encoded_frames()),
        (BrokenFrame, broken_frames()),
        (LinkStream, link_streams()),
        (BrokenStream, broken_link_streams()),
        (KnownHandshake, handshakes()),
        (SealedStream, sealed_streams()),
        (SessionTest, sessions()),
    ]
)
