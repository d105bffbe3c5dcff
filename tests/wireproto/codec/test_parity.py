"""Fast path and schema agree on every byte string, and a third reader agrees on accepted ones.

Each example has nine frames; `test_number_of_frames` holds their sum over 20,000 in CI.
"""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wireproto.oracle import judge
from tests.wireproto.payloads import (
    ALL_EXTENSIONS,
    EXTENSION_TYPES,
    JSON_CLASSES,
    TYPE_BYTE,
    V1_TYPES,
    canonical_frame,
)
from tests.wireproto.verdicts import (
    Accepted,
    Rejected,
    decode_stream,
    expected,
    fast,
    parse_stream,
    pieces,
    read_stream,
    slow,
)
from wireproto import MAX_LINK_LENGTH, Message, Revision, decode_frame, encode_frame, schema
from wireproto.testing.by_schema import build_message
from wireproto.testing.encodings import foreign_frame, random_message
from wireproto.testing.mutations import mutate_frame, nearly_valid_frame, token_soup
from wireproto.testing.strategies import arbitrary_frames, messages, seeded_randoms

EVERY_CLASS = pytest.mark.parametrize("cls", tuple(TYPE_BYTE), ids=lambda cls: cls.__name__)
EVERY_JSON_CLASS = pytest.mark.parametrize("cls", JSON_CLASSES, ids=lambda cls: cls.__name__)
IN_THREE_PARTS = pytest.mark.parametrize("share", range(3))

FRAMES = 12
"""Frames per example: hypothesis takes longer to draw a frame than both readers take to read it."""
FRAME_TESTS = 12 + 12 + 3 + 3
"""The number of tests below that pass hypothesis's frames to both readers; the lines above list them."""


def check(frame: bytes) -> dict[Revision, Accepted | Rejected]:
    """Return the verdict of both readers, in both revisions, with every extension and none, for any buffer type."""
    verdicts = {}
    for revision in Revision:
        verdict = verdicts[revision] = fast(frame, revision)
        assert slow(frame, revision) == verdict
        for same in (bytearray(frame), memoryview(frame), memoryview(b"<" + frame + b">")[1:-1]):
            assert fast(same, revision) == verdict  # type: ignore[arg-type]
        check_offset(frame, revision, verdict)
        check_oracle(frame, revision, verdict)
        plain = fast(frame, revision, frozenset())
        assert slow(frame, revision, frozenset()) == plain
        assert plain == (expected("type-unknown", 0, "type") if frame and frame[0] in EXTENSION_TYPES else verdict)
    if frame and frame[0] in V1_TYPES:
        assert verdicts[Revision.V1] == verdicts[Revision.V2]
    return verdicts


def check_oracle(frame: bytes, revision: Revision, verdict: Accepted | Rejected) -> None:
    if frame and frame[0] in {TYPE_BYTE[cls] for cls in JSON_CLASSES}:
        message = verdict.value if isinstance(verdict, Accepted) else None
        judged = judge(frame, revision)
        assert (type(judged), judged) == (type(message), message)


ONE_BYTE_FAULTS = {
    *("type-unknown", "json-control-character", "json-syntax", "json-nesting", "trailing-data"),
    *("payload-not-object", "payload-not-empty", "field-missing", "field-type"),
}


NAMED_BYTE = {
    **dict.fromkeys(["field-range", "field-not-integer"], b"-0123456789"),
    **dict.fromkeys(["field-base64", "field-enum", "field-pattern", "field-duplicate", "json-duplicate-key"], b'"'),
    "field-length": b'"[',
    **dict.fromkeys(["field-type", "payload-not-object"], b'"{[-0123456789tfn'),
    "field-missing": b"}",
    "json-nesting": b"[{",
    "json-surrogate": b"\\",
    "json-bom": b"\xef",
    "json-control-character": bytes(range(32)),
    "json-utf8": bytes(range(128, 256)),
}
"""The bytes at which an error code can point."""


def check_offset(frame: bytes, revision: Revision, verdict: Accepted | Rejected) -> None:
    """The bytes before the offset could still become valid; those up to it, if one byte is at fault, cannot."""
    if isinstance(verdict, Accepted):
        return
    at = verdict.offset
    assert at is not None
    if verdict.code == "truncated":
        assert at == len(frame)
        return
    assert at < len(frame)
    assert frame[at] in NAMED_BYTE.get(verdict.code, frame)
    before = fast(frame[:at], revision)
    assert isinstance(before, Accepted) or (before.code, before.offset) == ("truncated", at)
    assert isinstance(before, Accepted) == (verdict.code in {"trailing-data", "payload-not-empty"})
    if verdict.code in ONE_BYTE_FAULTS:
        assert fast(frame[: at + 1], revision) == verdict


