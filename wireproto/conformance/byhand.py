"""An independent handshake and seal, which can be wrong in one place and right in all others.

This module does not use `wireproto.session.handshake` or `wireproto.session.seal`, so it detects their faults.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wireproto.testing.signatures import ORDER

INFO: Final = b"darkbloom-cluster-session-v1"
KEYS: Final = ("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature")


class Identity:
    """A P-256 key that can also sign in wrong ways."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        self.public = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)

    def sign(self, commitment: bytes) -> bytes:
        """Sign correctly: SHA-256 once more over the commitment, in DER, with the lower one of s and n − s."""
        der = self.key.sign(commitment, ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return encode_dss_signature(r, min(s, ORDER - s))

    def numbers(self, commitment: bytes, *, long_r: bool, long_s: bool) -> tuple[int, int]:
        """Return r and s of a signature: in DER, a zero byte and 32 others each if long, otherwise just 32."""
        while True:
            r, s = decode_dss_signature(self.key.sign(commitment, ec.ECDSA(hashes.SHA256())))
            if s >> 255 != long_s:
                s = ORDER - s
            if (r >> 255, s >> 255) == (long_r, long_s) and r >> 248 and s >> 248:
                return r, s

    def sign_once(self, commitment: bytes) -> bytes:
        """Sign the commitment itself as the hash."""
        return self.key.sign(commitment, ec.ECDSA(Prehashed(hashes.SHA256())))


def raw_signature(der: bytes) -> bytes:
    """Return r ‖ s, 64 bytes, of a DER signature."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(32) + s.to_bytes(32)


def other_s(der: bytes) -> bytes:
    """Return the signature with n − s in place of s, which is also valid."""
    r, s = decode_dss_signature(der)
    return encode_dss_signature(r, ORDER - s)


def long_r(der: bytes) -> bytes:
    """Return the signature with an extra zero byte before r: BER, but not DER."""
    r_length = der[3]
    return b"\x30" + bytes([der[1] + 1]) + b"\x02" + bytes([r_length + 1]) + b"\x00" + der[4:]


def verifies(identity: bytes, signature: bytes, commitment: bytes) -> bool:
    """Return whether a signature was made by `identity`, exactly as required."""
    return _verifies(identity, signature, commitment, ec.ECDSA(hashes.SHA256()))


def diagnose_signature(identity: bytes, signature: bytes, commitments: dict[str, bytes]) -> str:
    """Describe a wrong signature; the first of `commitments` is the right one."""
    right = next(iter(commitments.values()))
    for name, commitment in commitments.items():
        if commitment != right and verifies(identity, signature, commitment):
            return f"a signature over {name}"
    if _verifies(identity, signature, right, ec.ECDSA(Prehashed(hashes.SHA256()))):
        return "a signature whose commitment was not hashed once more"
    if len(signature) == 64:
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if r and s and verifies(identity, encode_dss_signature(r, s), right):
            return "a raw signature r ‖ s, not DER"
    return "a signature not over this handshake"


def _verifies(identity: bytes, signature: bytes, message: bytes, algorithm: ec.ECDSA) -> bool:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + identity)
        key.verify(signature, message, algorithm)
    except (ValueError, InvalidSignature):
        return False
    return True


@dataclass(frozen=True)
class Introduction:
    """The four values of a hello or an ack."""

    identity: bytes
    ephemeral: bytes
    nonce: bytes
    signature: bytes

    def payload(self) -> bytes:
        """Return the JSON text."""
        values = (self.identity, self.ephemeral, self.nonce, self.signature)
        fields = {key: base64.b64encode(value).decode() for key, value in zip(KEYS, values, strict=True)}
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def read(cls, payload: bytes) -> "Introduction":
        """Read JSON leniently, because other cases check its strictness. Raise ValueError if that fails."""
        fields = json.loads(payload)
        if not isinstance(fields, dict) or not all(isinstance(fields.get(key), str) for key in KEYS):
            raise ValueError(f"not a JSON object with the strings {', '.join(KEYS)}")
        texts = (fields[key].replace("-", "+").replace("_", "/") for key in KEYS)
        return cls(*(base64.b64decode(text + "=" * (-len(text) % 4)) for text in texts))


def hello_commitment(ephemeral: bytes, nonce: bytes) -> bytes:
    """SHA256(x25519_0 ‖ nonce_0). [HANDSHAKE-HELLO]"""
    return hashlib.sha256(ephemeral + nonce).digest()


def ack_commitment(hello_nonce: bytes, nonce: bytes, ephemeral: bytes) -> bytes:
    """SHA256(nonce_0 ‖ nonce_1 ‖ x25519_1). [HANDSHAKE-ACK]"""
    return hashlib.sha256(hello_nonce + nonce + ephemeral).digest()


def shared_secret(own: X25519PrivateKey, peer: bytes) -> bytes:
    return own.exchange(X25519PublicKey.from_public_bytes(peer))


def derive(secret: bytes, salt: bytes, info: bytes = INFO) -> bytes:
    """HKDF-SHA256, 32 bytes. [HANDSHAKE-KEY]"""
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


WRONG_KEYS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    "the salt is nonce_1 ‖ nonce_0": lambda secret, salt: derive(secret, salt[32:] + salt[:32]),
    "the salt is nonce_0 alone": lambda secret, salt: derive(secret, salt[:32]),
    "the salt is nonce_1 alone": lambda secret, salt: derive(secret, salt[32:]),
    "there is no salt": lambda secret, _: derive(secret, b""),
    "the info string is empty": lambda secret, salt: derive(secret, salt, b""),
    "the info string has a zero byte at its end": lambda secret, salt: derive(secret, salt, INFO + b"\0"),
    "the shared secret is the key": lambda secret, _: secret,
}
"""Wrong derivations of the key, from the shared secret and nonce_0 ‖ nonce_1."""

_LAYOUTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "the nonce is after the tag": lambda box: box[-12:] + box[:-12],
    "the tag is before the ciphertext": lambda box: box[:12] + box[28:] + box[12:28],
}


def diagnose_box(secret: bytes, salt: bytes, box: bytes) -> tuple[str, str]:
    """Return the requirement that an unopenable box breaks, and a description of the fault."""
    for name, make in WRONG_KEYS.items():
        if opened(make(secret, salt), box) is not None:
            return "HANDSHAKE-KEY", f"the key is derived wrongly: {name}"
    key = derive(secret, salt)
    for name, relaid in _LAYOUTS.items():
        if opened(key, relaid(box)) is not None:
            return "SEAL-LAYOUT", name
    for size in range(4, 16):
        if len(box) >= 12 + size and _opens_with_tag(key, box, size):
            return "SEAL-LAYOUT", f"the tag has {size} bytes, not 16"
    return "HANDSHAKE-KEY", "no known wrong key or layout opens it"


def _opens_with_tag(key: bytes, box: bytes, size: int) -> bool:
    gcm = modes.GCM(box[:12], box[-size:], min_tag_length=size)
    try:
        decryptor = Cipher(algorithms.AES(key), gcm).decryptor()
        decryptor.update(box[12:-size])
        decryptor.finalize()
    except InvalidTag:
        return False
    return True


def sealed(key: bytes, plaintext: bytes, nonce: bytes | None = None, associated: bytes | None = None) -> bytes:
    """A box, `nonce ‖ ciphertext ‖ tag`. [SEAL-LAYOUT]"""
    nonce = nonce or os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def sealed_pieces(key: bytes, plaintext: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same box piece by piece."""
    nonce = os.urandom(12)
    encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    yield nonce
    yield from map(encryptor.update, plaintext)
    yield encryptor.finalize() + encryptor.tag


def opened(key: bytes, box: bytes) -> bytes | None:
    """Return the plaintext of a box, or None if it does not open."""
    try:
        return AESGCM(key).decrypt(box[:12], box[12:], None)
    except (InvalidTag, ValueError):
        return None
