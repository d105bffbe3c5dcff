"""The session: what becomes of each message, in each state, on each side, in each revision, however it is cut.

That is the plain protocol's; `test_session_extensions` goes on with extensions.
"""

import copy
import io
import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.wireproto.payloads import EXTENSION_OF, TYPE_BYTE, V1_TYPES, canonical_frame
from tests.wireproto.peers import (
    DELIVERIES,
    EPHEMERAL_0,
    OTHER,
    RANK_0,
    RANK_1,
    SIGNERS,
    STRANGER,
    ByHand,
    Outcome,
    ack,
    box,
    by_hand,
    hello,
    introduction,
    outcome,
    remote,
    session,
    shaken,
    unbox,
)
from tests.wireproto.streams import EVERY_STYLE, KIB, MIB, STYLES, fill, header, link, pattern
from tests.wireproto.verdicts import expected
from wireproto import (
    MAX_LINK_LENGTH,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    LimitError,
    MalformedError,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    PromptTokensPayload,
    Revision,
    SealError,
    SessionEnd,
    SessionStopPayload,
    StateError,
    StepTokenPayload,
    TruncatedError,
    UnknownTypeError,
    seal,
)
from wireproto import session as module
from wireproto.handshake import Signer, TrustAnyKey
from wireproto.session import (
    MAX_HANDSHAKE_LENGTH,
    Closed,
    Confirmed,
    Established,
    Event,
    MessageIgnored,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
)

INITIATOR, RESPONDER = Role.INITIATOR, Role.RESPONDER
V1, V2 = Revision.V1, Revision.V2
EACH_ROLE: Final = pytest.mark.parametrize("role", Role, ids=["initiator", "responder"])
EACH_REVISION: Final = pytest.mark.parametrize("revision", Revision, ids=["v1", "v2"])
EACH_DELIVERY: Final = pytest.mark.parametrize("cut", DELIVERIES.values(), ids=list(DELIVERIES))

HELLO: Final = HandshakeHello(RANK_0.public_key, EPHEMERAL_0.public, EPHEMERAL_0.nonce, b"signature")
ACK: Final = HandshakeAck(RANK_1.public_key, EPHEMERAL_0.public, EPHEMERAL_0.nonce, b"signature")
END: Final = SessionEnd()
FROM_RANK_0: Final[list[Message]] = [
    Ping(),
    InferenceStep(bytes(28)),
    JacclBootstrapPayload(29400, "E621E1F8-C36C-495A-93FC-0C247A3E6E5F"),
    PromptTokensPayload("u", (1, -2, 3), 100),
    StepTokenPayload("u", -1),
    SessionStopPayload("u"),
    PPActivationPayload("u", 3, bytes(40)),
    PPSessionEndPayload("u"),
    END,
]
"""What rank 0 sends once the session is open: the protocol's table of message types, by hand."""
FROM_RANK_1: Final[list[Message]] = [
    PongPayload(True, False, MemoryPressure.WARNING),
    InferenceToken(bytes(32)),
    PPTokenPayload("u", bytes(32)),
]
HANDSHAKE: Final[list[Message]] = [HELLO, ACK]
MESSAGES: Final = HANDSHAKE + FROM_RANK_0 + FROM_RANK_1
SENT_BY: Final = {INITIATOR: FROM_RANK_0, RESPONDER: FROM_RANK_1}


def name(value: object) -> str | None:
    """An id for a parameter that is a message, a role, a revision or a state."""
    match value:
        case Role() | State() | Revision():
            return value.name.lower().replace("_", "-")
        case str() | bytes() | int() | None:
            return None
        case _ if type(value) in TYPE_BYTE:
            return type(value).__name__
    return None


def known(message: Message, revision: Revision) -> bool:
    return revision is V2 or TYPE_BYTE[type(message)] in V1_TYPES


def test_tables_are_whole() -> None:
    assert {type(message) for message in MESSAGES} == set(TYPE_BYTE) - set(EXTENSION_OF)
    assert len(MESSAGES) == 14


# -- what comes in, before the handshake is done ----------------------------------------------------------------------


def waiting(role: Role, revision: Revision = V2) -> Session:
    """A session that waits for its peer's part of the handshake."""
    one = session(role, revision)
    if role is INITIATOR:
        one.start()
    return one


def before_the_handshake(role: Role, message: Message) -> Any:
    """How each type fails then. The one that belongs gets as far as its signature."""
    if type(message) is (HandshakeAck if role is INITIATOR else HandshakeHello):
        return expected("handshake-signature", None, "seSignature")
    return expected("handshake-unexpected", 0)


@EACH_REVISION
@EACH_ROLE
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_message_before_the_handshake(role: Role, message: Message, revision: Revision) -> None:
    """Whatever it is, but the right hello or ack, it ends the session. [HANDSHAKE-ONLY]"""
    stream = link(canonical_frame(message))
    for cut in DELIVERIES.values():
        for buffered in STYLES.values():
            one = waiting(role, revision)
            result = outcome(one, cut(stream), buffered=buffered)
            assert result == Outcome([], before_the_handshake(role, message))
            assert one.state is State.FAILED


@EACH_REVISION
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_message_before_the_hello(message: Message, revision: Revision) -> None:
    """The initiator speaks first: what comes before is not even decoded."""
    for stream in (link(canonical_frame(message)), link(b"\0")):
        one = session(INITIATOR, revision)
        assert outcome(one, [stream]) == Outcome([], expected("handshake-unexpected", None))
        assert one.state is State.FAILED


