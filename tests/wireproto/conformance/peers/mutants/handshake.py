"""Bugs in the handshake."""

from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.wireproto.conformance.peers.conversation import Conversation, Fault, Introduction
from tests.wireproto.conformance.peers.mutant import ONE, ZERO, Tolerant, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import (
    HandshakeAck,
    HandshakeHello,
    Message,
)


@mutant("HANDSHAKE-SIGNATURE")
class SingleHash(Conversation):
    """The commitment is signed as if it were a hash."""

    def sign(self, commitment: bytes) -> bytes:
        return self.shared.identity.sign(commitment, ec.ECDSA(Prehashed(hashes.SHA256())))


@mutant("HANDSHAKE-SIGNATURE")
class RawSignature(Conversation):
    """The signature is sent as r ‖ s."""

    def sign(self, commitment: bytes) -> bytes:
        r, s = decode_dss_signature(super().sign(commitment))
        return r.to_bytes(32) + s.to_bytes(32)


@mutant("HANDSHAKE-HELLO", roles=ZERO)
class HelloSignedInOtherOrder(RankZero):
    """The hello's commitment is over nonce and key."""

    def own_hello_commitment(self) -> bytes:
        return self.hello_commitment(self.nonce, self.public)


@mutant("HANDSHAKE-ACK", roles=ONE)
class AckSignedInOtherOrder(RankOne):
    """The ack's commitment has the nonces in the other order."""

    def own_ack_commitment(self, hello_nonce: bytes) -> bytes:
        return self.ack_commitment(self.nonce, hello_nonce, self.public)


@mutant("HANDSHAKE-ACK", roles=ONE)
class AckSignedLikeAHello(RankOne):
    """The ack's commitment lacks the hello's nonce."""

    def own_ack_commitment(self, hello_nonce: bytes) -> bytes:
        return self.hello_commitment(self.public, self.nonce)


@mutant("HANDSHAKE-PIN")
class PinSkipped(Conversation):
    """Any signer is trusted."""

    def check_pin(self, identity: bytes) -> None:
        pass


@mutant("HANDSHAKE-PIN")
class PeerNotChecked(Conversation):
    """Neither pin nor signature is checked."""

    def check_peer(self, theirs: Introduction, commitment: bytes) -> None:
        pass


@mutant("HANDSHAKE-PIN")
class NewIdentityEachTime(Conversation):
    """Each connection gets a new identity key."""

    def __init__(self, shared: Any) -> None:
        super().__init__(shared)
        self.identity = ec.generate_private_key(ec.SECP256R1())

    def own_identity(self) -> bytes:
        numbers = self.identity.public_key().public_numbers()
        return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)

    def sign(self, commitment: bytes) -> bytes:
        return self.identity.sign(commitment, ec.ECDSA(hashes.SHA256()))


@mutant("HANDSHAKE-FRESH")
class EphemeralKept(Conversation):
    """The X25519 key is the same in each handshake."""

    def make_ephemeral(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(b"\x42" * 32)


@mutant("HANDSHAKE-FRESH")
class NonceKept(Conversation):
    """The nonce is the same in each handshake."""

    def make_nonce(self) -> bytes:
        return b"\x42" * 32


@mutant("HANDSHAKE-FRESH", roles=ZERO)
class HelloKept(RankZero):
    """A process makes its X25519 key and its nonce only once."""

    def make_ephemeral(self) -> X25519PrivateKey:
        made: X25519PrivateKey = self.shared.memory.setdefault("ephemeral", super().make_ephemeral())
        return made

    def make_nonce(self) -> bytes:
        made: bytes = self.shared.memory.setdefault("nonce", super().make_nonce())
        return made


@mutant("HANDSHAKE-KEY")
class SaltSwapped(Conversation):
    """The salt is nonce_1 ‖ nonce_0."""

    def salt(self, hello_nonce: bytes, ack_nonce: bytes) -> bytes:
        return ack_nonce + hello_nonce


@mutant("HANDSHAKE-KEY")
class InfoWrong(Conversation):
    """The info string has the zero byte of a C string."""

    def info(self) -> bytes:
        return super().info() + b"\0"


@mutant("HANDSHAKE-KEY")
class NoInfo(Conversation):
    """There is no info string."""

    def info(self) -> bytes:
        return b""


@mutant("HANDSHAKE-KEY")
class SecretIsTheKey(Conversation):
    """The shared secret is used as it is."""

    def derive(self, public: bytes, hello_nonce: bytes, ack_nonce: bytes) -> bytes:
        return self.secret(public)


@mutant("PAYLOAD-HELLO")
class LengthsNotChecked(Tolerant):
    """Keys and nonce may have any length; longer keys are cut."""

    codes = ("field-length",)

    def secret(self, public: bytes) -> bytes:
        return super().secret(public[:32])

    def check_pin(self, identity: bytes) -> None:
        super().check_pin(identity[-64:])


@mutant("HANDSHAKE-ORDER")
class ZeroSecretAccepted(Conversation):
    """An all-zero shared secret is accepted."""

    def secret(self, public: bytes) -> bytes:
        try:
            return super().secret(public)
        except Fault:
            return bytes(32)


@mutant("HANDSHAKE-KEY")
class TopBitRefused(Conversation):
    """An X25519 key with the top bit set is refused."""

    def secret(self, public: bytes) -> bytes:
        if public[31] & 0x80:
            raise Fault("no canonical key")
        return self.ephemeral.exchange(X25519PublicKey.from_public_bytes(public))


@mutant("HANDSHAKE-KEY")
class TopBitCounts(Conversation):
    """The top bit of an X25519 key is cleared before the key is signed over, not only for the exchange."""

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        return super().verifies(identity, signature, commitment) and not self.high

    def introduction(self, frame: bytes, expected: type[HandshakeHello | HandshakeAck]) -> Introduction:
        theirs = super().introduction(frame, expected)
        self.high = bool(theirs.ephemeral_x25519_pub_key[-1] & 0x80)
        return theirs


@mutant("HANDSHAKE-ONLY")
class OtherFrameWaited(Conversation):
    """Other frames before the handshake are skipped."""

    def take(self, body: bytes) -> None:
        if self.key is not None or body[0] in (1, 2):
            super().take(body)


@mutant("HANDSHAKE-ONLY")
class HelloForAck(Conversation):
    """A hello and an ack are interchangeable."""

    def unexpected(self, message: Message) -> None:
        pass


@mutant("HANDSHAKE-ORDER", "HANDSHAKE-SIGNATURE", "HANDSHAKE-PIN")
class FaultyHandshakeWaits(Conversation):
    """After a failed handshake another one is awaited on the same connection."""

    def shake_hands(self, frame: bytes) -> None:
        with suppress(Fault):
            super().shake_hands(frame)


@mutant("HANDSHAKE-FIRST", roles=ONE)
class SpeaksFirst(RankOne):
    """A hello is demanded from a peer that has not sent it."""

    def begin(self) -> None:
        super().begin()
        self.later(0.05, lambda: None if self.key else self.write_body(b"\x04" + b"{}"))


@mutant("HANDSHAKE-FIRST", roles=ZERO)
class HelloTwice(RankZero):
    """The hello is sent again if no ack arrives at once."""

    def begin(self) -> None:
        super().begin()
        self.later(0.05, lambda: None if self.key else self.hello())


@mutant("JSON-NESTING")
class DeepIntroductionIgnored(Conversation):
    """A hello or ack that nests too deep gets no answer, and the connection stays open."""

    def shake_hands(self, frame: bytes) -> None:
        if frame.count(b"[") < 500:
            super().shake_hands(frame)
