"""`up` over a cable that is cut or goes silent: it reconnects, ends or restarts, depending on its options."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.ranks import (
    CABLE_PORT,
    Cable,
    Check,
    Rank,
    Start,
    cable_between,
    failed,
    names,
    of,
    write_hostfile,
)

Pair = tuple[Rank, Rank]


@pytest.fixture
def cable(pair: Pair) -> Iterator[Cable]:
    with cable_between(*pair) as between:
        yield between


@pytest.fixture
def both(pair: Pair, up: Start, cable: Cable) -> Start:
    """Two ranks with the cable between them; other options may differ."""

    def start(*arguments: str, on_one: tuple[str, ...] | None = None) -> tuple[Any, Any]:
        zero, one = pair
        run_one = up(one, zero, "--json", *(arguments if on_one is None else on_one), program="quick.py")
        run_one.until(("listening", 1))
        run_zero = up(zero, one, "--json", "--link-port", str(CABLE_PORT), *arguments, program="quick.py")
        return run_zero, run_one

    return start


def count(run: Any, name: str, number: int) -> None:
    """Read until there are `count` events of a name."""
    while len(of(run, name)) < number:
        run.more()


def stop(runs: tuple[Any, Any]) -> None:
    runs[0].process.terminate()
    assert [run.end() for run in runs] == [143, 0], [run.stderr for run in runs]


def test_cut_before_all_that_counts(both: Start, cable: Cable, pair: Pair) -> None:
    """It reconnects twice, and the ranks use all their extensions."""
    cable.cut_when("before-ping", "before-ping")
    runs = both()
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    assert names(runs[0], "link-lost", "sum-checked", "holding") == ["link-lost", "link-lost", "sum-checked", "holding"]
    stop(runs)
    for run in runs:
        assert names(run, "sum-checked", "restarting") == ["sum-checked"]


def test_cut_before_the_frame(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """Rank 0 has sent it, so it gives up; rank 1 has not received it, and continues to listen."""
    cable.cut_when("before-frame")
    runs = zero, one = both()
    assert failed(zero, "link-lost")["retry"] == "safe"
    one.until(("link-lost", 1))
    assert of(one, "bootstrap-received") == []
    one.process.terminate()
    assert one.end() == 143
    for run in runs:
        assert of(run, "environment-set") == []
        nothing_left(run, *pair)


def test_cut_after_the_frame(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    cable.cut_when("after-frame")
    runs = both()
    for run in runs:
        failed(run, "link-lost")
        assert of(run, "holding") == []
        nothing_left(run, *pair)


@pytest.mark.parametrize("moment", ["before-frame", "after-frame"])
def test_cut_at_the_frame_and_restarted(moment: str, both: Start, cable: Cable, pair: Pair) -> None:
    cable.cut_when(moment)
    runs = both("--restart", "1")
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    stop(runs)
    assert [event["left"] for event in of(runs[0], "restarting")] == [0]


@pytest.mark.parametrize("worker", [[], ["--", "/bin/sh", "-c", "echo ready; exec sleep 600"]])
def test_cut_when_ready(worker: list[str], both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """Both sides notice at once, whatever is running, and end it."""
    runs = both(*worker)
    for rank, run in enumerate(runs):
        run.until(("output" if worker else "holding", rank))
    cable.cut()
    for run in runs:
        failed(run, "link-lost")
        nothing_left(run, *pair)


def test_silent_when_ready(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """Unanswered pings end the session."""
    runs = both()
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    cable.stop()
    failed(runs[0], "ping-timeout")
    assert [event["missed"] for event in of(runs[0], "health")[-3:]] == [1, 2, 3]
    assert of(runs[0], "link-lost")[-1]["code"] == "ping-timeout"
    cable.cut()
    failed(runs[1], "link-lost")
    for run in runs:
        nothing_left(run, *pair)


def test_restarted_when_ready(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """A new handshake, session and process on both ranks; and only once if so configured."""
    runs = both("--restart", "1")
    for time in (1, 2):
        for run in runs:
            count(run, "holding", time)
        cable.cut()
    for run in runs:
        failed(run, "link-lost")
        (restarting,) = of(run, "restarting")
        assert restarting["left"] == 0
        steps = ["established", "holding", "restarting", "established", "holding", "error", "done"]
        assert names(run, *steps) == steps
        frames = [*of(run, "bootstrap-sent"), *of(run, "bootstrap-received")]
        assert len({frame["session_id"] for frame in frames}) == len(frames) == 2
        assert len({event["pid"] for event in of(run, "started")}) == len(of(run, "started")) == 2
        nothing_left(run, *pair)


def test_all_ranks_are_restarted_when_one_was_lost(
    ranks: Callable[[int], list[Rank]], up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """All ranks form a group: those with a working link get another session, too."""
    group = ranks(3)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], backend="ring")
    with cable_between(group[0], group[1]) as cable, cable_between(group[0], group[2]):
        ports = [("--link-port", str(CABLE_PORT)), (), ()]
        runs = [
            up(rank, hostfile, "--json", "--restart", "1", *port, program="quick.py")
            for rank, port in zip(group, ports, strict=True)
        ]
        for run in runs:
            count(run, "holding", 1)
        cable.cut()
        for run in runs:
            count(run, "holding", 2)
        runs[0].process.terminate()
        assert [run.end() for run in runs] == [143, 0, 0], [run.stderr for run in runs]
    for run in runs:
        assert names(run, "holding", "restarting") == ["holding", "restarting", "holding"]
        nothing_left(run, *group)


def test_a_command_is_restarted(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """It is stopped, and restarted with another file."""
    runs = both("--restart", "2", "--", "/bin/sh", "-c", "cat $MLX_HOSTFILE; echo; exec sleep 600")
    for time in (1, 2, 3):
        for run in runs:
            count(run, "output", time)
        if time < 3:
            cable.cut()
    runs[0].process.terminate()
    for run in runs:
        assert run.end() == (143 if run is runs[0] else 0)
        assert [event["left"] for event in of(run, "restarting")] == [1, 0]
        assert len({event["path"] for event in of(run, "file-written")}) == 3
        nothing_left(run, *pair)


def test_a_restart_of_one_rank_alone_waits_for_the_other(
    both: Start, cable: Cable, pair: Pair, up: Start, nothing_left: Check
) -> None:
    """Rank 1 has exited for good; after a manual restart it finds rank 0 ready."""
    runs = both("--restart", "1", on_one=())
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    cable.cut()
    failed(runs[1], "link-lost")
    runs[0].until(("restarting", 0))
    again = up(pair[1], pair[0], "--json", program="quick.py")
    again.until(("holding", 1))
    count(runs[0], "holding", 2)
    stop((runs[0], again))
    nothing_left(again, *pair)


def test_a_deadline_after_a_restart(both: Start, cable: Cable, pair: Pair, nothing_left: Check) -> None:
    """The deadline starts again."""
    runs = both("--restart", "1", "--timeout", "3", on_one=())
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    cable.cut()
    failed(runs[1], "link-lost")
    failed(runs[0], "deadline", "link-reset", "link-closed", "link-refused")
    assert names(runs[0], "holding", "restarting", "error") == ["holding", "restarting", "error"]
    nothing_left(runs[0], *pair)
