"""Sealed boxes: layout, refusals, remembered nonces, and their memory."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wireproto.peers import box, unbox
from tests.wireproto.streams import KIB, MIB, pattern
from tests.wireproto.verdicts import Rejected, expected, verdict
from wireproto import SealError, TruncatedError, WireError
from wireproto.session import seal
from wireproto.session.seal import NONCE, OVERHEAD, TAG, Seal

KEY: Final = bytes(range(32))


def sealed(one: Seal, plaintext: bytes) -> bytes:
    return one.encrypt(plaintext)


def sealed_into(one: Seal, plaintext: bytes) -> bytes:
    out = bytearray(len(plaintext) + OVERHEAD)
    one.encrypt_into(plaintext, memoryview(out))
    return bytes(out)


def sealed_in_two(one: Seal, plaintext: bytes) -> bytes:
    out = bytearray(len(plaintext) + OVERHEAD)
    one.encrypt_into(plaintext[:1], memoryview(out), plaintext[1:])
    return bytes(out)


def opened(one: Seal, sealed_box: bytes) -> bytes:
    return one.decrypt(sealed_box)


def opened_into(one: Seal, sealed_box: bytes) -> bytes:
    out = bytearray(max(0, len(sealed_box) - OVERHEAD))
    one.decrypt_into(sealed_box, out)
    return bytes(out)


SEALS: Final = {"encrypt": sealed, "encrypt_into": sealed_into, "encrypt_into, in two": sealed_in_two}
OPENS: Final = {"decrypt": opened, "decrypt_into": opened_into}
EACH_SEAL: Final = pytest.mark.parametrize("make", SEALS.values(), ids=list(SEALS))
EACH_OPEN: Final = pytest.mark.parametrize("open_", OPENS.values(), ids=list(OPENS))
Make = Callable[[Seal, bytes], bytes]


@pytest.fixture(params=[0, 1, 2**18])
def first(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of nonces in the dictionary."""
    monkeypatch.setattr(seal, "_FIRST", request.param)


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert (NONCE, TAG, OVERHEAD) == (12, 16, 28)


@EACH_SEAL
@EACH_OPEN
def test_round_trip(make: Make, open_: Make) -> None:
    one, other = Seal(KEY), Seal(KEY)
    for size in (*range(101), 4 * KIB, 64 * KIB - 1, MIB + 1):
        plaintext = pattern(size, size)
        for sender, receiver in ((one, other), (other, one)):
            assert open_(receiver, make(sender, plaintext)) == plaintext


@EACH_SEAL
@EACH_OPEN
def test_round_trip_of_a_long_one(make: Make, open_: Make) -> None:
    plaintext = pattern(5 * MIB + 3)
    assert open_(Seal(KEY), make(Seal(KEY), plaintext)) == plaintext


@EACH_SEAL
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70, MIB])
def test_layout(make: Make, size: int) -> None:
    """`nonce ‖ ciphertext ‖ tag`, by AES-256-GCM itself, without associated data. [SEAL-LAYOUT]"""
    plaintext = pattern(size)
    sealed_box = make(Seal(KEY), plaintext)
    assert len(sealed_box) == 12 + size + 16
    assert AESGCM(KEY).decrypt(sealed_box[:12], sealed_box[12:], None) == plaintext
    assert AESGCM(KEY).encrypt(sealed_box[:12], plaintext, None) == sealed_box[12:]
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(sealed_box[:12], sealed_box[12:], b"associated")


@EACH_OPEN
@pytest.mark.parametrize("size", [0, 1, 70, MIB])
def test_foreign_box(open_: Make, size: int) -> None:
    plaintext = pattern(size)
    assert open_(Seal(KEY), b"twelve bytes" + AESGCM(KEY).encrypt(b"twelve bytes", plaintext, None)) == plaintext


