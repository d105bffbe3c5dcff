"""The handshake's checks: one test per check, the codes, and the order."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.wireproto.payloads import canonical_frame
from tests.wireproto.peers import (
    EPHEMERAL_0,
    EPHEMERAL_1,
    P256_ORDER,
    P256_PRIME,
    RANK_0,
    RANK_1,
    STRANGER,
    FixedSigner,
    ack,
    hello,
    introduction,
    low_order_keys,
    session_key,
    source,
)
from tests.wireproto.verdicts import expected, verdict
from wireproto import (
    HandshakeAck,
    HandshakeError,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    PromptTokensPayload,
    SessionEnd,
    SessionStopPayload,
    StepTokenPayload,
    WireError,
)
from wireproto.session.handshake import (
    Initiator,
    KeySigner,
    Pin,
    Responder,
    SessionSecrets,
    TrustAnyKey,
    fingerprint,
)


class Side:
    """One side under test, and a way to make its peer's frame: the same tests cover hello and ack."""

    peer: FixedSigner
    own: FixedSigner
    make: Callable[..., bytes]
    """Return the peer's frame, with parts replaced."""
    other: Callable[..., bytes]
    """The frame meant for the other side."""

    def take(self, frame: bytes, pin: Pin) -> SessionSecrets:
        raise NotImplementedError

    def commitment(self) -> bytes:
        """Return the bytes that the peer must sign."""
        raise NotImplementedError


class _Responder(Side):
    peer, own = RANK_0, RANK_1
    make, other = staticmethod(hello), staticmethod(ack)

    def take(self, frame: bytes, pin: Pin) -> SessionSecrets:
        return Responder(RANK_1, pin).respond(frame)[1]

    def commitment(self) -> bytes:
        return hashlib.sha256(EPHEMERAL_0.public + EPHEMERAL_0.nonce).digest()


class _Initiator(Side):
    peer, own = RANK_1, RANK_0
    make, other = staticmethod(ack), staticmethod(hello)

    def take(self, frame: bytes, pin: Pin) -> SessionSecrets:
        return Initiator(RANK_0, pin, source(EPHEMERAL_0)).finish(frame)

    def commitment(self) -> bytes:
        return hashlib.sha256(EPHEMERAL_0.nonce + EPHEMERAL_1.nonce + EPHEMERAL_1.public).digest()


@pytest.fixture(params=[_Responder(), _Initiator()], ids=["hello", "ack"])
def side(request: pytest.FixtureRequest) -> Side:
    return request.param  # type: ignore[no-any-return]


def code(call: Callable[..., object], *args: Any) -> str:
    """Return the code of the `HandshakeError` that a call must raise."""
    with pytest.raises(WireError) as caught:
        call(*args)
    assert type(caught.value) is HandshakeError
    return caught.value.code


# -- the right ones ---------------------------------------------------------------------------------------------------


def test_right_frame(side: Side) -> None:
    secrets = side.take(side.make(), side.peer.public_key)
    assert secrets.hello_nonce == EPHEMERAL_0.nonce
    assert secrets.peer_key == side.peer.public_key
    assert len(secrets.key) == 32


def test_memoryview_frame(side: Side) -> None:
    assert side.take(memoryview(side.make()), side.peer.public_key).peer_key == side.peer.public_key  # type: ignore[arg-type]


def test_both_sides_agree() -> None:
    initiator = Initiator(RANK_0, RANK_1.public_key)
    answer, secrets = Responder(RANK_1, RANK_0.public_key).respond(initiator.hello)
    assert initiator.finish(answer) == secrets._replace(peer_key=RANK_1.public_key)
    assert secrets.hello_nonce == introduction(initiator.hello).nonce


def test_key_signers_agree() -> None:
    """Random keys and signatures include high and low s, and short r and s."""
    for _ in range(64):
        rank_0, rank_1 = KeySigner.generate(), KeySigner.generate()
        initiator = Initiator(rank_0, rank_1.public_key)
        answer, secrets = Responder(rank_1, rank_0.public_key).respond(initiator.hello)
        assert initiator.finish(answer).key == secrets.key


