"""Harnesses of the layers with keys: handshake, boxes, sessions. All keys are those of `KNOWN`."""

import hmac
from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from wireproto.errors import HandshakeError, SealError, TruncatedError, WireError
from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, expect_same, kind_of, verdict_of
from wireproto.fuzzing.sealed import mutate_introduction, mutate_sealed, split_stream
from wireproto.fuzzing.seeds import OWN_NONCE
from wireproto.messages import HandshakeAck, HandshakeHello
from wireproto.session import Role, handshake
from wireproto.session.handshake import Initiator, Responder, SessionSecrets
from wireproto.session.seal import OVERHEAD, Random, Seal
from wireproto.testing.by_schema import parse_message
from wireproto.testing.fixed_keys import KNOWN, unbox

# -- handshake --------------------------------------------------------------------------------------------------------

_P256: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


def handshake_harness(
    respond: Callable[[Responder, bytes], tuple[bytes, SessionSecrets]] = Responder.respond,
    finish: Callable[[Initiator, bytes], SessionSecrets] = Initiator.finish,
) -> Harness:
    """Pass each cluster frame as the hello to rank 1 and as the ack to rank 0. [HANDSHAKE-ORDER, HANDSHAKE-ONLY]"""

    def check(data: bytes) -> object:
        responder = Responder(KNOWN.rank_1, KNOWN.rank_0.public_key, KNOWN.rank_1.random())
        hello = verdict_of(lambda: respond(responder, data)[1])
        initiator = Initiator(_NO_SIGNER, KNOWN.rank_1.public_key, KNOWN.rank_0.random())
        ack = verdict_of(finish, initiator, data)
        expect_same(hello, verdict_of(judged_introduction, Role.RESPONDER, data), "independent checks of a hello")
        expect_same(ack, verdict_of(judged_introduction, Role.INITIATOR, data), "independent checks of an ack")
        return kind_of(hello), kind_of(ack)

    return Harness("handshake", check, seeds.handshake, mutate_introduction, ("wireproto.session.handshake",))


class _NoSigner:
    """An identity that signs nothing: the handling of an ack does not depend on the hello's signature."""

    public_key = KNOWN.rank_0.public_key

    def sign(self, commitment: bytes) -> bytes:
        return b""


_NO_SIGNER: Final = _NoSigner()


def judged_introduction(role: Role, frame: bytes) -> SessionSecrets:
    """Check the peer's frame as a role must, step by step. Raises `HandshakeError`."""
    expected: type[HandshakeHello | HandshakeAck]
    own, peer, expected = KNOWN.rank_0, KNOWN.rank_1, HandshakeAck
    if role is Role.RESPONDER:
        own, peer, expected = KNOWN.rank_1, KNOWN.rank_0, HandshakeHello
    message = _read_introduction(frame)
    if type(message) is not expected:
        raise HandshakeError("handshake-unexpected", "another message", offset=0)
    identity, public, nonce = message.se_pub_key_raw, message.ephemeral_x25519_pub_key, message.nonce
    if identity != peer.public_key:
        raise HandshakeError("handshake-wrong-pin", "another identity", path="sePubKeyRaw")
    x, y = int.from_bytes(identity[:32]), int.from_bytes(identity[32:])
    if (y * y - (x * x * x - 3 * x + _B)) % _P256 or max(x, y) >= _P256:
        raise HandshakeError("handshake-point", "not on the curve", path="sePubKeyRaw")
    salt = own.nonce + nonce if role is Role.INITIATOR else nonce + own.nonce
    committed = salt + public if role is Role.INITIATOR else public + nonce
    try:
        numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
        numbers.public_key().verify(message.se_signature, _sha256(committed), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise HandshakeError("handshake-signature", "another signature", path="seSignature") from error
    try:
        shared = own.private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise HandshakeError("handshake-shared-secret", "zero", path="ephemeralX25519PubKey") from error
    key = hmac.digest(hmac.digest(salt, shared, "sha256"), handshake.KEY_INFO + b"\x01", "sha256")
    return SessionSecrets(key, salt[:32], identity)


def _read_introduction(frame: bytes) -> Any:
    try:
        return parse_message(frame)
    except WireError as error:
        code = "handshake-length" if error.code == "field-length" else "handshake-malformed"
        raise HandshakeError(code, str(error), offset=error.offset, path=error.path) from error


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


# -- boxes ------------------------------------------------------------------------------------------------------------


def seal_harness(make: Callable[[bytes, Random], Seal] = Seal) -> Harness:
    """Pass a link stream of boxes to a seal that has sealed one itself. [SEAL-LAYOUT, SEAL-REPLAY, SEAL-REFLECTION]"""

    def check(data: bytes) -> object:
        boxes, tail = split_stream(data)
        copied, in_place = (_used(make(KNOWN.key, _own_nonces)) for _ in range(2))
        opened: set[bytes] = set()
        kinds = set()
        for body in (*boxes, tail):
            verdict = verdict_of(copied.decrypt, body)
            expect_same(verdict, verdict_of(_decrypted_into, in_place, body), "both ways to open")
            expect_same(verdict, verdict_of(_judged_box, body, opened, OWN_NONCE), "independent opening of a box")
            kinds.add(kind_of(verdict))
        return frozenset(kinds)

    return Harness("seal", check, seeds.seal, mutate_sealed(KNOWN.key), ("wireproto.session.seal",))


def _own_nonces(count: int) -> bytes:
    return (OWN_NONCE * count)[:count]


def _used(one: Seal) -> Seal:
    one.encrypt(b"own")
    return one


def _decrypted_into(one: Seal, body: bytes) -> bytes:
    out = bytearray(max(len(body) - OVERHEAD, 0))
    one.decrypt_into(body, out)
    return bytes(out)


def _judged_box(body: bytes, opened: set[bytes], own: bytes) -> bytes:
    """Return the required result of a box; add its nonce to the opened ones."""
    nonce = body[:12]
    if len(body) < OVERHEAD:
        raise TruncatedError("truncated", "too short for a box", offset=len(body))
    if nonce == own:
        raise SealError("seal-reflection", "its own box", offset=0)
    if nonce in opened:
        raise SealError("seal-replay", "opened before", offset=0)
    try:
        plain = unbox(KNOWN.key, body)
    except InvalidTag as error:
        raise SealError("seal-tag", "another key", offset=0) from error
    opened.add(nonce)
    return plain
