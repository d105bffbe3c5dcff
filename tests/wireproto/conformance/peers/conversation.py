"""One connection of a reference peer, correct in everything that the suite tests.

Each thing that can be got wrong is a method or an attribute of its own, so that a mutant is a class with one of them.
"""

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wireproto import (
    OUTCOME_1,
    HandshakeAck,
    HandshakeHello,
    Message,
    Revision,
    WireError,
    decode_frame,
    encode_frame,
)

MIB = 1024 * 1024


class Fault(Exception):  # noqa: N818
    """A fault of the other side, which ends the connection."""


@dataclass
class Introduction:
    """The contents of a hello or an ack."""

    se_pub_key_raw: bytes
    ephemeral_x25519_pub_key: bytes
    nonce: bytes
    se_signature: bytes


@dataclass
class Shared:
    """State that outlives a connection."""

    identity: ec.EllipticCurvePrivateKey
    pin: bytes
    revision: Revision = Revision.V2
    ping_every: float = 5.0
    pong_within: float = 3.0
    handshake_within: float = 10.0
    reconnect_after: float = 10.0

    def __post_init__(self) -> None:
        self.unconfirmed: list[Conversation] = []
        self.current: Conversation | None = None
        self.memory: dict[str, Any] = {}
        """State that a mutant wrongly keeps."""


