"""Both ends of a connection: as `Session`s, and as independent code that does not use the package."""

import hashlib
import hmac
import io
import json
import os
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Iterator
from types import EllipsisType
from typing import Any, Final, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.wireproto.payloads import canonical_frame
from tests.wireproto.streams import link
from tests.wireproto.verdicts import Rejected
from wireproto import ERROR_CODES, HandshakeAck, HandshakeHello, Message, Revision, WireError
from wireproto.session import Config, Established, Event, RemoteError, Role, Session
from wireproto.session.handshake import Pin
from wireproto.session.seal import Random

# -- P-256 ------------------------------------------------------------------------------------------------------------

P256_PRIME: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_DETERMINISTIC: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)  # RFC 6979: deterministic


class FixedSigner:
    """An identity key from a known number, with deterministic signatures."""

    def __init__(self, scalar: int) -> None:
        self.key = ec.derive_private_key(scalar, ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        self.public_key = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)

    def sign(self, commitment: bytes) -> bytes:
        return self.key.sign(commitment, _DETERMINISTIC)


RANK_0: Final = FixedSigner(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721)
"""The key of RFC 6979, A.2.5."""
RANK_1: Final = FixedSigner(0x519B423D715F8B581F4FA8EE59F4771A5B44C8130B4E3EACCA54A56DDA72B464)
STRANGER: Final = FixedSigner(0x5741)
SIGNERS: Final = {Role.INITIATOR: RANK_0, Role.RESPONDER: RANK_1}
OTHER: Final = {Role.INITIATOR: Role.RESPONDER, Role.RESPONDER: Role.INITIATOR}

# -- X25519, HKDF, AES-256-GCM ----------------------------------------------------------------------------------------

