"""Vectors of sealed boxes, made with AES-256-GCM directly."""

from collections.abc import Iterator
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors.writing import BEYOND_LAYOUT, fault, file
from tests.wireproto.peers import box
from wireproto.testing.vectors import Group, Hex, SealStep, SealTest, VectorFile

_ABOUT = (
    "The boxes of one session, which one side seals and opens in this order with `key`. Sealing with `nonce` must "
    "give `box`. Opening must give `plaintext`, or fail with `error`; a refused box does not affect later ones. The "
    "`error` of the test is that of the first box refused. The offset counts in the box."
)

KEY: Final = bytes(range(0x20, 0x40))
_OTHER_KEY: Final = bytes(range(0x40, 0x60))


def nonce(number: int) -> bytes:
    return b"test nonce" + number.to_bytes(2)


def _seal(number: int, plaintext: bytes) -> SealStep:
    sealed = box(KEY, plaintext, nonce(number))
    return SealStep(do="seal", nonce=Hex(nonce(number)), plaintext=Hex(plaintext), box=Hex(sealed))


def _open(number: int, plaintext: bytes) -> SealStep:
    return SealStep(do="open", plaintext=Hex(plaintext), box=Hex(box(KEY, plaintext, nonce(number))))


def _refuse(sealed: bytes, code: str, offset: int = 0) -> SealStep:
    return SealStep(do="open", box=Hex(sealed), error=fault(code, offset))


def _test(name: str, comment: str, rule: str, *steps: SealStep, flags: tuple[str, ...] = ()) -> SealTest:
    error = next((step.error for step in steps if step.error is not None), None)
    beyond = () if error is None or error.code == "truncated" else (BEYOND_LAYOUT,)
    return SealTest(
        id=name,
        comment=comment,
        requirements=(rule,),
        flags=(*beyond, *flags),
        result="valid" if error is None else "invalid",
        error=error,
        key=Hex(KEY),
        steps=steps,
    )


def _good() -> Iterator[SealTest]:
    for size in (0, 1, 4, 15, 16, 17, 31, 32, 1000):
        plain = bytes(n % 251 for n in range(size))
        yield _test(f"seal-{size}", f"A plaintext of {size} bytes is sealed", "SEAL-LAYOUT", _seal(size, plain))
        yield _test(f"open-{size}", f"A box with {size} bytes is opened", "SEAL-LAYOUT", _open(size, plain))
    yield _test("ping", "The box of a ping: 29 bytes", "SEAL-FRAMES", _seal(1, b"\x03"))
    yield _test("both-ways", "One key serves both directions", "SEAL-LAYOUT",
                _seal(1, b"\x03"), _open(2, b"\x04{}"), _seal(3, b"\x03"), _open(4, b"\x04{}"))  # fmt: skip
    yield _test("same-plaintext", "The same plaintext with two nonces gives two boxes", "SEAL-LAYOUT",
                _seal(1, b"\x03"), _seal(2, b"\x03"), _open(3, b"\x03"), _open(4, b"\x03"))  # fmt: skip
    yield _test("any-order", "Nonces have no order", "SEAL-REPLAY", *(_open(n, b"\x03") for n in (5, 1, 9, 3)))
    yield _test("nonce-zeros", "Any twelve bytes are a nonce", "SEAL-LAYOUT",
                SealStep(do="open", plaintext=Hex(b"\x03"), box=Hex(box(KEY, b"\x03", bytes(12)))))  # fmt: skip


