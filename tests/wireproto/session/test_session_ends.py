"""Limits of link frames, and the end of a session."""

import tracemalloc
from collections.abc import Callable

import pytest

from tests.wireproto.payloads import canonical_frame
from tests.wireproto.peers import (
    RANK_1,
    ByHand,
    Outcome,
    by_hand,
    end,
    events,
    hello,
    outcome,
    output,
    remote,
    session,
    shaken,
    take,
)
from tests.wireproto.session_states import (
    EACH_LIVING_STATE,
    EACH_REVISION,
    EACH_ROLE,
    END,
    FROM_RANK_0,
    FROM_RANK_1,
    INITIATOR,
    RESPONDER,
    V2,
    state_of,
    waiting,
)
from tests.wireproto.streams import EVERY_STYLE, KIB, MIB, header, link, pattern
from tests.wireproto.verdicts import expected
from wireproto import MAX_LINK_LENGTH, InferenceStep, InferenceToken, Ping, Revision, StateError
from wireproto.session import (
    MAX_HANDSHAKE_LENGTH,
    Closed,
    Confirmed,
    Established,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
)

# -- lengths of link frames -------------------------------------------------------------------------------------------


@EACH_ROLE
@EVERY_STYLE
@pytest.mark.parametrize("length", [MAX_HANDSHAKE_LENGTH + 1, MIB, MAX_LINK_LENGTH, 2**63, 2**64 - 1])
def test_oversized_before_the_handshake(role: Role, length: int, buffered: Callable[[int], bool]) -> None:
    """Refused by its announced length, before any of its bytes. [SESSION-LEN-MAX]"""
    one = waiting(role)
    assert outcome(one, [header(length)], buffered=buffered) == Outcome([], expected("link-length-limit", 0, "length"))
    assert one.state is State.FAILED


@EACH_ROLE
@EVERY_STYLE
def test_longest_before_the_handshake(role: Role, buffered: Callable[[int], bool]) -> None:
    """64 KiB, limit included; a hello is under 1 KiB, but may have unknown keys."""
    one = waiting(role)
    assert MAX_HANDSHAKE_LENGTH == 64 * KIB
    assert outcome(one, [header(64 * KIB), bytes(64 * KIB - 1)], buffered=buffered) == Outcome([])
    assert outcome(one, [b"\0"], buffered=buffered) == Outcome([], expected("handshake-malformed", 0, "type"))


@EVERY_STYLE
def test_longest_hello(buffered: Callable[[int], bool]) -> None:
    """4 KiB, the type byte included. [PAYLOAD-LIMIT]"""
    frame = hello()
    for extra, failure in ((0, None), (1, expected("handshake-malformed", 1))):
        room = 4 * KIB - len(frame) - len(',"x":""') + extra
        long = frame[:-1] + b',"x":"' + b"a" * room + b'"}'
        assert len(long) == 4 * KIB + extra
        assert outcome(session(RESPONDER), [link(long)], buffered=buffered).failure == failure


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
    """The limit is only the handshake's: bytes after it in the same read have the other limit."""
    initiator, responder = session(INITIATOR, revision), session(RESPONDER, revision)
    take(responder, output(initiator))
    reply = output(responder)
    message = InferenceToken(pattern(size))
    stream = reply + output(responder, message)
    if isinstance(chunk, str):
        place = len(reply) + (8 if chunk == "behind-the-length" else 0)
        cut = [stream[:place], stream[place:]]
    else:
        cut = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
    wanted = [Established(RANK_1.public_key), *[Confirmed()] * (revision is V2), MessageReceived(message)]
    assert outcome(initiator, cut, buffered=buffered) == Outcome(wanted)


@EACH_REVISION
def test_slow_loris(revision: Revision) -> None:
    """Byte by byte from the hello to the end: slow input is valid."""
    initiator, responder = session(INITIATOR, revision), session(RESPONDER, revision)

    def trickle(data: bytes | bytearray, into: Session) -> list[object]:
        events: list[object] = []
        for at in range(len(data)):
            new = take(into, data[at : at + 1])
            assert not new or at == len(data) - 1
            events += new
        return events

    trickle(output(initiator), responder)
    trickle(output(responder), initiator)
    assert trickle(output(initiator, Ping()), responder)[-1] == MessageReceived(Ping())
    assert trickle(output(responder, FROM_RANK_1[0]), initiator)[-1] == MessageReceived(FROM_RANK_1[0])
    assert trickle(output(initiator, END), responder)[-1] == Closed(orderly=True)


