"""`up` while MLX takes long to import on one rank, or never comes. All pairs of a test run side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bootstrap.ranks import Check, Rank, Start, failed, make_ranks, names, of

StartPair = Callable[..., tuple[list[Rank], list[Any]]]
IMPORTS: Final = [(slow, seconds) for slow in (0, 1) for seconds in (1, 5, 20)]
SOON, LATER = 12, 18
"""Deadlines in seconds: the ranks have a session long before the first."""
HANGS: Final = ("mlx-hangs", "no group within {} s: MLX is still being imported; try: python -c 'import mlx.core'")
ENDS: Final = {
    (0, 0): (HANGS, ("session-ended", "rank 0 ended the session before the group was formed")),
    (0, 1): (HANGS, ("no-bootstrap", "rank 0 is there (last seen: a ping, ")),
    (1, 0): (("peer-loading", "MLX is still being loaded on rank 1; no group within {} s"), HANGS),
    (1, 1): (("link-refused", " (when last heard, rank 1 was still loading MLX); no group within {} s"), HANGS),
}
"""By the rank whose import hangs, and the rank whose deadline comes first: what either rank says in the end."""


@pytest.fixture
def start_pair(up: Start, tmp_path: Path) -> StartPair:
    """Start a pair where the import of rank `slow` takes `seconds` more; `timeouts` are those of both ranks."""

    def start(slow: int, seconds: int, timeouts: tuple[int, int] = (60, 60)) -> tuple[list[Rank], list[Any]]:
        pair = make_ranks(tmp_path / "-".join(map(str, (slow, seconds, *timeouts))), 2)
        runs: list[Any] = [None, None]
        for rank in (1, 0):
            env = {"IMPORT_SECONDS": str(seconds if rank == slow else 0)}
            options = ("--json", "--backend", "ring", "--timeout", str(timeouts[rank]))
            runs[rank] = up(pair[rank], pair[1 - rank], *options, worker="slow_import.py", env=env)
            runs[1].until(("listening", 1))
        return pair, runs

    return start


def test_a_slow_import_is_waited_for(start_pair: StartPair, nothing_left: Check) -> None:
    """The other rank sees neither missing versions nor missed pongs, nor anything else that is wrong."""
    started = [start_pair(slow, seconds) for slow, seconds in IMPORTS]
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
        (loaded,) = of(runs[slow], "loaded")
        assert loaded["t_ms"] > seconds * 1000


def test_an_import_that_outlasts_the_deadline(start_pair: StartPair, nothing_left: Check) -> None:
    """The rank that hangs says so, and the other says what it waits for, whichever of them gives up first."""
    timeouts = [(SOON, LATER) if first == 0 else (LATER, SOON) for _, first in ENDS]
    started = [start_pair(slow, 600, each) for (slow, _), each in zip(ENDS, timeouts, strict=True)]
    for (slow, first), limits, (pair, runs) in zip(ENDS, timeouts, started, strict=True):
        for run, limit, (code, text) in zip(runs, limits, ENDS[slow, first], strict=True):
            error = failed(run, code)
            assert text.format(limit) in error["message"]
            assert names(run, "bootstrap-sent", "bootstrap-received") == []
            nothing_left(run, *pair)
