"""The soak for some seconds, and its detection of growth."""

import asyncio
from pathlib import Path

import pytest

from tests.campaign.soak import GROWTH, Bootstrap, Sample, bootstrap_growth, bootstraps, growth, messages, soak_sessions
from wireproto.messages import EXTENSIONS, REGISTRY, Direction, Revision

FLAT = Sample(seconds=25.0, memory=60_000_000, descriptors=15, messages=1000, latency=0.02)


@pytest.mark.parametrize("revision", Revision)
def test_every_type_is_among_the_messages(revision: Revision) -> None:
    """Except for those sent at their own time."""
    sent = {type(each) for way in (Direction.RANK_0_TO_1, Direction.RANK_1_TO_0) for each in messages(revision, way)}
    known = {spec.payload.__name__ for spec in REGISTRY if spec.is_known(revision, EXTENSIONS)}
    apart = {"HandshakeHello", "HandshakeAck", "Ping", "PongPayload", "SessionEnd"}
    if revision is Revision.V1:
        known -= {spec.payload.__name__ for spec in REGISTRY if spec.extension is not None}
    assert {each.__name__ for each in sent} == known - apart


def test_sessions_for_some_seconds() -> None:
    sessions, samples = asyncio.run(soak_sessions(3.0))
    for session in sessions:
        assert session.messages > 100
        assert session.latencies
    assert not any("descriptors" in text or "memory" in text for text in growth(samples))


def test_bootstraps_in_a_row(tmp_path: Path) -> None:
    done = list(bootstraps(3, tmp_path))
    assert len(done) == 3
    assert len({each.descriptors for each in done}) == 1


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (FLAT, []),
        (FLAT._replace(messages=2_000_000, memory=90_000_000), []),
        (FLAT._replace(memory=FLAT.memory + GROWTH + 1), ["memory"]),
        (FLAT._replace(descriptors=16), ["descriptors"]),
    ],
)
def test_what_grows_is_found(last: Sample, found: list[str]) -> None:
    assert [text.split()[0] for text in growth([FLAT] * 10 + [last])] == found


def test_what_becomes_slow_is_found() -> None:
    (text,) = growth([FLAT] * 10 + [FLAT._replace(latency=0.1)] * 10)
    assert text == "the answer to a ping takes 100.0 ms in the second half, 20.0 ms in the first"


def test_bootstraps_that_grow_are_found() -> None:
    early, late = Bootstrap(1.0, 100, 20), Bootstrap(3.0, 150, 25)
    assert [text.split()[0] for text in bootstrap_growth([early] * 4 + [late] * 4)] == ["a", "memory", "descriptors"]
    assert list(bootstrap_growth([early] * 8)) == []
