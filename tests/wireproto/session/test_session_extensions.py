"""Extensions in a session: offers, choices, and the direction of their frames. [EXT-*]"""

from collections.abc import Collection
from typing import Any, Final

import pytest

from tests.wireproto.payloads import EXTENSION_OF, TYPE_BYTE, canonical_frame
from tests.wireproto.peers import OTHER, ByHand, Outcome, Pair, by_hand, outcome, output, session, shaken, take
from tests.wireproto.session_states import EACH_REVISION, EACH_ROLE, INITIATOR, RESPONDER, V1, V2
from tests.wireproto.verdicts import expected
from wireproto import (
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    OutcomeState,
    Ping,
    PongPayload,
    Revision,
    SessionEnd,
    SideChannelPart,
    SideChannelWhole,
    StateError,
    UnknownTypeError,
    Versions,
)
from wireproto import Outcome as OutcomeMessage
from wireproto.session import Confirmed, LocalError, MessageIgnored, MessageReceived, Role, State

SIDE_CHANNEL, OUTCOME, FRAMELESS = "side-channel/1", "outcome/1", "frameless/1"
ALL: Final = (SIDE_CHANNEL, OUTCOME, FRAMELESS)
PART, WHOLE = SideChannelPart(0, b"part"), SideChannelWhole(0, b"partpart")
STARTED, VERSIONS = OutcomeMessage(1, OutcomeState.STARTED, "", "", ""), Versions("0.1.0", "0.32.4", "ring", "")
FRAMES: Final[tuple[Message, ...]] = (PART, WHOLE, STARTED, VERSIONS)
EACH_FRAME: Final = pytest.mark.parametrize("message", FRAMES, ids=lambda message: type(message).__name__)
SENT_BY: Final = {INITIATOR: (WHOLE, STARTED, VERSIONS), RESPONDER: (PART, STARTED, VERSIONS)}


def pong(*names: str) -> PongPayload:
    return PongPayload(True, False, MemoryPressure.NORMAL, names)


def bootstrap(*names: str) -> JacclBootstrapPayload:
    return JacclBootstrapPayload(29400, "S-1", names)


def say(pair: Pair, role: Role, message: Message) -> list[object]:
    """Send a message from one side; return the other's events, without the confirmation."""
    events = take(pair(OTHER[role]), output(pair(role), message))
    return [event for event in events if event != Confirmed()]


def agreed(names: Collection[str] = ALL, revision: Revision = V2) -> Pair:
    """Two sessions that support all extensions and have agreed on some."""
    pair = shaken(revision, rank_0=ALL, rank_1=ALL)
    say(pair, RESPONDER, pong(*ALL))
    say(pair, INITIATOR, bootstrap(*names))
    return pair


def by_hand_agreed(role: Role, names: Collection[str] = ALL) -> ByHand:
    """The same for a session and a scripted peer."""
    peer = by_hand(role, extensions=ALL)
    if role is RESPONDER:
        output(peer.session, pong(*ALL))
        take(peer.session, peer.frame(canonical_frame(bootstrap(*names)), b"the bootstra"))
    else:
        take(peer.session, peer.frame(canonical_frame(pong(*ALL)), b"the pong, it"))
        output(peer.session, bootstrap(*names))
    assert peer.session.agreed == {*names}
    return peer


def test_frames_are_whole() -> None:
    assert {type(message) for message in FRAMES} == set(EXTENSION_OF)


# -- offer and choice --------------------------------------------------------------------------------------------------


