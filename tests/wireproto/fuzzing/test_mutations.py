"""Mutations keep the structure of inputs: lengths fit, boxes open, introductions are signed."""

import base64
import hashlib
import json
from random import Random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.peers import unbox
from wireproto import Revision, WireError, decode_frame
from wireproto.fuzzing.engine import _blown_up
from wireproto.fuzzing.minimize import fewest, minimized
from wireproto.fuzzing.sealed import mutate_introduction, mutate_link, mutate_sealed, split_stream
from wireproto.fuzzing.seeds import link_stream
from wireproto.messages import EXTENSIONS
from wireproto.testing.fixed_keys import KNOWN, box
from wireproto.testing.long_frames import KINDS
from wireproto.testing.mutations import mutate_frame, random_frame, token_soup

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, data=st.binary(max_size=80))
def test_any_bytes_can_be_mutated(seed: int, data: bytes) -> None:
    for mutate in (mutate_frame, mutate_link, mutate_sealed(KNOWN.key), mutate_introduction):
        assert mutate(Random(seed), data) == mutate(Random(seed), data)


@given(bodies=st.lists(st.binary(min_size=1, max_size=20)), tail=st.binary(max_size=7))
def test_splitting_a_stream(bodies: list[bytes], tail: bytes) -> None:
    assert split_stream(link_stream(*bodies) + tail) == (bodies, tail)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def test_lengths_are_repaired() -> None:
    """Most mutants of a complete stream are complete."""
    random = Random(1)
    stream = link_stream(b"\x03", b'\x0a{"uid":"a"}', b"\xff")
    assert share([not split_stream(mutate_link(random, stream))[1] for _ in range(500)]) > 0.6


def test_boxes_are_sealed_again() -> None:
    """Most mutants of a sealed stream have new boxes that open."""
    random = Random(1)
    stream = link_stream(*(box(KNOWN.key, bytes([at]) * 12, b"\x03") for at in range(3)))
    mutate = mutate_sealed(KNOWN.key)

    def has_news(data: bytes) -> bool:
        for body in split_stream(data)[0]:
            try:
                if unbox(KNOWN.key, body) != b"\x03":
                    return True
            except Exception:  # noqa: S112 - whatever it is, it does not open
                continue
        return False

    assert share([has_news(mutate(random, stream)) for _ in range(500)]) > 0.3


def test_introductions_are_signed_again() -> None:
    """Many hellos with changed values have a valid signature over them."""
    random = Random(1)
    numbers = KNOWN.rank_0._key.public_key()

    def is_signed_anew(frame: bytes) -> bool:
        if frame == KNOWN.hello or frame[:1] != b"\1":
            return False
        try:
            fields = {key: base64.b64decode(value) for key, value in json.loads(frame[1:]).items()}
            commitment = hashlib.sha256(fields["ephemeralX25519PubKey"] + fields["nonce"]).digest()
            numbers.verify(fields["seSignature"], commitment, ec.ECDSA(hashes.SHA256()))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
            return False
        return True

    assert share([is_signed_anew(mutate_introduction(random, KNOWN.hello)) for _ in range(300)]) > 0.3


@pytest.mark.parametrize("make", [random_frame, token_soup])
def test_frames_from_nothing_are_right_and_wrong(make: object) -> None:
    random = Random(1)
    codes: set[str] = set()
    for _ in range(3000):
        try:
            decode_frame(make(random), Revision.V2, EXTENSIONS)  # type: ignore[operator]
            codes.add("right")
        except WireError as error:
            codes.add(error.code)
    assert "right" in codes
    assert len(codes) > (22 if make is random_frame else 8), codes


@pytest.mark.parametrize("kind", KINDS)
def test_long_frames(kind: str) -> None:
    """Each has the requested length, and only the fault in its name."""
    frame = KINDS[kind](200_000)
    assert 150_000 < len(frame) < 250_000
    wrong = {"depth": "json-nesting", "open-string": "truncated", "over-limit": "payload-limit"}
    try:
        decode_frame(frame)
        code = None
    except WireError as error:
        code = error.code
    assert code == wrong.get(kind)


def test_blowing_up() -> None:
    sizes = [len(_blown_up(Random(seed), b"abcdefgh")) for seed in range(50)]
    assert max(sizes) > 60_000


# -- minimizing -------------------------------------------------------------------------------------------------------


def test_fewest() -> None:
    assert fewest(bytes(range(100)), lambda kept: {7, 63} <= {*kept}) == bytes([7, 63])
    assert fewest([b"a", b"bc", b"d"], lambda kept: b"bc" in kept) == [b"bc"]
    assert fewest(b"", lambda kept: True) == b""
    assert fewest(b"a", lambda kept: True) == b""


def test_making_small_ends_in_time() -> None:
    tried: list[bytes] = []
    long = bytes(100_000)
    assert fewest(long, lambda kept: bool(tried.append(kept)), end=0.0) == long
    assert not tried


def test_link_frames_go_first() -> None:
    """The remaining frames keep their lengths, because whole frames were removed."""
    frames = [b"\x03", b"needle", b"\x05" + bytes(20)]

    def is_same(data: bytes) -> bool:
        bodies, tail = split_stream(data[1:])
        return not tail and b"needle" in bodies and data[:1] == b"!"

    assert minimized(b"!" + link_stream(*frames), is_same) == b"!" + link_stream(b"needle")
