"""Vectors of handshakes, made with the tests' own peers, without the package."""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from tests.vectors.writing import BEYOND_LAYOUT, fault, file
from tests.wireproto.payloads import TYPE_BYTE
from tests.wireproto.peers import (
    EPHEMERAL_0,
    EPHEMERAL_1,
    LOW_ORDER,
    P256_ORDER,
    P256_PRIME,
    RANK_0,
    RANK_1,
    STRANGER,
    Ephemeral,
    FixedSigner,
    ack,
    hello,
    hkdf_sha256,
    introduction,
)
from tests.wireproto.session.test_handshake import MALFORMED
from wireproto.testing.vectors import Derived, Fault, Group, HandshakeTest, Hex, Role, Secrets, VectorFile

_ABOUT = (
    "One side of a handshake, with `secrets` in place of random values. Rank 1 receives the cluster frame `hello`. "
    "Rank 0, which has made `hello` with its secrets, receives the cluster frame `ack`. The side must derive "
    "`derived.sessionKey`, or fail with `error`. The offset counts in the frame received; from the check of the "
    "pinned key on there is none."
)
INFO: Final = b"darkbloom-cluster-session-v1"


def secrets(signer: FixedSigner, ephemeral: Ephemeral, pin: bytes | None) -> Secrets:
    return Secrets(
        identity_private=Hex(signer.key.private_numbers().private_value.to_bytes(32)),
        identity=Hex(signer.public_key),
        ephemeral_private=Hex(ephemeral.private.private_bytes_raw()),
        ephemeral=Hex(ephemeral.public),
        nonce=Hex(ephemeral.nonce),
        pin=None if pin is None else Hex(pin),
    )


def derived(own: Ephemeral, role: Role, hello_frame: bytes, ack_frame: bytes) -> Derived:
    """Return every value, computed by the side with `own`."""
    first, second = introduction(hello_frame), introduction(ack_frame)
    peer = second if role == "rank 0" else first
    shared = own.private.exchange(X25519PublicKey.from_public_bytes(peer.ephemeral))
    salt = first.nonce + second.nonce
    key = hkdf_sha256(shared, salt, INFO, 32)
    return Derived(
        hello_commitment=Hex(hashlib.sha256(first.ephemeral + first.nonce).digest()),
        hello_signature=Hex(first.signature),
        ack_commitment=Hex(hashlib.sha256(first.nonce + second.nonce + second.ephemeral).digest()),
        ack_signature=Hex(second.signature),
        shared_secret=Hex(shared),
        salt=Hex(salt),
        info=Hex(INFO),
        pseudorandom_key=Hex(hmac.digest(salt, shared, "sha256")),
        session_key=Hex(key),
        key_log=f"CLUSTER_SESSION_KEY {first.nonce.hex()} {key.hex()}\n",
    )


def _valid(
    name: str,
    comment: str,
    role: Role,
    *rules: str,
    signers: tuple[FixedSigner, FixedSigner] = (RANK_0, RANK_1),
    ephemerals: tuple[Ephemeral, Ephemeral] = (EPHEMERAL_0, EPHEMERAL_1),
    hello_frame: bytes | None = None,
    ack_frame: bytes | None = None,
    flags: tuple[str, ...] = (),
) -> HandshakeTest:
    """The peer's frame follows the rules, unless given."""
    hello_frame = hello_frame or hello(signers[0], ephemerals[0])
    ack_frame = ack_frame or ack(introduction(hello_frame).nonce, signers[1], ephemerals[1])
    own = 0 if role == "rank 0" else 1
    return HandshakeTest(
        id=name,
        comment=comment,
        requirements=("HANDSHAKE-HELLO", "HANDSHAKE-ACK", "HANDSHAKE-SIGNATURE", "HANDSHAKE-KEY", *rules),
        flags=("rfc-6979", *flags),
        result="valid",
        role=role,
        secrets=secrets(signers[own], ephemerals[own], signers[1 - own].public_key),
        hello=Hex(hello_frame),
        ack=Hex(ack_frame),
        derived=derived(ephemerals[own], role, hello_frame, ack_frame),
    )


