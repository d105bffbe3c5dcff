"""Published values through the code that uses them, and one handshake with every byte known."""

import hashlib
import io
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.wireproto.peers import (
    EPHEMERAL_0,
    EPHEMERAL_1,
    LOW_ORDER,
    RANK_0,
    RANK_1,
    Ephemeral,
    ack,
    hello,
    hkdf_sha256,
    introduction,
    output,
    session,
    shaken,
    source,
    take,
)
from tests.wireproto.streams import link
from wireproto import ClusterMsgType, HandshakeAck, HandshakeError, HandshakeHello, Ping, Revision, decode_frame
from wireproto.session import Established, Role, State, key_log_line
from wireproto.session import handshake as module
from wireproto.session.handshake import (
    Initiator,
    KeySigner,
    Responder,
    SessionSecrets,
    ack_commitment,
    hello_commitment,
)
from wireproto.session.seal import Seal

INFO: Final = b"darkbloom-cluster-session-v1"

# -- X25519 -----------------------------------------------------------------------------------------------------------

X25519: Final = [
    pytest.param(*row, id=name)
    for name, *row in (
        # RFC 7748, 5.2, the two test vectors
        (
            "rfc7748-5.2-first",
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "rfc7748-5.2-second",
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        # RFC 7748, 5.2, the iterated one, after one step
        (
            "rfc7748-5.2-iterated",
            "0900000000000000000000000000000000000000000000000000000000000000",
            "0900000000000000000000000000000000000000000000000000000000000000",
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ),
        # RFC 7748, 6.1, either way
        (
            "rfc7748-6.1-alice",
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
        (
            "rfc7748-6.1-bob",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
        # Wycheproof, testvectors_v1/x25519_test.json: a key on the twist, and two that are small numbers
        (
            "wycheproof-x25519-31",
            "d02456e456911d3c6cd054933199807732dfdc958642ad1aebe900c793bef24a",
            "eaffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "07ba5fcbda21a9a17845c401492b10e6de0a168d5c94b606694c11bac39bea41",
        ),
        (
            "wycheproof-x25519-34",
            "a8386f7f16c50731d64f82e6a170b142a4e34f31fd7768fcb8902925e7d1e25a",
            "0400000000000000000000000000000000000000000000000000000000000000",
            "34b7e4fa53264420d9f943d15513902342b386b172a0b0b7c8b8f2dd3d669f59",
        ),
        (
            "wycheproof-x25519-35",
            "d05abd08bf5e62538cb9a5ed105dbedd6de38d07940085072b4311c2678ed77d",
            "0001000000000000000000000000000000000000000000000000000000000000",
            "3aa227a30781ed746bd4b3365e5f61461b844d09410c70570abd0d75574dfc77",
        ),
    )
]


@pytest.mark.parametrize(("private", "public", "shared"), X25519)
def test_x25519(private: str, public: str, shared: str) -> None:
    """The responder has the private key, the hello the public one; the session key depends on the secret."""
    random = source(Ephemeral.of(private, bytes(32)))
    frame = hello(ephemeral_x25519_pub_key=bytes.fromhex(public))
    _, secrets = Responder(RANK_1, RANK_0.public_key, random).respond(frame)
    assert secrets.key == hkdf_sha256(bytes.fromhex(shared), EPHEMERAL_0.nonce + bytes(32), INFO, 32)


@pytest.mark.parametrize(
    ("private", "public"),
    [
        # Wycheproof, testvectors_v1/x25519_test.json, flag ZeroSharedSecret
        pytest.param(
            "88227494038f2bb811d47805bcdf04a2ac585ada7f2f23389bfd4658f9ddd45e",
            LOW_ORDER["zero"],
            id="wycheproof-x25519-32",
        ),
        pytest.param(
            "48232e8972b61c7e61930eb9450b5070eae1c670475685541f0476217e48184f",
            LOW_ORDER["one"],
            id="wycheproof-x25519-33",
        ),
    ],
)
def test_x25519_zero(private: str, public: str) -> None:
    random = source(Ephemeral.of(private, bytes(32)))
    with pytest.raises(HandshakeError, match=r"^handshake-shared-secret "):
        Responder(RANK_1, RANK_0.public_key, random).respond(hello(ephemeral_x25519_pub_key=bytes.fromhex(public)))


def test_low_order_keys_are_all() -> None:
    """X25519 with these gives zero for any private key; 0, 1 and -1 are in every encoding below 2^255."""
    prime = 2**255 - 19
    spellings = {int.from_bytes(bytes.fromhex(text), "little") for text in LOW_ORDER.values()}
    small = {value % prime for value in spellings}
    assert {0, 1, prime - 1} < small
    assert spellings == {value + extra for value in small for extra in (0, prime) if value + extra < 2**255}
    # Those of order 8 double to one of order 4, whose u is 1: (u² - 1)² = 4u(u² + 486662u + 1).
    for u in small - {0, 1, prime - 1}:
        assert ((u * u - 1) ** 2 - 4 * u * (u * u + 486662 * u + 1)) % prime == 0


# -- HKDF-SHA256 ------------------------------------------------------------------------------------------------------

HKDF_SHA256: Final = [
    pytest.param(*map(bytes.fromhex, row), id=name)
    for name, *row in (
        (
            "rfc5869-a.1",
            "0b" * 22,
            bytes(range(0x0D)).hex(),
            bytes(range(0xF0, 0xFA)).hex(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "rfc5869-a.2",
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "rfc5869-a.3",
            "0b" * 22,
            "",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    )
]


@pytest.mark.parametrize(("secret", "salt", "info", "output"), HKDF_SHA256)
def test_hkdf(secret: bytes, salt: bytes, info: bytes, output: bytes) -> None:
    """The package's HKDF, called as in the handshake, and the tests' own."""
    assert hkdf_sha256(secret, salt, info, len(output)) == output
    assert HKDF(hashes.SHA256(), len(output), salt, info).derive(secret) == output
    assert HKDF(hashes.SHA256(), 32, salt, info).derive(secret) == output[:32]


# -- ECDSA P-256 with SHA-256 -----------------------------------------------------------------------------------------


def verdict_on(public: bytes, message: bytes, signature: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the handshake's error for a signature, "" if it is valid; `message` replaces the commitment."""
    monkeypatch.setattr(module, "hello_commitment", lambda *_: message)
    try:
        Responder(RANK_1, public).respond(hello(se_pub_key_raw=public, se_signature=signature))
    except HandshakeError as error:
        return error.code
    return ""


RFC_6979: Final = [  # RFC 6979, A.2.5, with SHA-256
    pytest.param(
        b"sample",
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
        id="sample",
    ),
    pytest.param(
        b"test",
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
        id="test",
    ),
]


@pytest.mark.parametrize(("message", "r", "s"), RFC_6979)
def test_ecdsa_rfc_6979(message: bytes, r: int, s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = encode_dss_signature(r, s)
    assert RANK_0.sign(message) == signature
    assert verdict_on(RANK_0.public_key, message, signature, monkeypatch) == ""
    assert verdict_on(RANK_0.public_key, message + b"!", signature, monkeypatch) == "handshake-signature"


# Wycheproof, testvectors_v1/ecdsa_secp256r1_sha256_test.json, the first two groups: tcId, message, signature, result.
_FIRST: Final = (
    "04aaec73635726f213fb8a9e64da3b8632e41495a944d0045b522eba7240fad5"
    "87d9315798aaa3a5ba01775787ced05eaaf7b4e09fc81d6d1aa546e8365d525d"
)
_SECOND: Final = (
    "2927b10512bae3eddcfe467828128bad2903269919f7086069c8c4df6c732838"
    "c7787964eaac00e5921fb1498a60f4606766b3d9685001558d1a974e7341513e"
)
_R: Final = "2ba3a8be6b94d5ec80a6d9d1190a436effe50d85a1eee859b8cc6af9bd5c2e18"
_HIGH_S: Final = "b329f479a2bbd0a5c384ee1493b1f5186a87139cac5df4087c134b49156847db"
_LOW_S: Final = "4cd60b855d442f5b3c7b11eb6c4e0ae7525fe710fab9aa7c77a67f79e6fadd76"
_BODY: Final = f"0220{_R}022100{_HIGH_S}"
_1400: Final = "313233343030"
WYCHEPROOF_ECDSA: Final = [
    pytest.param(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature), right, id=f"{number}-{name}")
    for number, name, public, message, signature, right in (
        (
            1, "pseudorandom", _FIRST, "",
            "3045022100b292a619339f6e567a305c951c0dcbcc42d16e47f219f9e98e76e09d8770b34a"
            "02200177e60492c5a8242f76f07bfe3661bde59ec2a17ce5bd2dab2abebdf89a62e2", True,
        ),
        (
            2, "pseudorandom", _FIRST, "4d7367",
            "30450220530bd6b0c9af2d69ba897f6b5fb59695cfbf33afe66dbadcf5b8d2a2a6538e23"
            "022100d85e489cb7a161fd55ededcedbf4cc0c0987e3e3f0f242cae934c72caa3f43e9", True,
        ),
        (
            3, "pseudorandom", _FIRST, _1400,
            "3046022100a8ea150cb80125d7381c4c1f1da8e9de2711f9917060406a73d7904519e51388"
            "022100f3ab9fa68bd47973a73b2d40480c2ba50c22c9d76ec217257288293285449b86", True,
        ),
        (
            4, "pseudorandom", _FIRST, "00" * 20,
            "3045022100986e65933ef2ed4ee5aada139f52b70539aaf63f00a91f29c69178490d57fb71"
            "02203dafedfb8da6189d372308cbf1489bbbdabf0c0217d1c0ff0f701aaa7a694b9c", True,
        ),
        (5, "low-s", _SECOND, _1400, f"30440220{_R}0220{_LOW_S}", True),
        (6, "s-without-leading-zero", _SECOND, _1400, f"30440220{_R}0220{_HIGH_S}", False),
        (7, "high-s", _SECOND, _1400, f"3045{_BODY}", True),
        (8, "long-form-length", _SECOND, _1400, f"308145{_BODY}", False),
        (9, "length-with-leading-zero", _SECOND, _1400, f"30820045{_BODY}", False),
        (10, "length-70-not-69", _SECOND, _1400, f"3046{_BODY}", False),
        (11, "length-68-not-69", _SECOND, _1400, f"3044{_BODY}", False),
        (12, "length-overflows-u32", _SECOND, _1400, f"30850100000045{_BODY}", False),
        (13, "length-overflows-u64", _SECOND, _1400, f"3089010000000000000045{_BODY}", False),
        (14, "length-2**31-1", _SECOND, _1400, f"30847fffffff{_BODY}", False),
        (15, "length-2**31", _SECOND, _1400, f"308480000000{_BODY}", False),
        (16, "length-2**32-1", _SECOND, _1400, f"3084ffffffff{_BODY}", False),
        (17, "length-2**40-1", _SECOND, _1400, f"3085ffffffffff{_BODY}", False),
        (18, "length-2**64-1", _SECOND, _1400, f"3088ffffffffffffffff{_BODY}", False),
    )
]  # fmt: skip


@pytest.mark.parametrize(("public", "message", "signature", "right"), WYCHEPROOF_ECDSA)
def test_ecdsa_wycheproof(
    public: bytes, message: bytes, signature: bytes, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict_on(public, message, signature, monkeypatch) == ("" if right else "handshake-signature")


# -- AES-256-GCM ------------------------------------------------------------------------------------------------------

_GCM_KEY: Final = "feffe9928665731c6d6a8f9467308308" * 2
AES_256_GCM: Final = [
    pytest.param(*map(bytes.fromhex, row), id=name)
    for name, *row in (
        # McGrew and Viega, "The Galois/Counter Mode of Operation", B: those of 256 bits, 96-bit nonce, no AAD
        ("mcgrew-viega-13", "00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            "mcgrew-viega-14", "00" * 32, "00" * 12, "00" * 16,
            "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            "mcgrew-viega-15", _GCM_KEY, "cafebabefacedbaddecaf888",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            "b094dac5d93471bdec1a502270e3cc6c",
        ),
        # Wycheproof, testvectors_v1/aes_gcm_test.json: those with 256 bits, 96-bit nonce, no AAD
        (
            "wycheproof-93", "80ba3192c803ce965ea371d5ff073cf0f43b6a2ab576b208426e11409c09b9b0",
            "4da5bf8dfd5852c1ea12379d", "", "", "4771a7c404a472966cea8f73c8bfe17a",
        ),
        (
            "wycheproof-94", "cc56b680552eb75008f5484b4cb803fa5063ebd6eab91f6ab6aef4916a766273",
            "99e23ec48985bccdeeab60f1", "2a", "06", "633c1e9703ef744ffffb40edf9d14355",
        ),
        (
            "wycheproof-95", "51e4bf2bad92b7aff1a4bc05550ba81df4b96fabf41c12c7b00e60e48db7e152",
            "4f07afedfdc3b6c2361823d3", "be3308f72a2c6aed", "cf332a12fdee800b", "602e8d7c4799d62c140c9bb834876b09",
        ),
        (
            "wycheproof-96", "67119627bd988eda906219e08c0d0d779a07d208ce8a4fe0709af755eeec6dcb",
            "68ab7fdbf61901dad461d23c", "51f8c1f731ea14acdb210a6d973e07", "43fc101bff4b32bfadd3daf57a590e",
            "ec04aacb7148a8b8be44cb7eaf4efa69",
        ),
        (
            "wycheproof-97", "59d4eafb4de0cfc7d3db99a8f54b15d7b39f0acc8da69763b019c1699f87674a",
            "2fcb1b38a99e71b84740ad9b", "549b365af913f3b081131ccb6b825588", "f58c16690122d75356907fd96b570fca",
            "28752c20153092818faba2a334640d6e",
        ),
        (
            "wycheproof-98", "3b2458d8176e1621c0cc24c0c0e24c1e80d72f7ee9149a4b166176629616d011",
            "45aaa3e5d16d2d42dc03445d", "3ff1514b1c503915918f0c0c31094a6e1f", "73a6b6f45f6ccc5131e07f2caa1f2e2f56",
            "2d7379ec1db5952d4e95d30c340b1b1d",
        ),
        (
            "wycheproof-99", "0212a8de5007ed87b33f1a7090b6114f9e08cefd9607f2c276bdcfdbc5ce9cd7",
            "e6b1adf2fd58a8762c65f31b", "10f1ecf9c60584665d9ae5efe279e7f7377eea6916d2b111",
            "0843fff52d934fc7a071ea62c0bd351ce85678cde3ea2c9e", "7355fde599006715053813ce696237a8",
        ),
    )
]  # fmt: skip


@pytest.mark.parametrize(("key", "nonce", "plaintext", "ciphertext", "tag"), AES_256_GCM)
def test_aes_256_gcm(key: bytes, nonce: bytes, plaintext: bytes, ciphertext: bytes, tag: bytes) -> None:
    box = nonce + ciphertext + tag
    assert Seal(key, source(None, nonce)).encrypt(plaintext) == box
    made = bytearray(len(box))
    Seal(key, source(None, nonce)).encrypt_into(plaintext, memoryview(made))
    assert made == box
    assert Seal(key).decrypt(box) == plaintext
    opened = bytearray(len(plaintext))
    Seal(key).decrypt_into(box, opened)
    assert opened == plaintext


# -- a handshake of which every byte is known -------------------------------------------------------------------------

# Identity keys: RFC 6979, A.2.5 (rank 0), and the first of NIST's CAVS SigGen for P-256 with SHA-256 (rank 1).
IDENTITY_0: Final = bytes.fromhex(
    "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)
IDENTITY_1: Final = bytes.fromhex(
    "1ccbe91c075fc7f4f033bfa248db8fccd3565de94bbfb12f3c59ff46c271bf83"
    "ce4014c68811f9a21a1fdb2c0e6113e06db7ca93b7404e78dc7ccd5ca89a4ca9"
)
# Ephemeral keys: RFC 7748, 6.1, Alice's (rank 0) and Bob's (rank 1); their shared secret from there.
X25519_0: Final = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
X25519_1: Final = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED: Final = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
NONCE_0: Final = bytes(range(0x20))
NONCE_1: Final = bytes(range(0x20, 0x40))
COMMITMENT_0: Final = bytes.fromhex("8590183361e8403ea4a232159f1f9e6bad121e48b755decb6a38214626cd697a")
COMMITMENT_1: Final = bytes.fromhex("6c53e031c3eddea879a646f5608f3af79dce13b6708e22feb831f80ebd770134")
SIGNATURE_0: Final = bytes.fromhex(
    "30450221008eb3278391038346a6996993a7ffc5ac679b376192dd900987fe34291a6ab6ab"
    "02206875c2678620de9ffaf77d36edfec8c3549732a6b476ef830d6ace81709dd45e"
)
SIGNATURE_1: Final = bytes.fromhex(
    "3045022026347c6badaa10871cce46c600dde57ee0035bd83fd519137e9b33bfa3dbddda"
    "022100e9755ba9fa77c047b4e9a9b50b63124880dc1546cf69bb86e92f4b712234be30"
)
KEY: Final = bytes.fromhex("23ad0ed31219b3aa997fc81086c85966b7a61e308497acfdf9519602406531ad")
PING_BOX: Final = bytes.fromhex("4b4a89954257d6f466bd8aadbf8875886f")
"""AES-256-GCM of the byte 03 with `KEY` and the nonce "known nonce.": ciphertext and tag."""
HELLO: Final = (
    b'\x01{"sePubKeyRaw":"YP7UuiVanTHJYet0xjVtaMBJuJI7Yfps5mliLmDyn7Z5A/4QCLi8maQa6elWKLxk8vGyDC1+n1F3o8KU1EYimQ==",'
    b'"ephemeralX25519PubKey":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",'
    b'"nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",'
    b'"seSignature":"MEUCIQCOsyeDkQODRqaZaZOn/8WsZ5s3YZLdkAmH/jQpGmq2qwIgaHXCZ4Yg3p/693027f7Iw1SXMqa0du+DDWrOgXCd1F4="}'
)
ACK: Final = (
    b'\x02{"sePubKeyRaw":"HMvpHAdfx/TwM7+iSNuPzNNWXelLv7EvPFn/RsJxv4POQBTGiBH5ohof2ywOYRPgbbfKk7dATnjcfM1cqJpMqQ==",'
    b'"ephemeralX25519PubKey":"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",'
    b'"nonce":"ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",'
    b'"seSignature":"MEUCICY0fGutqhCHHM5GxgDd5X7gA1vYP9UZE36bM7+j293aAiEA6XVbqfp3wEe06am1C2MSSIDcFUbPabuG6S9LcSI0vjA="}'
)


def test_known_values_hang_together() -> None:
    """Derive each constant above from those before it, without the package."""
    assert (RANK_0.public_key, RANK_1.public_key) == (IDENTITY_0, IDENTITY_1)
    assert (EPHEMERAL_0.public, EPHEMERAL_1.public) == (X25519_0, X25519_1)
    assert (EPHEMERAL_0.nonce, EPHEMERAL_1.nonce) == (NONCE_0, NONCE_1)
    assert hashlib.sha256(X25519_0 + NONCE_0).digest() == COMMITMENT_0
    assert hashlib.sha256(NONCE_0 + NONCE_1 + X25519_1).digest() == COMMITMENT_1
    assert (RANK_0.sign(COMMITMENT_0), RANK_1.sign(COMMITMENT_1)) == (SIGNATURE_0, SIGNATURE_1)
    for signer, commitment, signature in ((RANK_0, COMMITMENT_0, SIGNATURE_0), (RANK_1, COMMITMENT_1, SIGNATURE_1)):
        signer.key.public_key().verify(signature, commitment, ec.ECDSA(hashes.SHA256()))
    assert hkdf_sha256(SHARED, NONCE_0 + NONCE_1, INFO, 32) == KEY
    for frame, head, values in (
        (HELLO, ClusterMsgType.HANDSHAKE_HELLO, (IDENTITY_0, X25519_0, NONCE_0, SIGNATURE_0)),
        (ACK, ClusterMsgType.HANDSHAKE_ACK, (IDENTITY_1, X25519_1, NONCE_1, SIGNATURE_1)),
    ):
        assert frame[0] == head
        assert introduction(frame) == values
        assert len(frame) == 346
    assert (hello(), ack()) == (HELLO, ACK)


def test_known_commitments() -> None:
    """[HANDSHAKE-HELLO, HANDSHAKE-ACK]"""
    assert hello_commitment(X25519_0, NONCE_0) == COMMITMENT_0
    assert ack_commitment(NONCE_0, NONCE_1, X25519_1) == COMMITMENT_1


def test_known_handshake() -> None:
    """[HANDSHAKE-KEY]"""
    initiator = Initiator(RANK_0, IDENTITY_1, source(EPHEMERAL_0))
    assert initiator.hello == HELLO
    assert decode_frame(HELLO) == HandshakeHello(IDENTITY_0, X25519_0, NONCE_0, SIGNATURE_0)
    answer, secrets = Responder(RANK_1, IDENTITY_0, source(EPHEMERAL_1)).respond(HELLO)
    assert answer == ACK
    assert decode_frame(ACK) == HandshakeAck(IDENTITY_1, X25519_1, NONCE_1, SIGNATURE_1)
    assert secrets == SessionSecrets(KEY, NONCE_0, IDENTITY_0)
    assert initiator.finish(ACK) == SessionSecrets(KEY, NONCE_0, IDENTITY_1)


def test_known_handshake_encoded_as_by_the_reference_peer() -> None:
    """Keys in another order, `/` as `\\/`, an unknown key: the same values, the same session key."""
    responder = Responder(RANK_1, IDENTITY_0, source(EPHEMERAL_1))
    first, *rest = HELLO[2:-1].replace(b"/", rb"\/").split(b",")
    _, secrets = responder.respond(b"\x01{" + b",".join([*rest, b'"v":2', first]) + b"}")
    assert secrets == SessionSecrets(KEY, NONCE_0, IDENTITY_0)


@pytest.mark.parametrize("revision", Revision)
def test_known_sessions(revision: Revision) -> None:
    """The same through sessions: every byte on the wire up to the first box, and the line of the key log.

    [HANDSHAKE-FIRST]
    """
    log = io.StringIO()
    initiator = session(Role.INITIATOR, revision, key_log=log, random=source(EPHEMERAL_0, b"known nonce."))
    responder = session(Role.RESPONDER, revision, random=source(EPHEMERAL_1))
    assert output(initiator) == link(HELLO)
    assert take(responder, link(HELLO)) == [Established(IDENTITY_0)]
    assert output(responder) == link(ACK)
    assert take(initiator, link(ACK)) == [Established(IDENTITY_1)]
    ping = output(initiator, Ping())
    if revision is Revision.V1:
        assert ping == bytes.fromhex("0100000000000000 03")
    else:
        assert ping == bytes.fromhex("1d00000000000000") + b"known nonce." + PING_BOX
    assert (initiator.state, responder.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert log.getvalue() == f"CLUSTER_SESSION_KEY {NONCE_0.hex()} {KEY.hex()}\n"
    assert key_log_line(SessionSecrets(KEY, NONCE_0, IDENTITY_1)) == log.getvalue()


# -- what is drawn for each handshake ---------------------------------------------------------------------------------


def test_each_handshake_draws_anew() -> None:
    """[HANDSHAKE-FRESH]"""
    pairs = [shaken() for _ in range(20)]
    assert len({pair.key for pair in pairs}) == 20
    frames = [Initiator(RANK_0, IDENTITY_1).hello for _ in range(20)]
    answers = [Responder(RANK_1, IDENTITY_0).respond(HELLO)[0] for _ in range(20)]
    for intros in (list(map(introduction, frames)), list(map(introduction, answers))):
        assert len({intro.ephemeral for intro in intros}) == len({intro.nonce for intro in intros}) == 20
        assert all(len(intro.nonce) == 32 for intro in intros)


def test_key_signer_signs_what_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default signer, whose signatures always differ."""
    key = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
    signer = KeySigner(key)
    numbers = key.public_key().public_numbers()
    assert signer.public_key == numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    signatures = {signer.sign(COMMITMENT_0) for _ in range(10)}
    assert len(signatures) == 10
    for signature in signatures:
        key.public_key().verify(signature, COMMITMENT_0, ec.ECDSA(hashes.SHA256()))
        assert verdict_on(signer.public_key, COMMITMENT_0, signature, monkeypatch) == ""