@EACH_OPEN
def test_foreign_box_with_associated_data(open_: Make) -> None:
    foreign = b"twelve bytes" + AESGCM(KEY).encrypt(b"twelve bytes", b"text", b"\x03")
    assert verdict(open_, Seal(KEY), foreign) == expected("seal-tag", 0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: Callable[[bytes], Any]) -> None:
    one, other = Seal(KEY), Seal(KEY)
    out = bytearray(32)
    one.encrypt_into(kind(b"text"), memoryview(out))
    assert other.decrypt(kind(bytes(out))) == b"text"
    assert other.decrypt(kind(one.encrypt(kind(b"more")))) == b"more"
    text = bytearray(4)
    other.decrypt_into(kind(one.encrypt(kind(b"last"))), memoryview(text))
    assert text == b"last"


def test_box_inside_a_longer_buffer() -> None:
    """Sealed and opened in place, between bytes that do not change."""
    one, other = Seal(KEY), Seal(KEY)
    data = bytearray(b"<" * 8 + bytes(32) + b">" * 8)
    one.encrypt_into(b"text", memoryview(data)[8:40])
    assert (data[:8], data[40:]) == (b"<" * 8, b">" * 8)
    text = bytearray(b"[....]")
    other.decrypt_into(memoryview(data)[8:40], memoryview(text)[1:5])
    assert text == b"[text]"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_size(size: int) -> None:
    with pytest.raises(ValueError, match="AESGCM key must be"):
        Seal(bytes(size))


# -- boxes that do not open -------------------------------------------------------------------------------------------


@EACH_OPEN
@pytest.mark.parametrize("view", [bytes, memoryview])
@pytest.mark.parametrize("size", range(OVERHEAD))
def test_truncated(open_: Make, size: int, view: Callable[[bytes], bytes]) -> None:
    whole = Seal(KEY).encrypt(b"")
    result = verdict(open_, Seal(KEY), view(whole[:size]))
    assert result == Rejected(TruncatedError, "truncated", size, None)


@EACH_OPEN
@pytest.mark.parametrize("size", [0, 1, 70])
def test_cut_box(open_: Make, size: int) -> None:
    """The rest is long enough for a box, but is not one."""
    whole = Seal(KEY).encrypt(pattern(size + 30))
    for cut in range(OVERHEAD, len(whole)):
        assert verdict(open_, Seal(KEY), whole[:cut]) == expected("seal-tag", 0)
    assert verdict(open_, Seal(KEY), whole + b"\0") == expected("seal-tag", 0)


@EACH_OPEN
@pytest.mark.parametrize("size", [0, 1, 42])
def test_each_flipped_bit(open_: Make, size: int) -> None:
    sender, receiver = Seal(KEY), Seal(KEY)
    whole = sender.encrypt(pattern(size))
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert verdict(open_, receiver, bytes(flipped)) == expected("seal-tag", 0)
    assert open_(receiver, whole) == pattern(size)


@EACH_OPEN
def test_other_key(open_: Make) -> None:
    assert verdict(open_, Seal(bytes(32)), Seal(KEY).encrypt(b"text")) == expected("seal-tag", 0)


@EACH_OPEN
def test_swapped_halves(open_: Make) -> None:
    one = Seal(KEY)
    first, second = one.encrypt(b"first"), one.encrypt(b"other")
    receiver = Seal(KEY)
    assert verdict(open_, receiver, first[:12] + second[12:]) == expected("seal-tag", 0)
    assert verdict(open_, receiver, first[:-16] + second[-16:]) == expected("seal-tag", 0)
    assert (open_(receiver, second), open_(receiver, first)) == (b"other", b"first")


# -- replay and reflection --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("first")
@EACH_OPEN
def test_replay(open_: Make) -> None:
    """[SEAL-REPLAY]"""
    sender, receiver = Seal(KEY), Seal(KEY)
    whole = sender.encrypt(b"text")
    assert open_(receiver, whole) == b"text"
    for again in OPENS.values():
        assert verdict(again, receiver, whole) == expected("seal-replay", 0)


@pytest.mark.usefixtures("first")
@EACH_SEAL
@EACH_OPEN
def test_reflection(make: Make, open_: Make) -> None:
    """[SEAL-REFLECTION]"""
    one = Seal(KEY)
    whole = make(one, b"text")
    assert verdict(open_, one, whole) == expected("seal-reflection", 0)
    assert open_(Seal(KEY), whole) == b"text"


