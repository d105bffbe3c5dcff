"""`up --backend jaccl` on any host, up to the queue pairs: fake tools, and a stand-in for native JACCL as command."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, error, failed, names, of, output, write_hostfile
from tests.bootstrap.system_tools import Tools

Pair = tuple[Rank, Rank]
Ranks = Callable[[int], list[Rank]]
STAND_IN = ("--", sys.executable, str(SCRIPTS / "jaccl_stand_in.py"))
LOOPBACK = "rdma_lo  e5c5790000000005"


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """Four devices, and every port is active."""
    tools = Tools(tmp_path / "bin")
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    tools.prints("ibv_devinfo", "ibv_devinfo-active.txt")
    return tools


@pytest.fixture
def up_jaccl(up: Start, tools: Tools) -> Start:
    """Start one rank with these tools."""

    def start(own: Rank, others: Rank | Path, *arguments: str, **wanted: Any) -> Any:
        env = {"PATH": f"{tools.path}{os.pathsep}{os.environ['PATH']}", **wanted.pop("env", {})}
        return up(own, others, "--json", "--backend", "jaccl", *arguments, env=env, **wanted)

    return start


def mesh(size: int) -> list[list[str | None]]:
    """Rank r reaches peer p by the device numbered p, so each rank has its own devices."""
    return [[None if peer == rank else f"rdma_en{2 + peer}" for peer in range(size)] for rank in range(size)]


def ring_of_4() -> list[list[str | None]]:
    rows = mesh(4)
    for rank, row in enumerate(rows):
        row[(rank + 2) % 4] = None
    return rows


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", ["on", "off"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_mesh(size: int, extensions: str, ranks: Ranks, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Each rank reads its row and learns each peer's Destination; stale variables have no effect."""
    group = ranks(size)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], mesh(size))
    stale = {"JACCL_RANK": "5", "JACCL_RING": "0", "JACCL_COORDINATOR": "127.0.0.1:1", "JACCL_IBV_DEVICES": "/nowhere"}
    runs = [up_jaccl(rank, hostfile, "--extensions", extensions, *STAND_IN, env=stale) for rank in group]
    assert [run.end() for run in runs] == [0] * size, [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        devices = " ".join(f"rdma_en{2 + peer}" for peer in range(size) if peer != rank)
        assert output(run) == [
            f"rank {rank} of a mesh of {size} over {devices}",
            *[f"rank {peer}: queue pair {10 * peer + rank} at 169.254.1.1" for peer in range(size) if peer != rank],
        ]
        (variables,) = [event["variables"] for event in of(run, "environment-set")]
        assert "MLX_JACCL_RING" not in variables
        assert run.events[-1]["backend"] == "jaccl"
        nothing_left(run, *group)


def test_a_ring(ranks: Ranks, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """A matrix without diagonal devices can only be a ring, which JACCL is told."""
    group = ranks(4)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], ring_of_4())
    runs = [up_jaccl(rank, hostfile, *STAND_IN) for rank in group]
    assert [run.end() for run in runs] == [0] * 4, [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        left, right = (rank - 1) % 4, (rank + 1) % 4
        reached = {left: 10 * left + 2, right: 10 * right + 1}
        assert output(run)[1:] == [
            f"rank {peer}: queue pair {pair} at 169.254.1.1" for peer, pair in sorted(reached.items())
        ]
        assert f"rank {rank} of a ring of 4" in output(run)[0]
        (variables,) = [event["variables"] for event in of(run, "environment-set")]
        assert variables["MLX_JACCL_RING"] == "1"
        nothing_left(run, *group)


# -- devices -----------------------------------------------------------------------------------------------------------


def test_a_pair_without_a_matrix(pair: Pair, up_jaccl: Start, tools: Tools) -> None:
    """The device of the interface with this rank's address, if the tool lists it."""
    tools.runs("ibv_devices", f"echo '    {LOOPBACK}'")
    zero, one = pair
    runs = [up_jaccl(zero, one, *STAND_IN), up_jaccl(one, zero, *STAND_IN)]
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        assert output(run)[0] == f"rank {rank} of a mesh of 2 over rdma_lo"


@pytest.mark.parametrize(
    ("printed", "code", "text"),
    [
        ("ibv_devices-4.txt", "device-missing", "but there is no device rdma_lo among rdma_en2, "),
        ("ibv_devices-0.txt", "no-rdma-device", "this host lists no RDMA device (ibv_devices); use --backend ring"),
    ],
)
def test_a_pair_without_a_matrix_or_a_device(
    printed: str, code: str, text: str, pair: Pair, up_jaccl: Start, tools: Tools, nothing_left: Check
) -> None:
    tools.prints("ibv_devices", printed)
    run = up_jaccl(*pair, *STAND_IN)
    assert text in failed(run, code)["message"]
    assert of(run, "connected") == []
    nothing_left(run, *pair)


def test_a_device_that_is_missing(pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Reported before any link, by the rank of that row."""
    rows = [[None, "rdma_en9"], ["rdma_en2", None]]
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], rows)
    zero = up_jaccl(pair[0], hostfile, *STAND_IN)
    event = failed(zero, "device-missing")
    assert "names rdma_en9 for this host, which has rdma_en2, rdma_en3, " in event["message"]
    one = up_jaccl(pair[1], hostfile, *STAND_IN)
    one.until(("listening", 1))
    one.process.send_signal(signal.SIGINT)
    assert one.end() == 130
    for run in (zero, one):
        nothing_left(run, *pair)


def test_more_than_two_need_a_matrix(ranks: Ranks, up_jaccl: Start, tmp_path: Path) -> None:
    group = ranks(3)
    run = up_jaccl(group[0], write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group]), *STAND_IN)
    assert "use a hostfile with `rdma` rows" in failed(run, "devices-needed")["message"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("ibv_devinfo-down.txt", "is PORT_DOWN, not PORT_ACTIVE"),
        ("ibv_devinfo-no-ipv4.txt", "has no IPv4-mapped GID (::ffff:), as its interface has no IPv4 address"),
    ],
)
def test_a_port_that_is_not_ready_yet(
    before: str, said: str, pair: Pair, up_jaccl: Start, tools: Tools, tmp_path: Path, nothing_left: Check
) -> None:
    """The rank waits for it, and reports this once."""
    tools.prints("ibv_devinfo", before)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], mesh(2))
    runs = [up_jaccl(rank, hostfile, *STAND_IN) for rank in pair]
    for rank, run in enumerate(runs):
        run.until(("waiting", rank))
    tools.prints("ibv_devinfo.new", "ibv_devinfo-active.txt")
    (tools.path / "ibv_devinfo.new").replace(tools.path / "ibv_devinfo")
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        assert [event["what"] for event in of(run, "waiting")] == [f"rdma_en{3 - rank} {said}"]
        bootstrap = "bootstrap-received" if rank else "bootstrap-sent"
        assert names(run, "waiting", bootstrap, "output")[:3] == ["waiting", bootstrap, "output"]
        nothing_left(run, *pair)


def test_a_port_that_is_never_ready(pair: Pair, up_jaccl: Start, tools: Tools, tmp_path: Path) -> None:
    tools.prints("ibv_devinfo", "ibv_devinfo-down.txt")
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], mesh(2))
    run = up_jaccl(pair[0], hostfile, "--timeout", "1", *STAND_IN)
    assert failed(run, "deadline", "link-refused")["retry"] == "safe"


def test_ranks_of_two_hostfiles(pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Their matrices differ, which is detected before native code runs."""
    ips = [rank.ip for rank in pair]
    files = [
        write_hostfile(tmp_path / "0.json", ips, mesh(2)),
        write_hostfile(tmp_path / "1.json", ips, [[None, "rdma_en4"], ["rdma_en5", None]]),
    ]
    runs = [up_jaccl(rank, file, *STAND_IN) for rank, file in zip(pair, files, strict=True)]
    for run in runs:
        assert failed(run, "devices-differ")["stage"] == "versions"
        assert of(run, "environment-set") == []
        nothing_left(run, *pair)


@pytest.mark.parametrize("cables", [1, 2])
def test_commands_with_another_mlx(
    cables: int, pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """Python reports its version of MLX. An old one uses one of two cables, and is refused. [EXT-VERSIONS-DIFFER]"""
    names_of = ["rdma_en2", "rdma_en3"][:cables]
    rows = [[None, names_of], [["rdma_en4", "rdma_en5"][:cables], None]]
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], rows)
    runs = []
    for rank, version in zip(pair, ("0.32.4", "0.32.3"), strict=True):
        python = tmp_path / f"{version}" / "python3"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec echo {version}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        runs.append(up_jaccl(rank, hostfile, "--", str(python), str(SCRIPTS / "jaccl_stand_in.py")))
    for run in runs:
        if cables == 2:
            assert "the MLX version is 0.32." in failed(run, "mlx-differs")["message"]
            assert of(run, "environment-set") == []
        else:
            assert run.end() == 0, (run.events, run.stderr)
            assert any("mlx is 0.32." in event["message"] for event in of(run, "warning"))
        nothing_left(run, *pair)


# -- faults of what is native ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", ["devices", "connect", "gather", "ready"])
def test_a_crash(stage: str, rank: int, pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """The other rank is stopped as well, wherever it waits."""
    hostfile = write_hostfile(tmp_path / "hosts.json", [each.ip for each in pair], mesh(2))
    runs = [
        up_jaccl(
            each,
            hostfile,
            *STAND_IN,
            env={"STAND_IN": f"crash {stage}" if each.number == rank else "hang ready"},
            program="quick.py",
        )
        for each in pair
    ]
    assert runs[rank].end() == 128 + signal.SIGSEGV
    assert (error(runs[rank])["code"], error(runs[rank])["rank"]) == ("command-crashed", rank)
    assert runs[1 - rank].end() != 0
    assert error(runs[1 - rank])["t_ms"] < 30_000
    for run in runs:
        nothing_left(run, *pair)


@pytest.mark.parametrize("stage", ["devices", "connect", "gather", "ready"])
def test_a_hang(stage: str, pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Rank 1 hangs and ignores SIGTERM, and rank 0 waits for it: Ctrl-C ends both."""
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], mesh(2))
    zero = up_jaccl(pair[0], hostfile, *STAND_IN, env={"STAND_IN": "hang ready"}, program="quick.py")
    one = up_jaccl(pair[1], hostfile, *STAND_IN, env={"STAND_IN": f"hang {stage}"}, program="quick.py")
    one.until(("output", 1))
    assert output(one) == [f"hang at {stage}"]
    zero.until(("started", 0))
    zero.process.send_signal(signal.SIGINT)
    assert zero.end() == 130
    assert one.end() == 0
    for run in (zero, one):
        nothing_left(run, *pair)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_slow_rank(rank: int, pair: Pair, up_jaccl: Start, tmp_path: Path) -> None:
    """It is waited for."""
    hostfile = write_hostfile(tmp_path / "hosts.json", [each.ip for each in pair], mesh(2))
    slow = {"STAND_IN": "slow connect"}
    runs = [up_jaccl(each, hostfile, *STAND_IN, env=slow if each.number == rank else {}) for each in pair]
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    assert output(runs[rank])[0] == "slow at connect"


def test_the_group_itself_needs_jaccl(pair: Pair, up_jaccl: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Without a command this package calls MLX."""
    if mx.distributed.is_available("jaccl"):
        pytest.skip("this host has jaccl")
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], mesh(2))
    run = up_jaccl(pair[0], hostfile)
    assert "--backend ring" in failed(run, "backend-unavailable")["remedy"]
    nothing_left(run, *pair)
