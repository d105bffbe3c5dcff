"""Both sides of the handshake, without I/O: hello, ack, session key. [HANDSHAKE-*]

    rank 0 → rank 1   hello { identity, x25519_0, nonce_0, signature over SHA256(x25519_0 ‖ nonce_0) }
    rank 1 → rank 0   ack   { identity, x25519_1, nonce_1, signature over SHA256(nonce_0 ‖ nonce_1 ‖ x25519_1) }

A signature is ECDSA P-256 with SHA-256 over the 32-byte commitment, which is thus hashed twice. The receiver checks in
this order: decoding, lengths, pin, point on the curve, signature, nonzero shared secret. [HANDSHAKE-ORDER]
"""

import hashlib
import hmac
import os
from typing import Final, NamedTuple, Protocol, TypeVar

import cryptography.hazmat.backends.openssl.backend  # noqa: F401 - otherwise the first handshake loads it
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.errors import HandshakeError, WireError
from wireproto.messages import HandshakeAck, HandshakeHello
from wireproto.session.seal import Random, draw

KEY_INFO: Final = b"darkbloom-cluster-session-v1"
"""The HKDF info string. [HANDSHAKE-KEY]"""

IDENTITY_SIZE: Final = 64
"""Bytes of an identity key: X ‖ Y, without the 0x04 prefix."""


class Signer(Protocol):
    """A long-lived P-256 identity key, wherever it is kept: in memory, a keychain or a Secure Enclave."""

    @property
    def public_key(self) -> bytes:
        """The public key: X ‖ Y, 64 bytes, without the 0x04 prefix."""

    def sign(self, commitment: bytes) -> bytes:
        """Return the signature over a 32-byte commitment: ECDSA with SHA-256, in DER."""


class KeySigner:
    """A `Signer` with a P-256 private key in memory. Raise ValueError for a key on another curve."""

    public_key: bytes
    """The public key: X ‖ Y, 64 bytes, without the 0x04 prefix."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"the identity key is on {key.curve.name}, not on P-256")
        self._key = key
        numbers = key.public_key().public_numbers()
        self.public_key = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)

    @classmethod
    def generate(cls) -> "KeySigner":
        """Return a new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_scalar(cls, scalar: bytes) -> "KeySigner":
        """Return the key with this `scalar`. Raise ValueError for one outside the curve's order."""
        return cls(ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1()))

    @property
    def scalar(self) -> bytes:
        """The private key, 32 bytes, big-endian."""
        return self._key.private_numbers().private_value.to_bytes(32)

    def sign(self, commitment: bytes) -> bytes:
        """Return the signature over a 32-byte commitment, in DER."""
        return self._key.sign(commitment, ec.ECDSA(hashes.SHA256()))


class SessionSecrets(NamedTuple):
    """The result of a handshake. Its repr does not show the key."""

    key: bytes
    """The session key, 32 bytes, for both directions."""
    hello_nonce: bytes
    """The nonce of the hello, 32 bytes; identifies the session in the key log."""
    peer_key: bytes
    """The peer's identity key, X ‖ Y, 64 bytes."""

    def __repr__(self) -> str:
        return f"SessionSecrets(hello_nonce={self.hello_nonce!r}, peer_key={self.peer_key!r})"


class TrustAnyKey:
    """Accepts any identity key in place of a pinned one: trust on first use. [HANDSHAKE-FIRST-USE]"""


Pin = bytes | TrustAnyKey | None
"""The identity key that the peer must show; None if no key is known, which fails the handshake. [HANDSHAKE-PIN]"""


class _Ephemeral:
    """The values that are fresh in each handshake: X25519 key pair and nonce. [HANDSHAKE-FRESH]"""

    def __init__(self, random: Random) -> None:
        self.private = X25519PrivateKey.from_private_bytes(draw(random, 32))
        self.public = self.private.public_key().public_bytes_raw()
        self.nonce = draw(random, 32)


class Initiator:
    """Rank 0's side: send `hello`, then call `finish` with the ack."""

    def __init__(self, signer: Signer, pin: Pin, random: Random = os.urandom) -> None:
        self._pin = pin
        self._ephemeral = own = _Ephemeral(random)
        signature = _sign(signer, hello_commitment(own.public, own.nonce))
        self.hello: bytes = _encode(HandshakeHello(signer.public_key, own.public, own.nonce, signature))
        """The cluster frame of the hello. [HANDSHAKE-HELLO]"""

    def finish(self, frame: bytes | memoryview) -> SessionSecrets:
        """Check the cluster frame of the ack, and return the secrets. Raise `HandshakeError`."""
        ack = _decode(frame, HandshakeAck)
        nonce = self._ephemeral.nonce
        commitment = ack_commitment(nonce, ack.nonce, ack.ephemeral_x25519_pub_key)
        key = _agree(self._ephemeral, self._pin, ack, commitment, nonce + ack.nonce)
        return SessionSecrets(key, nonce, ack.se_pub_key_raw)