@pytest.mark.usefixtures("first")
@EACH_OPEN
def test_nonce_that_the_peer_took_from_here(open_: Make) -> None:
    """A valid box with a nonce that was sent or received before is refused."""
    one = Seal(KEY)
    sent = one.encrypt(b"text")
    came = box(KEY, b"text")
    assert open_(one, came) == b"text"
    assert verdict(open_, one, box(KEY, b"another", sent[:12])) == expected("seal-reflection", 0)
    assert verdict(open_, one, box(KEY, b"another", came[:12])) == expected("seal-replay", 0)


@pytest.mark.usefixtures("first")
@EACH_OPEN
def test_refusals_do_not_depend_on_what_is_in_the_box(open_: Make) -> None:
    """A known nonce is refused before decryption, so forged bytes after it get the same error."""
    one = Seal(KEY)
    came = box(KEY, b"text")
    assert open_(one, came) == b"text"
    assert verdict(open_, one, came[:12] + bytes(20)) == expected("seal-replay", 0)
    assert verdict(open_, one, came[:12] + bytes(15)) == Rejected(TruncatedError, "truncated", 27, None)


@pytest.mark.usefixtures("first")
@EACH_OPEN
def test_forged_box_does_not_stand_in_the_way(open_: Make) -> None:
    """Only opened boxes are remembered: a forgery with the same nonce does not block the true box. [SEAL-REFUSED]"""
    sender, receiver = Seal(KEY), Seal(KEY)
    whole = sender.encrypt(b"text")
    for _ in range(3):
        assert verdict(open_, receiver, whole[:-1] + bytes([whole[-1] ^ 1])) == expected("seal-tag", 0)
        assert verdict(open_, receiver, whole[:27]) == Rejected(TruncatedError, "truncated", 27, None)
    assert open_(receiver, whole) == b"text"
    assert verdict(open_, receiver, whole) == expected("seal-replay", 0)


@pytest.mark.parametrize("first", [0, 3, 7])
@settings(max_examples=examples(60))  # each has many steps
@given(data=st.data(), moves=st.lists(st.sampled_from("srRfm"), max_size=40))
def test_any_order_of_moves(first: int, data: st.DataObject, moves: str) -> None:
    """Boxes sent, received, replayed, reflected and forged in any order, compared with a set of nonces."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(seal, "_FIRST", first)
        _any_order_of_moves(data, moves)


def _any_order_of_moves(data: st.DataObject, moves: str) -> None:
    one, peer = Seal(KEY), Seal(KEY)
    sent: list[bytes] = []
    came: list[bytes] = []
    for number, move in enumerate(moves):
        text = b"%d" % number
        if move == "s":
            sent.append(one.encrypt(text))
        elif move == "r":
            came.append(peer.encrypt(text))
            assert one.decrypt(came[-1]) == text
        elif move == "R" and came:
            assert verdict(one.decrypt, data.draw(st.sampled_from(came))) == expected("seal-replay", 0)
        elif move == "m" and sent:
            assert verdict(one.decrypt, data.draw(st.sampled_from(sent))) == expected("seal-reflection", 0)
        elif move == "f":
            assert verdict(one.decrypt, os.urandom(30)) == expected("seal-tag", 0)
    assert {nonce for nonce, _ in remembered(one)} == {whole[:12] for whole in sent + came}


def remembered(one: Seal) -> Iterator[tuple[bytes, bytes]]:
    """All nonces known to a seal, with their origin."""
    yield from one._first.items()
    for row in one._rows:
        for at in range(0, len(row), 13):
            yield row[at : at + 12], row[at + 12 : at + 13]


# -- limits -----------------------------------------------------------------------------------------------------------

EXHAUSTED: Final = Rejected(SealError, "seal-exhausted", None, None)


@pytest.fixture(params=[0, 4, 2**18])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Eight boxes per key, some of them in the dictionary."""
    monkeypatch.setattr(seal, "_FIRST", request.param)
    monkeypatch.setattr(seal, "MAX_BOXES", 8)
    return 8


