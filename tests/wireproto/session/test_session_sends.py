"""What a session sends, and what becomes of calls that do not belong."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.wireproto.payloads import canonical_frame
from tests.wireproto.peers import OTHER, RANK_0, RANK_1, Outcome, box, by_hand, introduction, outcome, session, shaken
from tests.wireproto.session_states import (
    EACH_DEAD_STATE,
    EACH_LIVING_STATE,
    EACH_REVISION,
    EACH_ROLE,
    END,
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
from tests.wireproto.streams import KIB, MIB, fill, header, link, pattern
from tests.wireproto.verdicts import expected
from wireproto import (
    MAX_LINK_LENGTH,
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
)
from wireproto import session as module
from wireproto.session import Closed, Confirmed, Established, MessageReceived, RemoteError, Role, Session, State, seal
from wireproto.session.seal import OVERHEAD

# -- what goes out ----------------------------------------------------------------------------------------------------


@EACH_REVISION
@EACH_ROLE
@pytest.mark.parametrize("confirmed", [False, True], ids=["established", "confirmed"])
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_send(role: Role, message: Message, revision: Revision, confirmed: bool) -> None:
    """Each type, in each open state: the bytes, read by hand, or the error. [SESSION-STATE]"""
    peer = opened(role, revision, confirmed=confirmed)
    before = peer.session.state
    if not known(message, revision):
        with pytest.raises(UnknownTypeError, match=r"^type-unknown: "):
            peer.session.send(message)
        assert peer.session.state is before
    elif message not in SENT_BY[role]:
        misuse(peer.session, lambda: peer.session.send(message))
    else:
        assert peer.body(peer.session.send(message)) == canonical_frame(message)
        assert peer.session.state is (State.CLOSED if message is END else before)


@EACH_REVISION
def test_send_is_sealed_anew_each_time(revision: Revision) -> None:
    pair = shaken(revision)
    frames = {bytes(pair.initiator.send(Ping())) for _ in range(50)}
    assert len(frames) == (50 if revision is V2 else 1)


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * KIB, 3 * MIB])
@EACH_REVISION
def test_send_of_any_size(size: int, revision: Revision) -> None:
    pair = shaken(revision)
    message = InferenceStep(pattern(size))
    data = pair.initiator.send(message)
    assert len(data) == 8 + 1 + size + (28 if revision is V2 else 0)
    *_, received = pair.responder.receive_data(data)
    assert received == MessageReceived(message)


@EACH_REVISION
def test_longest_send(revision: Revision, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the box's, not the message's; what is over it changes nothing."""
    assert MAX_LINK_LENGTH == 256 * MIB
    pair = shaken(revision)
    monkeypatch.setattr(module, "MAX_LINK_LENGTH", 1000)
    monkeypatch.setattr("wireproto.codec.link.encode_link_frame.__defaults__", (1000,))
    room = 1000 - 1 - (28 if revision is V2 else 0)
    with pytest.raises(LimitError, match=r"^link-length-limit in length: 1001 "):
        pair.initiator.send(InferenceStep(bytes(room + 1)))
    assert pair.initiator.state is State.ESTABLISHED
    assert len(pair.initiator.send(InferenceStep(bytes(room)))) == 1008


def step(frame: int) -> InferenceStep:
    """One whose link frame is so long, as it is sent in revision 2."""
    return InferenceStep(pattern(frame - len(b"length  ") - OVERHEAD - len(b"\x05")))


def test_held_frame_stays_what_it_is() -> None:
    pair = shaken()
    message = step(100 * KIB)
    next_one = InferenceStep(bytes(len(message.box)))
    held = pair.initiator.send(message)
    behind = pair.initiator.send(next_one)
    for data, sent in ((held, message), (behind, next_one)):
        assert list(pair.responder.receive_data(data))[-1] == MessageReceived(sent)


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
    """Once nobody holds it, for frames of a quarter of its size on."""
    pair = shaken()
    sent = pair.initiator.send(step(first))
    assert isinstance(sent, memoryview)
    memory = sent.obj
    assert len(memory) == first
    sent.release()
    data = pair.initiator.send(step(second))
    assert isinstance(data, memoryview)
    assert len(data) == second
    assert (data.obj is memory) is again


def test_short_frame_is_bytes() -> None:
    """Up to 64 KiB of box; a longer one is a view."""
    pair = shaken()
    size = 64 * KIB + len(b"length  ")
    assert isinstance(pair.initiator.send(step(size)), bytes)
    assert isinstance(pair.initiator.send(step(size + 1)), memoryview)


def test_wrong_fields_are_not_sent() -> None:
    pair = shaken()
    for wrong in (JacclBootstrapPayload(70_000, "id"), StepTokenPayload("\ud800", 1)):
        with pytest.raises(MalformedError):
            pair.initiator.send(wrong)
        assert pair.initiator.state is State.ESTABLISHED
    list(pair.responder.receive_data(pair.initiator.send(Ping())))


