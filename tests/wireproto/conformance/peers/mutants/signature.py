"""Bugs in the check of a signature."""

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature

from tests.wireproto.conformance.peers.conversation import Conversation, Fault, Introduction
from tests.wireproto.conformance.peers.mutant import ONE, ZERO, mutant


@mutant("HANDSHAKE-SIGNATURE", "HANDSHAKE-HELLO", "HANDSHAKE-ACK")
class SignatureNotChecked(Conversation):
    """Any signature is accepted."""

    def check_signature(self, theirs: Introduction, commitment: bytes) -> None:
        pass


class AlsoTaken(Conversation):
    """Also accepts signatures made in another way."""

    def check_signature(self, theirs: Introduction, commitment: bytes) -> None:
        if not self.also(theirs, commitment):
            super().check_signature(theirs, commitment)

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        raise NotImplementedError


@mutant("HANDSHAKE-SIGNATURE")
class SingleHashAccepted(AlsoTaken):
    """A commitment that was not hashed again is accepted."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + theirs.se_pub_key_raw)
        try:
            key.verify(theirs.se_signature, commitment, ec.ECDSA(Prehashed(hashes.SHA256())))
        except InvalidSignature:
            return False
        return True


@mutant("HANDSHAKE-SIGNATURE")
class RawSignatureAccepted(AlsoTaken):
    """r ‖ s is accepted."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        r, s = int.from_bytes(theirs.se_signature[:32]), int.from_bytes(theirs.se_signature[32:])
        return self.verifies(theirs.se_pub_key_raw, encode_dss_signature(r, s), commitment)


@mutant("HANDSHAKE-SIGNATURE")
class DerReadLoosely(AlsoTaken):
    """A signature is read as BER, without checking its end."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        der, numbers, at = theirs.se_signature, [], 2
        while at + 2 <= len(der) and len(numbers) < 2:
            numbers.append(int.from_bytes(der[at + 2 : at + 2 + der[at + 1]]))
            at += 2 + der[at + 1]
        return len(numbers) == 2 and self.verifies(theirs.se_pub_key_raw, encode_dss_signature(*numbers), commitment)


@mutant("HANDSHAKE-SIGNATURE")
class EmptySignatureAccepted(AlsoTaken):
    """An empty signature is accepted."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        return not theirs.se_signature


@mutant("HANDSHAKE-SIGNATURE")
class ZeroSignatureAccepted(AlsoTaken):
    """r and s of 0 are accepted, as once by a well-known library."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        return theirs.se_signature == encode_dss_signature(0, 0)


@mutant("HANDSHAKE-SIGNATURE")
class HighSRefused(Conversation):
    """Only the lower one of s and n − s is accepted."""

    def check_signature(self, theirs: Introduction, commitment: bytes) -> None:
        super().check_signature(theirs, commitment)
        if decode_dss_signature(theirs.se_signature)[1] >> 255:
            raise Fault("s is high")


@mutant("HANDSHAKE-HELLO", roles=ONE)
class HelloCommitmentInAnyOrder(AlsoTaken):
    """A hello signed over nonce and key is accepted."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        other = hashlib.sha256(theirs.nonce + theirs.ephemeral_x25519_pub_key).digest()
        return self.verifies(theirs.se_pub_key_raw, theirs.se_signature, other)


@mutant("HANDSHAKE-ACK", roles=ZERO)
class AckCommitmentInAnyOrder(AlsoTaken):
    """An ack with the nonces in the other order is accepted."""

    def also(self, theirs: Introduction, commitment: bytes) -> bool:
        other = self.ack_commitment(theirs.nonce, self.nonce, theirs.ephemeral_x25519_pub_key)
        return self.verifies(theirs.se_pub_key_raw, theirs.se_signature, other)