@EACH_ROLE
@EACH_REVISION
@EACH_DELIVERY
@EVERY_STYLE
def test_sealed_frame_before_the_handshake(
    role: Role, revision: Revision, cut: Callable[[bytes], list[bytes]], buffered: Callable[[int], bool]
) -> None:
    """A box of some other session: its first byte is no type, or any; it never is a hello or an ack."""
    one = waiting(role, revision)
    result = outcome(one, cut(link(box(bytes(32), b"\x03", b"\0 nonce no 1"))), buffered=buffered)
    assert result == Outcome([], expected("handshake-malformed", 0, "type"))
    one = waiting(role, revision)
    ping = b"\x03" + box(bytes(32), b"\x03")  # by chance, the nonce begins as a ping does
    assert outcome(one, cut(link(ping)), buffered=buffered) == Outcome([], expected("handshake-malformed", 1))


FAULTY: Final[dict[str, tuple[dict[str, Any], Any, str | None]]] = {
    # faults of the peer's frame, the pin where it is not the peer's, the path of the error
    "handshake-no-pin": ({}, None, "sePubKeyRaw"),
    "handshake-wrong-pin": ({}, STRANGER.public_key, "sePubKeyRaw"),
    "handshake-length": ({"nonce": bytes(31)}, ..., "nonce"),
    "handshake-point": ({"se_pub_key_raw": bytes(64)}, bytes(64), "sePubKeyRaw"),
    "handshake-signature": ({"se_signature": b""}, ..., "seSignature"),
    "handshake-shared-secret": ({"ephemeral_x25519_pub_key": bytes(32)}, ..., "ephemeralX25519PubKey"),
}


@EACH_ROLE
@EACH_REVISION
@pytest.mark.parametrize("code", FAULTY)
def test_faults_of_the_handshake(role: Role, revision: Revision, code: str) -> None:
    faults, pin, path = FAULTY[code]
    one = session(role, revision, pin=pin)
    frame = ack(introduction(one.start()[8:]).nonce, **faults) if role is INITIATOR else hello(**faults)
    result = outcome(one, [link(frame)])
    assert result.events == []
    assert result.failure is not None
    assert (result.failure.code, result.failure.path) == (code, path)
    assert one.state is State.FAILED


@EACH_REVISION
@EACH_DELIVERY
@EVERY_STYLE
def test_handshake(revision: Revision, cut: Callable[[bytes], list[bytes]], buffered: Callable[[int], bool]) -> None:
    initiator, responder = session(INITIATOR, revision), session(RESPONDER, revision)
    assert (initiator.state, responder.state) == (State.IDLE, State.IDLE)
    sent = initiator.start()
    assert initiator.state is State.HELLO_SENT
    (established,) = outcome(responder, cut(sent), buffered=buffered).events
    assert isinstance(established, Established)
    assert established.peer_key == RANK_0.public_key
    assert introduction(established.reply[8:]).identity == RANK_1.public_key
    assert int.from_bytes(established.reply[:8], "little") == len(established.reply) - 8
    assert responder.state is State.ESTABLISHED
    result = outcome(initiator, cut(established.reply), buffered=buffered)
    assert result == Outcome([Established(RANK_1.public_key, b"")])
    assert initiator.state is State.ESTABLISHED


def test_handshake_with_any_key() -> None:
    one = session(RESPONDER, pin=TrustAnyKey())
    (established,) = one.receive_data(link(hello(STRANGER)))
    assert isinstance(established, Established)
    assert established.peer_key == STRANGER.public_key


def test_defaults() -> None:
    one = Session(INITIATOR, RANK_0, None)
    assert (one.role, one.revision, one.state) == (INITIATOR, V2, State.IDLE)


# -- what comes in, once the session is open --------------------------------------------------------------------------


def incoming(role: Role, message: Message, revision: Revision, *, confirmed: bool) -> tuple[Outcome, State]:
    """What has to become of a message: the table, by hand."""
    first = [Confirmed()] if revision is V2 and not confirmed else []
    state = State.CONFIRMED if revision is V2 or confirmed else State.ESTABLISHED
    if not known(message, revision):
        return Outcome([], expected("type-unknown", 0, "type")), State.FAILED
    if message not in SENT_BY[OTHER[role]]:
        return Outcome([*first, MessageIgnored(message)]), state
    if message is END:
        return Outcome([*first, MessageReceived(END), Closed(orderly=True)]), State.CLOSED
    return Outcome([*first, MessageReceived(message)]), state


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.CONFIRMED], ids=name)
@EACH_REVISION
@EACH_ROLE
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_message_in_the_open_session(role: Role, message: Message, revision: Revision, state: State) -> None:
    """Each type, however it is cut, by either way in. [SESSION-IGNORE]"""
    wanted, following = incoming(role, message, revision, confirmed=state is State.CONFIRMED)
    for cut in DELIVERIES.values():
        for buffered in STYLES.values():
            peer = opened(role, revision, confirmed=state is State.CONFIRMED)
            assert peer.session.state is state
            assert outcome(peer.session, cut(peer.frame(canonical_frame(message))), buffered=buffered) == wanted
            assert peer.session.state is following


def opened(role: Role, revision: Revision, *, confirmed: bool) -> ByHand:
    peer = by_hand(role, revision)
    if confirmed and revision is V2:
        text = canonical_frame(FROM_RANK_0[0] if role is RESPONDER else FROM_RANK_1[0])
        assert len(list(peer.session.receive_data(peer.frame(text, b"opened first")))) == 2
    elif confirmed:
        assert peer.session.open_tensor(box(peer.key, b"tensor", b"opened first")) == b"tensor"
    return peer