@EACH_REVISION
def test_nothing_is_offered_or_agreed_at_first(revision: Revision) -> None:
    for role in Role:
        for one in (session(role, revision, extensions=ALL), shaken(revision, rank_0=ALL, rank_1=ALL)(role)):
            assert (one.offered, one.agreed) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "offer", "choice"),
    [
        (ALL, ALL, ALL, ALL),
        (ALL, ALL, ALL, (OUTCOME,)),
        (ALL, ALL, ALL, ()),
        (ALL, ALL, (OUTCOME, FRAMELESS), (FRAMELESS,)),
        ((OUTCOME,), ALL, ALL, (OUTCOME,)),
        (ALL, (OUTCOME,), (OUTCOME,), (OUTCOME,)),
        ((OUTCOME, "z-9/9"), (OUTCOME, "a/1"), (OUTCOME, "a/1"), (OUTCOME,)),
        ((OUTCOME,), (SIDE_CHANNEL,), (SIDE_CHANNEL,), ()),
        ((), ALL, ALL, ()),
        (ALL, (), (), ()),
    ],
)
def test_offer_and_choice(
    rank_0: tuple[str, ...], rank_1: tuple[str, ...], offer: tuple[str, ...], choice: tuple[str, ...]
) -> None:
    pair = shaken(rank_0=rank_0, rank_1=rank_1)
    assert say(pair, RESPONDER, pong(*offer)) == [MessageReceived(pong(*offer))]
    assert pair.responder.offered == {*offer}
    assert pair.initiator.offered == {*offer} & {*rank_0}
    assert say(pair, INITIATOR, bootstrap(*choice)) == [MessageReceived(bootstrap(*choice))]
    assert pair.initiator.agreed == pair.responder.agreed == {*choice}


def test_unknown_names_come_through_and_are_not_offered() -> None:
    """Rank 0 passes unknown extensions on with the pong, and ignores them. [EXT-UNKNOWN]"""
    peer = by_hand(INITIATOR, extensions=ALL)
    strange = pong("outcome/2", "z-9/9999", OUTCOME)
    (_, received) = take(peer.session, peer.frame(canonical_frame(strange)))
    assert received == MessageReceived(strange)
    assert peer.session.offered == {OUTCOME}


def test_what_was_offered_once_stays_offered() -> None:
    """A pong in transit when another is sent cannot make a choice wrong. [EXT-OFFER]"""
    pair = shaken(rank_0=ALL, rank_1=ALL)
    for names in ((OUTCOME,), (), (FRAMELESS,)):
        say(pair, RESPONDER, pong(*names))
    assert pair.initiator.offered == pair.responder.offered == {OUTCOME, FRAMELESS}
    crossing = output(pair.responder, pong(SIDE_CHANNEL))
    say(pair, INITIATOR, bootstrap(OUTCOME, FRAMELESS))
    take(pair.initiator, crossing)
    assert pair.responder.agreed == pair.initiator.agreed == {OUTCOME, FRAMELESS}


def test_each_bootstrap_agrees_anew() -> None:
    """[EXT-CHOICE]"""
    pair = agreed((OUTCOME,))
    for names in ((SIDE_CHANNEL, FRAMELESS), (), ALL, (OUTCOME,)):
        say(pair, INITIATOR, bootstrap(*names))
        assert pair.initiator.agreed == pair.responder.agreed == {*names}


def refuses(pair: Pair, role: Role, message: Message) -> None:
    """The caller's mistake: nothing changes."""
    one = pair(role)
    before = (one.state, one.offered, one.agreed)
    with pytest.raises(LocalError) as caught:
        output(one, message)
    assert isinstance(caught.value, StateError)
    assert (caught.value.code, caught.value.path) == ("extension-not-offered", "extensions")
    assert (one.state, one.offered, one.agreed) == before


def test_rank_1_offers_what_it_supports() -> None:
    """[EXT-OFFER]"""
    pair = shaken(rank_0=ALL, rank_1=(OUTCOME,))
    for names in ((SIDE_CHANNEL,), (OUTCOME, SIDE_CHANNEL), ("outcome/2",)):
        refuses(pair, RESPONDER, pong(*names))
    say(pair, RESPONDER, pong(OUTCOME))
    assert pair.initiator.offered == {OUTCOME}


def test_rank_0_chooses_from_what_is_offered_and_supported() -> None:
    """[EXT-CHOICE]"""
    pair = shaken(rank_0=(OUTCOME, SIDE_CHANNEL), rank_1=ALL)
    refuses(pair, INITIATOR, bootstrap(OUTCOME))
    say(pair, RESPONDER, pong(OUTCOME, FRAMELESS))
    for names in ((SIDE_CHANNEL,), (FRAMELESS,), (OUTCOME, FRAMELESS)):
        refuses(pair, INITIATOR, bootstrap(*names))
    say(pair, INITIATOR, bootstrap(OUTCOME))
    refuses(pair, INITIATOR, bootstrap(SIDE_CHANNEL))
    assert pair.initiator.agreed == pair.responder.agreed == {OUTCOME}