LOW_ORDER: Final = {
    "zero": "0000000000000000000000000000000000000000000000000000000000000000",
    "one": "0100000000000000000000000000000000000000000000000000000000000000",
    "order-8": "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "other-order-8": "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "p-minus-1": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "p-plus-1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}
"""Every u-coordinate of low order on Curve25519 and its twist, below 2^255 (cr.yp.to/ecdh.html#validate)."""


def low_order_keys() -> Iterator[Any]:
    """Each of them as a pytest parameter, also with the top bit set, which X25519 ignores."""
    for name, text in LOW_ORDER.items():
        key = bytes.fromhex(text)
        yield pytest.param(key, id=name)
        yield pytest.param(key[:31] + bytes([key[31] | 0x80]), id=f"{name}-top-bit")


class Ephemeral(NamedTuple):
    """The random values of one side of a handshake."""

    private: X25519PrivateKey
    nonce: bytes

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @classmethod
    def of(cls, private: str, nonce: bytes) -> "Ephemeral":
        return cls(X25519PrivateKey.from_private_bytes(bytes.fromhex(private)), nonce)


# The keys of RFC 7748, 6.1.
EPHEMERAL_0: Final = Ephemeral.of(
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a", bytes(range(0x20))
)
EPHEMERAL_1: Final = Ephemeral.of(
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb", bytes(range(0x20, 0x40))
)


def source(ephemeral: Ephemeral | None = None, *nonces: bytes) -> Random:
    """Return a random source that yields the values of a handshake, then the nonces of boxes, then others."""
    handshake = [] if ephemeral is None else [ephemeral.private.private_bytes_raw(), ephemeral.nonce]
    known = [*handshake, b"".join(nonces)]

    def draw(count: int) -> bytes:
        value = known.pop(0) if known else b""
        return value + os.urandom(count - len(value))

    return draw


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF of RFC 5869, written out."""
    pseudorandom = hmac.digest(salt or bytes(32), secret, "sha256")
    block, output = b"", b""
    for count in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([count]), "sha256")
        output += block
    return output[:length]


def session_key(own: X25519PrivateKey, peer: bytes, hello_nonce: bytes, ack_nonce: bytes) -> bytes:
    shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
    return hkdf_sha256(shared, hello_nonce + ack_nonce, b"darkbloom-cluster-session-v1", 32)


def box(key: bytes, plaintext: bytes, nonce: bytes = b"by hand, one") -> bytes:
    return nonce + AESGCM(key).encrypt(nonce, plaintext, None)


def unbox(key: bytes, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], None)


# -- the handshake by hand --------------------------------------------------------------------------------------------


def hello(
    signer: FixedSigner = RANK_0,
    ephemeral: Ephemeral = EPHEMERAL_0,
    *,
    commitment: bytes | None = None,
    **fields: bytes,
) -> bytes:
    """Return a hello's cluster frame with these `fields`, signed over its contents."""
    public = fields.get("ephemeral_x25519_pub_key", ephemeral.public)
    nonce = fields.get("nonce", ephemeral.nonce)
    commitment = hashlib.sha256(public + nonce).digest() if commitment is None else commitment
    return canonical_frame(HandshakeHello(**_fields(signer, public, nonce, commitment, fields)))


def ack(
    hello_nonce: bytes = EPHEMERAL_0.nonce,
    signer: FixedSigner = RANK_1,
    ephemeral: Ephemeral = EPHEMERAL_1,
    *,
    commitment: bytes | None = None,
    **fields: bytes,
) -> bytes:
    """An ack's cluster frame, in the same way."""
    public = fields.get("ephemeral_x25519_pub_key", ephemeral.public)
    nonce = fields.get("nonce", ephemeral.nonce)
    commitment = hashlib.sha256(hello_nonce + nonce + public).digest() if commitment is None else commitment
    return canonical_frame(HandshakeAck(**_fields(signer, public, nonce, commitment, fields)))


def _fields(
    signer: FixedSigner, public: bytes, nonce: bytes, commitment: bytes, fields: dict[str, bytes]
) -> dict[str, bytes]:
    whole = {"se_pub_key_raw": signer.public_key, "ephemeral_x25519_pub_key": public, "nonce": nonce}
    if "se_signature" not in fields:
        whole["se_signature"] = signer.sign(commitment)
    return whole | fields


class Introduction(NamedTuple):
    """The values in a hello or an ack."""

    identity: bytes
    ephemeral: bytes
    nonce: bytes
    signature: bytes


def introduction(frame: bytes) -> Introduction:
    """Read the values of a cluster frame without the package."""
    payload = json.loads(frame[1:])
    keys = ("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature")
    return Introduction(*(b64decode(payload[key]) for key in keys))


# -- sessions ---------------------------------------------------------------------------------------------------------


def session(
    role: Role,
    revision: Revision = Revision.V2,
    *,
    pin: Pin | EllipsisType = ...,
    **more: Any,
) -> Session:
    """A session of a role, which pins the other rank's key by default."""
    pinned = SIGNERS[OTHER[role]].public_key if isinstance(pin, EllipsisType) else pin
    return Session(Config(role=role, signer=SIGNERS[role], pin=pinned, revision=revision, **more))


def output(session: Session, *messages: Message) -> bytes:
    """Return everything that a session sends, after these messages."""
    for message in messages:
        session.send(message)
    return b"".join(session.data_to_send())


def events(session: Session) -> Iterator[Event]:
    while (event := session.next_event()) is not None:
        yield event


def take(session: Session, data: bytes) -> list[Event]:
    """Feed bytes; return the events."""
    session.receive_data(data)
    return list(events(session))


def end(session: Session) -> list[Event]:
    """End the stream; return the events."""
    return take(session, b"")


class Pair(NamedTuple):
    """Two sessions after the handshake, and their common key."""

    initiator: Session
    responder: Session
    key: bytes

    def __call__(self, role: Role) -> Session:
        return self.initiator if role is Role.INITIATOR else self.responder


def shaken(revision: Revision = Revision.V2, *, rank_0: Collection[str] = (), rank_1: Collection[str] = ()) -> Pair:
    """`extensions` are supported by both sides."""
    log = io.StringIO()
    initiator = session(Role.INITIATOR, revision, key_log=log, extensions=rank_0)
    responder = session(Role.RESPONDER, revision, extensions=rank_1)
    (answered,) = take(responder, output(initiator))
    (established,) = take(initiator, output(responder))
    assert isinstance(answered, Established)
    assert isinstance(established, Established)
    return Pair(initiator, responder, bytes.fromhex(log.getvalue().split()[2]))


class ByHand(NamedTuple):
    """A session with a scripted peer, whose bytes the test writes."""

    session: Session
    key: bytes
    revision: Revision
    said: int = 0
    """Bytes sent by the peer in the handshake: link layer offsets count from the start."""

    def frame(self, body: bytes, nonce: bytes = b"by hand, one") -> bytes:
        """Return the link frame of a cluster frame in the open session of the revision."""
        return link(box(self.key, body, nonce) if self.revision is Revision.V2 else body)

    def body(self, data: bytes | bytearray) -> bytes:
        """Return the cluster frame in the only link frame sent by the session."""
        length, body = int.from_bytes(data[:8], "little"), bytes(data[8:])
        assert len(body) == length
        return unbox(self.key, body) if self.revision is Revision.V2 else body


def by_hand(role: Role, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> ByHand:
    """A session after the handshake with a scripted peer."""
    one = session(role, revision, extensions=extensions)
    if role is Role.INITIATOR:
        own = introduction(output(one)[8:])
        said = link(ack(own.nonce))  # its length depends on the DER signature
        take(one, said)
        key = session_key(EPHEMERAL_1.private, own.ephemeral, own.nonce, EPHEMERAL_1.nonce)
    else:
        said = link(hello())
        take(one, said)
        own = introduction(output(one)[8:])
        key = session_key(EPHEMERAL_0.private, own.ephemeral, EPHEMERAL_0.nonce, own.nonce)
    return ByHand(one, key, revision, len(said))


class Outcome(NamedTuple):
    """The result of a session for some bytes: the events, and the error, if any."""

    events: list[Event]
    failure: Rejected | None = None


def outcome(session: Session, chunks: Iterable[bytes], *, buffered: Callable[[int], bool] = lambda _: False) -> Outcome:
    """Feed chunks to a session, chunk i by `get_buffer` if `buffered(i)`. Stop when it ends."""
    came: list[Event] = []
    try:
        for index, chunk in enumerate(chunks):
            came.extend(give(session, chunk, buffered=buffered(index)))
    except RemoteError as error:
        return Outcome(came, remote(error))
    return Outcome(came)


def give(session: Session, chunk: bytes, *, buffered: bool) -> Iterator[Event]:
    """Feed a chunk in either way; an empty one is not the end of the stream. Return the events."""
    data = memoryview(chunk)
    while data:
        count = len(data)
        if buffered:
            buffer = session.get_buffer(-1)
            count = min(len(buffer), count)
            buffer[:count] = data[:count]
            session.buffer_updated(count)
        else:
            session.receive_data(data)
        data = data[count:]
        yield from events(session)


def remote(error: RemoteError) -> Rejected:
    """Return the peer's error as a verdict, after checking that it repeats its cause."""
    cause = error.__cause__
    assert isinstance(cause, WireError)
    assert isinstance(error, type(cause))
    assert type(cause) is ERROR_CODES[cause.code][0]
    assert (error.code, error.offset, error.path) == (cause.code, cause.offset, cause.path)
    assert str(error) == str(cause)
    return Rejected(type(cause), cause.code, cause.offset, cause.path)


DELIVERIES: Final[dict[str, Callable[[bytes], list[bytes]]]] = {
    "whole": lambda data: [data],
    "byte-by-byte": lambda data: [data[at : at + 1] for at in range(len(data))],
    "length-apart": lambda data: [data[:8], data[8:]],
    "in-the-length": lambda data: [data[:3], data[3:9], data[9:]],
    "last-byte-apart": lambda data: [data[:-1], data[-1:]],
    "with-nothing-between": lambda data: [b"", data[:20], b"", data[20:], b""],
}
"""Ways to cut incoming bytes."""