@EACH_ROLE
@EACH_REVISION
@EVERY_STYLE
@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 9, 64, 1000, 10**9])
def test_whole_conversation(role: Role, revision: Revision, buffered: Callable[[int], bool], chunk: int) -> None:
    """All that a peer may say, in one stream, cut anyhow: the same events."""
    peer = by_hand(role, revision)
    messages = [message for message in SENT_BY[OTHER[role]] if known(message, revision)]
    stream = b"".join(peer.frame(canonical_frame(each), b"nonce no %3d" % at) for at, each in enumerate(messages))
    wanted: list[object] = [MessageReceived(message) for message in messages]
    if revision is V2:
        wanted.insert(0, Confirmed())
    if role is RESPONDER:
        wanted.append(Closed(orderly=True))
    cut = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
    assert outcome(peer.session, cut, buffered=buffered) == Outcome(wanted)  # type: ignore[arg-type]


@EACH_REVISION
@EVERY_STYLE
@pytest.mark.parametrize("chunk", [1, 5, 8, 100, 10**9])
def test_two_sessions_talk(revision: Revision, buffered: Callable[[int], bool], chunk: int) -> None:
    """All messages, both ways, through two sessions: what `send` makes is what `receive_data` reads."""
    pair = shaken(revision)
    for role in (RESPONDER, INITIATOR):
        messages = [message for message in SENT_BY[role] if known(message, revision)]
        stream = b"".join(pair(role).send(message) for message in messages)
        cut = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
        result = outcome(pair(OTHER[role]), cut, buffered=buffered)
        assert result.failure is None
        assert [event.message for event in result.events if isinstance(event, MessageReceived)] == messages
        assert result.events.count(Confirmed()) == (revision is V2)
        assert sum(isinstance(event, MessageIgnored) for event in result.events) == 0
    assert pair.responder.state is State.CLOSED
    assert pair.initiator.state is State.CLOSED
    assert pair.initiator.receive_eof() == Closed(orderly=True)


def test_confirmed_comes_once() -> None:
    pair = shaken()
    pings = [pair.initiator.send(Ping()) for _ in range(3)]
    events = [event for ping in pings for event in pair.responder.receive_data(ping)]
    assert events == [Confirmed(), *[MessageReceived(Ping())] * 3]
    assert pair.initiator.state is State.ESTABLISHED  # nothing has come from the other side


def test_confirmed_by_a_box_of_nothing_sensible() -> None:
    """The box shows that the peer has the key, even though what is in it is wrong."""
    peer = by_hand(RESPONDER)
    result = outcome(peer.session, [peer.frame(b"\x03!")])
    assert result == Outcome([Confirmed()], expected("payload-not-empty", 1))


def test_v1_is_never_confirmed_by_frames() -> None:
    pair = shaken(V1)
    for _ in range(3):
        assert list(pair.responder.receive_data(pair.initiator.send(Ping()))) == [MessageReceived(Ping())]
        assert pair.responder.state is State.ESTABLISHED
    for role in Role:
        tensor = pair(OTHER[role]).seal_tensor(b"tensor")
        assert pair(role).open_tensor(tensor) == b"tensor"
        assert pair(role).state is State.CONFIRMED


def test_v1_is_not_confirmed_by_a_box_that_does_not_open() -> None:
    pair = shaken(V1)
    for wrong, error in ((bytes(28), SealError), (bytes(27), TruncatedError), (b"", TruncatedError)):
        with pytest.raises(error):
            pair.responder.open_tensor(wrong)
        assert pair.responder.state is State.ESTABLISHED
    own = pair.responder.seal_tensor(b"tensor")
    with pytest.raises(SealError, match=r"^seal-reflection "):
        pair.responder.open_tensor(own)
    assert pair.responder.state is State.ESTABLISHED


@EACH_REVISION
def test_tensors(revision: Revision) -> None:
    """Both ways, each once, under the session's key, and apart from the frames around them."""
    pair = shaken(revision)
    for role in Role:
        tensor = pair(role).seal_tensor(memoryview(b"tensor"))
        assert unbox(pair.key, tensor) == b"tensor"
        message = InferenceStep(tensor) if role is INITIATOR else InferenceToken(tensor)
        *_, received = pair(OTHER[role]).receive_data(pair(role).send(message))
        assert received == MessageReceived(message)
        assert pair(OTHER[role]).open_tensor(tensor) == b"tensor"
        with pytest.raises(SealError, match=r"^seal-replay "):
            pair(OTHER[role]).open_tensor(tensor)
        with pytest.raises(SealError, match=r"^seal-reflection "):
            pair(role).open_tensor(tensor)


# -- frames that end the session --------------------------------------------------------------------------------------