@EACH_ROLE
def test_exhausted_key(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both what is sent and what comes in: the session cannot go on, and only a fresh handshake helps. [SEAL-LIMIT]"""
    monkeypatch.setattr(seal, "MAX_BOXES", 4)
    monkeypatch.setattr(seal, "_RECENT", 2)
    pair = shaken()
    frames = [bytes(pair(role).send(SENT_BY[role][0])) for _ in range(4)]
    with pytest.raises(SealError, match=r"^seal-exhausted: ") as caught:
        pair(role).send(SENT_BY[role][0])
    assert not isinstance(caught.value, RemoteError)
    with pytest.raises(SealError, match=r"^seal-exhausted: "):
        pair(role).seal_tensor(b"")
    for frame in frames:
        assert outcome(pair(OTHER[role]), [frame]).failure is None
    last = link(box(pair.key, canonical_frame(SENT_BY[role][0])))
    assert outcome(pair(OTHER[role]), [last]) == Outcome([], expected("seal-exhausted", None))


# -- misuse -----------------------------------------------------------------------------------------------------------


@EACH_REVISION
@EACH_ROLE
def test_misuse_before_the_handshake(role: Role, revision: Revision) -> None:
    """Everything at the wrong time; then the handshake goes on as if nothing had been.

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
        if role is RESPONDER or one.state is not State.IDLE:
            misuse(one, one.start)

    everything()
    if role is INITIATOR:
        sent = one.start()
        everything()
        (established,) = peer.receive_data(sent)
        assert isinstance(established, Established)
        assert list(one.receive_data(established.reply)) == [Established(RANK_1.public_key, b"")]
    else:
        (established,) = one.receive_data(peer.start())
        assert isinstance(established, Established)
        list(peer.receive_data(established.reply))
    misuse(one, one.start)
    assert MessageReceived(SENT_BY[role][0]) in list(peer.receive_data(one.send(SENT_BY[role][0])))


@EACH_REVISION
@EACH_LIVING_STATE
def test_start(role: Role, state: State, revision: Revision) -> None:
    """Once, by the initiator, at the start."""
    one = state_of(state, role, revision).session
    if (role, state) == (INITIATOR, State.IDLE):
        assert introduction(one.start()[8:]).identity == RANK_0.public_key
        assert one.state is State.HELLO_SENT
    misuse(one, one.start)


@EACH_REVISION
@EACH_DEAD_STATE
def test_misuse_after_the_end(role: Role, state: State, revision: Revision) -> None:
    peer = state_of(state, role, revision)
    one = peer.session
    for message in MESSAGES:
        if known(message, revision):
            misuse(one, lambda message=message: one.send(message))
    misuse(one, one.start)
    misuse(one, one.get_buffer)
    misuse(one, lambda: one.buffer_updated(1))
    for data in (b"", peer.frame(b"\x03", b"nonce behind"), header(0)):
        misuse(one, lambda data=data: one.receive_data(data))
    if state is State.FAILED:
        misuse(one, one.receive_eof)


@EACH_ROLE
@EACH_REVISION
def test_nothing_is_taken_after_a_failure(role: Role, revision: Revision) -> None:
    """Not in the same bytes, not in the next."""
    peer = by_hand(role, revision)
    good = [peer.frame(canonical_frame(SENT_BY[OTHER[role]][0]), b"nonce no %3d" % number) for number in range(3)]
    one = peer.session
    events = one.receive_data(good[0] + link(b"\x0e") + good[1])
    assert MessageReceived(SENT_BY[OTHER[role]][0]) in list(taken(events))
    assert one.state is State.FAILED
    assert list(events) == []
    misuse(one, lambda: one.receive_data(good[2]))


def taken(events: Iterator[Any]) -> Iterator[Any]:
    """The events up to the peer's fault, which has to come."""
    with pytest.raises(RemoteError):
        yield from events


@pytest.mark.parametrize("style", ["feed", "get_buffer"])
@EACH_ROLE
def test_events_are_to_be_taken(role: Role, style: str) -> None:
    """The caller's mistake, too; once the events are taken, all goes on."""
    pair = shaken()
    one, peer = pair(role), pair(OTHER[role])
    message = SENT_BY[OTHER[role]][0]
    data = bytes(peer.send(message)) + bytes(peer.send(message))

    def give() -> Iterator[Any]:
        return one.receive_data(data) if style == "feed" else fill(one, data)  # type: ignore[arg-type]

    events = give()
    assert next(events) == Confirmed()
    for call in (lambda: one.receive_data(b"\0"), one.get_buffer, lambda: one.buffer_updated(0)):
        misuse(one, call, "link-not-drained")
    assert list(events) == [MessageReceived(message)] * 2
    assert list(one.receive_data(peer.send(message))) == [MessageReceived(message)]


@EACH_ROLE
def test_eof_before_the_events_are_taken(role: Role) -> None:
    """The caller's mistake as well: the peer did nothing wrong, and the messages are still there to be taken."""
    pair = shaken()
    one, peer = pair(role), pair(OTHER[role])
    message = SENT_BY[OTHER[role]][0]
    events = one.receive_data(peer.send(message))
    misuse(one, one.receive_eof, "link-not-drained")
    assert list(events) == [Confirmed(), MessageReceived(message)]
    assert one.receive_eof() == Closed(orderly=False)


def test_signer_that_fails() -> None:
    """Its error goes through, and the session can be started again: nothing was sent."""

    class Locked:
        public_key = RANK_0.public_key
        locked = True

        def sign(self, commitment: bytes) -> bytes:
            if self.locked:
                raise PermissionError("the keychain is locked")
            return RANK_0.sign(commitment)

    signer = Locked()
    one = Session(INITIATOR, signer, RANK_1.public_key)
    with pytest.raises(PermissionError):
        one.start()
    assert one.state is State.IDLE
    signer.locked = False
    assert introduction(one.start()[8:]).identity == RANK_0.public_key
