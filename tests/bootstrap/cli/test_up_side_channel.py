"""`up --backend jaccl`: gathers over the link between real processes, and one rank's failure, which ends all."""

import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import (
    COORDINATOR_PORT,
    Check,
    Rank,
    Start,
    error,
    failed,
    names,
    of,
    output,
    write_hostfile,
)

Ranks = Callable[[int], list[Rank]]
StartAll = Callable[..., list[Any]]
SOON_MS = 30_000
"""Seconds for a run whose deadlines are all later."""


@pytest.fixture
def start_all(start_mesh: StartAll) -> StartAll:
    """The same, each with gathers.py, and with what that does in the end."""

    def start(group: list[Rank], ends: list[str], *options: str) -> list[Any]:
        command = ("--", sys.executable, str(SCRIPTS / "gathers.py"))
        return start_mesh(group, [(*options, *command, end) for end in ends])

    return start


@pytest.mark.parametrize("count", [2, 4, 8])
def test_gathers_between_processes(count: int, ranks: Ranks, start_all: StartAll, nothing_left: Check) -> None:
    """And no rank opens the coordinator port, on which another process listens without a connection.

    [EXT-SIDE-CHANNEL]
    """
    group = ranks(count)
    with socket.create_server((group[0].ip, COORDINATOR_PORT)) as stranger:
        runs = start_all(group, ["ends"] * count)
        assert [run.end() for run in runs] == [0] * count, [run.stderr for run in runs]
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    for run in runs:
        assert output(run) == ["7 + 4 gathers"]
        assert names(run, "consequence", "warning") == []
        nothing_left(run, *group)


@pytest.mark.parametrize("count", [2, 4])
def test_the_built_in_worker_needs_no_port_either(
    count: int, ranks: Ranks, start_mesh: StartAll, tmp_path: Path, nothing_left: Check
) -> None:
    """With a replacement for an MLX that has JACCL, and takes a gather. [EXT-SIDE-CHANNEL]"""
    package = tmp_path / "stand-in" / "mlx"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(SCRIPTS / "mlx_stand_in.py", package / "core.py")
    group = ranks(count)
    with socket.create_server((group[0].ip, COORDINATOR_PORT)) as stranger:
        runs = start_mesh(group, [()] * count, PYTHONPATH=str(package.parent))
        for rank, run in enumerate(runs):
            run.until(("holding", rank))
        runs[0].process.send_signal(signal.SIGTERM)
        assert [run.end() for run in runs] == [143] + [0] * (count - 1), [run.stderr for run in runs]
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    for run in runs:
        steps = ["group-ready", "sum-checked", "holding"]
        assert names(run, *steps) == steps
        assert [event["value"] for event in of(run, "sum-checked")] == [count * (count + 1) // 2]
        assert run.events[-1]["backend"] == "jaccl"
        nothing_left(run, *group)


@pytest.mark.parametrize("options", [("--extensions", "off"), ("--revision", "1")])
def test_without_extensions_there_is_no_side_channel(
    options: tuple[str, ...], ranks: Ranks, start_mesh: StartAll
) -> None:
    """[EXT-REVISION]"""
    script = "import bootstrap; print(bootstrap.side_channel_factory())"
    runs = start_mesh(ranks(2), [(*options, "--", sys.executable, "-c", script)] * 2)
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    for run in runs:
        assert output(run) == ["None"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_dies_in_the_middle_of_a_gather(
    rank: int, ranks: Ranks, start_all: StartAll, nothing_left: Check
) -> None:
    """[EXT-OUTCOME-FIRST]"""
    group = ranks(3)
    runs = start_all(group, ["dies" if each == rank else "waits" for each in range(3)], "--timeout", "100")
    assert [run.end() for run in runs] == [137 if each == rank else 125 for each in range(3)]
    for run in runs:
        told = error(run)
        assert (told["rank"], told["code"]) == (rank, "command-killed")
        assert told["message"] == "the command ended by signal SIGKILL"
        assert run.events[-1]["t_ms"] < SOON_MS
        nothing_left(run, *group)


def test_a_wrong_size_ends_all_with_the_same_error(ranks: Ranks, start_all: StartAll, nothing_left: Check) -> None:
    """[EXT-SIDE-CHANNEL-FAULT]"""
    group = ranks(3)
    runs = start_all(group, ["waits", "less", "waits"])
    for run in runs:
        assert run.end() != 0
        told = error(run)
        assert (told["rank"], told["stage"], told["code"]) == (0, "side-channel", "side-channel-size")
        assert told["message"] == "rank 1 put 3 bytes into gather 11, rank 0 4"
        assert run.events[-1]["t_ms"] < SOON_MS
        nothing_left(run, *group)


@pytest.mark.parametrize("broken", [0, 2])
def test_a_broken_worker_ends_the_others_at_once(
    broken: int, ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """Otherwise they would wait for it in native code. [EXT-OUTCOME-FIRST, EXT-OUTCOME-READY]"""
    group = ranks(3)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], backend="ring")
    options = ("--json", "--timeout", "100")
    runs = [up(each, hostfile, *options, worker="dies_in_init.py" if each.number == broken else None) for each in group]
    for run in runs:
        told = failed(run, "worker-died")
        assert (told["rank"], told["stage"]) == (broken, "worker")
        assert run.events[-1]["t_ms"] < SOON_MS
        assert of(run, "group-ready") == []
        nothing_left(run, *group)


def test_ready_is_ready_on_every_rank(ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """All three have their group; then rank 1's worker is killed, and the others' sums fail.

    [EXT-OUTCOME-READY, EXT-OUTCOME-CAUSE]
    """
    group = ranks(3)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], backend="ring")
    runs = [up(each, hostfile, "--json", "--timeout", "100", worker="dies_after_group.py") for each in group]
    for run in runs:
        told = failed(run, "worker-killed")
        assert told["rank"] == 1
        assert names(run, "group-ready", "sum-checked", "holding") == []
        nothing_left(run, *group)
