"""Handshakes with known keys, for strategies, fuzzers and test peers. Never use them for a real session.

This module builds the hello, the ack and the key from the primitives, independently of `wireproto.session.handshake`.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wireproto.codec.frame import encode_frame
from wireproto.messages import HandshakeAck, HandshakeHello
from wireproto.session.handshake import KEY_INFO
from wireproto.session.seal import Random

_SIGNATURE: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)  # RFC 6979: deterministic


@dataclass(frozen=True)
class KnownSide:
    """The secrets of one side of a handshake. It is a `Signer`, too."""

    scalar: bytes = field(repr=False)
    """The P-256 private key, 32 bytes, big-endian."""
    ephemeral: bytes = field(repr=False)
    """The X25519 private key, 32 bytes."""
    nonce: bytes
    """The nonce of the hello or the ack, 32 bytes."""

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(self.scalar), ec.SECP256R1())

    @cached_property
    def public_key(self) -> bytes:
        """The P-256 public key: X ‖ Y, 64 bytes."""
        numbers = self._key.public_key().public_numbers()
        return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)

    @cached_property
    def private(self) -> X25519PrivateKey:
        """The X25519 private key as an object."""
        return X25519PrivateKey.from_private_bytes(self.ephemeral)

    @cached_property
    def public(self) -> bytes:
        """The X25519 public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def random(self) -> Random:
        """Return a random source for one session: it gives this side's ephemeral key and nonce, then others."""
        known = iter((self.ephemeral, self.nonce))
        return lambda count: next(known, b"") or os.urandom(count)

    def sign(self, commitment: bytes) -> bytes:
        """Return the signature over a 32-byte commitment, in DER; the same one each time."""
        return self._key.sign(commitment, _SIGNATURE)


@dataclass(frozen=True)
class KnownHandshake:
    """Both sides of a handshake, its frames and its key."""

    rank_0: KnownSide
    rank_1: KnownSide

    @cached_property
    def hello(self) -> bytes:
        """Cluster frame of the hello. [HANDSHAKE-HELLO]"""
        own = self.rank_0
        signature = own.sign(hashlib.sha256(own.public + own.nonce).digest())
        return encode_frame(HandshakeHello(own.public_key, own.public, own.nonce, signature))

    @cached_property
    def ack(self) -> bytes:
        """Cluster frame of the ack. [HANDSHAKE-ACK]"""
        own = self.rank_1
        signature = own.sign(hashlib.sha256(self.rank_0.nonce + own.nonce + own.public).digest())
        return encode_frame(HandshakeAck(own.public_key, own.public, own.nonce, signature))

    @cached_property
    def key(self) -> bytes:
        """The session key, 32 bytes: HKDF with one block of output. [HANDSHAKE-KEY]"""
        shared = self.rank_0.private.exchange(X25519PublicKey.from_public_bytes(self.rank_1.public))
        pseudorandom = hmac.digest(self.rank_0.nonce + self.rank_1.nonce, shared, "sha256")
        return hmac.digest(pseudorandom, KEY_INFO + b"\x01", "sha256")


KNOWN: Final = KnownHandshake(
    KnownSide(
        bytes.fromhex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"),
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
        bytes(range(0x20)),
    ),
    KnownSide(
        bytes.fromhex("519b423d715f8b581f4fa8ee59f4771a5b44c8130b4e3eacca54a56dda72b464"),
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
        bytes(range(0x20, 0x40)),
    ),
)
"""The handshake of the worked example in spec/protocol.md and of the test vectors."""


def box(key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """Return a sealed box with the given nonce. [SEAL-LAYOUT]"""
    return nonce + AESGCM(key).encrypt(nonce, plaintext, None)


def unbox(key: bytes, sealed: bytes) -> bytes:
    """Return the plaintext of a box. Raise `cryptography.exceptions.InvalidTag`, or ValueError if it is too short."""
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], None)