V2_ENDS: Final[dict[str, tuple[Callable[[ByHand], bytes], Any, list[Event]]]] = {
    # what comes, how it fails, and the events before that: a box that opens confirms, whatever is in it
    "unsealed-ping": (lambda peer: link(b"\x03"), expected("truncated", 1), []),
    "unsealed-bootstrap": (lambda peer: link(canonical_frame(FROM_RANK_0[2])), expected("seal-tag", 0), []),
    "unsealed-end": (lambda peer: link(b"\xff"), expected("truncated", 1), []),
    "second-hello": (lambda peer: link(hello()), expected("seal-tag", 0), []),
    "second-ack": (lambda peer: link(ack()), expected("seal-tag", 0), []),
    "27-bytes": (lambda peer: link(bytes(27)), expected("truncated", 27), []),
    "28-bytes": (lambda peer: link(bytes(28)), expected("seal-tag", 0), []),
    "other-key": (lambda peer: link(box(bytes(32), b"\x03")), expected("seal-tag", 0), []),
    "flipped": (lambda peer: flipped(peer.frame(b"\x03")), expected("seal-tag", 0), []),
    "empty-box": (lambda peer: peer.frame(b""), expected("truncated", 0), [Confirmed()]),
    "box-in-a-box": (
        lambda peer: peer.frame(box(peer.key, b"\x03", b"\x80 nonce no 1")),
        expected("type-unknown", 0, "type"),
        [Confirmed()],
    ),
    "unknown-type": (lambda peer: peer.frame(b"\x0e"), expected("type-unknown", 0, "type"), [Confirmed()]),
    "type-zero": (lambda peer: peer.frame(b"\0"), expected("type-unknown", 0, "type"), [Confirmed()]),
    "ping-with-payload": (lambda peer: peer.frame(b"\x03\0"), expected("payload-not-empty", 1), [Confirmed()]),
    "bad-json": (lambda peer: peer.frame(b"\x04{"), expected("truncated", 2), [Confirmed()]),
    "missing-field": (lambda peer: peer.frame(b"\x0a{}"), expected("field-missing", 2, "uid"), [Confirmed()]),
}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(("make", "wanted", "events"), V2_ENDS.values(), ids=list(V2_ENDS))
@EACH_ROLE
def test_frame_that_ends_a_v2_session(
    role: Role, make: Callable[[ByHand], bytes], wanted: Any, events: list[Event]
) -> None:
    """[SESSION-BOX]"""
    for cut in DELIVERIES.values():
        for buffered in STYLES.values():
            peer = by_hand(role)
            assert outcome(peer.session, cut(make(peer)), buffered=buffered) == Outcome(events, wanted)
            assert peer.session.state is State.FAILED


@EACH_ROLE
@EACH_REVISION
@EVERY_STYLE
def test_link_frame_of_length_zero(role: Role, revision: Revision, buffered: Callable[[int], bool]) -> None:
    one = waiting(role, revision)
    assert outcome(one, [header(0)], buffered=buffered) == Outcome([], expected("link-length-zero", 0, "length"))
    peer = by_hand(role, revision)
    wanted = Outcome([], expected("link-length-zero", peer.said, "length"))
    assert outcome(peer.session, [header(0)], buffered=buffered) == wanted


V1_ENDS: Final[dict[str, tuple[bytes, Any]]] = {
    "unknown-type": (b"\x0e", expected("type-unknown", 0, "type")),
    "type-of-v2": (b'\x0a{"uid":"u"}', expected("type-unknown", 0, "type")),
    "sealed-ping": (box(bytes(32), b"\x03", b"\x80 nonce no 1"), expected("type-unknown", 0, "type")),
    "sealed-ping-by-chance-a-ping": (box(bytes(32), b"\x03", b"\x03 nonce no 1"), expected("payload-not-empty", 1)),
    "bad-json": (b"\x04{", expected("truncated", 2)),
}


@EACH_ROLE
@pytest.mark.parametrize(("body", "wanted"), V1_ENDS.values(), ids=list(V1_ENDS))
def test_frame_that_ends_a_v1_session(role: Role, body: bytes, wanted: Any) -> None:
    """[SESSION-BOX]"""
    for cut in DELIVERIES.values():
        for buffered in STYLES.values():
            peer = by_hand(role, V1)
            assert outcome(peer.session, cut(link(body)), buffered=buffered) == Outcome([], wanted)
            assert peer.session.state is State.FAILED


