"""A session's output, and calls at the wrong time."""

import mmap
from collections.abc import Callable
from typing import Any

import pytest

from tests.wireproto.payloads import canonical_frame
from tests.wireproto.peers import (
    OTHER,
    RANK_0,
    RANK_1,
    Outcome,
    box,
    by_hand,
    end,
    events,
    give,
    hello,
    introduction,
    outcome,
    output,
    session,
    shaken,
    take,
)
from tests.wireproto.session_states import (
    EACH_DEAD_STATE,
    EACH_LIVING_STATE,
    EACH_REVISION,
    EACH_ROLE,
    END,
    FROM_RANK_1,
    INITIATOR,
    MESSAGES,
    RESPONDER,
    SENT_BY,
    V2,
    known,
    misuse,
    name,
    opened,
    state_of,
)
from tests.wireproto.streams import EVERY_STYLE, KIB, MIB, header, link, pattern
from tests.wireproto.verdicts import expected
from wireproto import (
    MAX_LINK_LENGTH,
    HandshakeError,
    InferenceStep,
    JacclBootstrapPayload,
    LimitError,
    MalformedError,
    Message,
    Ping,
    Revision,
    SealError,
    StepTokenPayload,
    UnknownTypeError,
    WireError,
)
from wireproto import session as module
from wireproto.session import (
    Closed,
    Config,
    Confirmed,
    Established,
    KeyNearLimit,
    LocalError,
    MessageReceived,
    Role,
    Session,
    State,
    seal,
)
from wireproto.session.seal import OVERHEAD

# -- what goes out ----------------------------------------------------------------------------------------------------


@EACH_REVISION
@EACH_ROLE
@pytest.mark.parametrize("confirmed", [False, True], ids=["established", "confirmed"])
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_send(role: Role, message: Message, revision: Revision, confirmed: bool) -> None:
    """Each type in each open state: the bytes, decoded independently, or the error. [SESSION-STATE]"""
    peer = opened(role, revision, confirmed=confirmed)
    before = peer.session.state
    if not known(message, revision):
        with pytest.raises(UnknownTypeError, match=r"^type-unknown: "):
            output(peer.session, message)
        assert peer.session.state is before
    elif message not in SENT_BY[role]:
        misuse(peer.session, lambda: output(peer.session, message))
    else:
        assert peer.body(output(peer.session, message)) == canonical_frame(message)
        assert peer.session.state is (State.CLOSED if message is END else before)


@EACH_REVISION
def test_send_is_sealed_anew_each_time(revision: Revision) -> None:
    pair = shaken(revision)
    frames = {output(pair.initiator, Ping()) for _ in range(50)}
    assert len(frames) == (50 if revision is V2 else 1)


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * KIB, 3 * MIB])
@EACH_REVISION
def test_send_of_any_size(size: int, revision: Revision) -> None:
    pair = shaken(revision)
    message = InferenceStep(pattern(size))
    data = output(pair.initiator, message)
    assert len(data) == 8 + 1 + size + (28 if revision is V2 else 0)
    *_, received = take(pair.responder, data)
    assert received == MessageReceived(message)