class Responder:
    """Rank 1's side: call `respond` with the hello, once, and send the ack."""

    def __init__(self, signer: Signer, pin: Pin, random: Random = os.urandom) -> None:
        self._signer = signer
        self._pin = pin
        self._random = random

    def respond(self, frame: bytes | memoryview) -> tuple[bytes, SessionSecrets]:
        """Check the cluster frame of the hello; return that of the ack, and the secrets. Raise `HandshakeError`."""
        hello = _decode(frame, HandshakeHello)
        commitment = hello_commitment(hello.ephemeral_x25519_pub_key, hello.nonce)
        own = _Ephemeral(self._random)
        key = _agree(own, self._pin, hello, commitment, hello.nonce + own.nonce)
        signature = _sign(self._signer, ack_commitment(hello.nonce, own.nonce, own.public))
        ack = HandshakeAck(self._signer.public_key, own.public, own.nonce, signature)
        return _encode(ack), SessionSecrets(key, hello.nonce, hello.se_pub_key_raw)


def hello_commitment(ephemeral_public: bytes, nonce: bytes) -> bytes:
    """Return SHA256(x25519_0 ‖ nonce_0), the commitment of the hello. [HANDSHAKE-HELLO]"""
    return hashlib.sha256(ephemeral_public + nonce).digest()


def ack_commitment(hello_nonce: bytes, ack_nonce: bytes, ephemeral_public: bytes) -> bytes:
    """Return SHA256(nonce_0 ‖ nonce_1 ‖ x25519_1), the commitment of the ack. [HANDSHAKE-ACK]"""
    return hashlib.sha256(hello_nonce + ack_nonce + ephemeral_public).digest()


_IntroductionT = TypeVar("_IntroductionT", HandshakeHello, HandshakeAck)


def _sign(signer: Signer, commitment: bytes) -> bytes:
    """Return the signature. Raise RuntimeError for a `WireError` of the signer, which is not the peer's."""
    try:
        return signer.sign(commitment)
    except WireError as error:
        raise RuntimeError(f"the signer failed: {error}") from error


def _encode(introduction: HandshakeHello | HandshakeAck) -> bytes:
    """Return the cluster frame. Raise ValueError for a signature that does not fit: the signer's fault."""
    try:
        return encode_frame(introduction)
    except WireError as error:
        raise ValueError(f"the signer did not return a signature: {error}") from error


def _decode(frame: bytes | memoryview, expected: type[_IntroductionT]) -> _IntroductionT:
    try:
        message = decode_frame(frame)
    except WireError as error:
        code = "handshake-length" if error.code == "field-length" else "handshake-malformed"
        raise HandshakeError(code, str(error), offset=error.offset, path=error.path) from error
    if not isinstance(message, expected):
        detail = f"expected {expected.__name__}, not {type(message).__name__}"
        raise HandshakeError("handshake-unexpected", detail, offset=0)
    return message


def _agree(own: _Ephemeral, pin: Pin, peer: HandshakeHello | HandshakeAck, commitment: bytes, salt: bytes) -> bytes:
    """Check the pin and everything after it; return the session key."""
    identity = peer.se_pub_key_raw
    if pin is None:
        raise HandshakeError("handshake-no-pin", "no identity key is pinned for this peer", path="sePubKeyRaw")
    if not isinstance(pin, TrustAnyKey) and not hmac.compare_digest(pin, identity):
        detail = f"the peer's key is {fingerprint(identity)}, the pinned key is {fingerprint(pin)}"
        raise HandshakeError("handshake-wrong-pin", detail, path="sePubKeyRaw")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + identity)
    except ValueError as error:
        raise HandshakeError("handshake-point", "the key is not a point on P-256", path="sePubKeyRaw") from error
    try:
        key.verify(peer.se_signature, commitment, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise HandshakeError("handshake-signature", "the signature is wrong", path="seSignature") from error
    try:
        shared = own.private.exchange(X25519PublicKey.from_public_bytes(peer.ephemeral_x25519_pub_key))
    except ValueError as error:  # cryptography refuses an all-zero secret
        detail = "the X25519 key gives an all-zero secret"
        raise HandshakeError("handshake-shared-secret", detail, path="ephemeralX25519PubKey") from error
    return HKDF(hashes.SHA256(), 32, salt, KEY_INFO).derive(shared)


def fingerprint(identity: bytes) -> str:
    """Return a short form of a key for people: the first 16 hex digits of its SHA-256, in groups of four."""
    digits = hashlib.sha256(identity).hexdigest()[:16]
    return ":".join(digits[at : at + 4] for at in range(0, 16, 4))
