"""Link frames from streams with gaps and faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wireproto import MAX_LINK_LENGTH, WireError, encode_link_frame
from wireproto.codec.link import HEADER
from wireproto.inspection.frames import KEPT, MAX_HELD, Fault, Found, Frame, FrameFinder, Hole, Skipped

BODIES = [b"\x03", b"\x05" + bytes(range(256)), b"\xff", b"\x07" + b"x" * 60]
STREAM = b"".join(map(encode_link_frame, BODIES))
OFFSETS = [0, 9, 274, 283]


def fed(finder: FrameFinder, *chunks: bytes) -> list[Found]:
    return [found for chunk in chunks for found in finder.feed(chunk)]


def frames(*indices: int, after: int = 0) -> list[Frame]:
    return [Frame(after + OFFSETS[at], len(BODIES[at]), BODIES[at]) for at in indices]


@given(sizes=st.lists(st.integers(1, 40), min_size=1))
def test_any_pieces_give_the_frames(sizes: list[int]) -> None:
    finder, found, at = FrameFinder(synced=True), [], 0
    while at < len(STREAM):
        for size in sizes:
            found += fed(finder, STREAM[at : at + size])
            at += size
    assert found == frames(0, 1, 2, 3)
    assert list(finder.end(closed=True)) == []


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (bytes(8), "link-length-zero"),
        (HEADER.pack(MAX_LINK_LENGTH + 1), "link-length-limit"),
        (b"\xff" * 8, "link-length-limit"),
    ],
)
def test_a_length_that_cannot_be_is_told_and_the_next_frames_are_found(header: bytes, code: str) -> None:
    finder = FrameFinder(synced=True)
    fault, skipped, *rest = fed(finder, STREAM[:9] + header + STREAM)[1:]
    assert isinstance(fault, Fault)
    assert (fault.offset, fault.error.code, fault.error.offset) == (9, code, 9)
    assert fault.data.startswith(header)
    assert skipped == Skipped(9, 8, header)
    assert fault.size == 0
    assert rest == frames(0, 1, 2, 3, after=17)


@pytest.mark.parametrize("cut", [1, 8, 9, 20])
def test_a_stream_that_is_closed_inside_a_frame(cut: int) -> None:
    finder = FrameFinder(synced=True)
    assert fed(finder, STREAM[:9], STREAM[9 : 9 + cut]) == frames(0)
    (fault,) = finder.end(closed=True)
    assert isinstance(fault, Fault)
    assert (fault.offset, fault.error.code, fault.error.offset) == (9, "truncated", 9 + cut)
    assert fault.data == STREAM[9 : 9 + cut]
    assert fault.size == cut


def test_a_capture_that_ends_inside_a_frame_lacks_the_rest() -> None:
    finder = FrameFinder(synced=True)
    fed(finder, STREAM[:20])
    assert list(finder.end(closed=False)) == [Hole(9, 265, 274 - 20, STREAM[9:20])]


@pytest.mark.parametrize("size", [1, 100, 274 - 20])
def test_after_a_hole_within_a_frame_the_next_one_follows(size: int) -> None:
    finder = FrameFinder(synced=True)
    fed(finder, STREAM[:20])
    found = [*finder.lose(size), *fed(finder, STREAM[20 + size :])]
    assert found == [Hole(9, 265, size, STREAM[9:20]), *frames(2, 3)]
    assert finder.is_synced


def test_several_holes_within_a_frame_are_told_together() -> None:
    finder = FrameFinder(synced=True)
    found = fed(finder, STREAM[:20])
    found += [*finder.lose(30), *finder.feed(STREAM[50:90]), *finder.lose(10), *finder.feed(STREAM[100:])]
    assert found == [*frames(0), Hole(9, 265, 40, STREAM[9:20]), *frames(2, 3)]


def test_after_a_longer_hole_a_frame_is_looked_for() -> None:
    finder = FrameFinder(synced=True)
    fed(finder, STREAM[:20])
    assert list(finder.lose(274 - 20 + 3)) == [Hole(9, 265, 254, STREAM[9:20]), Hole(274, 3, 3, b"")]
    assert not finder.is_synced
    assert fed(finder, STREAM[277:]) == [Skipped(277, 6, STREAM[277:283]), *frames(3)]


def test_bytes_after_the_end_are_found_too() -> None:
    """A place recorded before the end once led to an index before the first byte."""
    finder = FrameFinder(synced=False)
    start = fed(finder, b"\xff" + STREAM[9:60])
    found = [*start, *finder.end(closed=True), *fed(finder, STREAM)]
    assert found == [Skipped(0, 52, b"\xff" + STREAM[9:60]), *frames(0, 1, 2, 3, after=52)]


def test_a_hole_in_a_length() -> None:
    finder = FrameFinder(synced=True)
    assert fed(finder, STREAM[:12]) == frames(0)
    assert list(finder.lose(262)) == [Hole(9, 265, 262, STREAM[9:12])]
    assert fed(finder, STREAM[274:]) == frames(2, 3)


def test_a_hole_between_two_frames() -> None:
    finder = FrameFinder(synced=True)
    assert fed(finder, STREAM[:9]) == frames(0)
    assert list(finder.lose(265)) == [Hole(9, 265, 265, b"")]
    assert fed(finder, STREAM[274:]) == frames(2, 3)


def test_a_stream_that_is_closed_inside_a_cut_frame() -> None:
    finder = FrameFinder(synced=True)
    fed(finder, STREAM[:20])
    assert list(finder.lose(10)) == []
    hole, fault = finder.end(closed=True)
    assert hole == Hole(9, 21, 10, STREAM[9:20])
    assert isinstance(fault, Fault)
    assert (fault.offset, fault.size, fault.error.code) == (9, 0, "truncated")


@given(start=st.integers(1, len(STREAM) - 70), size=st.integers(1, 50))
def test_a_stream_without_its_beginning(start: int, size: int) -> None:
    """Complete frames are found wherever the bytes begin; a partial one is skipped."""
    finder = FrameFinder(synced=False)
    rest = STREAM[start:]
    found = fed(finder, *(rest[at : at + size] for at in range(0, len(rest), size)))
    there = [at for at, offset in enumerate(OFFSETS) if offset >= start]
    expected = [Frame(OFFSETS[at] - start, len(BODIES[at]), BODIES[at]) for at in there]
    passed = [each for each in found if isinstance(each, Frame)]
    assert passed[-len(expected) :] == expected
    assert sum(each.size for each in found if isinstance(each, Skipped)) <= OFFSETS[there[0]] - start


def test_a_frame_that_is_too_long_is_not_kept() -> None:
    finder = FrameFinder(synced=True)
    body = b"\x05" + bytes(MAX_HELD)
    data = encode_link_frame(body) + STREAM[:9]
    found = fed(finder, *(data[at : at + 100_000] for at in range(0, len(data), 100_000)))
    assert found == [Frame(0, len(body), body[:KEPT]), Frame(8 + len(body), 1, b"\x03")]


def test_long_zeros_are_searched_at_once() -> None:
    finder = FrameFinder(synced=False)
    assert fed(finder, *[bytes(1 << 20)] * 20) == []
    found = fed(finder, STREAM)
    assert found[-4:] == frames(0, 1, 2, 3, after=20 << 20)


@given(
    chunks=st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([STREAM, STREAM[5:40], bytes(9)]), st.integers(1, 99))
    ),
    synced=st.booleans(),
    closed=st.booleans(),
)
def test_every_byte_is_told_of_once(chunks: list[bytes | int], synced: bool, closed: bool) -> None:
    """[LINK-LAYOUT] The findings are adjacent, and have all bytes that were fed or lost."""
    finder = FrameFinder(synced=synced)
    found: list[Found] = []
    fed_bytes = lost_bytes = 0
    for chunk in chunks:
        found += finder.lose(chunk) if isinstance(chunk, int) else finder.feed(chunk)
        lost_bytes += chunk if isinstance(chunk, int) else 0
        fed_bytes += 0 if isinstance(chunk, int) else len(chunk)
    found += finder.end(closed=closed)
    end = sizes = lost = 0
    for each in found:
        assert each.offset == end or (isinstance(each, Fault) and not each.size)
        size = HEADER.size + each.length if isinstance(each, Frame) else each.size
        end += size
        sizes += size
        lost += each.lost if isinstance(each, Hole) else 0
        if isinstance(each, Fault):
            assert isinstance(each.error, WireError)
            assert each.error.code in ("link-length-zero", "link-length-limit", "truncated")
    assert sizes - lost == fed_bytes
    assert lost >= lost_bytes
    assert lost == lost_bytes or not closed
