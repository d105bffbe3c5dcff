"""Ctrl-C and similar signals, in every phase of `up`, on either rank: both end, and nothing is left."""

import signal
from typing import Any

import pytest

from tests.bootstrap.ranks import Check, Rank, Start, of

Pair = tuple[Rank, Rank]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def stopped(run: Any, code: int) -> None:
    """Check that a run stopped by its user, or by another rank's, ends without an error."""
    assert run.end() == code, (run.events, run.stderr)
    assert of(run, "error") == []
    assert run.events[-1]["stopped"] is True


def interrupt(runs: tuple[Any, Any], rank: int) -> None:
    """Interrupt one rank before the group is there; the other is told, and ends too."""
    runs[rank].process.send_signal(signal.SIGINT)
    stopped(runs[rank], 130)
    stopped(runs[1 - rank], 0)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("rank", [0, 1])
def test_while_waiting(rank: int, number: int, pair: Pair, up: Start, nothing_left: Check) -> None:
    run = up(pair[rank], pair[1 - rank], "--json")
    run.until(("started", rank), ("link-lost" if rank == 0 else "listening", rank))
    run.process.send_signal(number)
    stopped(run, 128 + number)
    nothing_left(run, *pair)


@pytest.mark.parametrize("rank", [0, 1])
def test_before_the_init(rank: int, both: Start, pair: Pair, nothing_left: Check) -> None:
    runs = both(program="held_check.py")
    runs[0].until(("bootstrap-sent", 0))
    runs[1].until(("bootstrap-received", 1))
    interrupt(runs, rank)
    for run in runs:
        assert of(run, "environment-set") == []
        nothing_left(run, *pair)


@pytest.mark.parametrize("worker", ["stuck.py", "deaf.py"])
@pytest.mark.parametrize("rank", [0, 1])
def test_in_the_init(rank: int, worker: str, in_init: Start, pair: Pair, nothing_left: Check) -> None:
    """Rank 0's worker sits in native code, which waits for rank 1's; `deaf.py` ignores TERM as well."""
    runs = in_init(worker)
    interrupt(runs, rank)
    for run in runs:
        nothing_left(run, *pair)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("rank", [0, 1])
def test_while_the_group_is_held(rank: int, number: int, both: Start, pair: Pair, nothing_left: Check) -> None:
    """The normal end of a group. Rank 1 exits first and leaves rank 0 without it."""
    runs = both()
    for each, run in enumerate(runs):
        run.until(("holding", each))
    runs[rank].process.send_signal(number)
    stopped(runs[rank], 128 + number)
    stopped(runs[1 - rank], 0)
    for run in runs:
        nothing_left(run, *pair)


@pytest.mark.parametrize("rank", [0, 1])
def test_while_a_command_runs(rank: int, both: Start, pair: Pair, nothing_left: Check) -> None:
    runs = both("--", "/bin/sh", "-c", "echo ready; exec sleep 600")
    for each, run in enumerate(runs):
        run.until(("output", each))
    runs[rank].process.send_signal(signal.SIGINT)
    stopped(runs[rank], 130)
    stopped(runs[1 - rank], 0)
    for run in runs:
        nothing_left(run, *pair)


def test_twice(in_init: Start, pair: Pair, nothing_left: Check) -> None:
    """A second Ctrl-C kills a worker that ignores SIGTERM, without a grace period."""
    runs = in_init("deaf.py")
    for _ in range(2):
        for run in runs:
            run.process.send_signal(signal.SIGINT)
    for run in runs:
        stopped(run, 130)
        nothing_left(run, *pair)


def test_nohup(pair: Pair, up: Start, nothing_left: Check) -> None:
    """A run that was told to ignore SIGHUP continues."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        zero = up(*pair, "--json", fresh=True)
    finally:
        signal.signal(signal.SIGHUP, handler)
    zero.until(("link-lost", 0))
    zero.process.send_signal(signal.SIGHUP)
    one = up(*pair[::-1], "--json")
    zero.until(("holding", 0))
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)
    nothing_left(zero, *pair)