def _faults() -> Iterator[SealTest]:
    whole = box(KEY, b"\x03", nonce(1))
    for size in (0, 1, 11, 12, 13, 27):
        yield _test(f"cut-{size}", f"{size} bytes are not a box: truncated, before a key is tried", "SEAL-LAYOUT",
                    _refuse(whole[:size], "truncated", size))  # fmt: skip
    for name, at in (("nonce-first", 0), ("nonce-last", 11), ("ciphertext", 12), ("tag-first", 13), ("tag-last", 28)):
        for bit in (0, 7):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            yield _test(f"{name}-bit-{bit}", f"Bit {bit} of byte {at} is another", "SEAL-LAYOUT",
                        _refuse(bytes(changed), "seal-tag"))  # fmt: skip
    yield _test("cut-28", "The last byte is missing: what is left is long enough for a box", "SEAL-LAYOUT",
                _refuse(whole[:28], "seal-tag"))  # fmt: skip
    yield _test("byte-behind", "One byte more", "SEAL-LAYOUT", _refuse(whole + b"\0", "seal-tag"))
    yield _test("other-key", "Sealed with another key", "SEAL-LAYOUT",
                _refuse(box(_OTHER_KEY, b"\x03", nonce(1)), "seal-tag"))  # fmt: skip
    yield _test("associated-data", "Sealed with associated data", "SEAL-LAYOUT",
                _refuse(nonce(1) + AESGCM(KEY).encrypt(nonce(1), b"\x03", b"0"), "seal-tag"))  # fmt: skip
    yield _test("tag-first-layout", "The tag before the ciphertext", "SEAL-LAYOUT",
                _refuse(whole[:12] + whole[13:] + whole[12:13], "seal-tag"))  # fmt: skip
    yield _test("nonce-behind", "The nonce at the end", "SEAL-LAYOUT", _refuse(whole[12:] + whole[:12], "seal-tag"))
    yield _test("zeros", "Zeros", "SEAL-LAYOUT", _refuse(bytes(29), "seal-tag"))
    yield _test("plaintext", "A cluster frame that is not sealed, as long as a box", "SEAL-FRAMES",
                _refuse(b'\x07{"port":29400,"sessionID":"a"}', "seal-tag"))  # fmt: skip


def _twice() -> Iterator[SealTest]:
    first, refused = box(KEY, b"\x03", nonce(1)), "seal-replay"
    yield _test("replay", "A box comes twice", "SEAL-REPLAY", _open(1, b"\x03"), _refuse(first, refused))
    yield _test("replay-late", "A box comes again behind others", "SEAL-REPLAY",
                *(_open(n, b"\x03") for n in range(1, 6)), _refuse(first, refused))  # fmt: skip
    yield _test("replay-and-on", "After a replay the next box opens", "SEAL-REPLAY",
                _open(1, b"\x03"), _refuse(first, refused), _open(2, b"\xff"))  # fmt: skip
    yield _test("nonce-again", "Another plaintext with a nonce that was opened: the peer repeats nonces", "SEAL-REPLAY",
                _open(1, b"\x03"), _refuse(box(KEY, b"\xff", nonce(1)), refused))  # fmt: skip
    yield _test("nonce-again-forged", "A nonce that was opened, and a tag that is wrong: it is not even tried",
                "SEAL-REPLAY", _open(1, b"\x03"), _refuse(first[:-1] + b"\0", refused),
                flags=("this-implementation",))  # fmt: skip
    yield _test("reflection", "A box comes back to the one that sealed it", "SEAL-REFLECTION",
                _seal(1, b"\x03"), _refuse(first, "seal-reflection"))  # fmt: skip
    yield _test("reflection-late", "A box comes back behind others, in both directions", "SEAL-REFLECTION",
                _seal(1, b"\x03"), _open(2, b"\x04{}"), _seal(3, b"\x03"), _refuse(first, "seal-reflection"),
                _open(4, b"\x04{}"))  # fmt: skip
    forged = first[:-1] + bytes([first[-1] ^ 1])
    yield _test("forged-before", "A forged box with a nonce yet to come does not keep out the true one", "SEAL-REFUSED",
                _refuse(forged, "seal-tag"), _open(1, b"\x03"))  # fmt: skip
    yield _test("cut-before", "Nor does one that is cut", "SEAL-REFUSED", _refuse(first[:20], "truncated", 20),
                _open(1, b"\x03"))  # fmt: skip


def make() -> VectorFile[Any]:
    return file(
        SealTest,
        _ABOUT,
        (
            Group(name="boxes", about="Boxes that open.", tests=tuple(_good())),
            Group(name="faults", about="Boxes that do not open.", tests=tuple(_faults())),
            Group(name="twice", about="Boxes that would open, and are refused.", tests=tuple(_twice())),
        ),
    )
