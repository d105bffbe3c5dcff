"""`up` when a process dies, something is in the way, or a file cannot be written: a timely error, and nothing left."""

import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bootstrap.ranks import Check, Rank, Start, failed, guard_of, of

Pair = tuple[Rank, Rank]
LOST = ("link-lost", "session-ended", "worker-killed", "worker-died", "init-failed", "sum-failed")
"""Errors by which a rank may report the other's death."""


def holding(both: Start) -> tuple[Any, Any]:
    runs: tuple[Any, Any] = both()
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    return runs


def survives_not(run: Any) -> dict[str, Any]:
    """Check the end of a rank after the other rank died."""
    event = failed(run, *LOST)
    assert event["remedy"]
    return event


# -- what dies ---------------------------------------------------------------------------------------------------------


def test_rank_1_dies_before_the_init(
    pair: Pair, up: Start, tmp_path: Path, nothing_left: Check, nothing_left_soon: Check
) -> None:
    """It is killed when the bootstrap frame arrives: rank 0 does not start its init."""
    zero, one = pair
    run_one = up(one, zero, "--json", program="held_check.py")
    run_zero = up(zero, one, "--json")
    run_one.until(("bootstrap-received", 1))
    run_one.process.kill()
    assert survives_not(run_zero)["retry"] == "safe"
    assert of(run_zero, "environment-set") == []
    nothing_left(run_zero, *pair)
    nothing_left_soon(run_one, *pair)


def test_a_control_process_is_killed_while_it_waits(pair: Pair, up: Start, nothing_left_soon: Check) -> None:
    """Before it has started anything: its lock file is removed, too."""
    run = up(*pair[::-1], "--json", "--", "true")
    run.until(("listening", 1))
    run.process.kill()
    nothing_left_soon(run, *pair)


@pytest.mark.parametrize("worker", ["stuck.py", "deaf.py"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_control_process_is_killed_in_the_init(
    victim: int, worker: str, in_init: Start, pair: Pair, nothing_left: Check, nothing_left_soon: Check
) -> None:
    runs = in_init(worker)
    runs[victim].process.kill()
    survives_not(runs[1 - victim])
    nothing_left(runs[1 - victim], pair[1 - victim])
    nothing_left_soon(runs[victim], *pair)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_is_killed_in_the_init(victim: int, in_init: Start, pair: Pair, nothing_left: Check) -> None:
    runs = in_init("stuck.py")
    os.kill(runs[victim].pid_of(victim), signal.SIGKILL)
    event = failed(runs[victim], "worker-killed")
    assert event["rank"] == victim
    assert "signal SIGKILL" in event["message"]
    survives_not(runs[1 - victim])
    for run in runs:
        nothing_left(run, *pair)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_control_process_is_killed_when_the_group_is_held(
    victim: int, both: Start, pair: Pair, nothing_left: Check, nothing_left_soon: Check
) -> None:
    runs = holding(both)
    runs[victim].process.kill()
    survives_not(runs[1 - victim])
    nothing_left(runs[1 - victim], pair[1 - victim])
    nothing_left_soon(runs[victim], *pair)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_is_killed_when_the_group_is_held(victim: int, both: Start, pair: Pair, nothing_left: Check) -> None:
    runs = holding(both)
    os.kill(runs[victim].pid_of(victim), signal.SIGKILL)
    assert failed(runs[victim], "worker-killed")["rank"] == victim
    survives_not(runs[1 - victim])
    for run in runs:
        nothing_left(run, *pair)


def test_both_control_processes_are_killed(in_init: Start, pair: Pair, nothing_left_soon: Check) -> None:
    runs = in_init("deaf.py")
    for run in runs:
        run.process.kill()
    for run in runs:
        nothing_left_soon(run, *pair)


def test_what_the_guard_could_not_tidy_up_the_next_run_does(
    in_init: Start, pair: Pair, up: Start, nothing_left: Check
) -> None:
    """Guard and control process of rank 1 are killed: its hanging worker and its directory are left."""
    zero, one = in_init("stuck.py")
    worker = psutil.Process(one.pid_of(1))
    guard_of(one).kill()
    one.process.kill()
    one.process.wait()
    survives_not(zero)
    assert worker.status() != psutil.STATUS_ZOMBIE
    again = up(pair[1], pair[0], "--json", "--timeout", "1", tmp=one.tmp)
    again.until(("reaped", 1))
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    failed(again, "link-refused", "deadline")
    assert [event["pids"] for event in of(again, "reaped")] == [[worker.pid]]
    nothing_left(again, *pair)


def test_without_its_guard_a_run_ends_as_ever(both: Start, pair: Pair, nothing_left: Check) -> None:
    zero, one = holding(both)
    guard_of(zero).kill()
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)
    for run in (zero, one):
        nothing_left(run, *pair)


# -- who is in the way -------------------------------------------------------------------------------------------------


def test_a_stranger_listens_on_the_coordinator_port(both: Start, pair: Pair, nothing_left: Check) -> None:
    """Known before any frame is sent."""
    with socket.create_server((pair[0].ip, 29400)):
        zero, one = both()
        assert failed(zero, "ring-port-taken")["stage"] == "ports"
        one.until(("session-ended", 1))  # another may follow
        one.process.send_signal(signal.SIGINT)
        assert one.end() == 130
    assert of(zero, "bootstrap-sent") == []
    assert of(one, "bootstrap-received") == []
    for run in (zero, one):
        nothing_left(run, *pair)


def test_a_stranger_listens_on_the_ring_port_of_rank_1(both: Start, pair: Pair, nothing_left: Check) -> None:
    """Rank 1 reports it before its init, and rank 0 receives that."""
    with socket.create_server((pair[1].ip, 29401)):
        runs = both()
        for run in runs:
            told = failed(run, "ring-port-taken")
            assert (told["rank"], told["stage"], told["retry"]) == (1, "ports", "fix-first")
            assert f"ring port at {pair[1].ip}:29401 cannot be used: another program listens there" in told["message"]
            assert of(run, "environment-set") == []
    for run in runs:
        nothing_left(run, *pair)


@pytest.mark.parametrize("options", [("--extensions", "off"), ("--revision", "1")])
def test_a_stranger_on_a_ring_port_without_extensions(options: tuple[str, ...], both: Start, pair: Pair) -> None:
    """Rank 1 learns of it only by the end of the session."""
    with socket.create_server((pair[0].ip, 29400)):
        zero, one = both(*options)
        assert failed(zero, "ring-port-taken")["stage"] == "ports"
        one.until(("session-ended", 1))
        one.process.send_signal(signal.SIGINT)
        assert one.end() == 130
    assert of(zero, "bootstrap-sent") == []


def test_a_second_session_on_one_host(both: Start, pair: Pair, up: Start) -> None:
    """At most one group per host, whatever its ports."""
    zero, one = holding(both)
    for arguments in ([], ["--coordinator-port", "30000"], ["--dry-run"]):
        second = up(pair[0], pair[1], "--json", *arguments, tmp=zero.tmp)
        event = failed(second, "host-busy")
        assert f"process {zero.process.pid} runs a group on this host already" in event["message"]
        assert (event["stage"], event["retry"]) == ("lock", "fix-first")
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)


