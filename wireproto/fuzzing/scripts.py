"""What is said to a live peer in one session behind the handshake, as data: drawn from a seed, kept in a file."""

from collections.abc import Iterator
from enum import Enum
from random import Random
from typing import Final, Literal

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.errors import WireError
from wireproto.fuzzing.mutations import mutate_frame, random_frame
from wireproto.messages import (
    MAX_LINK_LENGTH,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    Message,
    PPActivationPayload,
    PPTokenPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import Role

_NONCE: Final = 12
_PING: Final = b"\x03"


class End(Enum):
    """What a session must come to."""

    OPEN = "open"
    """The peer goes on."""
    CLOSED = "closed"
    """The peer ends the connection."""
    EITHER = "either"


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is sent, in hex."""

    do: Literal["frame", "unsealed", "broken box", "bytes"]
    """A cluster frame, in a box where the revision has them; the same without; with a bit of the box turned; or bytes
    in place of a link frame."""
    data: str
    nonce: str = ""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """All that is sent in one session."""

    seed: int
    number: int
    """Of the session, in a run from that seed."""
    acts: tuple[Act, ...]


def drawn_script(seed: int, number: int, revision: Revision) -> Script:
    """The session of this number in a run from a seed: always the same."""
    random = Random(f"{seed}/{number}")
    return Script(seed=seed, number=number, acts=tuple(_acts(random, revision)))


def _acts(random: Random, revision: Revision) -> Iterator[Act]:
    nonces: list[str] = []
    for _ in range(random.randint(1, 6)):
        frame = random_frame(random) or b"\x03"
        if random.random() < 0.3:
            frame = mutate_frame(random, frame) or b"\x03"
        if _starts_a_group(frame, revision):
            continue  # which is real work, and not undone
        nonce = random.choice(nonces) if nonces and random.random() < 0.05 else random.randbytes(_NONCE).hex()
        nonces.append(nonce)
        style = random.random()
        if style < 0.88:
            yield Act(do="frame", data=frame.hex(), nonce=nonce)
        elif style < 0.92:
            yield Act(do="unsealed", data=frame.hex())
        elif style < 0.96:
            yield Act(do="broken box", data=frame.hex(), nonce=nonce)
        else:
            length = random.choice([0, MAX_LINK_LENGTH + 1, 2**32, 2**63, 2**64 - 1])
            yield Act(do="bytes", data=(length.to_bytes(8, "little") + frame).hex())


def end_of(acts: tuple[Act, ...], role: Role, revision: Revision) -> tuple[int, End]:
    """How many acts are worth sending to a peer of a role, and what must come of them."""
    nonces: set[str] = set()
    end = End.OPEN
    for number, act in enumerate(acts, 1):
        one = _end_of_one(act, role, revision, nonces)
        if one is End.CLOSED:
            return number, end if end is End.EITHER else one
        end = one if end is End.OPEN else end
    return len(acts), end


def is_answered(acts: tuple[Act, ...], role: Role, revision: Revision) -> bool:
    """Whether a peer of a role must answer the last of these acts: it is a ping, the peer rank 1, the session open."""
    if role is Role.INITIATOR or bytes.fromhex(acts[-1].data) != _PING:
        return False
    return end_of(acts, role, revision) == (len(acts), End.OPEN)


def _end_of_one(act: Act, role: Role, revision: Revision, nonces: set[str]) -> End:
    is_sealed = revision is Revision.V2
    if act.do == "bytes" or (is_sealed and act.do in ("unsealed", "broken box")):
        return End.CLOSED
    if is_sealed and act.nonce in nonces:
        return End.EITHER  # to refuse it is no must
    nonces.add(act.nonce)
    try:
        message = decode_frame(bytes.fromhex(act.data), revision)
    except WireError:
        return End.CLOSED
    return _end_of_message(message, role)


def _end_of_message(message: Message, role: Role) -> End:
    match message:
        case SessionEnd() if role is Role.RESPONDER:
            return End.CLOSED
        case InferenceStep() | InferenceToken() | PPActivationPayload() | PPTokenPayload():
            return End.EITHER  # with a tensor box that does not open, where it is opened at all
        case _:
            return End.OPEN


def _starts_a_group(frame: bytes, revision: Revision) -> bool:
    try:
        return isinstance(decode_frame(frame, revision), JacclBootstrapPayload)
    except WireError:
        return False