def some(random: Random, drawn: Message) -> list[Message]:
    """Return the drawn message, and more of its class with values at the bounds of their fields."""
    return [drawn, *(random_message(random, type(drawn)) for _ in range(FRAMES - 1))]


@EVERY_JSON_CLASS
@given(data=st.data(), random=seeded_randoms)
def test_foreign_spellings(cls: type[Message], data: st.DataObject, random: Random) -> None:
    for message in some(random, data.draw(messages(cls))):
        frame = foreign_frame(random, message)
        assert check(frame)[Revision.V2] == Accepted(cls, message), frame


@EVERY_JSON_CLASS
@given(data=st.data(), random=seeded_randoms)
def test_nearly_valid_frames(cls: type[Message], data: st.DataObject, random: Random) -> None:
    for message in some(random, data.draw(messages(cls))):
        check(nearly_valid_frame(random, message))


@IN_THREE_PARTS
@given(frames=st.lists(arbitrary_frames(), min_size=FRAMES, max_size=FRAMES))
def test_arbitrary_bytes(share: int, frames: list[bytes]) -> None:
    for frame in frames:
        check(frame)


@IN_THREE_PARTS
@given(random=seeded_randoms)
def test_token_soup(share: int, random: Random) -> None:
    for _ in range(FRAMES):
        frame = token_soup(random)
        check(mutate_frame(random, frame) if random.random() < 0.3 else frame)


def test_number_of_frames() -> None:
    assert FRAMES * settings.get_profile("ci").max_examples * FRAME_TESTS >= 20_000


@given(message=messages(), random=seeded_randoms)
def test_nearly_valid_frames_of_every_type(message: Message, random: Random) -> None:
    check(nearly_valid_frame(random, message))


def test_every_single_byte_and_pair() -> None:
    for first in range(256):
        check(bytes([first]))
        for second in b'\0 {["0n\x7f\x80\xff':
            check(bytes([first, second]))


# -- encoding ---------------------------------------------------------------------------------------------------------


@EVERY_CLASS
@given(data=st.data())
def test_encoding(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(cls))
    frame = canonical_frame(message)
    for revision in Revision:
        if revision == Revision.V1 and TYPE_BYTE[cls] not in V1_TYPES:
            continue
        assert encode_frame(message, revision, ALL_EXTENSIONS) == frame
        assert build_message(message, revision, ALL_EXTENSIONS) == frame
        assert decode_frame(frame, revision, ALL_EXTENSIONS) == message
    check(frame)


# -- link frames ------------------------------------------------------------------------------------------------------

bodies = st.lists(st.binary(min_size=1, max_size=20), max_size=5)
lengths = st.one_of(
    st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1, MAX_LINK_LENGTH, MAX_LINK_LENGTH + 1]), st.integers(0, 2**64 - 1)
)
tails = st.one_of(
    st.just(b""),
    st.binary(max_size=12),
    st.builds(lambda length, rest: length.to_bytes(8, "little") + rest, lengths, st.binary(max_size=8)),
)


@st.composite
def link_streams(draw: Any) -> bytes:
    """Complete frames, then perhaps an invalid one."""
    frames = [len(body).to_bytes(8, "little") + body for body in draw(bodies)]
    return b"".join([*frames, draw(tails)])


@pytest.mark.parametrize("share", range(4))
@given(stream=link_streams(), cuts=st.lists(st.integers(0, 150), max_size=6), styles=st.integers(0, 2**7 - 1))
def test_link_streams(share: int, stream: bytes, cuts: list[int], styles: int) -> None:
    expected = read_stream(stream, MAX_LINK_LENGTH)
    assert parse_stream(stream) == expected
    for chunks in ([stream], pieces(stream, cuts), pieces(stream, range(len(stream)))):
        assert decode_stream(chunks, buffered=lambda index: bool(styles >> index % 7 & 1)) == expected


@pytest.mark.parametrize("body", [b"", b"x", bytes(1000)], ids=len)
def test_link_encoding(body: bytes) -> None:
    frame = len(body).to_bytes(8, "little") + body
    if body:
        assert schema.build(schema.LinkFrame, {"body": body}) == frame
        assert parse_stream(frame).bodies == [body]