def test_no_session_between_two_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revision 2 is not spoken to a peer of revision 1, or the other way round: never guessed, never downgraded.

    [REV-EXPLICIT]
    """
    for revision, other in ((V1, V2), (V2, V1)):
        initiator, responder = session(INITIATOR, revision), session(RESPONDER, other)
        (established,) = responder.receive_data(initiator.start())
        assert isinstance(established, Established)
        list(initiator.receive_data(established.reply))
        # A nonce may begin as a type of revision 1 does; these do not.
        monkeypatch.setattr(seal, "_fresh", [b"\x80 nonce no 1"])
        frames = {RESPONDER: initiator.send(FROM_RANK_0[2]), INITIATOR: responder.send(FROM_RANK_1[0])}
        for one in (initiator, responder):
            wanted = expected("seal-tag", 0) if one.revision is V2 else expected("type-unknown", 0, "type")
            assert outcome(one, [bytes(frames[one.role])]) == Outcome([], wanted)


@EACH_ROLE
def test_hello_twice_in_v1(role: Role) -> None:
    """A known type that does not belong there: ignored, and neither key nor state change."""
    peer = by_hand(role, V1)
    for frame in (hello(), ack()):
        (event,) = peer.session.receive_data(link(frame))
        assert isinstance(event, MessageIgnored)
        assert canonical_frame(event.message) == frame
    assert peer.session.state is State.ESTABLISHED
    assert peer.session.open_tensor(box(peer.key, b"tensor")) == b"tensor"


def test_hello_twice_in_v2() -> None:
    """It is no box. In a box, it is a type that does not belong there."""
    peer = by_hand(RESPONDER)
    assert outcome(peer.session, [link(hello())]) == Outcome([], expected("seal-tag", 0))
    peer = by_hand(RESPONDER)
    (confirmed, ignored) = outcome(peer.session, [peer.frame(hello())]).events
    assert confirmed == Confirmed()
    assert isinstance(ignored, MessageIgnored)
    assert peer.session.state is State.CONFIRMED


@EACH_DELIVERY
@EVERY_STYLE
@EACH_ROLE
def test_replayed_and_reflected_frames(
    role: Role, cut: Callable[[bytes], list[bytes]], buffered: Callable[[int], bool]
) -> None:
    """[SEAL-REPLAY, SEAL-REFLECTION]"""
    pair = shaken()
    sender, receiver = pair(OTHER[role]), pair(role)
    message = SENT_BY[OTHER[role]][0]
    first, second = bytes(sender.send(message)), bytes(sender.send(message))
    assert first != second
    wanted = [Confirmed(), MessageReceived(message), MessageReceived(message)]
    result = outcome(receiver, cut(first + second + first), buffered=buffered)
    assert result == Outcome(wanted, expected("seal-replay", 0))
    assert receiver.state is State.FAILED
    assert outcome(sender, cut(second), buffered=buffered) == Outcome([], expected("seal-reflection", 0))
    assert sender.state is State.FAILED


def test_reflected_tensor_frame() -> None:
    """A tensor box is a box under the same key: sent back as a link frame, it is one's own all the same.

    [SEAL-REFLECTION]
    """
    pair = shaken()
    tensor = pair.initiator.seal_tensor(b"\x04{}")
    assert outcome(pair.initiator, [link(tensor)]) == Outcome([], expected("seal-reflection", 0))
    pair = shaken()
    tensor = pair.initiator.seal_tensor(b"\x03")
    assert pair.responder.open_tensor(tensor) == b"\x03"
    assert outcome(pair.responder, [link(tensor)]) == Outcome([], expected("seal-replay", 0))


def test_frames_of_another_session() -> None:
    first, second = shaken(), shaken()
    ping = bytes(first.initiator.send(Ping()))
    assert outcome(second.responder, [ping]) == Outcome([], expected("seal-tag", 0))
    pong = bytes(first.responder.send(FROM_RANK_1[0]))
    assert outcome(second.initiator, [pong]) == Outcome([], expected("seal-tag", 0))


def test_replayed_hello_is_answered_but_never_confirmed() -> None:
    """Rank 1 answers a recorded hello: facts, section 6. What was recorded behind it does not open any more.

    [SESSION-CONFIRM]
    """
    initiator, responder = session(INITIATOR), session(RESPONDER)
    recorded = [initiator.start()]
    (established,) = responder.receive_data(recorded[0])
    assert isinstance(established, Established)
    list(initiator.receive_data(established.reply))
    recorded.append(bytes(initiator.send(Ping())))
    victim = session(RESPONDER)
    (answered,) = victim.receive_data(recorded[0])
    assert isinstance(answered, Established)
    assert answered.reply != established.reply
    assert victim.state is State.ESTABLISHED
    assert outcome(victim, [recorded[1]]) == Outcome([], expected("seal-tag", 0))


def test_error_comes_behind_the_messages_before_it() -> None:
    peer = by_hand(RESPONDER)
    stream = peer.frame(b"\x03", b"nonce number") + link(b"\x03") + peer.frame(b"\x03", b"another one!")
    assert outcome(peer.session, [stream]) == Outcome([Confirmed(), MessageReceived(Ping())], expected("truncated", 1))


def test_remote_error() -> None:
    peer = by_hand(RESPONDER)
    with pytest.raises(RemoteError) as caught:
        list(peer.session.receive_data(peer.frame(b'\x0a{"uid":1}')))
    error = caught.value
    assert isinstance(error.error, MalformedError)
    assert (error.code, error.offset, error.path) == ("field-type", 8, "uid")
    assert error.must_close
    assert str(error) == "field-type in uid at byte 8: expected a string, not a number"


def test_remote_error_survives_a_copy() -> None:
    """As every other `WireError` does: through a queue to another process, or into a log."""
    peer = by_hand(RESPONDER)
    with pytest.raises(RemoteError) as caught:
        list(peer.session.receive_data(link(bytes(28))))
    for twin in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):  # noqa: S301
        assert (twin.code, twin.offset, twin.must_close) == ("seal-tag", 0, True)
        assert isinstance(twin.error, SealError)


# -- lengths of link frames -------------------------------------------------------------------------------------------


@EACH_ROLE
@EVERY_STYLE
@pytest.mark.parametrize("length", [MAX_HANDSHAKE_LENGTH + 1, MIB, MAX_LINK_LENGTH, 2**63, 2**64 - 1])
def test_oversized_before_the_handshake(role: Role, length: int, buffered: Callable[[int], bool]) -> None:
    """Refused by its announcement: none of its bytes has to come. [SESSION-LEN-MAX]"""
    one = waiting(role)
    assert outcome(one, [header(length)], buffered=buffered) == Outcome([], expected("link-length-limit", 0, "length"))
    assert one.state is State.FAILED


@EACH_ROLE
@EVERY_STYLE
def test_longest_before_the_handshake(role: Role, buffered: Callable[[int], bool]) -> None:
    """64 KiB, limit included; a hello is under 1 KiB, but may hold keys that nobody knows."""
    one = waiting(role)
    assert MAX_HANDSHAKE_LENGTH == 64 * KIB
    assert outcome(one, [header(64 * KIB), bytes(64 * KIB - 1)], buffered=buffered) == Outcome([])
    assert outcome(one, [b"\0"], buffered=buffered) == Outcome([], expected("handshake-malformed", 0, "type"))


@EVERY_STYLE
def test_hello_of_64_kib(buffered: Callable[[int], bool]) -> None:
    frame = hello()
    for extra, right in ((0, True), (1, False)):
        room = MAX_HANDSHAKE_LENGTH - len(frame) - len(',"x":""') + extra
        long = frame[:-1] + b',"x":"' + b"a" * room + b'"}'
        assert len(long) == MAX_HANDSHAKE_LENGTH + extra
        result = outcome(session(RESPONDER), [link(long)], buffered=buffered)
        assert (result.failure is None) is right


@EACH_ROLE
@EACH_REVISION
@EVERY_STYLE
def test_oversized_after_the_handshake(role: Role, revision: Revision, buffered: Callable[[int], bool]) -> None:
    peer = by_hand(role, revision)
    start = peer.said
    result = outcome(peer.session, [header(MAX_LINK_LENGTH + 1)], buffered=buffered)
    assert result == Outcome([], expected("link-length-limit", start, "length"))
    peer = by_hand(role, revision)
    assert outcome(peer.session, [header(MAX_LINK_LENGTH), bytes(100)], buffered=buffered) == Outcome([])
    assert peer.session.state is State.ESTABLISHED


@EACH_REVISION
@EVERY_STYLE
@pytest.mark.parametrize("size", [64 * KIB, 100 * KIB, MIB])
@pytest.mark.parametrize("chunk", [10**9, 300 * KIB, 64 * KIB, 4 * KIB - 1, "behind-the-ack", "behind-the-length"])
def test_long_frame_right_behind_the_ack(
    revision: Revision, size: int, chunk: int | str, buffered: Callable[[int], bool]
) -> None:
    """The limit is the handshake's own: what is in the same read behind it has the other one."""
    initiator, responder = session(INITIATOR, revision), session(RESPONDER, revision)
    (established,) = responder.receive_data(initiator.start())
    assert isinstance(established, Established)
    message = InferenceToken(pattern(size))
    stream = established.reply + bytes(responder.send(message))
    if isinstance(chunk, str):
        place = len(established.reply) + (8 if chunk == "behind-the-length" else 0)
        cut = [stream[:place], stream[place:]]
    else:
        cut = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
    wanted = [Established(RANK_1.public_key, b""), *[Confirmed()] * (revision is V2), MessageReceived(message)]
    assert outcome(initiator, cut, buffered=buffered) == Outcome(wanted)


