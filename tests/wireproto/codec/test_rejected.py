"""The corpora: fast path and schema report the class, code, offset and path of each row."""

from collections import Counter

import pytest

from tests.examples import some
from tests.wireproto.accepted_frames import ACCEPTED, Accept
from tests.wireproto.oracle import judge
from tests.wireproto.payloads import JSON_CLASSES, JSON_FIELDS, canonical_frame
from tests.wireproto.rejected_fields import REJECTED_FIELDS
from tests.wireproto.rejected_texts import REJECTED_TEXTS, Reject
from tests.wireproto.verdicts import Accepted, expected, fast, slow
from wireproto import ERROR_CODES, HandshakeHello, Revision, SessionStopPayload, WireError, decode_frame
from wireproto.codec.json_scanner import Scanner
from wireproto.codec.payloads import decode_payload

REJECTED = [*REJECTED_TEXTS, *REJECTED_FIELDS]
OF_FRAMES = {
    *("truncated", "trailing-data"),
    *(code for code in ERROR_CODES if code.startswith(("type-", "payload-", "json-", "field-"))),
}
"""Codes that a cluster frame can have."""


def test_text_that_starts_the_bytes() -> None:
    assert decode_payload(SessionStopPayload, b'{"uid":"u"}') == SessionStopPayload("u")
    assert Scanner(b'"u"').string() == "u"


def with_code(code: str) -> list[Reject]:
    """The rows of a code. A test for each would take longer to start than to run."""
    return [row for row in REJECTED if row.code == code]


@pytest.mark.parametrize("code", sorted(OF_FRAMES))
def test_rejected(code: str) -> None:
    """These include every fault of an extension's field. [EXT-NAMES, EXT-OUTCOME, EXT-VERSIONS]"""
    for row in with_code(code):
        verdict = expected(row.code, row.offset, row.path)
        assert fast(row.frame, row.revision) == verdict, row.id
        assert slow(row.frame, row.revision) == verdict, row.id
        assert fast(bytearray(row.frame), row.revision) == verdict, row.id  # type: ignore[arg-type]
        assert fast(memoryview(row.frame), row.revision) == verdict, row.id  # type: ignore[arg-type]
        assert judge(row.frame, row.revision) is None, row.id


@pytest.mark.parametrize("code", sorted(OF_FRAMES - {"truncated"}))
def test_rejected_from_some_byte_on(code: str) -> None:
    """Up to the fault the frame is only incomplete; after it, more bytes change nothing."""
    for row in with_code(code):
        check_each_length(row)


def check_each_length(row: Reject) -> None:
    """The slow schema judges some lengths in the profile `local`."""
    verdict = expected(row.code, row.offset, row.path)
    first, last = max(0, row.offset - 20), min(len(row.frame), row.offset + 60)
    judged = {*some(range(first, last + 1)), row.offset, row.offset + 1, last}
    for length in range(first, row.offset + 1):
        before = fast(row.frame[:length], row.revision)
        assert length not in judged or before == slow(row.frame[:length], row.revision), row.id
        assert isinstance(before, Accepted) or before == expected("truncated", length), row.id
    found = False
    for length in range(row.offset + 1, last + 1):
        after = fast(row.frame[:length], row.revision)
        assert length not in judged or after == slow(row.frame[:length], row.revision), row.id
        if row.code == "json-bom" and length < row.offset + 3:
            assert after == expected("json-syntax", row.offset), row.id  # half a byte-order mark is not one
            continue
        found = found or after == verdict
        assert after == (verdict if found else expected("truncated", length)), row.id
    assert found or len(row.frame) > row.offset + 60, row.id


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.id)
def test_accepted(row: Accept) -> None:
    verdict = Accepted(type(row.message), row.message)
    for revision in {row.revision, Revision.V2}:
        assert fast(row.frame, revision) == verdict
        assert slow(row.frame, revision) == verdict
        assert fast(bytearray(row.frame), revision) == verdict  # type: ignore[arg-type]
        assert fast(memoryview(row.frame), revision) == verdict  # type: ignore[arg-type]
        assert judge(row.frame, revision) == row.message


def test_corpus() -> None:
    ids = Counter(row.id for row in [*REJECTED, *ACCEPTED])
    assert [name for name, count in ids.items() if count > 1] == []
    assert len(REJECTED) >= 150
    assert len({(row.frame, row.revision) for row in REJECTED}) >= 150


def test_corpus_has_every_code_of_a_frame_many_times_over() -> None:
    counts = Counter(row.code for row in REJECTED)
    assert set(counts) == OF_FRAMES
    assert min(counts.values()) >= 4


def test_corpus_has_every_field() -> None:
    paths = {(row.frame[0], row.path) for row in REJECTED if row.frame and row.path}
    for number, cls in enumerate(JSON_CLASSES):
        head = (1, 2, 4, 7, 8, 9, 10, 11, 12, 13, 0x42, 0x43)[number]
        assert {(head, key) for key, _ in JSON_FIELDS[cls].values()} <= paths


@pytest.mark.parametrize("levels", [600, 5_000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"":', b'[{"":'], ids=["arrays", "objects", "both"])
def test_deep_nesting_is_no_recursion(opening: bytes, levels: int) -> None:
    """[JSON-NESTING]"""
    frame = b'\x08{"x":' + opening * levels
    at = 6 + (255 * len(opening) + 1 if opening == b'[{"":' else 511 * len(opening))
    assert fast(frame) == slow(frame) == expected("json-nesting", at)


def test_a_doubled_key_is_seen_beside_empty_texts() -> None:
    """Adjacent quotes are counted, too. [JSON-DUPLICATE-KEY]"""
    frame = b'\x0b{"uid":"","sealedActivation":"","seqLen":1,"seqLen":1}'
    assert fast(frame) == slow(frame) == expected("json-duplicate-key", frame.rindex(b'"seqLen"'))


@pytest.mark.parametrize("key", [b"ephemeralX25519PubKey", b"nonce"])
def test_stray_bits_are_seen_behind_a_text_with_the_same_end(key: bytes) -> None:
    """[JSON-BASE64]"""
    frame = canonical_frame(HandshakeHello(bytes(64), bytes(32), bytes(32), bytes(64)))
    at = frame.index(b'"%s":"' % key) + len(key) + 4
    wrong = frame[: at + 42] + b"B" + frame[at + 43 :]
    assert wrong[at : at + 44] == b"A" * 42 + b"B="
    assert fast(wrong) == slow(wrong) == expected("field-base64", at - 1, key.decode())


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b'\x01{"sePubKeyRaw":"QUJD"', "expected 64 bytes, not 3"),
        (
            b'\x04{"memoryPressure":"%s"' % (b"x" * 40),
            f"expected one of 'normal', 'warning', 'critical', not '{'x' * 40}'",
        ),
        (
            b'\x04{"memoryPressure":"%s"' % (b"x" * 41),
            f"expected one of 'normal', 'warning', 'critical', not '{'x' * 39}…'",
        ),
    ],
)
def test_the_words_of_an_error(frame: bytes, words: str) -> None:
    """Text from a peer is cut."""
    with pytest.raises(WireError) as caught:
        decode_frame(frame)
    assert caught.value.detail == words
