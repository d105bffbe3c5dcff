"""Memory of the link decoder: it follows the bytes that arrived, and a frame costs little more than its bytes."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.wireproto.streams import EVERY_STYLE, KIB, MIB, fill, header, link, pattern
from tests.wireproto.verdicts import verdict
from wireproto import MAX_LINK_LENGTH, LinkDecoder

SHORT_AREA: Final = 128 * KIB
"""The decoder's memory for short frames."""
SLACK: Final = 16 * KIB
LONG: Final = 32 * MIB
CHUNK: Final = 256 * KIB


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_of(work: Callable[[], object]) -> int:
    """Return the peak allocation during the work, above that before it."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    work()
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("length", [MIB, LONG, MAX_LINK_LENGTH])
@EVERY_STYLE
def test_memory_of_a_frame_that_is_only_announced(length: int, buffered: Callable[[int], bool]) -> None:
    """[LINK-MEMORY]"""
    chunk = header(length) + bytes(10)
    decoder = LinkDecoder()

    def announce() -> None:
        list(fill(decoder, chunk) if buffered(1) else decoder.feed(chunk))
        if buffered(1):
            decoder.get_buffer()

    assert peak_of(announce) <= 2 * SHORT_AREA + SLACK


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("chunk", [10_000, CHUNK])
@pytest.mark.parametrize("announced", [LONG, MAX_LINK_LENGTH])
def test_memory_of_a_frame_on_its_way(announced: int, chunk: int) -> None:
    """[LINK-MEMORY]"""
    decoder = LinkDecoder()
    data = bytes(chunk)
    arrived = 0

    def arrive() -> None:
        nonlocal arrived
        assert list(fill(decoder, data)) == []
        arrived += chunk

    before, _ = tracemalloc.get_traced_memory()
    list(decoder.feed(header(announced)))
    while arrived < 12 * MIB:
        tracemalloc.reset_peak()
        arrive()
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak <= 2.25 * arrived + SHORT_AREA + SLACK, arrived


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("length", [LONG, LONG - 1, LONG + 1, 20 * MIB + 12345, 33 * MIB, 300_000, 5 * MIB])
@pytest.mark.parametrize("chunk", [64 * KIB, CHUNK], ids=["64KiB", "256KiB"])
def test_memory_of_a_whole_frame_through_the_buffer(length: int, chunk: int) -> None:
    data = memoryview(bytes(chunk))
    decoder = LinkDecoder()
    frames: list[memoryview] = []

    def receive() -> None:
        frames.extend(fill(decoder, header(length)))
        for start in range(0, length, chunk):
            frames.extend(fill(decoder, data[: length - start]))

    assert peak_of(receive) <= 1.1 * length + SLACK
    assert [len(frame) for frame in frames] == [length]


@pytest.mark.usefixtures("traced")
def test_memory_of_a_long_frame_is_used_again() -> None:
    decoder = LinkDecoder()
    data = bytes(CHUNK)

    def receive() -> None:
        list(decoder.feed(header(LONG)))
        assert sum(len(frame) for _ in range(LONG // CHUNK) for frame in fill(decoder, data)) == LONG

    assert peak_of(receive) >= LONG
    assert peak_of(receive) <= SHORT_AREA
    assert peak_of(receive) <= SHORT_AREA


@pytest.mark.usefixtures("traced")
def test_memory_of_a_held_frame_is_not_used_again() -> None:
    decoder = LinkDecoder()
    first, second = pattern(5 * MIB), pattern(5 * MIB, 100)
    (held,) = fill(decoder, link(first))
    part = held[MIB : MIB + 10]
    del held
    (other,) = fill(decoder, link(second))
    assert part == first[MIB : MIB + 10]
    assert other == second


@pytest.mark.usefixtures("traced")
def test_memory_of_a_shorter_frame_behind_a_long_one() -> None:
    """A long frame's memory is released when a short one follows."""
    decoder = LinkDecoder()
    before, _ = tracemalloc.get_traced_memory()
    for _ in fill(decoder, link(bytes(LONG))):
        pass
    for _ in fill(decoder, link(bytes(MIB))):
        pass
    assert tracemalloc.get_traced_memory()[0] - before <= 2.25 * MIB


@pytest.mark.usefixtures("traced")
def test_memory_of_many_short_frames() -> None:
    stream = memoryview(link(*(bytes(50) for _ in range(50_000))))
    decoder = LinkDecoder()

    def receive() -> None:
        for start in range(0, len(stream), 64 * KIB):
            for _ in fill(decoder, stream[start : start + 64 * KIB]):
                pass

    assert peak_of(receive) <= 2 * SHORT_AREA


@pytest.mark.usefixtures("traced")
def test_memory_of_an_error() -> None:
    decoder = LinkDecoder()
    assert peak_of(lambda: verdict(lambda: list(decoder.feed(header(2**63) + bytes(100))))) <= SHORT_AREA