@EACH_REVISION
def test_slow_loris(revision: Revision) -> None:
    """Byte by byte, from the hello to the end, with nothing in between: slow is not wrong."""
    initiator, responder = session(INITIATOR, revision), session(RESPONDER, revision)

    def trickle(data: bytes | bytearray, into: Session) -> list[object]:
        events: list[object] = []
        for at in range(len(data)):
            assert list(into.receive_data(b"")) == []
            new = list(into.receive_data(data[at : at + 1]))
            assert not new or at == len(data) - 1
            events += new
        return events

    (established,) = trickle(initiator.start(), responder)
    assert isinstance(established, Established)
    trickle(established.reply, initiator)
    assert trickle(initiator.send(Ping()), responder)[-1] == MessageReceived(Ping())
    assert trickle(responder.send(FROM_RANK_1[0]), initiator)[-1] == MessageReceived(FROM_RANK_1[0])
    assert trickle(initiator.send(END), responder)[-1] == Closed(orderly=True)


def test_memory_before_the_handshake() -> None:
    """A stranger that announces 64 KiB, and sends none of it, costs what the link decoder has for short frames.

    [LINK-MEMORY]
    """
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        strangers = [session(RESPONDER) for _ in range(20)]
        for one in strangers:
            assert list(one.receive_data(header(MAX_HANDSHAKE_LENGTH))) == []
        assert tracemalloc.get_traced_memory()[1] - before < 20 * 140 * KIB
    finally:
        tracemalloc.stop()


# -- the end ----------------------------------------------------------------------------------------------------------


def state_of(state: State, role: Role, revision: Revision) -> ByHand:
    """A session in that state, and how its peer goes on."""
    if state is State.IDLE:
        return ByHand(session(role, revision), b"", revision)
    if state is State.HELLO_SENT:
        return ByHand(waiting(role, revision), b"", revision)
    peer = opened(role, revision, confirmed=state is State.CONFIRMED)
    if state is State.CLOSED:
        if role is INITIATOR:
            peer.session.send(END)
        else:
            list(peer.session.receive_data(peer.frame(b"\xff")))
    if state is State.FAILED:
        with pytest.raises(RemoteError):
            list(peer.session.receive_data(header(0)))
    assert peer.session.state is state
    return peer


ALIVE: Final = [
    (role, state)
    for role in Role
    for state in (State.IDLE, State.HELLO_SENT, State.ESTABLISHED, State.CONFIRMED)
    if (role, state) != (RESPONDER, State.HELLO_SENT)
]
EACH_LIVING_STATE: Final = pytest.mark.parametrize(("role", "state"), ALIVE, ids=name)
DEAD: Final = [(role, state) for role in Role for state in (State.CLOSED, State.FAILED)]
EACH_DEAD_STATE: Final = pytest.mark.parametrize(("role", "state"), DEAD, ids=name)


