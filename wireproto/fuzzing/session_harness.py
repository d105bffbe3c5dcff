"""The harness of whole connections: the peer's stream in any pieces, and the required result.

An input is one byte of choices, then the complete stream from the peer. The peer is a rank of `KNOWN`, so the key of
the session is known.
"""

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, Final, NamedTuple, cast

from cryptography.exceptions import InvalidTag

from wireproto.errors import LimitError, MalformedError, SealError, StateError, TruncatedError, WireError
from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, Verdict, cuts, error_verdict, expect, expect_same
from wireproto.fuzzing.sealed import mutate_introduction, mutate_link, mutate_sealed
from wireproto.fuzzing.session_layers import judged_introduction
from wireproto.messages import (
    EXTENSIONS,
    MAX_LINK_LENGTH,
    SPEC_BY_CLASS,
    Direction,
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    PongPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import (
    MAX_HANDSHAKE_LENGTH,
    Closed,
    Config,
    Confirmed,
    Established,
    Event,
    KeyNearLimit,
    MessageIgnored,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
)
from wireproto.session.seal import OVERHEAD
from wireproto.testing.by_schema import parse_message
from wireproto.testing.fixed_keys import KNOWN, unbox

_PONG: Final = PongPayload(True, False, MemoryPressure.NORMAL, EXTENSIONS)


class Choices(NamedTuple):
    """The choices in the first byte of an input."""

    role: Role
    revision: Revision
    extends: bool
    """Whether this side has extensions: if so, rank 1 offers all, and rank 0 chooses all offered ones."""

    @classmethod
    def of(cls, byte: int) -> "Choices":
        revision = Revision.V1 if byte & 2 else Revision.V2
        return cls(Role.RESPONDER if byte & 1 else Role.INITIATOR, revision, bool(byte & 4))


_Outcome = tuple[list[Any], Verdict | None, str]
"""The events, the error if it failed, and the final state."""


def session_harness(make: Callable[..., Session] = Session) -> Harness:
    """Return the harness of sessions of either role and revision. [SESSION-*, SEAL-FRAMES, EXT-*]"""

    def check(data: bytes) -> object:
        if not data:
            return None
        choices, stream = Choices.of(data[0]), data[1:]
        whole = _run(make, choices, [stream])
        _expect_outcome(_run(make, choices, cuts(stream)), whole, "any chunking")
        _expect_outcome(_judged(choices, stream), whole, "an independent session")
        events, failure, state = whole
        last = failure[2:5:2] if failure else (state,)
        return frozenset((choices, *kind) for kind in (*(event[:2] for event in events), last))

    return Harness(
        "session",
        check,
        seeds.session,
        _mutate,
        ("wireproto.session", "wireproto.session.seal", "wireproto.session.handshake"),
    )


def _expect_outcome(other: _Outcome, ours: _Outcome, oracle: str) -> None:
    events, failure, state = ours
    none: Verdict = ("ok", type(None), None)
    expect_same(failure or none, other[1] or none, oracle)
    expect(events == other[0], oracle, "other events")
    expect(state == other[2], oracle, "another state")


def _run(make: Callable[..., Session], choices: Choices, chunks: Iterable[bytes]) -> _Outcome:
    own, peer = (KNOWN.rank_0, KNOWN.rank_1)[:: -1 if choices.role is Role.RESPONDER else 1]
    extensions = EXTENSIONS if choices.extends else ()
    config = Config(
        role=choices.role,
        signer=own,
        pin=peer.public_key,
        revision=choices.revision,
        extensions=extensions,
        random=own.random(),
    )
    session = make(config)
    session.data_to_send()
    events: list[Any] = []
    failure = None
    try:
        for chunk in chunks:
            if chunk:
                session.receive_data(chunk)
                _take(session, choices, events)
        session.receive_data(b"")
        _take(session, choices, events)
    except RemoteError as error:
        expect(isinstance(error.__cause__, WireError), "an error has the codec's as its cause")
        failure = error_verdict(cast(WireError, error.__cause__))
        expect((error.code, error.offset, error.path) == failure[2:], "an error repeats its cause")
    if choices.revision is Revision.V1:
        expect(not session.agreed, "revision 1 has no extensions")
    return events, failure, session.state.value


def _take(session: Session, choices: Choices, events: list[Any]) -> None:
    while (event := session.next_event()) is not None:
        events.append(_plain(event))
        _act(session, event, choices)
        session.data_to_send()


def _act(session: Session, event: Event, choices: Choices) -> None:
    """Send the message that makes extensions agreed."""
    if not choices.extends or choices.revision is Revision.V1:
        return
    match event:
        case Established() if choices.role is Role.RESPONDER:
            session.send(_PONG)
        case MessageReceived(PongPayload()) if session.state is not State.CLOSED:
            session.send(JacclBootstrapPayload(1, "", tuple(sorted(session.offered))))
        case _:
            pass


def _plain(event: Event) -> Any:
    """Return an event in the compared form."""
    match event:
        case Established(peer_key=key):
            return "established", key
        case Confirmed():
            return ("confirmed",)
        case KeyNearLimit():
            return ("key near its limit",)
        case MessageReceived(message) | MessageIgnored(message):
            return "received" if isinstance(event, MessageReceived) else "ignored", type(message), message
        case Closed(orderly=orderly):
            return "closed", orderly


# -- independent implementation ---------------------------------------------------------------------------------------


def _judged(choices: Choices, stream: bytes) -> _Outcome:
    """Return the required result of a stream, read frame by frame."""
    judge = _Judge(choices)
    try:
        for body in _bodies(stream, judge):
            judge.take(body)
            if judge.state == "closed":
                break
        if judge.state != "closed":
            judge.state = "closed"
            judge.events.append(("closed", False))
    except WireError as error:
        return judge.events, error_verdict(error), "failed"
    return judge.events, None, judge.state


def _bodies(stream: bytes, judge: "_Judge") -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        length = int.from_bytes(stream[at : at + 8], "little")
        if len(stream) - at >= 8:
            if not length:
                raise MalformedError("link-length-zero", "", offset=at, path="length")
            if length > (MAX_HANDSHAKE_LENGTH if judge.is_new else MAX_LINK_LENGTH):
                raise LimitError("link-length-limit", "", offset=at, path="length")
        if len(stream) - at < 8 + length:
            raise TruncatedError("truncated", "", offset=len(stream))
        yield stream[at + 8 : at + 8 + length]
        at += 8 + length


class _Judge:
    """A session implemented in the simplest way."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.events: list[Any] = []
        self.state = "hello sent" if choices.role is Role.INITIATOR else "idle"
        self.opened: set[bytes] = set()
        self.offered: set[str] = set()
        self.agreed: set[str] = set()
        self._key = b""
        self._extends = choices.extends and choices.revision is Revision.V2
        if self._extends and choices.role is Role.RESPONDER:
            self.offered = {*EXTENSIONS}

    @property
    def is_new(self) -> bool:
        return self.state in ("hello sent", "idle")

    def take(self, body: bytes) -> None:
        if self.is_new:
            secrets = judged_introduction(self.choices.role, body)
            self.state, self._key = "established", secrets.key
            self.events.append(("established", secrets.peer_key))
            return
        frame = self._opened(body) if self.choices.revision is Revision.V2 else body
        message = parse_message(frame, self.choices.revision, self.agreed)
        self._message(message)

    def _opened(self, body: bytes) -> bytes:
        if len(body) < OVERHEAD:
            raise TruncatedError("truncated", "", offset=len(body))
        if body[:12] in self.opened:
            raise SealError("seal-replay", "", offset=0)
        try:
            frame = unbox(self._key, body)
        except InvalidTag as error:
            raise SealError("seal-tag", "", offset=0) from error
        self.opened.add(body[:12])
        if self.state == "established":
            self.state = "confirmed"
            self.events.append(("confirmed",))
        return frame

    def _message(self, message: Message) -> None:
        is_rank_0 = self.choices.role is Role.INITIATOR
        coming = Direction.RANK_1_TO_0 if is_rank_0 else Direction.RANK_0_TO_1
        belongs = SPEC_BY_CLASS[type(message)].direction in (coming, Direction.BOTH)
        if not belongs or isinstance(message, HandshakeHello | HandshakeAck):
            self.events.append(("ignored", type(message), message))
            return
        if isinstance(message, JacclBootstrapPayload) and self.choices.revision is Revision.V2:
            if not self.offered.issuperset(message.extensions):
                raise StateError("extension-not-offered", "", path="extensions")
            self.agreed = {*message.extensions}
        self.events.append(("received", type(message), message))
        if isinstance(message, PongPayload) and self._extends:
            self.offered |= {*message.extensions} & {*EXTENSIONS}
            self.agreed = set(self.offered)  # by the bootstrap that answers it
        if isinstance(message, SessionEnd):
            self.state = "closed"
            self.events.append(("closed", True))


# -- inputs -----------------------------------------------------------------------------------------------------------

_mutate_boxes: Final = mutate_sealed(KNOWN.key)


def _mutate(random: Random, data: bytes) -> bytes:
    if not data or random.random() < 0.05:
        return bytes([random.randrange(8)]) + data[1:]
    choices, stream = Choices.of(data[0]), data[1:]
    length = 8 + int.from_bytes(stream[:8], "little")
    if len(stream) < length or random.random() < 0.1:
        return data[:1] + mutate_link(random, stream, mutate_introduction)
    handshake, rest = stream[:length], stream[length:]
    mutate = _mutate_boxes if choices.revision is Revision.V2 else mutate_link
    return data[:1] + handshake + mutate(random, rest)
