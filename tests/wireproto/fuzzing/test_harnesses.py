"""Each harness accepts its seeds, its corpus and any input, and runs under pytest and Atheris."""

import dataclasses
import tracemalloc
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wireproto.fuzzing.faulty.layers import FAULTS, Simple
from wireproto.fuzzing.codec_layers import link_harness
from wireproto.fuzzing.engine import Engine
from wireproto.fuzzing.harness import FindingError, Harness, HarnessError, cuts, expect
from wireproto.fuzzing.layers import LAYERS, harness_of
from wireproto.fuzzing.lines import Lines
from wireproto.fuzzing.minimize import fewest
from wireproto.fuzzing.watch import watched

HOSTFILE = "bootstrap.fuzzing:hostfile_harness"
EVERY_LAYER = pytest.mark.parametrize("layer", [*LAYERS, HOSTFILE])
CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(CORPUS.glob("*/*"))


@EVERY_LAYER
def test_seeds_hold(layer: str) -> None:
    harness = harness_of(layer)
    names = [name for name, _ in harness.seeds()]
    assert len(names) == len({*names}) > 3
    for _, data in harness.seeds():
        harness.check(data)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_holds(path: Path) -> None:
    """`corpus/LAYER` has findings in this package, with descriptive names, and inputs that show planted faults."""
    _, finding = watched(harness_of(path.parent.name), path.read_bytes())
    assert finding is None, finding
    if path.name in FAULTS:
        assert watched(FAULTS[path.name](), path.read_bytes())[1] is not None


def test_a_stream_of_many_short_frames_takes_little_memory() -> None:
    """Entries for two chunkings were once kept, each with its error and the error's references."""
    check, data = harness_of("inspection").check, (CORPUS / "inspection" / "many_short_frames").read_bytes()[:30_000]
    tracemalloc.start()
    try:
        check(data)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_every_fault_has_its_file() -> None:
    """Except faults of time and memory, which need long inputs."""
    assert {path.name for path in FOUND} >= FAULTS.keys() - {"MemoryForWhatIsAnnounced", "FramesInQuadraticTime"}


def test_the_base_of_the_faulty_link_decoders_is_right() -> None:
    """Otherwise an unplanted fault would be found."""
    engine = Engine(link_harness(Simple), 1)
    assert [engine.feed(data) for data in islice(engine.inputs(), 250)] == [None] * 250


@EVERY_LAYER
def test_any_bytes(layer: str) -> None:
    """With inputs from hypothesis, and through `fuzz_one_input`."""
    harness = harness_of(layer)

    @given(data=st.binary(max_size=200))
    @settings(max_examples=examples(30))
    def holds(data: bytes) -> None:
        harness.check(data)

    holds()
    for _, data in list(harness.seeds())[:3]:
        holds.hypothesis.fuzz_one_input(data)


@EVERY_LAYER
def test_mutants_hold_and_follow_from_the_seed(layer: str) -> None:
    harness = harness_of(layer)
    seeds = [data for _, data in harness.seeds()]

    def mutants(seed: int) -> list[bytes]:
        random = Random(seed)
        return [harness.mutate(random, random.choice(seeds)) for _ in range(100)]

    first = mutants(1)
    assert first == mutants(1) != mutants(2)
    for data in first:
        harness.fuzz_one_input(data)


@EVERY_LAYER
def test_a_run_is_the_same_for_the_same_seed(layer: str) -> None:
    """With everything kept during the run."""
    count = len(list(harness_of(layer).seeds())) + 60

    def fed(seed: int) -> list[bytes]:
        engine = Engine(harness_of(layer), seed)
        inputs = []
        for data in islice(engine.inputs(), count):
            assert engine.feed(data) is None
            inputs.append(data)
        return inputs

    assert fed(1) == fed(1) != list(islice(Engine(harness_of(layer), 2).inputs(), count))


def test_unknown_layers() -> None:
    for name in ("links", "wireproto.nothing:x", "wireproto.fuzzing.layers:nothing", ":", ""):
        with pytest.raises(ValueError, match="is not a layer; use one of link, frame"):
            harness_of(name)


# -- the engine's verdicts --------------------------------------------------------------------------------------------


def harness(check: object) -> Harness:
    return Harness("a", check, lambda: [("one", b"one")], lambda random, data: random.randbytes(4))  # type: ignore[arg-type]


def test_what_is_found_is_told_once() -> None:
    def check(data: bytes) -> object:
        expect(data[:1] < b"\x80", "small", "first byte")
        if data[-1:] > b"\x80":
            raise KeyError
        return len(data)

    engine = Engine(harness(check), 1)
    found = [(finding.oracle, finding.detail) for finding in engine.run(0.2)]
    assert sorted(found) == [("only documented errors", "KeyError in check"), ("small", "first byte")]
    assert engine.progress.findings == 2
    assert engine.progress.executions > 2