@EACH_REVISION
@EACH_LIVING_STATE
def test_eof_between_frames(role: Role, state: State, revision: Revision) -> None:
    """The stream just ended, without sessionEnd: not orderly, but no fault of the bytes that came."""
    one = state_of(state, role, revision).session
    assert one.receive_eof() == Closed(orderly=False)
    assert one.state is State.CLOSED


@EACH_REVISION
@EACH_LIVING_STATE
@pytest.mark.parametrize("size", [1, 7, 8, 9, 30])
def test_eof_inside_a_frame(role: Role, state: State, revision: Revision, size: int) -> None:
    """[LINK-EOF]"""
    peer = state_of(state, role, revision)
    passed = {State.IDLE: 0, State.HELLO_SENT: 0}.get(state, peer.said)
    if state is State.CONFIRMED and revision is V2:
        passed += len(peer.frame(canonical_frame(FROM_RANK_0[0] if role is RESPONDER else FROM_RANK_1[0])))
    assert outcome(peer.session, [link(bytes(31))[:size]]) == Outcome([])
    with pytest.raises(RemoteError) as caught:
        peer.session.receive_eof()
    assert remote(caught.value, must_close=False) == expected("truncated", passed + size)
    assert peer.session.state is State.FAILED


@EVERY_STYLE
def test_eof_inside_a_long_frame(buffered: Callable[[int], bool]) -> None:
    peer = by_hand(RESPONDER)
    assert outcome(peer.session, [header(10 * MIB), bytes(MIB)], buffered=buffered) == Outcome([])
    with pytest.raises(RemoteError) as caught:
        peer.session.receive_eof()
    assert caught.value.offset == peer.said + 8 + MIB


@EACH_ROLE
def test_eof_after_session_end(role: Role) -> None:
    """In order, and as often as it is said."""
    peer = state_of(State.CLOSED, role, V2)
    for _ in range(2):
        assert peer.session.receive_eof() == Closed(orderly=True)
        assert peer.session.state is State.CLOSED


@EACH_ROLE
def test_second_eof_is_no_more_orderly_than_the_first(role: Role) -> None:
    peer = by_hand(role)
    assert peer.session.receive_eof() == Closed(orderly=False)
    try:
        again = peer.session.receive_eof()
    except StateError:
        return
    assert again == Closed(orderly=False)


@EACH_REVISION
@EVERY_STYLE
@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(lambda peer: peer.frame(b"\x03", b"nonce behind"), id="message"),
        pytest.param(lambda peer: peer.frame(b"\xff", b"nonce behind"), id="session-end"),
        pytest.param(lambda peer: link(b"\0"), id="nonsense"),
        pytest.param(lambda peer: b"\x01", id="piece-of-a-length"),
        pytest.param(lambda peer: header(100) + b"piece", id="piece-of-a-frame"),
        pytest.param(lambda peer: header(0), id="length-zero"),
        pytest.param(lambda peer: b"\xff" * 9, id="length-over-the-limit"),
    ],
)
def test_data_behind_session_end(
    revision: Revision, buffered: Callable[[int], bool], behind: Callable[[ByHand], bytes]
) -> None:
    """It is nobody's: no event, no error, whatever it is. [SESSION-END]"""
    peer = by_hand(RESPONDER, revision)
    stream = peer.frame(b"\xff") + behind(peer)
    wanted = [*[Confirmed()] * (revision is V2), MessageReceived(END), Closed(orderly=True)]
    assert outcome(peer.session, [stream], buffered=buffered) == Outcome(wanted)
    assert peer.session.state is State.CLOSED
    assert peer.session.receive_eof() == Closed(orderly=True)


@EACH_REVISION
def test_session_end_from_here(revision: Revision) -> None:
    """The one who sends it is done, too: nothing more goes out, what still comes in is nobody's."""
    pair = shaken(revision)
    pair.initiator.send(END)
    assert pair.initiator.state is State.CLOSED
    with pytest.raises(StateError):
        pair.initiator.send(Ping())
    assert pair.initiator.receive_eof() == Closed(orderly=True)


@pytest.mark.parametrize("revision", Revision, ids=["v1", "v2"])
def test_session_end_between_two_events(revision: Revision) -> None:
    """Whoever ends the session on an event gets none of the messages that wait behind it."""
    pair = shaken(revision)
    stream = b"".join(pair.responder.send(FROM_RANK_1[0]) for _ in range(3))
    events = []
    for event in pair.initiator.receive_data(stream):
        events.append(event)
        if isinstance(event, MessageReceived):
            pair.initiator.send(END)
    assert events == [*[Confirmed()] * (revision is V2), MessageReceived(FROM_RANK_1[0])]
    assert pair.initiator.state is State.CLOSED


def test_session_end_on_confirmed() -> None:
    """The same on the event that comes before the message in the same box."""
    pair = shaken()
    events = []
    for event in pair.initiator.receive_data(pair.responder.send(FROM_RANK_1[0])):
        events.append(event)
        if event == Confirmed():
            pair.initiator.send(END)
    assert events[0] == Confirmed()
    assert pair.initiator.state is State.CLOSED


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
    monkeypatch.setattr("wireproto.link.encode_link_frame.__defaults__", (1000,))
    room = 1000 - 1 - (28 if revision is V2 else 0)
    with pytest.raises(LimitError, match=r"^link-length-limit in length: 1001 "):
        pair.initiator.send(InferenceStep(bytes(room + 1)))
    assert pair.initiator.state is State.ESTABLISHED
    assert len(pair.initiator.send(InferenceStep(bytes(room)))) == 1008


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