def test_replayed_hello_is_answered_with_another_key() -> None:
    """The hello is not bound to its receiver: a replay gets an answer, but no session key."""
    initiator = Initiator(RANK_0, RANK_1.public_key)
    answers = [Responder(RANK_1, RANK_0.public_key).respond(initiator.hello) for _ in range(3)]
    assert len({secrets.key for _, secrets in answers}) == 3
    assert len({introduction(answer).ephemeral for answer, _ in answers}) == 3
    assert len({introduction(answer).nonce for answer, _ in answers}) == 3
    # Every answer is valid; the initiator accepts one, and its key is that of the answer.
    assert initiator.finish(answers[1][0]).key == answers[1][1].key


def test_replayed_ack_is_refused() -> None:
    """The ack is bound to its hello."""
    first, second = (Initiator(RANK_0, RANK_1.public_key) for _ in range(2))
    answer, _ = Responder(RANK_1, RANK_0.public_key).respond(first.hello)
    assert code(second.finish, answer) == "handshake-signature"


# -- the pin ----------------------------------------------------------------------------------------------------------


def test_no_pin(side: Side) -> None:
    """[HANDSHAKE-PIN]"""
    assert verdict(side.take, side.make(), None) == expected("handshake-no-pin", None, "sePubKeyRaw")


@pytest.mark.parametrize(
    "pin",
    [
        pytest.param(lambda side: STRANGER.public_key, id="strangers"),
        pytest.param(lambda side: side.own.public_key, id="own"),
        pytest.param(lambda side: side.peer.public_key[:-1] + bytes([side.peer.public_key[-1] ^ 1]), id="last-bit"),
        pytest.param(lambda side: bytes([side.peer.public_key[0] ^ 0x80]) + side.peer.public_key[1:], id="first-bit"),
        pytest.param(lambda side: side.peer.public_key[:32], id="x-only"),
        pytest.param(lambda side: b"\x04" + side.peer.public_key, id="with-prefix"),
        pytest.param(lambda side: b"", id="empty"),
        pytest.param(lambda side: bytes(64), id="zeros"),
    ],
)
def test_wrong_pin(side: Side, pin: Callable[[Side], bytes]) -> None:
    """[HANDSHAKE-PIN]"""
    assert code(side.take, side.make(), pin(side)) == "handshake-wrong-pin"


def test_wrong_pin_names_both_fingerprints(side: Side) -> None:
    with pytest.raises(HandshakeError) as caught:
        side.take(side.make(), STRANGER.public_key)
    assert fingerprint(side.peer.public_key) in caught.value.detail
    assert fingerprint(STRANGER.public_key) in caught.value.detail
    assert caught.value.path == "sePubKeyRaw"


def test_trust_any_key(side: Side) -> None:
    """Any identity is accepted, but all else is checked: the peer must have the private key.

    [HANDSHAKE-FIRST-USE]
    """
    assert side.take(side.make(), TrustAnyKey()).peer_key == side.peer.public_key
    assert side.take(side.make(signer=STRANGER), TrustAnyKey()).peer_key == STRANGER.public_key
    claimed = side.make(signer=STRANGER, se_pub_key_raw=side.peer.public_key)
    assert code(side.take, claimed, TrustAnyKey()) == "handshake-signature"
    assert code(side.take, side.make(se_pub_key_raw=bytes(64)), TrustAnyKey()) == "handshake-point"


def test_frame_of_ones_own(side: Side) -> None:
    """A frame that the other side would accept, sent back to this one."""
    assert code(side.take, side.other(), side.peer.public_key) == "handshake-unexpected"
    assert code(side.take, side.make(signer=side.own), side.peer.public_key) == "handshake-wrong-pin"


# -- lengths ----------------------------------------------------------------------------------------------------------

LENGTHS: Final = [
    *((field, length) for field in ("nonce", "ephemeral_x25519_pub_key") for length in (0, 1, 16, 31, 33, 64, 65)),
    *(("se_pub_key_raw", length) for length in (0, 32, 33, 63, 65, 66, 128)),
]
WIRE_KEYS: Final = {
    "nonce": "nonce",
    "ephemeral_x25519_pub_key": "ephemeralX25519PubKey",
    "se_pub_key_raw": "sePubKeyRaw",
}


def cut_or_grown(value: bytes, length: int) -> bytes:
    return (value + bytes(length))[:length]


