"""The session: the handling of each message, in each state, role and revision, however it is cut.

That is the plain protocol's; `test_session_extensions` goes on with extensions, `test_session_ends` with the end,
`test_session_sends` with what goes out, `test_session_secrets` with the key.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.wireproto.payloads import EXTENSION_OF, TYPE_BYTE, canonical_frame
from tests.wireproto.peers import (
    DELIVERIES,
    EPHEMERAL_0,
    EPHEMERAL_1,
    OTHER,
    RANK_0,
    RANK_1,
    STRANGER,
    ByHand,
    Outcome,
    Pair,
    ack,
    box,
    by_hand,
    end,
    hello,
    introduction,
    outcome,
    output,
    remote,
    session,
    shaken,
    source,
    take,
    unbox,
)
from tests.wireproto.session_states import (
    EACH_DELIVERY,
    EACH_REVISION,
    EACH_ROLE,
    END,
    FROM_RANK_0,
    FROM_RANK_1,
    HELLO,
    INITIATOR,
    MESSAGES,
    RESPONDER,
    SENT_BY,
    V1,
    V2,
    known,
    misuse,
    name,
    opened,
    waiting,
)
from tests.wireproto.streams import EVERY_STYLE, STYLES, header, link
from tests.wireproto.verdicts import expected
from wireproto import (
    HandshakeAck,
    HandshakeError,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    MalformedError,
    Message,
    Ping,
    Revision,
    SealError,
    StateError,
)
from wireproto.session import (
    Closed,
    Config,
    Confirmed,
    Established,
    Event,
    LocalError,
    MessageIgnored,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
)
from wireproto.session.handshake import TrustAnyKey


def test_tables_are_whole() -> None:
    assert {type(message) for message in MESSAGES} == set(TYPE_BYTE) - set(EXTENSION_OF)
    assert len(MESSAGES) == 14


# -- what comes in, before the handshake is done ----------------------------------------------------------------------


def before_the_handshake(role: Role, message: Message) -> Any:
    """The error of each type then. The expected type fails only at its signature."""
    if type(message) is (HandshakeAck if role is INITIATOR else HandshakeHello):
        return expected("handshake-signature", None, "seSignature")
    return expected("handshake-unexpected", 0)


@EACH_REVISION
@EACH_ROLE
@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_message_before_the_handshake(role: Role, message: Message, revision: Revision) -> None:
    """Any frame but the right hello or ack ends the session. [HANDSHAKE-ONLY]"""
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
    """The initiator sends first: earlier bytes are not even decoded."""
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
    """A box of another session has any first byte, but is never a hello or an ack."""
    one = waiting(role, revision)
    result = outcome(one, cut(link(box(bytes(32), b"\x03", b"\0 nonce no 1"))), buffered=buffered)
    assert result == Outcome([], expected("handshake-malformed", 0, "type"))
    one = waiting(role, revision)
    ping = b"\x03" + box(bytes(32), b"\x03")  # by chance, the nonce starts like a ping
    assert outcome(one, cut(link(ping)), buffered=buffered) == Outcome([], expected("handshake-malformed", 1))


FAULTY: Final[dict[str, tuple[dict[str, Any], Any, str | None]]] = {
    # faults of the peer's frame, the pin if it is not the peer's, the path of the error
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
    frame = ack(introduction(output(one)[8:]).nonce, **faults) if role is INITIATOR else hello(**faults)
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
    sent = output(initiator)
    assert initiator.state is State.HELLO_SENT
    (established,) = outcome(responder, cut(sent), buffered=buffered).events
    assert isinstance(established, Established)
    assert established.peer_key == RANK_0.public_key
    reply = output(responder)
    assert introduction(reply[8:]).identity == RANK_1.public_key
    assert int.from_bytes(reply[:8], "little") == len(reply) - 8
    assert responder.state is State.ESTABLISHED
    result = outcome(initiator, cut(reply), buffered=buffered)
    assert result == Outcome([Established(RANK_1.public_key)])
    assert initiator.state is State.ESTABLISHED
    assert (initiator.peer_key, responder.peer_key) == (RANK_1.public_key, RANK_0.public_key)


def test_handshake_with_any_key() -> None:
    one = session(RESPONDER, pin=TrustAnyKey())
    (established,) = take(one, link(hello(STRANGER)))
    assert isinstance(established, Established)
    assert established.peer_key == STRANGER.public_key


def test_defaults() -> None:
    one = Session(Config(role=INITIATOR, signer=RANK_0, pin=None))
    assert (one.role, one.revision, one.state, one.peer_key) == (INITIATOR, V2, State.IDLE, b"")


# -- what comes in, once the session is open --------------------------------------------------------------------------


def incoming(role: Role, message: Message, revision: Revision, *, confirmed: bool) -> tuple[Outcome, State]:
    """The required handling of a message: the protocol's table, written independently."""
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
    """Each type, however it is cut, through either interface. [SESSION-IGNORE]"""
    wanted, following = incoming(role, message, revision, confirmed=state is State.CONFIRMED)
    for cut in DELIVERIES.values():
        for buffered in STYLES.values():
            peer = opened(role, revision, confirmed=state is State.CONFIRMED)
            assert peer.session.state is state
            assert outcome(peer.session, cut(peer.frame(canonical_frame(message))), buffered=buffered) == wanted
            assert peer.session.state is following


