"""Cheap stand-ins for signatures and key agreement, which otherwise take one twelfth of a world's time.

They hold no secret, but fail as the real ones do: on other bytes, with another key, for a point off the curve. Ciphers
and key derivation stay real, because no stand-in would be faster.
"""

from functools import partial
from hashlib import blake2b
from types import SimpleNamespace
from typing import Final, Self

from cryptography.exceptions import InvalidSignature

from tests.simulation.remembered import Place, patched
from wireproto.session import handshake
from wireproto.testing.fixed_keys import KnownSide

_PRIME: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
"""P-256 is y² = x³ - 3x + b modulo the prime. [SEC 2, 2.4.2]"""


class StandInIdentity:
    """A P-256 public key whose signatures are digests, with the length and the encoding of real ones."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_encoded_point(cls, curve: object, data: bytes) -> Self:
        x, y = int.from_bytes(data[1:33]), int.from_bytes(data[33:])
        if max(x, y) >= _PRIME or (y * y - x * x * x + 3 * x - _B) % _PRIME:
            raise ValueError("the point is not on the curve")
        return cls(data[1:])

    def verify(self, signature: bytes, data: bytes, algorithm: object) -> None:
        if signature != signed(self._raw, data):
            raise InvalidSignature


def signed(public_key: bytes, data: bytes) -> bytes:
    """Return the stand-in for the signature by a key: DER of two numbers of 32 bytes."""
    digest = blake2b(data, key=public_key, digest_size=62).digest()
    return b"\x30\x44\x02\x20\x40" + digest[:31] + b"\x02\x20\x40" + digest[31:]


class StandInEphemeral:
    """An X25519 key, private or public: a private one knows its public one, and a pair of those is the secret."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    @classmethod
    def from_private_bytes(cls, data: bytes) -> Self:
        return cls(blake2b(data, digest_size=32).digest())

    @classmethod
    def from_public_bytes(cls, data: bytes) -> Self:
        return cls(data)

    def public_key(self) -> Self:
        return self

    def public_bytes_raw(self) -> bytes:
        return self._public

    def exchange(self, peer: "StandInEphemeral") -> bytes:
        if not any(peer._public):
            raise ValueError("the secret is all zeros")
        return blake2b(b"".join(sorted((self._public, peer._public))), digest_size=32).digest()


def _sign(self: KnownSide, commitment: bytes) -> bytes:
    return signed(self.public_key, commitment)


_CURVE: Final = SimpleNamespace(
    EllipticCurvePublicKey=StandInIdentity, SECP256R1=lambda: None, ECDSA=lambda algorithm: None
)
_STAND_INS: Final[list[Place]] = [
    (KnownSide, "sign", _sign),
    (handshake, "ec", _CURVE),
    (handshake, "X25519PrivateKey", StandInEphemeral),
    (handshake, "X25519PublicKey", StandInEphemeral),
]


stand_in: Final = partial(patched, _STAND_INS)
"""Have handshakes and known signers use the stand-ins inside the block."""