@pytest.mark.parametrize(("field", "length"), LENGTHS, ids=[f"{field}-{length}" for field, length in LENGTHS])
def test_wrong_length(side: Side, field: str, length: int) -> None:
    """The signature is over the sent values, so only the length is wrong. [PAYLOAD-HELLO]"""
    right = {
        "nonce": EPHEMERAL_0.nonce,
        "ephemeral_x25519_pub_key": EPHEMERAL_0.public,
        "se_pub_key_raw": side.peer.public_key,
    }
    frame = side.make(**{field: cut_or_grown(right[field], length)})
    with pytest.raises(HandshakeError) as caught:
        side.take(frame, side.peer.public_key)
    assert (caught.value.code, caught.value.path) == ("handshake-length", WIRE_KEYS[field])


def test_shifted_boundary(side: Side) -> None:
    """The commitment of a hello has no boundary: a byte must not move from the key to the nonce.

    [PAYLOAD-HELLO]
    """
    whole = EPHEMERAL_0.public + EPHEMERAL_0.nonce
    frame = hello(ephemeral_x25519_pub_key=whole[:31], nonce=whole[31:])
    assert code(_Responder().take, frame, RANK_0.public_key) == "handshake-length"
    frame = hello(ephemeral_x25519_pub_key=whole[:33], nonce=whole[33:])
    assert code(_Responder().take, frame, RANK_0.public_key) == "handshake-length"
    frame = ack(nonce=EPHEMERAL_1.nonce + EPHEMERAL_1.public[:1], ephemeral_x25519_pub_key=EPHEMERAL_1.public[1:])
    assert code(_Initiator().take, frame, RANK_1.public_key) == "handshake-length"


# -- points -----------------------------------------------------------------------------------------------------------


def coordinates(signer: FixedSigner) -> tuple[int, int]:
    return int.from_bytes(signer.public_key[:32]), int.from_bytes(signer.public_key[32:])


X, Y = coordinates(STRANGER)
SMALL_X: Final = 5
"""A point on P-256 with an x so small that x + p still fits in 32 bytes."""
SMALL_Y: Final = pow(SMALL_X**3 - 3 * SMALL_X + 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
                     (P256_PRIME + 1) // 4, P256_PRIME)  # fmt: skip
POINTS: Final = {
    "zero": (0, 0),
    "ones": (2**256 - 1, 2**256 - 1),
    "p-p": (P256_PRIME, P256_PRIME),
    "y-off-by-one": (X, Y + 1),
    "x-off-by-one": (X + 1, Y),
    "swapped": (Y, X),
    "y-zero": (X, 0),
    "x-zero": (0, Y),
    "x-plus-p": (SMALL_X + P256_PRIME, SMALL_Y),
    "y-is-p": (X, P256_PRIME),
    "generator-of-secp256k1": (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    ),
}


def test_small_point_is_on_the_curve(side: Side) -> None:
    """`x-plus-p` is refused only for its encoding."""
    identity = SMALL_X.to_bytes(32) + SMALL_Y.to_bytes(32)
    assert code(side.take, side.make(se_pub_key_raw=identity), identity) == "handshake-signature"


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "trust-any"])
@pytest.mark.parametrize("point", POINTS.values(), ids=list(POINTS))
def test_no_point(side: Side, point: tuple[int, int], pinned: bool) -> None:
    identity = point[0].to_bytes(32) + point[1].to_bytes(32)
    pin = identity if pinned else TrustAnyKey()
    with pytest.raises(HandshakeError) as caught:
        side.take(side.make(se_pub_key_raw=identity), pin)
    assert (caught.value.code, caught.value.path) == ("handshake-point", "sePubKeyRaw")


# -- signatures -------------------------------------------------------------------------------------------------------


def integer(value: int | bytes) -> bytes:
    """Encode a DER INTEGER; bytes are used unchanged."""
    data = value if isinstance(value, bytes) else value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
    return b"\x02" + bytes([len(data)]) + data


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


def test_der_by_hand(side: Side) -> None:
    """The encoder used by the table below agrees with the library."""
    r, s = decode_dss_signature(side.peer.sign(side.commitment()))
    assert sequence(integer(r), integer(s)) == side.peer.sign(side.commitment())