@EACH_ROLE
@EACH_REVISION
@EVERY_STYLE
@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 9, 64, 1000, 10**9])
def test_whole_conversation(role: Role, revision: Revision, buffered: Callable[[int], bool], chunk: int) -> None:
    """Every allowed message in one stream gives the same events, however it is cut."""
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
    """All messages in both directions through two sessions: `receive_data` reads what `send` wrote."""
    pair = shaken(revision)
    for role in (RESPONDER, INITIATOR):
        messages = [message for message in SENT_BY[role] if known(message, revision)]
        stream = b"".join(output(pair(role), message) for message in messages)
        cut = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
        result = outcome(pair(OTHER[role]), cut, buffered=buffered)
        assert result.failure is None
        assert [event.message for event in result.events if isinstance(event, MessageReceived)] == messages
        assert result.events.count(Confirmed()) == (revision is V2)
        assert sum(isinstance(event, MessageIgnored) for event in result.events) == 0
    assert pair.responder.state is State.CLOSED
    assert pair.initiator.state is State.CLOSED
    assert end(pair.initiator) == [Closed(orderly=True)]


def test_confirmed_comes_once() -> None:
    pair = shaken()
    pings = [output(pair.initiator, Ping()) for _ in range(3)]
    events = [event for ping in pings for event in take(pair.responder, ping)]
    assert events == [Confirmed(), *[MessageReceived(Ping())] * 3]
    assert pair.initiator.state is State.ESTABLISHED  # nothing has arrived from the other side


def test_confirmed_by_a_box_of_nothing_sensible() -> None:
    """The box proves that the peer has the key, even if its content is invalid."""
    peer = by_hand(RESPONDER)
    result = outcome(peer.session, [peer.frame(b"\x03!")])
    assert result == Outcome([Confirmed()], expected("payload-not-empty", 1))


def test_v1_is_never_confirmed_by_frames() -> None:
    pair = shaken(V1)
    for _ in range(3):
        assert take(pair.responder, output(pair.initiator, Ping())) == [MessageReceived(Ping())]
        assert pair.responder.state is State.ESTABLISHED
    for role in Role:
        tensor = pair(OTHER[role]).seal_tensor(b"tensor")
        assert pair(role).open_tensor(tensor) == b"tensor"
        assert pair(role).state is State.CONFIRMED


@pytest.mark.parametrize("revision", Revision, ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda pair: bytes(28), "seal-tag"),
        (lambda pair: bytes(27), "truncated"),
        (lambda pair: b"", "truncated"),
        (lambda pair: pair.responder.seal_tensor(b"tensor"), "seal-reflection"),
    ],
    ids=["other-key", "27-bytes", "empty", "own"],
)
def test_tensor_box_that_does_not_open_fails_the_session(
    revision: Revision, make: Callable[[Pair], bytes], code: str
) -> None:
    """The class is always `SealError` and `RemoteError`. [SESSION-BOX]"""
    pair = shaken(revision)
    box = make(pair)
    with pytest.raises(SealError) as caught:
        pair.responder.open_tensor(box)
    assert isinstance(caught.value, RemoteError)
    assert caught.value.code == code
    assert pair.responder.state is State.FAILED
    for call in (lambda: pair.responder.seal_tensor(b""), lambda: pair.responder.open_tensor(bytes(28))):
        misuse(pair.responder, call)


@EACH_REVISION
def test_tensors(revision: Revision) -> None:
    """In both directions, each once, under the session's key, independently of the frames around them."""
    pair = shaken(revision)
    for role in Role:
        tensor = pair(role).seal_tensor(memoryview(b"tensor"))
        assert unbox(pair.key, tensor) == b"tensor"
        message = InferenceStep(tensor) if role is INITIATOR else InferenceToken(tensor)
        *_, received = take(pair(OTHER[role]), output(pair(role), message))
        assert received == MessageReceived(message)
        assert pair(OTHER[role]).open_tensor(tensor) == b"tensor"


@EACH_ROLE
def test_tensors_are_opened_once(role: Role) -> None:
    """[SEAL-REPLAY, SEAL-REFLECTION]"""
    pair = shaken()
    tensor = pair(role).seal_tensor(b"tensor")
    pair(OTHER[role]).open_tensor(tensor)
    with pytest.raises(SealError, match=r"^seal-replay "):
        pair(OTHER[role]).open_tensor(tensor)
    with pytest.raises(SealError, match=r"^seal-reflection "):
        pair(role).open_tensor(tensor)


# -- frames that end the session --------------------------------------------------------------------------------------


