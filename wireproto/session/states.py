"""The states of a session, as tables: what may be received and sent in each. [SESSION-STATE]

The diagrams in spec/ are generated from them. The registry says which side sends what, except in the handshake.
"""

from enum import Enum
from typing import Final, TypeAlias

from wireproto.messages import REGISTRY, ClusterMsgType, Direction


class Role(Enum):
    """Which side of the connection this is."""

    INITIATOR = "rank 0"
    """Connects, sends the hello, asks."""
    RESPONDER = "rank 1"
    """Any rank but 0: listens, answers."""


class State(Enum):
    """The state of a session."""

    IDLE = "idle"
    """Nothing has been sent or received."""
    HELLO_SENT = "hello sent"
    """The initiator waits for the ack."""
    ESTABLISHED = "established"
    """The session key is known; the peer has not yet proved that it has it."""
    CONFIRMED = "confirmed"
    """A box from the peer has opened."""
    CLOSED = "closed"
    """Ended by sessionEnd, or by the end of the stream between two frames."""
    FAILED = "failed"
    """Ended by an error."""


Table: TypeAlias = dict[State, dict[ClusterMsgType, State]]

_HANDSHAKE: Final = (ClusterMsgType.HANDSHAKE_HELLO, ClusterMsgType.HANDSHAKE_ACK)


def _open(direction: Direction) -> Table:
    """Return the table of the open session: all types of a direction except the handshake's."""
    types = [spec.msg_type for spec in REGISTRY if spec.direction in (direction, Direction.BOTH)]
    return {
        state: {
            each: State.CLOSED if each is ClusterMsgType.SESSION_END else state
            for each in types
            if each not in _HANDSHAKE
        }
        for state in (State.ESTABLISHED, State.CONFIRMED)
    }


RECEIVES: Final[dict[Role, Table]] = {
    Role.INITIATOR: {
        State.HELLO_SENT: {ClusterMsgType.HANDSHAKE_ACK: State.ESTABLISHED},
        **_open(Direction.RANK_1_TO_0),
    },
    Role.RESPONDER: {
        State.IDLE: {ClusterMsgType.HANDSHAKE_HELLO: State.ESTABLISHED},
        **_open(Direction.RANK_0_TO_1),
    },
}
"""The state after a message from the peer. In the open session, a type that is missing is ignored. [SESSION-IGNORE]"""

SENDS: Final[dict[Role, Table]] = {
    Role.INITIATOR: {
        State.IDLE: {ClusterMsgType.HANDSHAKE_HELLO: State.HELLO_SENT},
        **_open(Direction.RANK_0_TO_1),
    },
    Role.RESPONDER: _open(Direction.RANK_1_TO_0),
}
"""The state after a message to the peer. The responder's ack is part of the transition on the hello."""

BOX_OPENS: Final = {State.ESTABLISHED: State.CONFIRMED}
"""The state after the peer's first box that opens. [SESSION-CONFIRM]"""