@pytest.mark.parametrize(
    ("supported", "offer", "choice"),
    [
        (ALL, None, (OUTCOME,)),
        (ALL, (), (OUTCOME,)),
        (ALL, (SIDE_CHANNEL,), (OUTCOME,)),
        (ALL, (SIDE_CHANNEL,), (SIDE_CHANNEL, OUTCOME)),
        (ALL, ALL, ("z-9/9",)),
        ((), (), (OUTCOME,)),
    ],
)
def test_choice_that_was_not_offered(
    supported: tuple[str, ...], offer: tuple[str, ...] | None, choice: tuple[str, ...]
) -> None:
    """[EXT-NOT-OFFERED]"""
    peer = by_hand(RESPONDER, extensions=supported)
    if offer is not None:
        output(peer.session, pong(*offer))
    wanted = Outcome([Confirmed()], expected("extension-not-offered", None, "extensions"))
    assert outcome(peer.session, [peer.frame(canonical_frame(bootstrap(*choice)))]) == wanted
    assert peer.session.state is State.FAILED
    assert peer.session.agreed == frozenset()


def test_messages_that_do_not_belong_agree_on_nothing() -> None:
    """A pong to rank 1 and a bootstrap to rank 0 are ignored, whatever they name. [SESSION-IGNORE]"""
    for role, message in ((RESPONDER, pong(*ALL)), (INITIATOR, bootstrap(*ALL))):
        peer = by_hand(role, extensions=ALL)
        (_, ignored) = take(peer.session, peer.frame(canonical_frame(message)))
        assert ignored == MessageIgnored(message)
        assert (peer.session.offered, peer.session.agreed) == (frozenset(), frozenset())


def test_without_extensions_the_bytes_are_those_of_the_plain_protocol() -> None:
    """[EXT-EMPTY]"""
    for extensions in ((), ALL):
        peer = by_hand(RESPONDER, extensions=extensions)
        sent = peer.body(output(peer.session, pong()))
        assert sent == b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'
        peer = by_hand(INITIATOR, extensions=extensions)
        assert peer.body(output(peer.session, bootstrap())) == b'\x07{"port":29400,"sessionID":"S-1"}'


def test_peer_that_never_heard_of_extensions() -> None:
    """It ignores the unknown key and names nothing: nothing is agreed."""
    peer = by_hand(RESPONDER, extensions=ALL)
    assert peer.body(output(peer.session, pong(OUTCOME))).endswith(b',"extensions":["outcome/1"]}')
    text = b'\x07{"port":29400,"sessionID":"S-1"}'
    assert outcome(peer.session, [peer.frame(text)]) == Outcome([Confirmed(), MessageReceived(bootstrap())])
    assert peer.session.agreed == frozenset()


# -- frames ------------------------------------------------------------------------------------------------------------


@EACH_FRAME
@EACH_ROLE
@pytest.mark.parametrize("names", [None, (), "the others"], ids=["unheard", "agreed-on-none", "others-agreed"])
def test_uninvited_frame(role: Role, message: Message, names: Any) -> None:
    """An unknown type, as for a peer without extensions. [EXT-UNINVITED]"""
    if names == "the others":
        names = tuple(name for name in ALL if name != EXTENSION_OF[type(message)])
    peer = by_hand(role, extensions=ALL) if names is None else by_hand_agreed(role, names)
    one = peer.session
    state = one.state
    with pytest.raises(UnknownTypeError) as caught:
        output(one, message)
    assert (caught.value.code, caught.value.offset) == ("type-unknown", None)
    assert one.state is state
    first = [] if state is State.CONFIRMED else [Confirmed()]
    wanted = Outcome(first, expected("type-unknown", 0, "type"))
    assert outcome(one, [peer.frame(canonical_frame(message))]) == wanted
    assert one.state is State.FAILED


@EACH_FRAME
@EACH_ROLE
def test_frame_of_an_earlier_agreement(role: Role, message: Message) -> None:
    """[EXT-CHOICE, EXT-UNINVITED]"""
    pair = agreed()
    say(pair, INITIATOR, bootstrap(FRAMELESS))
    with pytest.raises(UnknownTypeError):
        output(pair(role), message)


