"""Bugs in boxes."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.mutant import BOTH, ONE, mutant
from tests.wireproto.conformance.peers.reference import RankOne


@mutant("SEAL-NONCE")
class CounterNonce(Conversation):
    """The nonce counts from zero."""

    boxes = 0

    def box_nonce(self) -> bytes:
        self.boxes += 1
        return (self.boxes - 1).to_bytes(12, "little")


@mutant("SEAL-NONCE", roles=ONE)
class CounterNonceFromRandom(RankOne):
    """The nonce is a counter from a random start."""

    counter = 0

    def box_nonce(self) -> bytes:
        self.counter = self.counter or int.from_bytes(b"\x11" + os.urandom(11))
        self.counter += 1
        return self.counter.to_bytes(12)


@mutant("SEAL-NONCE", roles=ONE)
class NonceReused(RankOne):
    """All boxes of a session have the same nonce."""

    drawn = b""

    def box_nonce(self) -> bytes:
        self.drawn = self.drawn or os.urandom(12)
        return self.drawn


@mutant("SEAL-LAYOUT")
class TagTruncated(Conversation):
    """A box is sent with 12 bytes of its tag."""

    def seal(self, frame: bytes) -> bytes:
        return super().seal(frame)[:-4]


@mutant("SEAL-LAYOUT")
class NonceLast(Conversation):
    """A box is sent with the nonce at its end."""

    def seal(self, frame: bytes) -> bytes:
        box = super().seal(frame)
        return box[12:] + box[:12]


@mutant("SEAL-FRAMES")
class NotSealed(Conversation):
    """Frames are sent without a box."""

    def seal(self, frame: bytes) -> bytes:
        return frame


@mutant("SESSION-BOX")
class BadBoxSkipped(Conversation):
    """A box that does not open is skipped."""

    def take(self, body: bytes) -> None:
        if self.key is not None:
            try:
                self.open_box(body)
            except Fault:
                return
        super().take(body)


@mutant("SESSION-BOX")
class TagNotChecked(Conversation):
    """A box is decrypted, and its tag is not compared."""

    def open_box(self, box: bytes) -> bytes:
        assert self.key is not None
        if len(box) < 28:
            raise Fault("too short")
        counter = modes.CTR(box[:12] + b"\0\0\0\2")
        return Cipher(algorithms.AES(self.key), counter).decryptor().update(box[12:-16])


@mutant("SESSION-BOX")
class ShortTagAccepted(Conversation):
    """A tag of 12 bytes is accepted."""

    def open_box(self, box: bytes) -> bytes:
        assert self.key is not None
        try:
            return super().open_box(box)
        except Fault:
            if len(box) < 24:
                raise
        decryptor = Cipher(algorithms.AES(self.key), modes.GCM(box[:12], box[-12:], 12)).decryptor()
        try:
            return decryptor.update(box[12:-12]) + decryptor.finalize()
        except InvalidTag:
            raise Fault("the box does not open") from None


@mutant("SESSION-BOX", roles=BOTH)
class AssociatedDataAccepted(Conversation):
    """A box with associated data opens, too."""

    def open_box(self, box: bytes) -> bytes:
        assert self.key is not None
        try:
            return super().open_box(box)
        except Fault:
            try:
                return AESGCM(self.key).decrypt(box[:12], box[12:], b"cluster")
            except (InvalidTag, ValueError):
                raise Fault("the box does not open") from None


@mutant("SEAL-FRAMES")
class UnsealedAccepted(Conversation):
    """A box that does not open is used as plaintext."""

    def open_box(self, box: bytes) -> bytes:
        try:
            return super().open_box(box)
        except Fault:
            return box


@mutant("SEAL-REPLAY")
class ReplayAccepted(Conversation):
    """A repeated box opens."""

    def check_replay(self, nonce: bytes) -> None:
        pass


@mutant("SEAL-REPLAY", roles=ONE)
class ReplayWindowOf16(RankOne):
    """Only the last 16 nonces are remembered."""

    def unseal(self, box: bytes) -> bytes:
        frame = super().unseal(box)
        window: list[bytes] = self.shared.memory.setdefault("window", [])
        window.append(box[:12])
        self.opened_nonces = set(window[-16:])
        return frame


@mutant("SEAL-REFLECTION")
class ReflectionAccepted(Conversation):
    """A reflected box opens."""

    def check_reflection(self, nonce: bytes) -> None:
        pass


@mutant("SEAL-LAYOUT")
class NoncesHaveToGrow(Conversation):
    """A nonce lower than an earlier one is refused."""

    highest = b""

    def check_replay(self, nonce: bytes) -> None:
        if nonce <= self.highest:
            raise Fault("nonce")
        if self.highest or nonce > b"\xf0":
            self.highest = nonce
