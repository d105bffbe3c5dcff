"""A session in each state, and the messages of the plain protocol."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.wireproto.payloads import TYPE_BYTE, V1_TYPES, canonical_frame
from tests.wireproto.peers import DELIVERIES, EPHEMERAL_0, RANK_0, RANK_1, ByHand, box, by_hand, output, session, take
from tests.wireproto.streams import header
from wireproto import (
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    PromptTokensPayload,
    Revision,
    SessionEnd,
    SessionStopPayload,
    StateError,
    StepTokenPayload,
)
from wireproto.session import LocalError, RemoteError, Role, Session, State

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
"""Rank 0's messages in the open session, written independently from the protocol's table of types."""
FROM_RANK_1: Final[list[Message]] = [
    PongPayload(True, False, MemoryPressure.WARNING),
    InferenceToken(bytes(32)),
    PPTokenPayload("u", bytes(32)),
]
HANDSHAKE: Final[list[Message]] = [HELLO, ACK]
MESSAGES: Final = HANDSHAKE + FROM_RANK_0 + FROM_RANK_1
SENT_BY: Final = {INITIATOR: FROM_RANK_0, RESPONDER: FROM_RANK_1}


def name(value: object) -> str | None:
    """Return the test id of a message, role, revision or state."""
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


def waiting(role: Role, revision: Revision = V2) -> Session:
    """A session waiting for its peer's part of the handshake."""
    one = session(role, revision)
    output(one)
    return one


def opened(role: Role, revision: Revision, *, confirmed: bool) -> ByHand:
    """A session after its handshake, or after the peer's first box."""
    peer = by_hand(role, revision)
    if confirmed and revision is V2:
        text = canonical_frame(FROM_RANK_0[0] if role is RESPONDER else FROM_RANK_1[0])
        assert len(take(peer.session, peer.frame(text, b"opened first"))) == 2
    elif confirmed:
        assert peer.session.open_tensor(box(peer.key, b"tensor", b"opened first")) == b"tensor"
    return peer


def state_of(state: State, role: Role, revision: Revision) -> ByHand:
    """A session in that state, and its peer."""
    if state is State.IDLE:
        return ByHand(session(role, revision), b"", revision)
    if state is State.HELLO_SENT:
        return ByHand(waiting(role, revision), b"", revision)
    peer = opened(role, revision, confirmed=state is State.CONFIRMED)
    if state is State.CLOSED:
        if role is INITIATOR:
            peer.session.send(END)
        else:
            take(peer.session, peer.frame(b"\xff"))
    if state is State.FAILED:
        with pytest.raises(RemoteError):
            take(peer.session, header(0))
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


def misuse(one: Session, call: Callable[[], object], code: str = "session-state") -> None:
    """The caller's mistake: a `StateError` that is not the peer's, and no change."""
    before = one.state
    with pytest.raises(LocalError) as caught:
        call()
    assert isinstance(caught.value, StateError)
    assert caught.value.code == code
    assert one.state is before