def test_too_much_time_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.fuzzing.watch.SLOW", 0.05)
    _, finding = watched(harness(lambda data: sum(range(10_000_000))), b"")
    assert finding is not None
    assert finding.oracle == "bounded time"


def test_a_hang_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.fuzzing.watch.HANGS", 0.05)

    def check(data: bytes) -> object:
        while True:
            pass

    _, finding = watched(harness(check), b"")
    assert finding is not None
    assert (finding.oracle, finding.detail) == ("bounded time", "no end within 0.05 s")


def test_too_much_memory_is_a_finding() -> None:
    def check(data: bytes) -> object:
        return len(b"\1" * 200_000_000)

    _, finding = watched(harness(check), b"")
    assert finding is not None
    assert (finding.oracle, finding.detail) == ("bounded memory", "more than 64 MiB")


def test_too_much_memory_was_not_seen_below_an_earlier_peak() -> None:
    assert len(b"\1" * 400_000_000) == 400_000_000
    _, finding = watched(harness(lambda data: len(b"\1" * 200_000_000)), b"")
    assert finding is not None
    assert finding.oracle == "bounded memory"


def test_the_quick_check_is_for_what_is_not_new() -> None:
    """The full check runs on each new input, and on one in eight of the others."""
    whole: list[bytes] = []
    quick: list[bytes] = []

    def check(data: bytes) -> object:
        whole.append(data)
        return len(data)

    def part(data: bytes) -> object:
        quick.append(data)
        return len(data)

    engine = Engine(dataclasses.replace(harness(check), quick=part), 1)
    for number in range(80):
        engine.feed(b"a" if number else b"")
    assert whole[:2] == [b"", b"a"]
    assert len(whole) == 2 + 80 // 8
    assert len(quick) == 80 - 80 // 8


def test_a_quick_check_says_what_the_whole_one_says() -> None:
    frames = harness_of("frame")
    assert frames.quick is not None
    engine = Engine(frames, 1)
    for data in islice(engine.inputs(), examples(2000)):
        assert frames.quick(data) == frames.check(data)


def test_lines_are_counted_once() -> None:
    """A fully covered function is no longer traced."""
    lines = Lines(["wireproto.fuzzing.minimize"])
    assert (lines.seen, lines.total > 15) == (0, True)
    assert lines.run(lambda: fewest(b"ab", lambda kept: b"b" in kept)) == (b"b", True)
    seen = lines.seen
    assert 0 < seen < lines.total
    assert lines.run(lambda: fewest(b"ab", lambda kept: b"b" in kept)) == (b"b", False)
    assert lines.seen == seen


def test_a_finding_is_an_assertion_too() -> None:
    with pytest.raises(FindingError, match="chunks: one"):
        expect(False, "chunks", "one")


@given(data=st.binary(max_size=50))
def test_cuts(data: bytes) -> None:
    assert b"".join(cuts(data)) == data
    assert cuts(data) == cuts(data)


class Panic(BaseException):
    """Stands for that of pyo3, which a panic in Rust raises."""


@pytest.mark.parametrize("kind", [SystemExit, Panic])
def test_check_that_raises_no_plain_exception(kind: type[BaseException]) -> None:
    """It ended the run without a word."""

    def check(data: bytes) -> object:
        raise kind

    harness = Harness(name="own", check=check, seeds=lambda: [("a", b"a")], mutate=lambda _, data: data)
    finding = watched(harness, b"a")[1]
    assert finding is not None
    assert finding.detail == f"{kind.__name__} in check"


def test_ctrl_c_in_a_check_is_no_finding() -> None:
    def check(data: bytes) -> object:
        raise KeyboardInterrupt

    harness = Harness(name="own", check=check, seeds=lambda: [("a", b"a")], mutate=lambda _, data: data)
    with pytest.raises(KeyboardInterrupt):
        watched(harness, b"a")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"check": lambda data: [data]}, "check of the harness 'own' returned list, not something hashable"),
        ({"mutate": lambda _, data: data.hex()}, "mutate of the harness 'own' returned str, not bytes"),
        ({"seeds": lambda: [("a", "a")]}, "seeds of the harness 'own' returned str, not bytes"),
    ],
)
def test_harness_that_returns_something_else(wrong: dict[str, Any], text: str) -> None:
    """A list was a traceback; a text was reported as a finding in the code under test."""
    own: dict[str, Any] = {"check": len, "seeds": lambda: [("a", b"a")], "mutate": lambda _, data: data}
    with pytest.raises(HarnessError, match=text):
        list(Engine(Harness(name="own", **own | wrong), seed=0).run(seconds=5))


@pytest.mark.parametrize("name", ["string:digits", "builtins:dict"])
def test_name_of_something_that_makes_no_harness(name: str) -> None:
    """The command ended with a traceback, and with the exit code of a finding."""
    with pytest.raises(ValueError, match="is not a function that returns a Harness"):
        harness_of(name)