def misuse(one: Session, call: Callable[[], object], code: str = "session-state") -> None:
    """The caller's mistake: a `StateError` that is not the peer's, and no change."""
    before = one.state
    with pytest.raises(StateError) as caught:
        call()
    assert type(caught.value) is StateError
    assert caught.value.code == code
    assert one.state is before


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


# -- the key log ------------------------------------------------------------------------------------------------------


def recorded(revision: Revision, logs: dict[Role, io.StringIO | None]) -> list[bytes]:
    """The bodies of all link frames of a short conversation, as they go over the wire."""
    initiator = session(INITIATOR, revision, key_log=logs[INITIATOR])
    responder = session(RESPONDER, revision, key_log=logs[RESPONDER])
    wire = [initiator.start()]
    (established,) = responder.receive_data(wire[0])
    assert isinstance(established, Established)
    wire.append(established.reply)
    list(initiator.receive_data(wire[1]))
    wire.append(bytes(initiator.send(Ping())))
    wire.append(bytes(responder.send(InferenceToken(responder.seal_tensor(b"token")))))
    wire.append(bytes(initiator.send(InferenceStep(initiator.seal_tensor(b"tensor")))))
    return [data[8:] for data in wire]


@EACH_REVISION
def test_key_log_opens_what_was_recorded(revision: Revision) -> None:
    """As a reader of a capture would: the hello's nonce on the wire → the line → the key → the boxes."""
    log = io.StringIO()
    captures = [recorded(revision, {INITIATOR: log, RESPONDER: None}) for _ in range(3)]
    lines = log.getvalue().splitlines(keepends=True)
    assert len(lines) == 3
    keys = {}
    for line in lines:
        label, nonce, key = line.removesuffix("\n").split(" ")
        assert label == "CLUSTER_SESSION_KEY"
        assert (len(nonce), len(key)) == (64, 64)
        assert nonce == nonce.lower()
        assert key == key.lower()
        keys[nonce] = bytes.fromhex(key)
    for first, _, *rest in captures:
        key = keys[introduction(first).nonce.hex()]
        ping, token, step = (unbox(key, body) for body in rest) if revision is V2 else rest
        assert ping == b"\x03"
        assert (token[0], unbox(key, token[1:])) == (0x06, b"token")
        assert (step[0], unbox(key, step[1:])) == (0x05, b"tensor")


@EACH_REVISION
def test_key_log_of_either_side(revision: Revision) -> None:
    """Both write the same line, and once a session. [KEY-LOG]"""
    logs = {INITIATOR: io.StringIO(), RESPONDER: io.StringIO()}
    recorded(revision, logs)  # type: ignore[arg-type]
    assert logs[INITIATOR].getvalue() == logs[RESPONDER].getvalue()
    assert logs[INITIATOR].getvalue().count("\n") == 1


@EACH_ROLE
def test_no_key_log_without_a_handshake(role: Role) -> None:
    log = io.StringIO()
    one = session(role, key_log=log)
    if role is INITIATOR:
        one.start()
    outcome(one, [link(b"\x03")])
    assert log.getvalue() == ""


def test_key_log_is_flushed_at_once(tmp_path: Path) -> None:
    """Whoever watches the file has the key before the first box."""
    path = tmp_path / "keys"
    with path.open("w") as log:
        one = Session(RESPONDER, RANK_1, RANK_0.public_key, key_log=log)
        list(one.receive_data(link(hello())))
        assert path.read_text().startswith(f"CLUSTER_SESSION_KEY {EPHEMERAL_0.nonce.hex()} ")


@EACH_REVISION
def test_no_key_log_unless_injected(
    revision: Revision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The environment is the commands' to read, not the session's. [KEY-LOG]"""
    path = tmp_path / "keys"
    monkeypatch.setenv("WIREPROTO_KEYLOGFILE", str(path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    monkeypatch.chdir(tmp_path)
    recorded(revision, {INITIATOR: None, RESPONDER: None})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# -- what is said about the session -----------------------------------------------------------------------------------


def test_states_and_roles() -> None:
    assert [state.value for state in State] == ["idle", "hello sent", "established", "confirmed", "closed", "failed"]
    assert {role: role.value for role in Role} == {INITIATOR: "rank 0", RESPONDER: "rank 1"}


@EACH_ROLE
def test_secrets_stay_inside(role: Role) -> None:
    """Neither the session nor its errors show the key."""
    peer = by_hand(role)
    assert peer.key.hex() not in repr(vars(peer.session))
    assert repr(peer.key) not in repr(vars(peer.session))
    with pytest.raises(RemoteError) as caught:
        list(peer.session.receive_data(link(bytes(28))))
    assert peer.key.hex() not in repr(caught.value)


def test_signer_protocol() -> None:
    """Anything with a public key and `sign` will do: here, one that is neither a file's nor a package's."""

    class Elsewhere:
        public_key = SIGNERS[INITIATOR].public_key

        def sign(self, commitment: bytes) -> bytes:
            assert len(commitment) == 32
            return SIGNERS[INITIATOR].sign(commitment)

    signer: Signer = Elsewhere()
    one = Session(INITIATOR, signer, RANK_1.public_key)
    frame = json.loads(one.start()[9:])
    assert sorted(frame) == ["ephemeralX25519PubKey", "nonce", "sePubKeyRaw", "seSignature"]