def test_frames_in_flight_do_not_end_an_honest_session() -> None:
    """Rank 1 sent them before it received the new agreement; rank 0 still decodes them. [EXT-IN-FLIGHT]"""
    for message in SENT_BY[RESPONDER]:
        pair = agreed()
        crossing = output(pair.responder, message)
        say(pair, INITIATOR, bootstrap(FRAMELESS))
        say(pair, INITIATOR, bootstrap())
        assert take(pair.initiator, crossing)[-1] == MessageReceived(message)
        assert pair.initiator.agreed == frozenset()


def test_frame_of_an_earlier_agreement_to_rank_1() -> None:
    """Rank 0 sends frames and agreements in order, so none is in flight. [EXT-IN-FLIGHT]"""
    for message in SENT_BY[INITIATOR]:
        peer = by_hand_agreed(RESPONDER)
        take(peer.session, peer.frame(canonical_frame(bootstrap()), b"a second one"))
        result = outcome(peer.session, [peer.frame(canonical_frame(message))])
        assert result == Outcome([], expected("type-unknown", 0, "type"))


@EACH_ROLE
@EACH_FRAME
def test_agreed_frame_that_comes_in(role: Role, message: Message) -> None:
    """Received in its direction, ignored in the other. [EXT-UNINVITED, SESSION-IGNORE]"""
    peer = by_hand_agreed(role)
    event = MessageReceived(message) if message in SENT_BY[OTHER[role]] else MessageIgnored(message)
    (*_, last) = take(peer.session, peer.frame(canonical_frame(message)))
    assert last == event
    assert peer.session.state is State.CONFIRMED


@EACH_ROLE
@EACH_FRAME
def test_agreed_frame_that_goes_out(role: Role, message: Message) -> None:
    peer = by_hand_agreed(role)
    if message in SENT_BY[role]:
        assert peer.body(output(peer.session, message)) == canonical_frame(message)
        return
    with pytest.raises(StateError, match=r"^session-state: "):
        output(peer.session, message)


def test_frames_both_ways() -> None:
    pair = agreed()
    for role in (INITIATOR, RESPONDER, INITIATOR):
        for message in SENT_BY[role]:
            assert say(pair, role, message) == [MessageReceived(message)]
    assert say(pair, INITIATOR, Ping()) == [MessageReceived(Ping())]


def test_malformed_frame_ends_the_session() -> None:
    peer = by_hand_agreed(RESPONDER)
    assert outcome(peer.session, [peer.frame(b"\x41\0\0\0")]) == Outcome([], expected("truncated", 4))


@EACH_ROLE
def test_no_frames_after_the_end(role: Role) -> None:
    pair = agreed()
    say(pair, INITIATOR, SessionEnd())
    with pytest.raises(StateError, match=r"^session-state: "):
        output(pair(role), VERSIONS)


# -- revision 1 --------------------------------------------------------------------------------------------------------


def test_revision_1_names_nothing() -> None:
    """[EXT-REVISION]"""
    pair = shaken(V1, rank_0=ALL, rank_1=ALL)
    for role, message in ((RESPONDER, pong(OUTCOME)), (INITIATOR, bootstrap(OUTCOME))):
        assert pair(role).extensions == frozenset()
        refuses(pair, role, message)
    assert say(pair, RESPONDER, pong()) == [MessageReceived(pong())]
    assert say(pair, INITIATOR, bootstrap()) == [MessageReceived(bootstrap())]


@EACH_ROLE
def test_revision_1_takes_nothing_as_agreed(role: Role) -> None:
    """The peer's extensions have no effect. [EXT-REVISION]"""
    peer = by_hand(role, V1, extensions=ALL)
    for message in (pong(*ALL), bootstrap(*ALL)):
        (event,) = take(peer.session, peer.frame(canonical_frame(message)))
        belongs = (role is INITIATOR) is isinstance(message, PongPayload)
        assert event == (MessageReceived(message) if belongs else MessageIgnored(message))
    assert (peer.session.offered, peer.session.agreed) == (frozenset(), frozenset())


@EACH_FRAME
@EACH_ROLE
def test_revision_1_has_no_frames(role: Role, message: Message) -> None:
    peer = by_hand(role, V1, extensions=ALL)
    with pytest.raises(UnknownTypeError):
        output(peer.session, message)
    wanted = Outcome([], expected("type-unknown", 0, "type"))
    assert outcome(peer.session, [peer.frame(canonical_frame(message))]) == wanted
    assert TYPE_BYTE[type(message)] in range(0x40, 0x44)
