"""A hello or an ack with any content: the model's decisions, and peers that are too lenient."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.test_model import RANK_0, RANK_1, Rank, played
from tests.wireproto.conformance.trying import OURS, settings, target
from wireproto import HandshakeAck, HandshakeHello, Revision, WireError, decode_frame
from wireproto.conformance.byhand import Identity, Introduction
from wireproto.conformance.model.drawing import drawn
from wireproto.conformance.model.introductions import PARTS, introduce
from wireproto.conformance.model.rules import End, Listener, Model, Outcome
from wireproto.conformance.model.script import Act
from wireproto.conformance.side import Side
from wireproto.session import Role
from wireproto.testing.signatures import ORDER, read_laxly

LISTENERS = {Role.RESPONDER: RANK_1, Role.INITIATOR: RANK_0}
GOOD = ("good signature", "good nonce", "top bit", "reduced", "good text")
EITHER = ("changed text", "changed signature", "size")
RULES = {
    "wrong signature": {"HANDSHAKE-SIGNATURE"},
    "wrong commitment": {"HANDSHAKE-HELLO", "HANDSHAKE-ACK"},
    "wrong length": {"PAYLOAD-HELLO"},
    "wrong identity": {"HANDSHAKE-PIN"},
    "low order": {"HANDSHAKE-ORDER"},
}
WAYS = range(25)


def side(role: Role) -> Side:
    own = Side(role, Revision.V2, OURS)
    if role is Role.INITIATOR:
        own.theirs = Introduction.read(Side(Role.RESPONDER, Revision.V2, Identity()).introduction()[1:])
    return own


def outcome(role: Role, part: str, way: int) -> Outcome:
    own = side(role)
    _, frame = introduce(own, part, way)
    return Model(LISTENERS[role], own).burst((Act(do="introduce", part=part, way=way),), frame, None)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("part", [part for part in PARTS if part not in EITHER])
def test_what_must_come_of_a_part(role: Role, part: str) -> None:
    found = [outcome(role, part, way) for way in WAYS]
    assert {each.end for each in found} == {End.OPEN if part in GOOD else End.CLOSED}
    if part in RULES:
        assert {each.rule for each in found} <= RULES[part]


@pytest.mark.parametrize("role", Role)
def test_the_limit_of_a_hello_is_met_from_both_sides(role: Role) -> None:
    found = []
    for way in WAYS:
        own = side(role)
        _, frame = introduce(own, "size", way)
        found.append((len(frame), outcome(role, "size", way)))
    assert {size for size, _ in found} >= {4095, 4096, 4097}
    assert {size <= 4096: each.rule for size, each in found if each.end is End.CLOSED} == {False: "PAYLOAD-LIMIT"}
    assert {size > 4096 for size, each in found if each.end is End.OPEN} == {False}


def test_the_numbers_of_a_signature_have_the_length_asked_for() -> None:
    """By chance, one of 128 begins with a zero byte: the same way was then another content."""
    own = side(Role.RESPONDER)
    commitment = own.commitment(own.public, own.nonce)
    for is_long in (False, True):
        drawn = [own.identity.numbers(commitment, long_r=is_long, long_s=not is_long) for _ in range(400)]
        assert {r >> 248 >= (0x80 if is_long else 1) for r, _ in drawn} == {True}
        assert {s >> 248 >= (1 if is_long else 0x80) for _, s in drawn} == {True}
        assert {len(encode_dss_signature(*numbers)) for numbers in drawn} == {71}


@pytest.mark.parametrize("part", PARTS)
def test_a_way_is_the_same_again(part: str) -> None:
    abouts = [[introduce(side(Role.RESPONDER), part, way).about for way in WAYS] for _ in range(2)]
    assert abouts[0] == abouts[1]


def test_a_good_nonce_is_that_of_our_side() -> None:
    """The session key comes from it."""
    own = side(Role.RESPONDER)
    message = decode_frame(introduce(own, "good nonce", 1).frame)
    assert isinstance(message, HandshakeHello | HandshakeAck)
    assert message.nonce == own.nonce


# -- peers that take what they must not --------------------------------------------------------------------------------


class _ReadsSignaturesLaxly:
    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        numbers = read_laxly(signature)
        if len(numbers) != 2:
            return False
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + identity)
        try:
            key.verify(encode_dss_signature(*numbers), commitment, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class LaxOne(_ReadsSignaturesLaxly, RankOne):
    pass


class LaxZero(_ReadsSignaturesLaxly, RankZero):
    pass


class PinOfHalf(RankOne):
    """It compares only X."""

    def check_pin(self, identity: bytes) -> None:
        super().check_pin(identity[:32] + self.shared.pin[32:])

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        return super().verifies(self.shared.pin, signature, commitment)


class AnySecret(RankOne):
    def secret(self, public: bytes) -> bytes:
        try:
            return super().secret(public)
        except Exception:
            return bytes(32)


class SignatureUnchecked(RankOne):
    def check_signature(self, theirs: object, commitment: bytes) -> None:
        pass


class LongHello(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code == "payload-limit"


class RefusesOtherS(RankOne):
    """It accepts only the lower of s and n − s."""

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        return decode_dss_signature(signature)[1] <= ORDER // 2 and super().verifies(identity, signature, commitment)


class _RefusesToReduce(Conversation):
    def secret(self, public: bytes) -> bytes:
        if int.from_bytes(public, "little") >= 2**255 - 19:
            raise Fault("not reduced")
        return super().secret(public)


class ReducedOne(_RefusesToReduce, RankOne):
    pass


class ReducedZero(_RefusesToReduce, RankZero):
    pass


def found_in(make: Rank, parts: tuple[str, ...], listener: Listener) -> set[str]:
    """Return the rules that a peer breaks in handshakes with these parts."""
    scripts = [drawn(5, number, listener.role, Revision.V2, "handshakes") for number in range(400)]
    some = [each for each in scripts if each.acts[0].part in parts][:40]
    found = played([target(make) for _ in range(8)], settings(), some, listener, shrinks=True)
    return {named.rule for _, named in found}


@pytest.mark.parametrize(
    ("make", "parts", "rules"),
    [
        (LaxOne, ("wrong signature",), {"HANDSHAKE-SIGNATURE"}),
        (LaxZero, ("wrong signature",), {"HANDSHAKE-SIGNATURE"}),
        (PinOfHalf, ("wrong identity",), {"HANDSHAKE-PIN"}),
        (AnySecret, ("low order",), {"HANDSHAKE-ORDER"}),
        (SignatureUnchecked, ("wrong commitment",), {"HANDSHAKE-HELLO"}),
        (LongHello, ("size",), {"PAYLOAD-LIMIT"}),
        (ReducedOne, ("reduced",), {"HANDSHAKE-KEY"}),
        (ReducedZero, ("reduced",), {"HANDSHAKE-KEY"}),
        (ReducedOne, ("top bit",), {"HANDSHAKE-KEY"}),
        (RefusesOtherS, ("good signature",), {"HANDSHAKE-SIGNATURE"}),
    ],
)
def test_what_a_peer_makes_of_a_part_is_named(make: Rank, parts: tuple[str, ...], rules: set[str]) -> None:
    assert found_in(make, parts, LISTENERS[Role.RESPONDER if issubclass(make, RankOne) else Role.INITIATOR]) == rules


@pytest.mark.parametrize("make", [RankOne, RankZero])
def test_a_peer_without_a_bug_is_not_accused(make: Rank) -> None:
    listener = LISTENERS[Role.RESPONDER if issubclass(make, RankOne) else Role.INITIATOR]
    assert found_in(make, tuple(PARTS), listener) == set()