def test_the_next_session_on_the_same_host(both: Start, pair: Pair, up: Start, nothing_left: Check) -> None:
    """The lock ends with its run, and does not affect the other rank's host on the same machine."""
    zero, one = holding(both)
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)
    again = [up(pair[n], pair[1 - n], "--json", tmp=zero.tmp) for n in (1, 0)]
    again[1].until(("holding", 0))
    again[1].process.send_signal(signal.SIGINT)
    assert [run.end() for run in again] == [0, 130]
    nothing_left(zero, *pair)


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--", "true"]])
def test_a_full_disk(
    arguments: list[str], pair: Pair, up: Start, small_disk: Callable[[int], Path], nothing_left: Check
) -> None:
    """There is no space for the file that MLX reads."""
    zero, one = pair
    disk = small_disk(1)
    run_zero = up(zero, one, "--json", *arguments, tmp=disk)
    run_zero.until(("link-lost", 0))
    (disk / "full").write_bytes(bytes(os.sysconf("SC_PAGE_SIZE")))
    run_one = up(one, zero, "--json", *arguments)
    event = failed(run_zero, "write-failed")
    (disk / "full").unlink()
    assert event["stage"] == "topology"
    assert "No space left on device" in event["message"]
    run_one.end()
    for run in (run_zero, run_one):
        nothing_left(run, *pair)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_tmpdir_that_is_none(kind: str, pair: Pair, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Python and the group use the system's directory then; nothing is left there either."""
    zero, one = pair
    place = tmp_path / kind
    if kind == "file":
        place.touch()
    run_one = up(one, zero, "--json")
    run_zero = up(zero, one, "--json", tmp=place)
    run_zero.until(("holding", 0))
    (written,) = of(run_zero, "file-written")
    run_zero.process.send_signal(signal.SIGINT)
    assert (run_zero.end(), run_one.end()) == (130, 0)
    assert not Path(written["path"]).parent.exists()
    nothing_left(run_zero, *pair)


def test_a_tmpdir_that_goes(pair: Pair, up: Start, nothing_left: Check) -> None:
    zero, one = pair
    run_zero = up(zero, one, "--json")
    run_zero.until(("started", 0), ("link-lost", 0))
    for file in run_zero.tmp.iterdir():
        file.unlink()
    run_zero.tmp.rmdir()
    run_one = up(one, zero, "--json")
    assert failed(run_zero, "directory-failed")["stage"] == "topology"
    run_one.end()
    for run in (run_zero, run_one):
        nothing_left(run, *pair)


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="this system sets no limits from outside")
def test_no_descriptor_is_left(pair: Pair, up: Start, nothing_left: Check) -> None:
    """Clients wait for one; this is reported once, without a traceback."""
    run = up(*pair[::-1], "--json", "--backend", "ring", "--", "true")
    run.until(("listening", 1))
    control = psutil.Process(run.process.pid)
    limits = control.rlimit(psutil.RLIMIT_NOFILE)
    control.rlimit(psutil.RLIMIT_NOFILE, (control.num_fds(), limits[1]))
    zero = up(*pair, "--json", "--backend", "ring", "--", "true")
    run.until(("warning", 1))
    control.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert (zero.end(), run.end()) == (0, 0)
    (event,) = of(run, "warning")
    assert event["message"] == "socket.accept() out of system resource: Too many open files"
    assert run.stderr == []
    for each in (zero, run):
        nothing_left(each, *pair)


def test_nothing_can_be_written_anywhere(pair: Pair, up: Start) -> None:
    """The record of the run, which is optional, cannot be opened either: the reason is the link's."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        run = up(*pair, "--json", "--timeout", "3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    failed(run, "link-refused")
