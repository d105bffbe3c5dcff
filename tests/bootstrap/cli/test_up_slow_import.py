"""`up` while the import of MLX is slow on one rank, or hangs. All pairs of a test run in parallel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bootstrap.ranks import Check, Rank, Start, failed, make_ranks, names, of

pytestmark = pytest.mark.waits

Pair = tuple[list[Rank], list[Any]]
StartPairs = Callable[..., list[Pair]]
IMPORTS: Final = [(slow, seconds) for slow in (0, 1) for seconds in (1, 5, 20)]
SOON, LATER = 15, 20
"""Deadlines in seconds: the ranks have a session long before the first."""
HANGS: Final = (("mlx-hangs",), "no group within {} s: MLX is still being imported; try: python -c 'import mlx.core'")
ENDS: Final = {
    (0, 0): (HANGS, (("session-ended",), "rank 0 ended the session before the group was formed")),
    (0, 1): (HANGS, (("no-bootstrap",), "rank 0 has not sent a jacclBootstrap (last seen: a ping, ")),
    (1, 0): ((("peer-loading",), "MLX is still loading on rank 1; no group within {} s"), HANGS),
    (1, 1): (
        (
            ("link-closed", "link-reset", "link-refused"),
            " (rank 1 was still loading MLX when last heard); no group within {} s",
        ),
        HANGS,
    ),
}
"""The final messages, by the rank whose import hangs and the rank with the first deadline."""


@pytest.fixture
def start(up: Start, tmp_path: Path) -> StartPairs:
    """Start pairs: which rank's import is slow, by how many seconds, and the deadlines of both ranks."""

    def start(*wanted: tuple[int, int, tuple[int, int]]) -> list[Pair]:
        pairs = [make_ranks(tmp_path / str(number), 2) for number in range(len(wanted))]
        runs: list[list[Any]] = [[] for _ in wanted]
        for rank in (1, 0):
            for (slow, seconds, timeouts), pair, own_runs in zip(wanted, pairs, runs, strict=True):
                env = {"IMPORT_SECONDS": str(seconds if rank == slow else 0)}
                options = ("--json", "--backend", "ring", "--timeout", str(timeouts[rank]))
                run = up(pair[rank], pair[1 - rank], *options, worker="slow_import.py", env=env)
                own_runs.insert(0, run)
            for own_runs in runs if rank == 1 else ():
                own_runs[0].until(("listening", 1))
        return list(zip(pairs, runs, strict=True))

    return start


def test_a_slow_import_is_waited_for(start: StartPairs, nothing_left: Check) -> None:
    """The other rank reports neither missing versions nor missed pongs, nor any other error."""
    started = start(*((slow, seconds, (100, 100)) for slow, seconds in IMPORTS))
    for _, runs in started:
        for rank, run in enumerate(runs):
            run.until(("holding", rank))
        runs[0].process.terminate()
    for (slow, seconds), (pair, runs) in zip(IMPORTS, started, strict=True):
        assert [run.end() for run in runs] == [143, 0], [run.stderr for run in runs]
        for rank, run in enumerate(runs):
            assert names(run, "error", "warning", "link-lost", "consequence", "ignored", "restarting") == []
            assert run.stderr == [
                f"[rank {rank}] INFO bootstrap.group: ring DistributedGroup ready (rank {rank}): size=2"
            ]
            nothing_left(run, *pair)
        assert {event["missed"] for event in of(runs[0], "health")} == {0}
        (frame,) = of(runs[slow], ("bootstrap-sent", "bootstrap-received")[slow])
        assert frame["t_ms"] > seconds * 1000


def test_an_import_that_outlasts_the_deadline(start: StartPairs, nothing_left: Check) -> None:
    """The hanging rank reports itself, and the other names what it waits for, whichever gives up first."""
    limits = [(SOON, LATER) if first == 0 else (LATER, SOON) for _, first in ENDS]
    started = start(*((slow, 600, each) for (slow, _), each in zip(ENDS, limits, strict=True)))
    for ends, timeouts, (pair, runs) in zip(ENDS.values(), limits, started, strict=True):
        for run, timeout, (codes, text) in zip(runs, timeouts, ends, strict=True):
            error = failed(run, *codes)
            assert text.format(timeout) in error["message"]
            assert names(run, "bootstrap-sent", "bootstrap-received") == []
        for run in runs:
            nothing_left(run, *pair)