MALFORMED: Final[dict[str, Callable[[int, int], bytes]]] = {
    "empty": lambda r, s: b"",
    "one-byte": lambda r, s: b"\x30",
    "zeros": lambda r, s: bytes(72),
    "ones": lambda r, s: b"\xff" * 72,
    "text": lambda r, s: b"not a signature at all",
    "empty-sequence": lambda r, s: sequence(),
    "r-only": lambda r, s: sequence(integer(r)),
    "three-integers": lambda r, s: sequence(integer(r), integer(s), integer(1)),
    "r-and-s-raw": lambda r, s: r.to_bytes(32) + s.to_bytes(32),
    "without-sequence": lambda r, s: integer(r) + integer(s),
    "set-not-sequence": lambda r, s: b"\x31" + sequence(integer(r), integer(s))[1:],
    "octet-strings": lambda r, s: sequence(integer(r), integer(s)).replace(b"\x02", b"\x04", 1),
    "byte-behind": lambda r, s: sequence(integer(r), integer(s)) + b"\0",
    "byte-behind-inside": lambda r, s: sequence(integer(r), integer(s), b"\0"),
    "null-behind-inside": lambda r, s: sequence(integer(r), integer(s), b"\x05\0"),
    "byte-before": lambda r, s: b"\0" + sequence(integer(r), integer(s)),
    "last-byte-missing": lambda r, s: sequence(integer(r), integer(s))[:-1],
    "first-half": lambda r, s: sequence(integer(r), integer(s))[:36],
    "twice": lambda r, s: 2 * sequence(integer(r), integer(s)),
    "nested": lambda r, s: sequence(sequence(integer(r), integer(s))),
    "length-one-more": lambda r, s: b"\x30" + bytes([len(integer(r) + integer(s)) + 1]) + integer(r) + integer(s),
    "length-one-less": lambda r, s: b"\x30" + bytes([len(integer(r) + integer(s)) - 1]) + integer(r) + integer(s),
    "long-form-length": lambda r, s: b"\x30\x81" + sequence(integer(r), integer(s))[1:],
    "indefinite-length": lambda r, s: b"\x30\x80" + integer(r) + integer(s) + b"\0\0",
    "padded-r": lambda r, s: sequence(integer(b"\0\0" + r.to_bytes(32)), integer(s)),
    "padded-s": lambda r, s: sequence(integer(r), integer(b"\0\0" + s.to_bytes(32))),
    "empty-r": lambda r, s: sequence(integer(b""), integer(s)),
    "empty-s": lambda r, s: sequence(integer(r), integer(b"")),
    "zero-r": lambda r, s: sequence(integer(0), integer(s)),
    "zero-s": lambda r, s: sequence(integer(r), integer(0)),
    "zero-r-and-s": lambda r, s: sequence(integer(0), integer(0)),
    "one-r-and-s": lambda r, s: sequence(integer(1), integer(1)),
    "order-r-and-s": lambda r, s: sequence(integer(P256_ORDER), integer(P256_ORDER)),
    "zero-r-and-order-s": lambda r, s: sequence(integer(0), integer(P256_ORDER)),
    "negative-r": lambda r, s: sequence(integer(-r), integer(s)),
    "negative-s": lambda r, s: sequence(integer(r), integer(-s)),
    "r-minus-order": lambda r, s: sequence(integer(r - P256_ORDER), integer(s)),
    "s-minus-order": lambda r, s: sequence(integer(r), integer(s - P256_ORDER)),
    "r-plus-order": lambda r, s: sequence(integer(r + P256_ORDER), integer(s)),
    "s-plus-order": lambda r, s: sequence(integer(r), integer(s + P256_ORDER)),
    "r-plus-2**256": lambda r, s: sequence(integer(r + 2**256), integer(s)),
    "swapped": lambda r, s: sequence(integer(s), integer(r)),
    "negated-r": lambda r, s: sequence(integer(P256_ORDER - r), integer(s)),
    "huge-integers": lambda r, s: b"\x30\x82\x08\x08" + 2 * (b"\x02\x82\x04\x00" + b"\x7f" * 1024),
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_signature(side: Side, malformed: Callable[[int, int], bytes]) -> None:
    """[HANDSHAKE-SIGNATURE]"""
    signature = malformed(*decode_dss_signature(side.peer.sign(side.commitment())))
    with pytest.raises(HandshakeError) as caught:
        side.take(side.make(se_signature=signature), side.peer.public_key)
    assert (caught.value.code, caught.value.path) == ("handshake-signature", "seSignature")


def test_each_bit_of_a_signature_counts(side: Side) -> None:
    right = side.peer.sign(side.commitment())
    for bit in range(8 * len(right)):
        flipped = bytearray(right)
        flipped[bit // 8] ^= 1 << bit % 8
        frame = side.make(se_signature=bytes(flipped))
        assert code(side.take, frame, side.peer.public_key) == "handshake-signature"


@pytest.mark.parametrize("high", [True, False], ids=["high-s", "low-s"])
def test_either_s_is_right(side: Side, high: bool) -> None:
    """The reference peer does not normalise signatures: half of them have a high s. [HANDSHAKE-SIGNATURE]"""
    r, s = decode_dss_signature(side.peer.sign(side.commitment()))
    s = max(s, P256_ORDER - s) if high else min(s, P256_ORDER - s)
    frame = side.make(se_signature=encode_dss_signature(r, s))
    assert side.take(frame, side.peer.public_key).peer_key == side.peer.public_key


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


N_0, N_1, E_0, E_1 = EPHEMERAL_0.nonce, EPHEMERAL_1.nonce, EPHEMERAL_0.public, EPHEMERAL_1.public
OVER_OTHER_BYTES: Final = {
    # signed bytes → by a hello, by an ack
    "nothing": (b"", b""),
    "zeros": (bytes(32), bytes(32)),
    "raw-parts": (E_0 + N_0, N_0 + N_1 + E_1),
    "hashed-twice-more": (sha256(sha256(E_0, N_0)), sha256(sha256(N_0, N_1, E_1))),
    "order-swapped": (sha256(N_0, E_0), sha256(E_1, N_0, N_1)),
    "nonces-swapped": (sha256(E_0, N_1), sha256(N_1, N_0, E_1)),
    "nonce-twice": (sha256(E_0, N_0, N_0), sha256(N_0, N_0, E_1)),
    "own-nonce-only": (sha256(N_0), sha256(N_1, E_1)),
    "without-nonce": (sha256(E_0), sha256(E_1)),
    "other-ephemeral": (sha256(E_1, N_0), sha256(N_0, N_1, E_0)),
    "the-other-side's": (sha256(N_0, N_1, E_1), sha256(E_0, N_0)),
    "a-hello-of-its-own": (sha256(E_1, N_1), sha256(E_1, N_1)),
    "hexadecimal": (sha256(E_0, N_0).hex().encode(), sha256(N_0, N_1, E_1).hex().encode()),
    "commitment-and-more": (sha256(E_0, N_0) + b"\0", sha256(N_0, N_1, E_1) + b"\0"),
    "commitment-cut": (sha256(E_0, N_0)[:-1], sha256(N_0, N_1, E_1)[:-1]),
}


@pytest.mark.parametrize("signed", OVER_OTHER_BYTES.values(), ids=list(OVER_OTHER_BYTES))
def test_signature_over_other_bytes(side: Side, signed: tuple[bytes, bytes]) -> None:
    frame = side.make(commitment=signed[isinstance(side, _Initiator)])
    assert code(side.take, frame, side.peer.public_key) == "handshake-signature"


def test_commitment_is_hashed_once_more(side: Side) -> None:
    """A signature over the commitment as the digest is wrong. [HANDSHAKE-SIGNATURE]"""
    once = side.peer.key.sign(side.commitment(), ec.ECDSA(Prehashed(SHA256())))
    assert code(side.take, side.make(se_signature=once), side.peer.public_key) == "handshake-signature"
    twice = side.peer.key.sign(hashlib.sha256(side.commitment()).digest(), ec.ECDSA(Prehashed(SHA256())))
    assert side.take(side.make(se_signature=twice), side.peer.public_key).peer_key == side.peer.public_key


def test_signature_by_another_key(side: Side) -> None:
    frame = side.make(signer=STRANGER, se_pub_key_raw=side.peer.public_key)
    assert code(side.take, frame, side.peer.public_key) == "handshake-signature"


# -- the shared secret ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list(low_order_keys()))
def test_low_order_key(side: Side, key: bytes) -> None:
    """Signed by the true peer, so only the key is wrong. [HANDSHAKE-ORDER]"""
    with pytest.raises(HandshakeError) as caught:
        side.take(side.make(ephemeral_x25519_pub_key=key), side.peer.public_key)
    assert (caught.value.code, caught.value.path) == ("handshake-shared-secret", "ephemeralX25519PubKey")


@pytest.mark.parametrize("key", [(2).to_bytes(32, "little"), b"\xff" * 32], ids=["two", "ones"])
def test_odd_key_of_high_order(side: Side, key: bytes) -> None:
    """Small or unreduced keys are accepted, because the secret is not zero."""
    assert len(side.take(side.make(ephemeral_x25519_pub_key=key), side.peer.public_key).key) == 32


# -- frames that do not decode, other frames --------------------------------------------------------------------------


def without(frame: bytes, key: str) -> bytes:
    """The frame without one of its members."""
    members = [member for member in frame[2:-1].split(b",") if not member.startswith(b'"%s"' % key.encode())]
    return frame[:1] + b"{" + b",".join(members) + b"}"


UNDECODABLE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "empty": lambda frame: b"",
    "type-only": lambda frame: frame[:1],
    "unknown-type": lambda frame: b"\x0e" + frame[1:],
    "type-zero": lambda frame: b"\0" + frame[1:],
    "last-byte-missing": lambda frame: frame[:-1],
    "first-half": lambda frame: frame[: len(frame) // 2],
    "byte-behind": lambda frame: frame + b"\0",
    "brace-behind": lambda frame: frame + b"}",
    "frame-behind": lambda frame: frame + frame,
    "array": lambda frame: frame[:1] + b"[]",
    "null": lambda frame: frame[:1] + b"null",
    "no-members": lambda frame: frame[:1] + b"{}",
    "bom": lambda frame: frame[:1] + b"\xef\xbb\xbf" + frame[1:],
    "utf-16": lambda frame: frame[:1] + frame[1:].decode().encode("utf-16"),
    "nonce-twice": lambda frame: frame[:-1] + b',"nonce":"' + b"A" * 43 + b'="}',
    "nonce-missing": lambda frame: without(frame, "nonce"),
    "signature-missing": lambda frame: without(frame, "seSignature"),
    "identity-missing": lambda frame: without(frame, "sePubKeyRaw"),
    "ephemeral-missing": lambda frame: without(frame, "ephemeralX25519PubKey"),
    "signature-null": lambda frame: without(frame, "seSignature")[:-1] + b',"seSignature":null}',
    "signature-number": lambda frame: without(frame, "seSignature")[:-1] + b',"seSignature":1}',
    "signature-not-base64": lambda frame: without(frame, "seSignature")[:-1] + b',"seSignature":"!"}',
    "base64-without-padding": lambda frame: frame.replace(b'="', b'"', 1),
    "base64-for-urls": lambda frame: frame.replace(b"/", b"_", 1),
    "deep": lambda frame: frame[:-1] + b',"x":' + b"[" * 600 + b"]" * 600 + b"}",
}


@pytest.mark.parametrize("undecodable", UNDECODABLE.values(), ids=list(UNDECODABLE))
def test_frame_that_does_not_decode(side: Side, undecodable: Callable[[bytes], bytes]) -> None:
    assert code(side.take, undecodable(side.make()), side.peer.public_key) == "handshake-malformed"


def test_error_says_where(side: Side) -> None:
    """The offset and path are those of the frame's own error, which is the cause."""
    with pytest.raises(HandshakeError) as caught:
        side.take(side.make() + b"\0", side.peer.public_key)
    assert isinstance(caught.value.__cause__, WireError)
    assert caught.value.__cause__.code == "trailing-data"
    assert caught.value.offset == caught.value.__cause__.offset == len(side.make())


OTHER_MESSAGES: Final[list[Message]] = [
    Ping(),
    PongPayload(True, False, MemoryPressure.NORMAL),
    InferenceStep(bytes(28)),
    InferenceToken(b""),
    JacclBootstrapPayload(29400, "id"),
    PromptTokensPayload("u", (1, 2), 3),
    StepTokenPayload("u", 1),
    SessionStopPayload("u"),
    PPActivationPayload("u", 1, bytes(28)),
    PPTokenPayload("u", bytes(28)),
    PPSessionEndPayload("u"),
    SessionEnd(),
]


@pytest.mark.parametrize("message", OTHER_MESSAGES, ids=lambda message: type(message).__name__)
def test_other_message(side: Side, message: Message) -> None:
    """[HANDSHAKE-ONLY]"""
    with pytest.raises(HandshakeError) as caught:
        side.take(canonical_frame(message), side.peer.public_key)
    assert (caught.value.code, caught.value.offset) == ("handshake-unexpected", 0)


def test_right_values_under_the_other_type(side: Side) -> None:
    """A hello instead of an ack, and the reverse, otherwise valid."""
    frame = side.make()
    turned = {1: HandshakeAck, 2: HandshakeHello}[frame[0]](*introduction(frame))
    assert code(side.take, canonical_frame(turned), side.peer.public_key) == "handshake-unexpected"


# -- the order of the checks ------------------------------------------------------------------------------------------

NO_POINT: Final = bytes(64)
LOW_ORDER_KEY: Final = bytes(32)
FAULTS: Final[dict[str, dict[str, Any]]] = {
    "handshake-length": {"nonce": bytes(31)},
    "handshake-no-pin": {"pin": None},
    "handshake-wrong-pin": {"pin": STRANGER.public_key},
    "handshake-point": {"se_pub_key_raw": NO_POINT, "pin": NO_POINT},
    "handshake-signature": {"se_signature": b"no signature"},
    "handshake-shared-secret": {"ephemeral_x25519_pub_key": LOW_ORDER_KEY},
}
"""A fault for each code, in the order of the checks after decoding."""


def two_faults() -> Iterator[Any]:
    codes = list(FAULTS)
    for place, first in enumerate(codes):
        for second in codes[place:]:
            yield pytest.param(first, second, id=first if first == second else f"{first}-before-{second}")


@pytest.mark.parametrize(("first", "second"), list(two_faults()))
def test_order(side: Side, first: str, second: str) -> None:
    """[HANDSHAKE-ORDER]"""
    faults = {"pin": side.peer.public_key} | FAULTS[second] | FAULTS[first]
    pin = faults.pop("pin")
    assert code(side.take, side.make(**faults), pin) == first


@pytest.mark.parametrize("second", list(FAULTS)[1:])
def test_decoding_comes_first(side: Side, second: str) -> None:
    faults = {"pin": side.peer.public_key} | FAULTS[second]
    pin = faults.pop("pin")
    assert code(side.take, without(side.make(**faults), "nonce"), pin) == "handshake-malformed"


def test_decoding_and_lengths_go_by_the_text(side: Side) -> None:
    """A frame is read from its start: the first of two faulty members counts."""
    short = side.make(nonce=bytes(31))
    assert code(side.take, short.replace(b'25519PubKey":"', b'25519PubKey":"!'), None) == "handshake-malformed"
    assert code(side.take, short.replace(b'seSignature":"', b'seSignature":"!'), None) == "handshake-length"


def test_every_fault_at_once(side: Side) -> None:
    """[HANDSHAKE-ORDER]"""
    faults = {
        "nonce": bytes(31),
        "se_pub_key_raw": NO_POINT,
        "se_signature": b"",
        "ephemeral_x25519_pub_key": bytes(32),
    }
    assert code(side.take, side.make(**faults), None) == "handshake-length"
    assert code(side.take, side.make(**faults | {"nonce": bytes(32)}), None) == "handshake-no-pin"


def test_nothing_is_signed_for_a_wrong_hello() -> None:
    """A responder signs, which reveals its identity, only for a valid hello."""

    class Unwilling(FixedSigner):
        def sign(self, commitment: bytes) -> bytes:
            raise AssertionError("asked to sign")

    responder = Responder(Unwilling(7), RANK_0.public_key)
    for faults in ({"se_signature": b""}, {"ephemeral_x25519_pub_key": bytes(32)}, {"signer": STRANGER}):
        assert code(responder.respond, hello(**faults)) in FAULTS  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="asked to sign"):
        responder.respond(hello())


def test_a_failed_ack_does_no_harm() -> None:
    """An initiator that refused an ack can still accept a valid one: nothing of the first remains."""
    initiator = Initiator(RANK_0, RANK_1.public_key)
    own = introduction(initiator.hello)
    assert code(initiator.finish, ack(own.nonce, STRANGER)) == "handshake-wrong-pin"
    key = session_key(EPHEMERAL_1.private, own.ephemeral, own.nonce, EPHEMERAL_1.nonce)
    assert initiator.finish(ack(own.nonce)) == SessionSecrets(key, own.nonce, RANK_1.public_key)
