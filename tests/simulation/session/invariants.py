"""Invariants after every step, whatever the attacker does. `Violation` names the broken promise."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.session.ideal import Refused
from wireproto import ERROR_CODES, Revision, SessionEnd, WireError
from wireproto.session import Closed, Confirmed, Established, Event, MessageIgnored, MessageReceived

if TYPE_CHECKING:
    from tests.simulation.session.world import Side, World


class Violation(Exception):  # noqa: N818 - a finding, not an error of the simulation
    """A promise, and how it was broken."""

    def __init__(self, promise: str, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise


def same(side: Side, came: object, expected: object) -> None:
    """Check that the result is exactly that of the list of sent frames: see `ideal`."""
    if came != expected:
        raise Violation("as the ideal session", f"rank {side.rank}: {came!r} instead of {expected!r}")


def error(world: World, side: Side, raised: WireError) -> None:
    """Check that an error has a documented code of its class, and shows no secret."""
    if raised.code not in ERROR_CODES or not isinstance(raised, ERROR_CODES[raised.code][0]):
        raise Violation("documented errors", f"rank {side.rank}: {type(raised).__name__} with {raised.code}")
    cause: BaseException | None = raised
    while cause is not None:
        no_secret(world, side, f"{cause} {cause!r}")
        cause = cause.__cause__ or cause.__context__


def event(world: World, side: Side, came: Event | Refused, text: str) -> None:
    """Check the promises of one event."""
    no_secret(world, side, text)
    peer, sealed = world.peer(side), world.setting.revision is Revision.V2
    if side.ideal.is_over and not isinstance(came, Closed):
        raise Violation("nothing after the end", f"rank {side.rank}: {text}")
    match came:
        case Established(peer_key):
            _established(world, side, peer_key)
        case Confirmed():
            if not side.ledger.key or side.ledger.key != peer.key_log.key:
                raise Violation("confirmed by the key", f"the peer of rank {side.rank} has another key, or none")
        case MessageReceived(message) | MessageIgnored(message):
            side.taken.append(message)
            if sealed:
                _taken(side, peer)
        case Closed(orderly=True):
            if SessionEnd() not in (*side.sent, *side.taken):
                raise Violation("an orderly end was sent", f"rank {side.rank} takes an end for orderly")
        case _:
            pass


def _established(world: World, side: Side, peer_key: bytes) -> None:
    """Check the handshake: rank 1 may have a replayed hello; rank 0 has an answer to its own, with the same key."""
    peer = world.peer(side)
    if peer_key != peer.ledger.identity or side.session.peer_key != peer_key:
        raise Violation("the pinned key", f"rank {side.rank} takes another identity")
    if side.rank == 0 and side.key_log.key != peer.key_log.key:
        raise Violation("the pinned key", "rank 0 is established, and rank 1 has another key, or none")


def _taken(side: Side, peer: Side) -> None:
    """Check that messages were sent in this session, are not repeated, and are in order unless reordered."""
    taken = side.taken
    if Counter(map(repr, taken)) - Counter(map(repr, peer.sent)):
        raise Violation("only what was sent, once", f"rank {side.rank} takes {taken[-1]}")
    if not side.is_touched and taken != peer.sent[: len(taken)]:
        raise Violation("in order", f"rank {side.rank} takes {taken[-1]} as number {len(taken)}")


def tensor(side: Side, peer: Side, plaintext: bytes) -> None:
    """Check that a tensor, in either revision, was sealed by the peer in this session, and opens once."""
    side.opened.append(plaintext)
    if Counter(side.opened) - Counter(peer.ledger.tensors.values()):
        raise Violation("only tensors that were sealed, once", f"rank {side.rank} opens {plaintext!r}")


def state(world: World, side: Side) -> None:
    """Check the session's state against the promised one."""
    session, ideal = side.session, side.ideal
    same(side, (session.state, session.offered, session.agreed), (ideal.state, ideal.offered, ideal.agreed))
    if ideal.is_open and session.boxes_left != world.setting.boxes - ideal.boxes:
        raise Violation("boxes are counted", f"rank {side.rank}: {session.boxes_left} left after {ideal.boxes}")


def no_secret(world: World, side: Side, text: str) -> None:
    """Check that no private key and no session key is shown."""
    if any(secret in text for secret in world.secrets):
        raise Violation("secrets stay secret", f"rank {side.rank} shows one in {text}")