V2_ENDS: Final[dict[str, tuple[Callable[[ByHand], bytes], Any, list[Event]]]] = {
    # input, error, and the events before it: a box that opens confirms, whatever its content
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


def test_no_session_between_two_revisions() -> None:
    """Revision 2 does not work with a peer of revision 1, or the reverse: never guessed, never downgraded.

    [REV-EXPLICIT]
    """
    for revision, other in ((V1, V2), (V2, V1)):
        # A nonce may start like a type of revision 1; these do not.
        initiator = session(INITIATOR, revision, random=source(EPHEMERAL_0, b"\x80 nonce no 1"))
        responder = session(RESPONDER, other, random=source(EPHEMERAL_1, b"\x80 nonce no 2"))
        take(responder, output(initiator))
        take(initiator, output(responder))
        frames = {RESPONDER: output(initiator, FROM_RANK_0[2]), INITIATOR: output(responder, FROM_RANK_1[0])}
        for one in (initiator, responder):
            wanted = expected("seal-tag", 0) if one.revision is V2 else expected("type-unknown", 0, "type")
            assert outcome(one, [frames[one.role]]) == Outcome([], wanted)


@EACH_ROLE
def test_hello_twice_in_v1(role: Role) -> None:
    """A known but unexpected type is ignored; neither key nor state changes."""
    peer = by_hand(role, V1)
    for frame in (hello(), ack()):
        (event,) = take(peer.session, link(frame))
        assert isinstance(event, MessageIgnored)
        assert canonical_frame(event.message) == frame
    assert peer.session.state is State.ESTABLISHED
    assert peer.session.open_tensor(box(peer.key, b"tensor")) == b"tensor"


def test_hello_twice_in_v2() -> None:
    """It is not a box. In a box, it is an unexpected type."""
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
    first, second = output(sender, message), output(sender, message)
    assert first != second
    wanted = [Confirmed(), MessageReceived(message), MessageReceived(message)]
    result = outcome(receiver, cut(first + second + first), buffered=buffered)
    assert result == Outcome(wanted, expected("seal-replay", 0))
    assert receiver.state is State.FAILED
    assert outcome(sender, cut(second), buffered=buffered) == Outcome([], expected("seal-reflection", 0))
    assert sender.state is State.FAILED


def test_reflected_tensor_frame() -> None:
    """A tensor box is under the same key: sent back as a link frame, it is a reflection, too.

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
    ping = output(first.initiator, Ping())
    assert outcome(second.responder, [ping]) == Outcome([], expected("seal-tag", 0))
    pong = output(first.responder, FROM_RANK_1[0])
    assert outcome(second.initiator, [pong]) == Outcome([], expected("seal-tag", 0))


def test_replayed_hello_is_answered_but_never_confirmed() -> None:
    """Rank 1 answers a recorded hello. Frames recorded after it no longer open.

    [SESSION-CONFIRM]
    """
    initiator, responder = session(INITIATOR), session(RESPONDER)
    recorded = [output(initiator)]
    take(responder, recorded[0])
    reply = output(responder)
    take(initiator, reply)
    recorded.append(output(initiator, Ping()))
    victim = session(RESPONDER)
    (answered,) = take(victim, recorded[0])
    assert isinstance(answered, Established)
    assert output(victim) != reply
    assert victim.state is State.ESTABLISHED
    assert outcome(victim, [recorded[1]]) == Outcome([], expected("seal-tag", 0))


def test_error_comes_behind_the_messages_before_it() -> None:
    peer = by_hand(RESPONDER)
    stream = peer.frame(b"\x03", b"nonce number") + link(b"\x03") + peer.frame(b"\x03", b"another one!")
    assert outcome(peer.session, [stream]) == Outcome([Confirmed(), MessageReceived(Ping())], expected("truncated", 1))


def test_remote_error() -> None:
    """The error has code, offset and path, the codec's class, and the codec's error as its cause."""
    peer = by_hand(RESPONDER)
    with pytest.raises(RemoteError) as caught:
        take(peer.session, peer.frame(b'\x0a{"uid":1}'))
    error = caught.value
    assert isinstance(error, MalformedError)
    assert (error.code, error.offset, error.path) == ("field-type", 8, "uid")
    assert str(error) == "field-type in uid at byte 8: expected a string, not a number"
    assert remote(error) == expected("field-type", 8, "uid")


def test_handshake_error_and_seal_error_work_around_next_event() -> None:
    """A wrong pin is a `HandshakeError`, a box that does not open a `SealError`, a short one too."""
    one = session(RESPONDER, pin=STRANGER.public_key)
    one.receive_data(link(hello()))
    with pytest.raises(HandshakeError):
        one.next_event()
    for body in (bytes(28), bytes(27)):
        one = by_hand(RESPONDER).session
        one.receive_data(link(body))
        with pytest.raises(SealError):
            one.next_event()


def test_remote_error_survives_a_copy() -> None:
    """It can be pickled like every `WireError`, for example through a queue to another process or into a log."""
    peer = by_hand(RESPONDER)
    with pytest.raises(RemoteError) as caught:
        take(peer.session, link(bytes(28)))
    with pytest.raises(LocalError) as refused:
        by_hand(RESPONDER).session.send(HELLO)
    for error, code, cls in ((caught.value, "seal-tag", SealError), (refused.value, "session-state", StateError)):
        for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
            assert (twin.code, twin.offset) == (code, error.offset)
            assert type(twin) is type(error)
            assert isinstance(twin, cls)