def _invalid(
    name: str,
    comment: str,
    role: Role,
    rule: str,
    frame: bytes,
    error: Fault,
    *,
    pin: bytes | None = b"",
) -> HandshakeTest:
    """`frame` is the peer's frame; `pin` is by default the peer's own key."""
    own, other = (RANK_0, RANK_1) if role == "rank 0" else (RANK_1, RANK_0)
    return HandshakeTest(
        id=name,
        comment=comment,
        requirements=tuple(dict.fromkeys((rule, "HANDSHAKE-ORDER"))),
        flags=(BEYOND_LAYOUT,) if frame and frame[0] in TYPE_BYTE.values() else (),
        result="invalid",
        error=error,
        role=role,
        secrets=secrets(own, EPHEMERAL_0 if role == "rank 0" else EPHEMERAL_1, other.public_key if pin == b"" else pin),
        hello=Hex(hello() if role == "rank 0" else frame),
        ack=Hex(frame) if role == "rank 0" else None,
    )


# -- handshakes that end well -----------------------------------------------------------------------------------------


def _other_s(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, P256_ORDER - s)


def _of_s(signature: bytes, *, high: bool) -> bytes:
    return signature if (decode_dss_signature(signature)[1] > P256_ORDER // 2) is high else _other_s(signature)


def _with_signature(frame: bytes, signature: bytes) -> bytes:
    """The frame of a hello or an ack, with another signature."""
    make = hello if frame[0] == 0x01 else ack
    return make(se_signature=signature)


def _fresh(number: int) -> Ephemeral:
    """A key and a nonce that no other handshake here has."""
    private = hashlib.sha256(b"ephemeral %d" % number).hexdigest()
    return Ephemeral.of(private, hashlib.sha256(b"nonce %d" % number).digest())


def _short_x() -> FixedSigner:
    """The first small scalar whose public key starts with a zero byte."""
    return next(signer for signer in map(FixedSigner, range(1, 10_000)) if signer.public_key[0] == 0)


def _short_r(make: Any, signer: FixedSigner, start: int) -> Ephemeral:
    """Return the first ephemeral key for which r has a leading zero byte."""
    candidates = (_fresh(number) for number in range(start, start + 10_000))
    return next(
        one
        for one in candidates
        if decode_dss_signature(introduction(make(signer=signer, ephemeral=one)).signature)[0] < 2**248
    )


def _agreed() -> Iterator[HandshakeTest]:
    yield _valid("worked-example", "The handshake that protocol.md goes through, from rank 0", "rank 0")
    yield _valid("worked-example-rank-1", "The same from rank 1", "rank 1")
    for number in (1, 2, 3):
        yield _valid(
            f"other-keys-{number}",
            "Other keys and nonces on both sides",
            "rank 0" if number % 2 else "rank 1",
            signers=(FixedSigner(0x1000 + number), FixedSigner(0x2000 + number)),
            ephemerals=(_fresh(2 * number), _fresh(2 * number + 1)),
        )
    yield _valid("identity-short-x", "X of the identity key has a zero byte in front, and keeps it", "rank 1",
                 signers=(_short_x(), RANK_1))  # fmt: skip
    yield _valid("signature-short-r", "r has a zero byte in front, so the DER is shorter", "rank 1",
                 ephemerals=(_short_r(hello, RANK_0, 100), EPHEMERAL_1))  # fmt: skip
    for role, frame in (("rank 1", hello()), ("rank 0", ack())):
        right = introduction(frame).signature
        for name, high in (("high", True), ("low", False)):
            signed = _with_signature(frame, _of_s(right, high=high))
            given = {"hello_frame" if role == "rank 1" else "ack_frame": signed}
            yield _valid(f"{name}-s-to-{role.replace(' ', '-')}", f"A {name} s is valid", role, **given)  # type: ignore[arg-type]
    first, *rest = hello()[2:-1].replace(b"/", rb"\/").split(b",")
    spelt = b"\x01{" + b",".join([*rest, b'"v":2', first]) + b"}"
    yield _valid("hello-foreign-spelling", "Keys in another order, `\\/`, an unknown key: the values count", "rank 1",
                 "JSON-SPELLING", hello_frame=spelt, flags=("foreign-spelling",))  # fmt: skip
    first, *rest = ack()[2:-1].replace(b"/", rb"\/").split(b",")
    spelt = b"\x02{ " + b" , ".join([*rest, b'"v":[]', first]) + b"}"
    yield _valid("ack-foreign-spelling", "The same in an ack", "rank 0", "JSON-SPELLING", ack_frame=spelt,
                 flags=("foreign-spelling",))  # fmt: skip
    top = EPHEMERAL_0.public[:31] + bytes([EPHEMERAL_0.public[31] | 0x80])
    yield _valid("x25519-top-bit", "X25519 ignores the top bit of a key; the commitment does not", "rank 1",
                 hello_frame=hello(ephemeral_x25519_pub_key=top))  # fmt: skip
    twist = bytes.fromhex("eaffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
    yield _valid("x25519-twist", "A key on the twist, as Wycheproof has it", "rank 1",
                 hello_frame=hello(ephemeral_x25519_pub_key=twist))  # fmt: skip
    over = (2**255 - 19 + 9).to_bytes(32, "little")
    yield _valid("x25519-not-reduced", "2^255 - 19 + 9 is 9", "rank 0", ack_frame=ack(ephemeral_x25519_pub_key=over))
    yield _valid("nonces-of-zeros", "Any 32 bytes are a nonce", "rank 1",
                 ephemerals=(Ephemeral(EPHEMERAL_0.private, bytes(32)), EPHEMERAL_1))  # fmt: skip


# -- handshakes that fail ---------------------------------------------------------------------------------------------

_SIGNATURES: Final = {
    "empty": "no bytes",
    "text": "no DER at all",
    "r-only": "one integer",
    "three-integers": "three integers",
    "r-and-s-raw": "r ‖ s, 64 bytes, not DER",
    "byte-behind": "a byte after the SEQUENCE",
    "byte-behind-inside": "a byte after s",
    "last-byte-missing": "cut short",
    "long-form-length": "BER's long form of a length",
    "indefinite-length": "BER's indefinite length",
    "padded-r": "a zero byte too many before r",
    "padded-s": "a zero byte too many before s",
    "zero-r": "r = 0",
    "zero-s": "s = 0",
    "zero-r-and-s": "r = s = 0, which some libraries took for anybody's",
    "order-r-and-s": "r = s = n",
    "negative-r": "-r",
    "s-plus-order": "s + n",
    "swapped": "s before r",
}

_POINTS: Final = {
    "zeros": (bytes(64), "X = Y = 0"),
    "off-curve": (RANK_0.public_key[:63] + bytes([RANK_0.public_key[63] ^ 1]), "one bit of Y is another"),
    "x-not-reduced": ((P256_PRIME + 5).to_bytes(32) + bytes(32), "X is not below the prime"),
    "ones": (b"\xff" * 64, "all ones"),
}


def _at(frame: bytes, key: str) -> int:
    """Return the offset of a field's value."""
    return frame.index(b'"%s":' % key.encode()) + len(key) + 3


def _refused(role: Role) -> Iterator[HandshakeTest]:
    make, signer, unlike = (hello, RANK_0, ack) if role == "rank 1" else (ack, RANK_1, hello)
    name = "hello" if role == "rank 1" else "ack"
    right = make()
    signature = introduction(right).signature

    def test(suffix: str, comment: str, rule: str, frame: bytes, error: Fault, **more: Any) -> HandshakeTest:
        return _invalid(f"{name}-{suffix}", comment, role, rule, frame, error, **more)

    yield test("empty", "An empty frame", "FRAME-TYPE", b"", fault("handshake-malformed", 0))
    yield test("type-unknown", "A type that there is not", "FRAME-TYPE", b"\x10" + right[1:],
               fault("handshake-malformed", 0, "type"))  # fmt: skip
    yield test(
        "cut", "The last brace is missing", "JSON-TEXT", right[:-1], fault("handshake-malformed", len(right) - 1)
    )
    twice = right[:-1] + b',"nonce":"' + b"A" * 43 + b'="}'
    yield test("nonce-twice", "Two nonces: which one is signed?", "JSON-DUPLICATE-KEY", twice,
               fault("handshake-malformed", len(right)))  # fmt: skip
    without = right.replace(b'"nonce"', b'"Nonce"')
    yield test("nonce-missing", "No nonce", "JSON-KEYS", without,
               fault("handshake-malformed", len(without) - 1, "nonce"))  # fmt: skip
    for size in (0, 16, 31, 33, 64):
        frame = make(nonce=bytes(size))
        yield test(f"nonce-{size}", f"A nonce of {size} bytes", "PAYLOAD-HELLO", frame,
                   fault("handshake-length", _at(frame, "nonce"), "nonce"))  # fmt: skip
    for size in (0, 31, 33):
        frame = make(ephemeral_x25519_pub_key=bytes(range(size)))
        yield test(f"x25519-{size}", f"An X25519 key of {size} bytes", "PAYLOAD-HELLO", frame,
                   fault("handshake-length", _at(frame, "ephemeralX25519PubKey"), "ephemeralX25519PubKey"))  # fmt: skip
    for size, comment in ((65, "with the 0x04 in front"), (33, "in the compressed form"), (63, "a byte short")):
        key = (b"\x04" + signer.public_key)[:size] if size != 63 else signer.public_key[:63]
        frame = make(se_pub_key_raw=key)
        yield test(f"identity-{size}", f"The identity key {comment}", "PAYLOAD-HELLO", frame,
                   fault("handshake-length", _at(frame, "sePubKeyRaw"), "sePubKeyRaw"))  # fmt: skip
    shifted = _shifted(make)
    yield test("shifted", "The same signed bytes, cut elsewhere: without the check of lengths the signature is right",
               "PAYLOAD-HELLO", shifted, fault("handshake-length", *_first_length(shifted)))  # fmt: skip
    for other, frame in (("ping", b"\x03"), ("session-end", b"\xff"), ("bootstrap", b'\x07{"port":1,"sessionID":""}')):
        yield test(other, f"A {other} where the {name} belongs", "HANDSHAKE-ONLY", frame,
                   fault("handshake-unexpected", 0))  # fmt: skip
    yield test("other-direction", "What the side itself would send", "HANDSHAKE-ONLY", unlike(),
               fault("handshake-unexpected", 0))  # fmt: skip
    yield test("no-pin", "No key is known for the peer", "HANDSHAKE-PIN", right,
               fault("handshake-no-pin", None, "sePubKeyRaw"), pin=None)  # fmt: skip
    yield test("wrong-pin", "Another key is pinned", "HANDSHAKE-PIN", right,
               fault("handshake-wrong-pin", None, "sePubKeyRaw"), pin=STRANGER.public_key)  # fmt: skip
    yield test("own-identity", "The peer shows the side's own identity", "HANDSHAKE-PIN",
               make(signer=RANK_1 if role == "rank 1" else RANK_0),
               fault("handshake-wrong-pin", None, "sePubKeyRaw"))  # fmt: skip
    for point, (key, comment) in _POINTS.items():
        yield test(f"point-{point}", f"The pinned key is not a point: {comment}", "HANDSHAKE-ORDER",
                   make(se_pub_key_raw=key), fault("handshake-point", None, "sePubKeyRaw"), pin=key)  # fmt: skip
    bad = fault("handshake-signature", None, "seSignature")
    r, s = decode_dss_signature(signature)
    for kind, comment in _SIGNATURES.items():
        yield test(f"signature-{kind}", f"The signature is {comment}", "HANDSHAKE-SIGNATURE",
                   make(se_signature=MALFORMED[kind](r, s)), bad)  # fmt: skip
    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    yield test("signature-flipped", "One bit of s is another", "HANDSHAKE-SIGNATURE", make(se_signature=flipped), bad)
    forged = make(se_signature=STRANGER.sign(_commitment(role)))
    yield test("signature-stranger", "Signed by another key", "HANDSHAKE-SIGNATURE", forged, bad)
    rule = "HANDSHAKE-HELLO" if role == "rank 1" else "HANDSHAKE-ACK"
    own, salt = (EPHEMERAL_0, b"") if role == "rank 1" else (EPHEMERAL_1, EPHEMERAL_0.nonce)
    for kind, comment, signed in (
        (
            "turned",
            "The commitment has nonce and key in the other order",
            salt + own.nonce + own.public if role == "rank 1" else salt + own.public + own.nonce,
        ),
        (
            "nonces-turned",
            "The commitment has the nonces in the other order",
            own.public + own.nonce + bytes(1) if role == "rank 1" else own.nonce + salt + own.public,
        ),
        ("half", "The commitment leaves the nonce out", own.public),
        (
            "other-form",
            "The commitment is of the other message's form",
            bytes(32) + own.nonce + own.public if role == "rank 1" else own.public + own.nonce,
        ),
    ):
        if kind == "nonces-turned" and role == "rank 1":
            continue  # a hello has one nonce
        frame = make(commitment=hashlib.sha256(signed).digest())
        yield test(f"commitment-{kind}", comment, rule, frame, bad)
    yield test("signature-not-hashed-again", "The commitment's bytes are signed as a digest, not hashed once more",
               "HANDSHAKE-SIGNATURE", make(se_signature=_sign_digest(signer, _commitment(role))), bad)  # fmt: skip
    for kind, text in LOW_ORDER.items():
        frame = make(ephemeral_x25519_pub_key=bytes.fromhex(text))
        zero = fault("handshake-shared-secret", None, "ephemeralX25519PubKey")
        yield test(f"low-order-{kind}", "An X25519 key of low order, rightly signed: the secret would be zero",
                   "HANDSHAKE-ORDER", frame, zero)  # fmt: skip
    low = bytes.fromhex(LOW_ORDER["zero"])
    everything = make(se_pub_key_raw=bytes(64), ephemeral_x25519_pub_key=low, se_signature=b"")
    yield test("order-pin-first", "Pin, point, signature and secret are wrong: the pin counts", "HANDSHAKE-ORDER",
               everything, fault("handshake-wrong-pin", None, "sePubKeyRaw"))  # fmt: skip
    yield test("order-point-second", "Point, signature and secret are wrong: the point counts", "HANDSHAKE-ORDER",
               everything, fault("handshake-point", None, "sePubKeyRaw"), pin=bytes(64))  # fmt: skip
    both = make(ephemeral_x25519_pub_key=low, se_signature=b"")
    yield test("order-signature-third", "Signature and secret are wrong: the signature counts", "HANDSHAKE-ORDER",
               both, bad)  # fmt: skip
    frame = make(nonce=bytes(31))
    yield test("order-length-before-pin", "A length and the pin are wrong: the length counts", "HANDSHAKE-ORDER", frame,
               fault("handshake-length", _at(frame, "nonce"), "nonce"), pin=None)  # fmt: skip


def _commitment(role: Role) -> bytes:
    if role == "rank 1":
        return hashlib.sha256(EPHEMERAL_0.public + EPHEMERAL_0.nonce).digest()
    return hashlib.sha256(EPHEMERAL_0.nonce + EPHEMERAL_1.nonce + EPHEMERAL_1.public).digest()


def _sign_digest(signer: FixedSigner, digest: bytes) -> bytes:
    algorithm = ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)
    return signer.key.sign(digest, algorithm)


def _shifted(make: Any) -> bytes:
    """A valid frame with key and nonce split at another place: the signed bytes are the same."""
    own = EPHEMERAL_0 if make is hello else EPHEMERAL_1
    signature = introduction(make()).signature
    if make is hello:  # key ‖ nonce
        whole = own.public + own.nonce
        return hello(ephemeral_x25519_pub_key=whole[:33], nonce=whole[33:], se_signature=signature)
    whole = own.nonce + own.public
    return ack(nonce=whole[:33], ephemeral_x25519_pub_key=whole[33:], se_signature=signature)


def _first_length(frame: bytes) -> tuple[int, str]:
    """The first of two wrong lengths in the text counts: the X25519 key's."""
    return _at(frame, "ephemeralX25519PubKey"), "ephemeralX25519PubKey"


def make() -> VectorFile[Any]:
    return file(
        HandshakeTest,
        _ABOUT,
        (
            Group(name="agreement", about="Handshakes that succeed, with every value.", tests=tuple(_agreed())),
            Group(name="hello", about="What rank 1 must refuse.", tests=tuple(_refused("rank 1"))),
            Group(name="ack", about="What rank 0 must refuse.", tests=tuple(_refused("rank 0"))),
        ),
    )
