"""Identity keys: only P-256, their bytes, and their fingerprints."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.wireproto.peers import P256_ORDER, RANK_0, RANK_1, FixedSigner
from wireproto import WireError
from wireproto.session.handshake import IDENTITY_SIZE, Initiator, KeySigner, Responder, fingerprint


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP384R1(), ec.SECP521R1(), ec.BrainpoolP256R1()])
def test_key_signer_wants_p256(curve: ec.EllipticCurve) -> None:
    with pytest.raises(ValueError, match=rf"^the identity key is on {curve.name}, not on P-256$") as caught:
        KeySigner(ec.generate_private_key(curve))
    assert not isinstance(caught.value, WireError)


def test_key_signer_generates() -> None:
    one, other = KeySigner.generate(), KeySigner.generate()
    assert len(one.public_key) == len(other.public_key) == IDENTITY_SIZE == 64
    assert one.public_key != other.public_key


@pytest.mark.parametrize("number", [1, P256_ORDER - 1, 1 << 248])
def test_key_signer_from_its_scalar(number: int) -> None:
    signer = KeySigner.from_scalar(number.to_bytes(32))
    assert signer.public_key == FixedSigner(number).public_key
    assert signer.scalar == number.to_bytes(32)


def test_public_key_keeps_leading_zeros() -> None:
    """The coordinates have 32 bytes each, however small they are."""
    for scalar in range(1, 2000):
        signer = KeySigner(ec.derive_private_key(scalar, ec.SECP256R1()))
        if signer.public_key[0] == 0 or signer.public_key[32] == 0:
            break
    else:
        pytest.fail("no coordinate began with a zero")
    assert len(signer.public_key) == 64
    assert signer.public_key == FixedSigner(scalar).public_key
    initiator = Initiator(signer, RANK_1.public_key)
    assert Responder(RANK_1, signer.public_key).respond(initiator.hello)[1].peer_key == signer.public_key


def test_fingerprint() -> None:
    assert fingerprint(RANK_0.public_key) == "d6c2:3e27:44a8:40cb"
    digits = hashlib.sha256(RANK_0.public_key).hexdigest()
    assert fingerprint(RANK_0.public_key).replace(":", "") == digits[:16]
    assert fingerprint(b"") == "e3b0:c442:98fc:1c14"  # the well-known SHA-256 of the empty string
