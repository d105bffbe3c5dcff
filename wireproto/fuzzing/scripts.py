"""What is said to a live peer in one session behind the handshake, as data: drawn from a seed, kept in a file."""

from collections.abc import Iterator
from enum import Enum
from functools import cache
from random import Random
from typing import Final, Literal, NamedTuple

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.conformance.frames import name_of, payload_rule, rule_of
from wireproto.errors import WireError
from wireproto.fuzzing import seeds
from wireproto.messages import (
    MAX_LINK_LENGTH,
    SPEC_BY_CLASS,
    ClusterMsgType,
    Direction,
    HandshakeHello,
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
from wireproto.testing.mutations import mutate_frame, random_frame

_NONCE: Final = 12
_PING: Final = b"\x03"
_LONGEST: Final = 16 * 1024
"""Bytes of a test vector that is worth sending in every session."""


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


class Listener(NamedTuple):
    """The peer that a script is played to."""

    role: Role
    revision: Revision
    has_extensions: bool | None = True
    """None where that is not known."""


class Judgement(NamedTuple):
    """What one act must come to, by which rule, and what it is in a few words."""

    end: End
    rule: str
    shape: str


def drawn_script(seed: int, number: int, revision: Revision) -> Script:
    """The session of this number in a run from a seed: always the same."""
    random = Random(f"{seed}/{number}")
    return Script(seed=seed, number=number, acts=tuple(_acts(random, revision)))


def _acts(random: Random, revision: Revision) -> Iterator[Act]:
    nonces: list[str] = []
    for _ in range(random.randint(1, 6)):
        frame = _frame(random)
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


def _frame(random: Random) -> bytes:
    """A frame from nothing, or a test vector, valid or not; some of them changed."""
    frame = random.choice(_vectors()) if random.random() < 0.3 else random_frame(random)
    return (mutate_frame(random, frame) if random.random() < 0.3 else frame) or _PING


@cache
def _vectors() -> list[bytes]:
    return [data for _, data in seeds.frame() if 0 < len(data) <= _LONGEST]


def end_of(acts: tuple[Act, ...], peer: Listener) -> tuple[int, End]:
    """How many acts are worth sending to a peer, and what must come of them."""
    nonces: set[str] = set()
    end = End.OPEN
    for number, act in enumerate(acts, 1):
        one = judged(act, peer, nonces).end
        if one is End.CLOSED:
            return number, end if end is End.EITHER else one
        end = one if end is End.OPEN else end
    return len(acts), end


def is_answered(acts: tuple[Act, ...], peer: Listener) -> bool:
    """Whether a peer must answer the last of these acts: it is a ping, the peer rank 1, the session open."""
    if peer.role is Role.INITIATOR or bytes.fromhex(acts[-1].data) != _PING:
        return False
    return end_of(acts, peer) == (len(acts), End.OPEN)


def judged(act: Act, peer: Listener, nonces: set[str]) -> Judgement:
    """What must come of one act. `nonces` are those of the acts before it, and get its own."""
    data = bytes.fromhex(act.data)
    is_sealed = peer.revision is Revision.V2
    if act.do == "bytes":
        rule = "LINK-LEN-MAX" if any(data[:8]) else "LINK-LEN-MIN"
        return Judgement(End.CLOSED, rule, f"a link frame's length of {int.from_bytes(data[:8], 'little')}")
    if is_sealed and act.do == "unsealed":
        return Judgement(End.CLOSED, "SEAL-FRAMES", "a frame that is not sealed")
    if is_sealed and act.do == "broken box":
        return Judgement(End.CLOSED, "SESSION-BOX", "a box that does not open")
    if is_sealed and act.nonce in nonces:
        return Judgement(End.EITHER, "SEAL-REPLAY", "a repeated nonce")  # to refuse it is no must
    nonces.add(act.nonce)
    try:
        message = decode_frame(data, peer.revision)
    except WireError as error:
        shape = f"{_name(data)} with {error.code}"
        is_of_extensions = (error.path or "").startswith("extensions")
        if is_of_extensions and not peer.has_extensions:
            return Judgement(End.EITHER, "JSON-UNKNOWN-KEY", shape)
        return Judgement(End.CLOSED, rule_of(error, data), shape)
    return _judged_message(message, data, peer.role)


def _name(frame: bytes) -> str:
    try:
        return ClusterMsgType(frame[0]).wire_name
    except (ValueError, IndexError):
        return "a frame"


def _judged_message(message: Message, frame: bytes, role: Role) -> Judgement:
    shape = f"a valid {name_of(message)}"
    match message:
        case SessionEnd() if role is Role.RESPONDER:
            return Judgement(End.CLOSED, "SESSION-END", shape)
        case InferenceStep() | InferenceToken() | PPActivationPayload() | PPTokenPayload():
            # with a tensor box that does not open, where it is opened at all
            return Judgement(End.EITHER, "SESSION-BOX", shape)
        case _:
            own = Direction.RANK_0_TO_1 if role is Role.INITIATOR else Direction.RANK_1_TO_0
            is_misplaced = SPEC_BY_CLASS[type(message)].direction is own or isinstance(message, HandshakeHello)
            return Judgement(End.OPEN, "SESSION-IGNORE" if is_misplaced else payload_rule(frame), shape)


def _starts_a_group(frame: bytes, revision: Revision) -> bool:
    try:
        return isinstance(decode_frame(frame, revision), JacclBootstrapPayload)
    except WireError:
        return False