class Conversation(asyncio.Protocol):
    """One connection."""

    rank: int
    early_limit = 64 * 1024
    limit = 256 * MIB
    extensions: tuple[str, ...] = (OUTCOME_1,)
    transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.revision = shared.revision
        self.buffer = bytearray()
        self.key: bytes | None = None
        self.ephemeral = self.make_ephemeral()
        self.nonce = self.make_nonce()
        self.sent_nonces: set[bytes] = set()
        self.opened_nonces: set[bytes] = set()
        self.offered: frozenset[str] = frozenset()
        self.agreed: frozenset[str] = frozenset()
        self.over = False
        self.timers: list[asyncio.TimerHandle] = []

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.later(self.shared.handshake_within, self.handshake_timeout)
        self.begin()

    def data_received(self, data: bytes) -> None:
        if self.over:
            return
        self.buffer += data
        try:
            for body in self.frames():
                self.take(body)
                if self.over:
                    return
        except Fault:
            self.faulty()

    def faulty(self) -> None:
        self.end()

    def eof_received(self) -> bool:
        self.end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.end()
        self.gone()

    def gone(self) -> None:
        pass

    def end(self) -> None:
        self.over = True
        for timer in self.timers:
            timer.cancel()
        self.transport.close()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.timers.append(asyncio.get_running_loop().call_later(seconds, act))

    def handshake_timeout(self) -> None:
        if self.key is None:
            self.end()

    def begin(self) -> None:
        """Act before anything else."""

    # -- link frames ---------------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[bytes]:
        while len(self.buffer) >= 8:
            length = self.length(bytes(self.buffer[:8]))
            self.check_length(length)
            if len(self.buffer) < 8 + length:
                return
            body = bytes(self.buffer[8 : 8 + length])
            del self.buffer[: 8 + length]
            yield body

    def length(self, header: bytes) -> int:
        return int.from_bytes(header, "little")

    def check_length(self, length: int) -> None:
        self.check_length_min(length)
        self.check_length_max(length)

    def check_length_min(self, length: int) -> None:
        if length < 1:
            raise Fault("length 0")

    def check_length_max(self, length: int) -> None:
        if length > (self.limit if self.key else self.early_limit):
            raise Fault("length over the limit")

    def header(self, length: int) -> bytes:
        return length.to_bytes(8, "little")

    def write_body(self, body: bytes) -> None:
        if not self.over:
            self.transport.write(self.header(len(body)) + body)

    # -- boxes ---------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        frame = self.encode(message)
        self.write_body(self.seal(frame) if self.revision is Revision.V2 else frame)

    def encode(self, message: Message) -> bytes:
        return encode_frame(message, self.revision, self.agreed)

    def seal(self, frame: bytes) -> bytes:
        assert self.key is not None
        nonce = self.box_nonce()
        self.sent_nonces.add(nonce)
        return nonce + AESGCM(self.key).encrypt(nonce, frame, None)

    def box_nonce(self) -> bytes:
        return os.urandom(12)

    def unseal(self, box: bytes) -> bytes:
        self.check_box(box[:12])
        frame = self.open_box(box)
        self.opened_nonces.add(box[:12])
        return frame

    def check_box(self, nonce: bytes) -> None:
        self.check_replay(nonce)
        self.check_reflection(nonce)

    def check_replay(self, nonce: bytes) -> None:
        if nonce in self.opened_nonces:
            raise Fault("replay")

    def check_reflection(self, nonce: bytes) -> None:
        if nonce in self.sent_nonces:
            raise Fault("reflection")

    def open_box(self, box: bytes) -> bytes:
        assert self.key is not None
        try:
            return AESGCM(self.key).decrypt(box[:12], box[12:], None)
        except (InvalidTag, ValueError):
            raise Fault("the box does not open") from None

    # -- messages ------------------------------------------------------------------------------------------------------

    def take(self, body: bytes) -> None:
        if self.key is None:
            self.shake_hands(body)
        else:
            frame = self.unseal(body) if self.revision is Revision.V2 else body
            self.confirmed()
            self.take_frame(frame)

    def take_frame(self, frame: bytes) -> None:
        message = self.decode(frame)
        if message is not None:
            self.handle(message)

    def decode(self, frame: bytes) -> Message | None:
        """None for a frame that is wrongly accepted, without effect."""
        try:
            self.look_at(frame)
            return decode_frame(frame, self.revision, self.agreed)
        except WireError as error:
            if self.tolerates(error, frame):
                return None
            raise Fault(str(error)) from error

    def look_at(self, frame: bytes) -> None:
        """A hook in which a mutant refuses a valid frame."""

    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return False

    def handle(self, message: Message) -> None:
        raise NotImplementedError

    def confirmed(self) -> None:
        pass

    # -- handshake -----------------------------------------------------------------------------------------------------

    def make_ephemeral(self) -> X25519PrivateKey:
        return X25519PrivateKey.generate()

    def make_nonce(self) -> bytes:
        return os.urandom(32)

    @property
    def public(self) -> bytes:
        return self.ephemeral.public_key().public_bytes_raw()

    def shake_hands(self, frame: bytes) -> None:
        raise NotImplementedError

    def introduction(self, frame: bytes, expected: type[HandshakeHello | HandshakeAck]) -> Introduction:
        """Read the peer's part, and check everything that does not depend on ours."""
        try:
            self.look_at(frame)
            message = decode_frame(frame)
        except WireError as error:
            if not self.tolerates(error, frame):
                raise Fault(str(error)) from error
            return loosely(frame)
        if not isinstance(message, expected):
            self.unexpected(message)
        if not isinstance(message, HandshakeHello | HandshakeAck):
            raise Fault("neither hello nor ack")
        return Introduction(
            message.se_pub_key_raw, message.ephemeral_x25519_pub_key, message.nonce, message.se_signature
        )

    def unexpected(self, message: Message) -> None:
        raise Fault("not what belongs here")

    def check_peer(self, theirs: Introduction, commitment: bytes) -> None:
        self.check_pin(theirs.se_pub_key_raw)
        self.check_signature(theirs, commitment)

    def check_pin(self, identity: bytes) -> None:
        if identity != self.shared.pin:
            raise Fault("not pinned")

    def check_signature(self, theirs: Introduction, commitment: bytes) -> None:
        if not self.verifies(theirs.se_pub_key_raw, theirs.se_signature, commitment):
            raise Fault("signature")

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + identity[-64:])
            key.verify(signature, commitment, ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature):
            return False
        return True

    def sign(self, commitment: bytes) -> bytes:
        return self.shared.identity.sign(commitment, ec.ECDSA(hashes.SHA256()))

    def hello_commitment(self, public: bytes, nonce: bytes) -> bytes:
        return hashlib.sha256(public + nonce).digest()

    def ack_commitment(self, hello_nonce: bytes, nonce: bytes, public: bytes) -> bytes:
        return hashlib.sha256(hello_nonce + nonce + public).digest()

    def own_hello_commitment(self) -> bytes:
        return self.hello_commitment(self.public, self.nonce)

    def own_ack_commitment(self, hello_nonce: bytes) -> bytes:
        return self.ack_commitment(hello_nonce, self.nonce, self.public)

    def own_identity(self) -> bytes:
        return public_bytes(self.shared.identity)

    def secret(self, public: bytes) -> bytes:
        try:
            return self.ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise Fault("an all-zero secret") from None

    def derive(self, public: bytes, hello_nonce: bytes, ack_nonce: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, self.salt(hello_nonce, ack_nonce), self.info()).derive(self.secret(public))

    def salt(self, hello_nonce: bytes, ack_nonce: bytes) -> bytes:
        return hello_nonce + ack_nonce

    def info(self) -> bytes:
        return b"darkbloom-cluster-session-v1"

    def write_introduction(self, first: bytes, commitment: bytes) -> None:
        values = (self.own_identity(), self.public, self.nonce, self.sign(commitment))
        self.write_body(first + self.spell(dict(zip(KEYS, values, strict=True))))

    def spell(self, values: dict[str, bytes]) -> bytes:
        return json.dumps({key: base64.b64encode(value).decode() for key, value in values.items()}).encode()

    def established(self, key: bytes) -> None:
        self.key = key


KEYS = ("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature")


def loosely(frame: bytes) -> Introduction:
    """Parse a hello or an ack too leniently."""
    try:
        text = frame[1:].decode(errors="replace").lstrip("\ufeff")
        # The first of equal keys counts, as in the Swift peer.
        fields: dict[str, str] = {}
        for key, value in json.loads(text, strict=False, object_pairs_hook=list):
            fields.setdefault(key.lower(), value)
        return Introduction(*(unbase64(fields[key.lower()]) for key in KEYS))
    except (ValueError, KeyError, AttributeError):
        raise Fault("not even that") from None


def unbase64(text: str) -> bytes:
    text = re.sub(r"[\s=]", "", text).replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4))


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
