"""The stand-ins for cryptography refuse what the real one refuses, with the same error."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from tests.simulation.keys import signer
from tests.simulation.stand_in import stand_in
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.errors import HandshakeError, SealError
from wireproto.messages import HandshakeAck, HandshakeHello
from wireproto.session import TrustAnyKey, handshake
from wireproto.session.handshake import Initiator, Pin, Responder
from wireproto.session.seal import NONCE, Seal

ZERO, ONE = signer(0), signer(1)


@pytest.fixture(params=["real", "stand-in"], autouse=True)
def cryptography(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test with both: what they refuse is the same."""
    with stand_in() if request.param == "stand-in" else nullcontext():
        yield


@dataclass
class Made:
    """Both sides of one handshake."""

    initiator: Initiator
    responder: Responder

    @classmethod
    def with_pins(cls, zero: Pin = ONE.public_key, one: Pin = ZERO.public_key) -> "Made":
        return cls(Initiator(ZERO, zero), Responder(ONE, one))


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def changed(frame: bytes, name: str) -> bytes:
    """Return a hello or an ack with one bit of a member flipped."""
    message: Any = decode_frame(frame)
    return encode_frame(replace(message, **{name: flipped(getattr(message, name))}))


def code(call: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises((HandshakeError, SealError)) as caught:
        call(*arguments)
    return caught.value.code


def test_both_sides_get_the_same_key_and_each_handshake_another() -> None:
    keys = []
    for _ in range(2):
        made = Made.with_pins()
        ack, one = made.responder.respond(made.initiator.hello)
        assert made.initiator.finish(ack).key == one.key
        keys.append(one.key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["ephemeral_x25519_pub_key", "nonce"])
def test_other_bytes_than_the_signed_ones_fail(name: str) -> None:
    made = Made.with_pins()
    assert code(made.responder.respond, changed(made.initiator.hello, name)) == "handshake-signature"
    ack, _ = made.responder.respond(made.initiator.hello)
    assert code(made.initiator.finish, changed(ack, name)) == "handshake-signature"


def test_another_signature_fails() -> None:
    made = Made.with_pins()
    hello = decode_frame(made.initiator.hello)
    assert isinstance(hello, HandshakeHello)
    for signature in (ZERO.sign(bytes(32)), ONE.sign(bytes(32)), flipped(hello.se_signature)):
        frame = encode_frame(replace(hello, se_signature=signature))
        assert code(made.responder.respond, frame) == "handshake-signature"


def test_another_key_fails() -> None:
    made = Made.with_pins(TrustAnyKey(), TrustAnyKey())
    hello = decode_frame(made.initiator.hello)
    assert isinstance(hello, HandshakeHello)
    other = encode_frame(replace(hello, se_pub_key_raw=ONE.public_key))
    assert code(made.responder.respond, other) == "handshake-signature"
    off_the_curve = encode_frame(replace(hello, se_pub_key_raw=flipped(ZERO.public_key)))
    assert code(made.responder.respond, off_the_curve) == "handshake-point"
    assert code(Made.with_pins(one=ONE.public_key).responder.respond, made.initiator.hello) == "handshake-wrong-pin"


def test_an_ack_of_another_handshake_fails() -> None:
    made, before = Made.with_pins(), Made.with_pins()
    ack, _ = before.responder.respond(before.initiator.hello)
    assert code(made.initiator.finish, ack) == "handshake-signature"


def test_a_secret_of_zeros_fails() -> None:
    nonce = bytes(range(32))
    hello = HandshakeHello(ZERO.public_key, bytes(32), nonce, ZERO.sign(handshake.hello_commitment(bytes(32), nonce)))
    assert code(Made.with_pins().responder.respond, encode_frame(hello)) == "handshake-shared-secret"


def test_a_signature_has_the_length_of_a_real_one() -> None:
    """So that a world's network treats both alike."""
    ack = HandshakeAck(ZERO.public_key, bytes(32), bytes(32), ZERO.sign(bytes(32)))
    assert len(encode_frame(ack)) == len(encode_frame(replace(ack, se_signature=b"\x30\x45" + bytes(69))))


def test_boxes_with_another_key_nonce_or_byte_fail_and_so_does_one_again() -> None:
    made = Made.with_pins()
    ack, one = made.responder.respond(made.initiator.hello)
    zero = made.initiator.finish(ack)
    sender, receiver = Seal(zero.key), Seal(one.key)
    box = sender.encrypt(b"plaintext")
    assert code(Seal(flipped(one.key)).decrypt, box) == "seal-tag"
    assert code(receiver.decrypt, flipped(box, 0)) == "seal-tag"
    assert code(receiver.decrypt, flipped(box, NONCE)) == "seal-tag"
    assert code(receiver.decrypt, flipped(box)) == "seal-tag"
    assert receiver.decrypt(box) == b"plaintext"
    assert code(receiver.decrypt, box) == "seal-replay"
    assert code(sender.decrypt, box) == "seal-reflection"