@EACH_REVISION
def test_longest_send(revision: Revision, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the box's, not the message's; an excess changes nothing."""
    assert MAX_LINK_LENGTH == 256 * MIB
    pair = shaken(revision)
    monkeypatch.setattr(module, "MAX_LINK_LENGTH", 1000)
    monkeypatch.setattr("wireproto.codec.link.link_frame_pieces.__defaults__", (1000,))
    room = 1000 - 1 - (28 if revision is V2 else 0)
    with pytest.raises(LimitError, match=r"^link-length-limit in length: 1001 "):
        output(pair.initiator, InferenceStep(bytes(room + 1)))
    assert pair.initiator.state is State.ESTABLISHED
    assert len(output(pair.initiator, InferenceStep(bytes(room)))) == 1008


def step(frame: int) -> InferenceStep:
    """Return a message whose link frame has this length in revision 2."""
    return InferenceStep(pattern(frame - len(b"length  ") - OVERHEAD - len(b"\x05")))


def test_held_frame_stays_what_it_is() -> None:
    pair = shaken()
    message = step(100 * KIB)
    next_one = InferenceStep(bytes(len(message.box)))
    held = output(pair.initiator, message)
    behind = output(pair.initiator, next_one)
    for data, sent in ((held, message), (behind, next_one)):
        assert take(pair.responder, data)[-1] == MessageReceived(sent)


@pytest.mark.parametrize(
    ("first", "second", "again"),
    [
        (400 * KIB, 400 * KIB, True),
        (400 * KIB, 100 * KIB, True),
        (400 * KIB, 100 * KIB - 1, False),
        (400 * KIB, 400 * KIB + 1, False),
    ],
)
def test_memory_of_a_long_frame_is_used_again(first: int, second: int, again: bool) -> None:
    """The buffer is reused when no view of it is left, for frames from a quarter of its size."""
    pair = shaken()
    pair.initiator.send(step(first))
    (piece,) = pair.initiator.data_to_send()
    memory = piece.obj
    assert len(memory) == first
    piece.release()
    pair.initiator.send(step(second))
    (piece,) = pair.initiator.data_to_send()
    assert len(piece) == second
    assert (piece.obj is memory) is again


@EACH_REVISION
def test_pieces_have_one_type(revision: Revision) -> None:
    """The type of output does not depend on its size."""
    pair = shaken(revision)
    for message in (Ping(), InferenceStep(bytes(100 * KIB))):
        pair.initiator.send(message)
    pieces = pair.initiator.data_to_send()
    assert {type(piece) for piece in pieces} == {memoryview}
    assert pair.initiator.data_to_send() == []
    *_, ping, received = take(pair.responder, b"".join(pieces))
    assert (ping, received) == (MessageReceived(Ping()), MessageReceived(message))


def test_wrong_fields_are_not_sent() -> None:
    pair = shaken()
    for wrong in (JacclBootstrapPayload(70_000, "id"), StepTokenPayload("\ud800", 1)):
        with pytest.raises(MalformedError):
            output(pair.initiator, wrong)
        assert pair.initiator.state is State.ESTABLISHED
    take(pair.responder, output(pair.initiator, Ping()))


@EACH_ROLE
def test_exhausted_key(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions: the session cannot continue, and only a new handshake helps. [SEAL-LIMIT]"""
    monkeypatch.setattr(module, "NEAR_LIMIT", -1)
    monkeypatch.setattr(seal, "MAX_BOXES", 4)
    monkeypatch.setattr(seal, "_FIRST", 2)
    pair = shaken()
    frames = [output(pair(role), SENT_BY[role][0]) for _ in range(4)]
    with pytest.raises(SealError, match=r"^seal-exhausted: ") as caught:
        output(pair(role), SENT_BY[role][0])
    assert isinstance(caught.value, LocalError)
    with pytest.raises(SealError, match=r"^seal-exhausted: "):
        pair(role).seal_tensor(b"")
    for frame in frames:
        assert outcome(pair(OTHER[role]), [frame]).failure is None
    assert pair(role).boxes_left == pair(OTHER[role]).boxes_left == 0
    last = link(box(pair.key, canonical_frame(SENT_BY[role][0])))
    assert outcome(pair(OTHER[role]), [last]) == Outcome([], expected("seal-exhausted", None))


@EACH_ROLE
def test_key_near_its_limit_is_told_in_time(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in advance: with a sixteenth of all boxes left, in whatever direction they are used. [SEAL-LIMIT]"""
    assert module.NEAR_LIMIT == 2**20
    monkeypatch.setattr(module, "NEAR_LIMIT", seal.MAX_BOXES - 3)
    pair = shaken()
    one, peer, message = pair(role), pair(OTHER[role]), SENT_BY[OTHER[role]][0]
    assert one.boxes_left == seal.MAX_BOXES
    assert take(one, output(peer, message)) == [Confirmed(), MessageReceived(message)]
    one.send(SENT_BY[role][0])
    assert take(one, output(peer, message)) == [MessageReceived(message), KeyNearLimit(seal.MAX_BOXES - 3)]
    assert one.boxes_left == seal.MAX_BOXES - 3
    assert take(one, output(peer, message)) == [MessageReceived(message)]


# -- misuse -----------------------------------------------------------------------------------------------------------


@EACH_REVISION
@EACH_ROLE
def test_misuse_before_the_handshake(role: Role, revision: Revision) -> None:
    """All calls at the wrong time; the handshake then continues unaffected.

    [SESSION-STATE, HANDSHAKE-FIRST]
    """
    one, peer = session(role, revision), session(OTHER[role], revision)

    def everything() -> None:
        for message in MESSAGES:
            if known(message, revision):
                misuse(one, lambda message=message: one.send(message))
        misuse(one, lambda: one.seal_tensor(b""))
        misuse(one, lambda: one.open_tensor(bytes(28)))
        misuse(one, lambda: one.open_tensor(b""))

    everything()
    if role is INITIATOR:
        sent = output(one)
        everything()
        take(peer, sent)
        assert take(one, output(peer)) == [Established(RANK_1.public_key)]
    else:
        take(one, output(peer))
        take(peer, output(one))
    assert MessageReceived(SENT_BY[role][0]) in take(peer, output(one, SENT_BY[role][0]))


@EACH_REVISION
@EACH_LIVING_STATE
def test_the_hello_goes_out_once(role: Role, state: State, revision: Revision) -> None:
    """From an initiator, before anything else. [HANDSHAKE-FIRST]"""
    one = state_of(state, role, revision).session
    if (role, state) == (INITIATOR, State.IDLE):
        assert introduction(output(one)[8:]).identity == RANK_0.public_key
        assert one.state is State.HELLO_SENT
    assert output(one) == b""


@EACH_REVISION
@EACH_DEAD_STATE
def test_misuse_after_the_end(role: Role, state: State, revision: Revision) -> None:
    peer = state_of(state, role, revision)
    one = peer.session
    for message in MESSAGES:
        if known(message, revision):
            misuse(one, lambda message=message: one.send(message))
    misuse(one, lambda: one.seal_tensor(b""))
    misuse(one, lambda: one.open_tensor(bytes(28)))
    assert one.boxes_left == 0


@EACH_REVISION
@EACH_DEAD_STATE
@EVERY_STYLE
def test_bytes_after_the_end_are_discarded(
    role: Role, state: State, revision: Revision, buffered: Callable[[int], bool]
) -> None:
    """Silently, through either interface, and the end of the stream, too; nothing is raised or kept. [SESSION-END]"""
    peer = state_of(state, role, revision)
    one = peer.session
    chunks = [peer.frame(b"\x03", b"nonce behind"), header(0), b"\xff" * 9, bytes(100 * KIB)]
    assert outcome(one, chunks, buffered=buffered) == Outcome([])
    assert len(one.get_buffer()) > 0
    assert not one._waiting
    one.receive_data(b"")
    one.receive_data(b"")
    assert one.state is state


@EACH_ROLE
@EACH_REVISION
def test_nothing_is_taken_after_a_failure(role: Role, revision: Revision) -> None:
    """No events, neither from the same bytes nor the next; `RemoteError` is raised once."""
    peer = by_hand(role, revision)
    good = [peer.frame(canonical_frame(SENT_BY[OTHER[role]][0]), b"nonce no %3d" % number) for number in range(3)]
    one = peer.session
    came = outcome(one, [good[0] + link(b"\x0e") + good[1]])
    assert came.events[-1] == MessageReceived(SENT_BY[OTHER[role]][0])
    assert came.failure is not None
    assert one.state is State.FAILED
    assert take(one, good[2]) == end(one) == []


def test_bytes_after_the_end_of_the_stream() -> None:
    """Bytes after the end of the stream are the caller's mistake."""
    one = by_hand(RESPONDER).session
    one.receive_data(b"")
    misuse(one, lambda: one.receive_data(b"x"))
    one.get_buffer()
    misuse(one, lambda: one.buffer_updated(1))
    assert list(events(one)) == [Closed(orderly=False)]


@EVERY_STYLE
@EACH_ROLE
def test_events_that_are_not_taken_wait(role: Role, buffered: Callable[[int], bool]) -> None:
    """A handler that raises, leaves its loop or skips events loses nothing, whatever arrives meanwhile."""
    pair = shaken()
    one, peer = pair(role), pair(OTHER[role])
    message = SENT_BY[OTHER[role]][0]
    came: list[object] = []
    for number in range(20):
        data = output(peer, message, message)
        for index, chunk in enumerate((data[:5], data[5:-3], data[-3:])):
            for event in give(one, chunk, buffered=buffered(index)):
                came.append(event)
                break  # each time in the middle
        if number % 3 == 2:
            one.send(SENT_BY[role][0])
    one.receive_data(b"")
    came += events(one)
    assert came == [Confirmed(), *[MessageReceived(message)] * 40, Closed(orderly=False)]


def test_long_frame_behind_events_that_wait() -> None:
    """Its bytes arrive while the link decoder still has frames."""
    pair = shaken()
    messages = [Ping(), Ping(), InferenceStep(pattern(300 * KIB)), Ping()]
    data = output(pair.initiator, *messages)
    came = [next(give(pair.responder, data[:90], buffered=True))]
    rest = memoryview(data)[90:]
    while rest:
        buffer = pair.responder.get_buffer()
        count = min(len(buffer), len(rest), 50 * KIB)
        buffer[:count] = rest[:count]
        pair.responder.buffer_updated(count)
        rest = rest[count:]
    came += events(pair.responder)
    assert came == [Confirmed(), *map(MessageReceived, messages)]


def test_buffer_without_get_buffer() -> None:
    """The caller's mistakes, and a count larger than the buffer."""
    one = by_hand(RESPONDER).session
    misuse(one, lambda: one.buffer_updated(1))
    buffer = one.get_buffer()
    for count in (-1, len(buffer) + 1):
        with pytest.raises(ValueError, match="cannot have been written"):
            one.buffer_updated(count)
    one.buffer_updated(0)
    assert one.state is State.ESTABLISHED


# -- other exceptions -------------------------------------------------------------------------------------------------


class Broken(Exception):  # noqa: N818
    """No error of the session itself."""


class Locked:
    public_key = RANK_0.public_key

    def sign(self, commitment: bytes) -> bytes:
        raise Broken


def broken(*_: object) -> Any:
    raise Broken


@EACH_ROLE
@pytest.mark.parametrize(
    "faults",
    [{"signer": Locked()}, {"random": broken}, {"random": lambda count: bytes(count - 1)}],
    ids=["signer", "random", "too-few-random-bytes"],
)
def test_exception_from_outside_fails_the_session(role: Role, faults: dict[str, Any]) -> None:
    """It propagates, and the session fails without hanging; it is never the peer's mistake."""
    one = Session(Config(**{"role": role, "signer": RANK_0, "pin": RANK_0.public_key, **faults}))
    with pytest.raises((Broken, ValueError)) as caught:
        _ = output(one) or take(one, link(hello()))
    assert not isinstance(caught.value, WireError)
    assert one.state is State.FAILED
    assert (take(one, b"x"), end(one), output(one)) == ([], [], b"")


def test_random_source_that_breaks_later() -> None:
    """While a message is sealed; the session has failed, and the error is not the caller's `LocalError`."""
    values = [bytes(range(32)), bytes(32)]
    one = session(RESPONDER, random=lambda _: values.pop(0))
    take(one, link(hello()))
    with pytest.raises(IndexError):
        one.send(FROM_RANK_1[0])
    assert one.state is State.FAILED
    assert output(one) == b""


def test_signer_whose_signature_is_none() -> None:
    """The signer's mistake, not the peer's."""

    class Odd(Locked):
        def sign(self, commitment: bytes) -> Any:
            return "signed"

    one = Session(Config(role=RESPONDER, signer=Odd(), pin=RANK_0.public_key))
    with pytest.raises(ValueError, match="did not return a signature") as caught:
        take(one, link(hello()))
    assert not isinstance(caught.value, WireError)
    assert one.state is State.FAILED


@EACH_ROLE
def test_signer_that_raises_a_wire_error(role: Role) -> None:
    """A signer may use this package itself, to reach a key elsewhere; its error was the peer's mistake."""

    class Remote(Locked):
        def sign(self, commitment: bytes) -> bytes:
            raise HandshakeError("handshake-malformed", "no key")

    one = Session(Config(role=role, signer=Remote(), pin=RANK_0.public_key))
    with pytest.raises(RuntimeError, match="the signer failed: handshake-malformed: no key"):
        _ = output(one) or take(one, link(hello()))
    assert one.state is State.FAILED


@pytest.mark.parametrize("wrong", [5, b"", "ping", None, Ping])
def test_send_of_what_is_no_message(wrong: Any) -> None:
    one = by_hand(INITIATOR).session
    with pytest.raises(TypeError):
        one.send(wrong)
    assert one.state is State.ESTABLISHED


@pytest.mark.parametrize("wrong", [5, "text", None, True, [0]])
def test_bytes_are_bytes(wrong: Any) -> None:
    """Numbers, bools and strings are never accepted as bytes, and nothing changes."""
    one = by_hand(INITIATOR).session
    for call in (one.receive_data, one.seal_tensor, one.open_tensor):
        with pytest.raises(TypeError):
            call(wrong)
    assert one.state is State.ESTABLISHED
    assert list(events(one)) == []


def test_tensor_that_no_frame_can_hold() -> None:
    """One of 2 GiB failed the session with an OverflowError, although the mistake is the caller's."""
    pair = shaken()
    with mmap.mmap(-1, 2**31) as huge, pytest.raises(LocalError) as caught:
        pair.initiator.seal_tensor(huge)
    assert caught.value.code == "link-length-limit"
    assert pair.initiator.state is State.ESTABLISHED


@pytest.mark.parametrize("count", [2.0, True, "2", None])
def test_count_that_is_no_integer(count: Any) -> None:
    """The buffer was gone after that, and its bytes with it."""
    one = by_hand(INITIATOR).session
    one.get_buffer()
    with pytest.raises(TypeError, match="count must be an int"):
        one.buffer_updated(count)
    one.buffer_updated(2)


def test_any_bytes_like_object_means_its_bytes() -> None:
    """Typed and multi-dimensional views work, too, and are released when the call returns."""
    pair = shaken()
    data = output(pair.initiator, InferenceStep(bytes(range(7))))
    assert len(data) % 4 == 0
    buffer = bytearray(data)
    pair.responder.receive_data(memoryview(buffer).cast("I"))
    buffer.clear()
    assert list(events(pair.responder)) == [Confirmed(), MessageReceived(InferenceStep(bytes(range(7))))]
    tensor = bytearray(pair.initiator.seal_tensor(memoryview(bytes(range(12))).cast("B", (3, 4))))
    assert pair.responder.open_tensor(memoryview(tensor).cast("H")) == bytes(range(12))
    tensor.clear()
    every_other = memoryview(bytes(range(12)))[::2]
    box = pair.initiator.seal_tensor(every_other)
    spread = memoryview(bytes(byte for byte in box for _ in range(2)))[::2]
    assert pair.responder.open_tensor(spread) == every_other.tobytes()
    tensor = bytearray(28)
    with pytest.raises(SealError):
        pair.responder.open_tensor(tensor)
    tensor.clear()