def test_limit_is_what_is_said() -> None:
    """Far below the 2^32 that random nonces allow. [SEAL-LIMIT, SEAL-LIMIT-LOWER]"""
    assert seal.MAX_BOXES == Seal(KEY).left == 2**24


@EACH_SEAL
def test_sends_up_to_the_limit(limit: int, make: Make) -> None:
    """[SEAL-LIMIT]"""
    one = Seal(KEY)
    for number in range(limit):
        assert one.left == limit - number
        make(one, b"text")
    for _ in range(3):
        assert one.left == 0
        assert verdict(make, one, b"text") == EXHAUSTED


@EACH_OPEN
def test_receipts_up_to_the_limit(limit: int, open_: Make) -> None:
    """[SEAL-LIMIT-LOWER]"""
    peers = [Seal(KEY), Seal(KEY)]  # two of them, because one cannot send this many
    one = Seal(KEY)
    for number in range(limit):
        assert open_(one, peers[number % 2].encrypt(b"text")) == b"text"
    assert verdict(open_, one, peers[0].encrypt(b"text")) == EXHAUSTED
    assert verdict(one.encrypt, b"text") == EXHAUSTED


def test_both_ways_count_together(limit: int) -> None:
    one, peer = Seal(KEY), Seal(KEY)
    for _ in range(limit // 2):
        assert peer.decrypt(one.encrypt(b"text")) == b"text"
        assert one.decrypt(peer.encrypt(b"text")) == b"text"
    for call in (one.encrypt, peer.encrypt):
        assert verdict(call, b"text") == EXHAUSTED


def test_what_is_refused_does_not_count(limit: int) -> None:
    one, peer = Seal(KEY), Seal(KEY)
    first = peer.encrypt(b"text")
    assert one.decrypt(first) == b"text"
    for _ in range(3 * limit):
        assert verdict(one.decrypt, first) == expected("seal-replay", 0)
        assert verdict(one.decrypt, bytes(28)) == expected("seal-tag", 0)
        assert verdict(one.decrypt, bytes(27)) == expected("truncated", 27)
    for _ in range(limit - 1):
        one.encrypt(b"text")
    assert verdict(one.encrypt, b"text") == EXHAUSTED


def test_replays_are_known_to_the_end(limit: int) -> None:
    """[SEAL-REPLAY]"""
    one, peer = Seal(KEY), Seal(KEY)
    first, own = peer.encrypt(b"text"), one.encrypt(b"text")
    assert one.decrypt(first) == b"text"
    for _ in range(limit - 2):
        one.encrypt(b"")
    for _ in range(3):
        assert verdict(one.encrypt, b"") == EXHAUSTED
        assert verdict(one.decrypt, first) == expected("seal-replay", 0)
        assert verdict(one.decrypt, own) == expected("seal-reflection", 0)


def test_an_exhausted_seal_takes_no_more_memory(limit: int) -> None:
    """Further calls raise the same error at no cost."""
    one = Seal(KEY)
    for _ in range(limit):
        one.encrypt(b"")
    for _ in range(1000):
        assert verdict(one.encrypt, b"") == EXHAUSTED
    assert len(list(remembered(one))) == limit


# -- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 11, 12, 13, 27, 28, 30, 31, 33, 64])
def test_wrong_room_for_a_box(size: int) -> None:
    """The caller's mistake is a plain `ValueError`, and the seal is unchanged."""
    one = Seal(KEY)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        one.encrypt_into(b"text", memoryview(bytearray(size)))
    assert not isinstance(caught.value, WireError)
    with pytest.raises(ValueError, match=rf"^the box has 32 bytes, not {size}$"):
        one.encrypt_into(b"te", memoryview(bytearray(size)), b"xt")
    assert one.left == seal.MAX_BOXES
    assert unbox(KEY, sealed_into(one, b"text")) == b"text"


@pytest.mark.parametrize("size", [0, 3, 5, 16, 20, 32])
def test_wrong_room_for_a_plaintext(size: int) -> None:
    """The box still opens afterwards, because it was not opened before."""
    one, whole = Seal(KEY), Seal(KEY).encrypt(b"text")
    with pytest.raises(ValueError, match=r"^buffer must be 4 bytes$") as caught:
        one.decrypt_into(whole, bytearray(size))
    assert not isinstance(caught.value, WireError)
    assert opened_into(one, whole) == b"text"
    assert verdict(one.decrypt, whole) == expected("seal-replay", 0)


def test_read_only_room() -> None:
    one, whole = Seal(KEY), Seal(KEY).encrypt(b"text")
    with pytest.raises(TypeError):
        one.encrypt_into(b"text", memoryview(bytes(32)))
    with pytest.raises(TypeError):
        one.decrypt_into(whole, memoryview(bytes(4)))
    assert one.decrypt(whole) == b"text"


# -- nonces -----------------------------------------------------------------------------------------------------------


def test_nonces_never_repeat() -> None:
    """Over several draws, two seals, both ways to seal. [SEAL-NONCE]"""
    one, other = Seal(KEY), Seal(KEY)
    nonces = [make(each, b"")[:12] for _ in range(5000) for each in (one, other) for make in SEALS.values()]
    assert len(set(nonces)) == len(nonces) == 30_000


def test_nonces_are_random() -> None:
    """No counter, clock or constant part: each byte takes nearly every value, and bits are evenly distributed.

    [SEAL-NONCE]
    """
    one = Seal(KEY)
    nonces = [one.encrypt(b"")[:12] for _ in range(8000)]
    for place in range(12):
        assert len({nonce[place] for nonce in nonces}) == 256
    ones = sum(int.from_bytes(nonce).bit_count() for nonce in nonces)
    assert abs(ones - 8000 * 48) < 6 * (8000 * 96 / 4) ** 0.5  # six standard deviations


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_forked_child_draws_its_own() -> None:
    """Nonces are drawn in advance, but a child process does not use its parent's. [SEAL-NONCE]"""
    program = """
import os
from wireproto.session.seal import Seal
one = Seal(bytes(32))
one.encrypt(b"")
read, write = os.pipe()
child = os.fork()
nonces = [one.encrypt(b"")[:12] for _ in range(600)]
if child == 0:
    os.write(write, b"".join(nonces))
    os._exit(0)
os.close(write)
theirs = b""
while chunk := os.read(read, 65536):
    theirs += chunk
assert os.waitpid(child, 0)[1] == 0
others = {theirs[at : at + 12] for at in range(0, len(theirs), 12)}
assert len(others) == len(set(nonces)) == 600
assert not others & set(nonces), "nonces shared"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "each", "rest"), [(0, 13, 6 * MIB), (2**18, 120, 0)], ids=["rows", "dictionary"])
def test_memory_of_the_nonces(first: int, each: int, rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows take 13 bytes a box, and 6 MiB of their own; the dictionary takes 90, and up to 120 while it grows.

    A million stay as far below, but take eight seconds to trace.
    """
    monkeypatch.setattr(seal, "_FIRST", first)
    count = 200_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        one = Seal(KEY)
        for _ in range(count):
            one._next_nonce()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert len({nonce for nonce, _ in remembered(one)}) == count
    assert peak < each * count + rest


def test_memory_of_a_short_session() -> None:
    """A session of a few thousand boxes, either way, takes 3 MiB at most."""
    tracemalloc.start()
    try:
        one, peer = Seal(KEY), Seal(KEY)
        boxes = [peer.encrypt(b"") for _ in range(8000)]
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for whole in boxes:
            one.decrypt(whole)
            one.encrypt(b"")
        assert tracemalloc.get_traced_memory()[1] - before < 3 * MIB
    finally:
        tracemalloc.stop()


def test_memory_of_forgeries() -> None:
    """A box that does not open is not remembered."""
    one = Seal(KEY)
    for _ in range(1000):
        assert verdict(one.decrypt, os.urandom(28)) == expected("seal-tag", 0)
    assert not list(remembered(one))