def test_memory_before_the_handshake() -> None:
    """An announced but unsent 64 KiB costs only the link decoder's buffer for short frames.

    [LINK-MEMORY]
    """
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        strangers = [session(RESPONDER) for _ in range(20)]
        for one in strangers:
            assert take(one, header(MAX_HANDSHAKE_LENGTH)) == []
        assert tracemalloc.get_traced_memory()[1] - before < 20 * 140 * KIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("first", "second", "again"),
    [
        (500 * KIB, 500 * KIB, True),
        (500 * KIB, 109 * KIB, True),
        (500 * KIB, 109 * KIB - 1, False),
        (500 * KIB, 500 * KIB + 1, False),
    ],
)
def test_memory_of_a_long_frame_is_used_again(first: int, second: int, again: bool) -> None:
    """The plaintext's buffer is reused for frames from a quarter of its size less 64 KiB."""
    pair = shaken()
    take(pair.responder, output(pair.initiator, InferenceStep(bytes(first - 1))))
    memory = pair.responder._opened
    assert len(memory) == first
    message = InferenceStep(pattern(second - 1))
    assert take(pair.responder, output(pair.initiator, message)) == [MessageReceived(message)]
    assert (pair.responder._opened is memory) is again


# -- the end ----------------------------------------------------------------------------------------------------------


@EACH_REVISION
@EACH_LIVING_STATE
def test_eof_between_frames(role: Role, state: State, revision: Revision) -> None:
    """The stream ended without sessionEnd: not orderly, but not an error either."""
    one = state_of(state, role, revision).session
    assert end(one) == [Closed(orderly=False)]
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
        end(peer.session)
    assert remote(caught.value) == expected("truncated", passed + size)
    assert peer.session.state is State.FAILED


@EVERY_STYLE
def test_eof_inside_a_long_frame(buffered: Callable[[int], bool]) -> None:
    peer = by_hand(RESPONDER)
    assert outcome(peer.session, [header(10 * MIB), bytes(MIB)], buffered=buffered) == Outcome([])
    with pytest.raises(RemoteError) as caught:
        end(peer.session)
    assert caught.value.offset == peer.said + 8 + MIB


@EACH_ROLE
def test_eof_after_session_end(role: Role) -> None:
    """Closed comes once: with the peer's sessionEnd, or when the peer closes in answer to ours."""
    peer = state_of(State.CLOSED, role, V2)
    assert end(peer.session) == ([Closed(orderly=True)] if role is INITIATOR else [])
    assert end(peer.session) == []
    assert peer.session.state is State.CLOSED


@EACH_ROLE
def test_second_eof_says_nothing_new(role: Role) -> None:
    peer = by_hand(role)
    assert end(peer.session) == [Closed(orderly=False)]
    assert end(peer.session) == []


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
    """Later bytes are discarded: no event, no error. [SESSION-END]"""
    peer = by_hand(RESPONDER, revision)
    stream = peer.frame(b"\xff") + behind(peer)
    wanted = [*[Confirmed()] * (revision is V2), MessageReceived(END), Closed(orderly=True)]
    assert outcome(peer.session, [stream], buffered=buffered) == Outcome(wanted)
    assert peer.session.state is State.CLOSED
    assert end(peer.session) == []


@EACH_REVISION
def test_session_end_from_here(revision: Revision) -> None:
    """The sender of sessionEnd has also finished: it sends nothing more and discards input."""
    pair = shaken(revision)
    pong = output(pair.responder, FROM_RANK_1[0])
    take(pair.responder, output(pair.initiator, END))
    assert take(pair.initiator, pong) == []
    assert pair.initiator.state is State.CLOSED
    with pytest.raises(StateError):
        output(pair.initiator, Ping())
    assert end(pair.initiator) == [Closed(orderly=True)]


@pytest.mark.parametrize("revision", Revision, ids=["v1", "v2"])
def test_session_end_between_two_events(revision: Revision) -> None:
    """A session ended in an event handler gets none of the waiting messages."""
    pair = shaken(revision)
    stream = b"".join(output(pair.responder, FROM_RANK_1[0]) for _ in range(3))
    came = []
    pair.initiator.receive_data(stream)
    for event in events(pair.initiator):
        came.append(event)
        if isinstance(event, MessageReceived):
            output(pair.initiator, END)
    assert came == [*[Confirmed()] * (revision is V2), MessageReceived(FROM_RANK_1[0])]
    assert pair.initiator.state is State.CLOSED


def test_session_end_on_confirmed() -> None:
    """The same on the event before the message in the same box."""
    pair = shaken()
    came = []
    pair.initiator.receive_data(output(pair.responder, FROM_RANK_1[0]))
    for event in events(pair.initiator):
        came.append(event)
        if event == Confirmed():
            output(pair.initiator, END)
    assert came == [Confirmed()]
    assert pair.initiator.state is State.CLOSED


@EACH_REVISION
def test_session_end_after_an_end_of_stream_that_nobody_has_seen(revision: Revision) -> None:
    """Closed also comes if the stream had ended before, with its event still to be returned."""
    initiator = shaken(revision).initiator
    initiator.receive_data(b"")
    assert output(initiator, END)
    assert list(events(initiator)) == [Closed(orderly=True)]
    assert end(initiator) == []
