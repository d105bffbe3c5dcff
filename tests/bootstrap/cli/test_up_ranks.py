"""`up` with a hostfile: groups of 2 to 8 real ranks, and ranks with different groups."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, error, failed, names, of, output, write_hostfile

Ranks = Callable[[int], list[Rank]]
SUMS = (sys.executable, str(SCRIPTS / "sums.py"))
LINK = ("connected", "established", "bootstrap-sent")


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_a_command_makes_its_group(count: int, ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """On every rank; rank 0 has a session with each other rank, and they only with rank 0."""
    group = ranks(count)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], backend="ring")
    runs = [up(rank, hostfile, "--json", "--", *SUMS) for rank in group]
    assert [run.end() for run in runs] == [0] * count, [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        assert output(run) == [f"rank {rank} of {count}: {count * (count + 1) // 2}"]
        assert [event["rank"] for event in run.events[:-1]] == [rank] * (len(run.events) - 1)
        steps = ["file-written", "environment-set", "started", "command-ended", "done"]
        assert names(run, *steps) == steps
        assert (run.events[-1]["ranks"], run.events[-1]["ok"], run.events[-1]["status"]) == (count, True, 0)
        peers = {event["peer"] for event in of(run, "established")}
        assert peers == (set(range(1, count)) if rank == 0 else {0})
        nothing_left(run, *group)
    for peer in range(1, count):
        assert [event["event"] for event in runs[0].events if event.get("peer") == peer and event["event"] in LINK] == [
            *LINK
        ]
    assert len({event["session_id"] for run in runs for event in of(run, "bootstrap-received")}) == 1


@pytest.mark.parametrize("count", [3, 4])
def test_a_group_is_held_until_rank_0_ends_it(
    count: int, ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    group = ranks(count)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group])
    runs = [up(rank, hostfile, "--json", "--backend", "ring", "--coordinator-port", "29500") for rank in group]
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    runs[0].process.send_signal(signal.SIGTERM)
    assert [run.end() for run in runs] == [143] + [0] * (count - 1), [run.stderr for run in runs]
    for run in runs:
        (event,) = of(run, "sum-checked")
        assert event["value"] == count * (count + 1) // 2
        assert run.events[-1]["stopped"] is True
        nothing_left(run, *group)


def test_the_files_say_the_same_on_all_ranks(ranks: Ranks, up: Start, tmp_path: Path) -> None:
    """A dry run with mlx.distributed_config's hostfile, which has more than is needed."""
    group = ranks(3)
    ips = [rank.ip for rank in group]
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text(json.dumps([{"ssh": f"mac{n}.local", "ips": [ip], "envs": []} for n, ip in enumerate(ips)]))
    runs = [up(rank, hostfile, "--json", "--dry-run", "--backend", "ring") for rank in group]
    assert [run.end() for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        (write,) = of(run, "would-write")
        assert json.loads(write["content"]) == [[f"{ip}:{29400 + n}"] for n, ip in enumerate(ips)]
        (variables,) = [event["variables"] for event in of(run, "would-set")]
        assert (variables["MLX_RANK"], variables["MLX_JACCL_COORDINATOR"]) == (str(rank), f"{ips[0]}:29400")


# -- which rank this is ------------------------------------------------------------------------------------------------


def test_on_loopback_all_ranks_are_this_host(ranks: Ranks, command: Start, tmp_path: Path) -> None:
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in ranks(2)])
    run = command("up", "--hostfile", str(hostfile))
    assert run.end() == 2
    assert "ranks 0, 1 all have this host's addresses in the hostfile; give --rank" in run.stderr[0]


def test_the_own_address_tells_the_rank(pair: tuple[Rank, Rank], command: Start, tmp_path: Path) -> None:
    """If only one of the addresses is local."""
    one = pair[1]
    one.pins.add("203.0.113.1", pair[0].key)
    hostfile = write_hostfile(tmp_path / "hosts.json", ["203.0.113.1", one.ip])
    env = {"XDG_CONFIG_HOME": str(one.home)}
    run = command("up", "--hostfile", str(hostfile), "--json", "--identity", str(one.identity), env=env)
    run.until(("listening", 1))
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_no_address_is_this_hosts(command: Start, tmp_path: Path) -> None:
    run = command("up", "--hostfile", str(write_hostfile(tmp_path / "hosts.json", ["203.0.113.1", "203.0.113.2"])))
    assert run.end() == 2
    assert "no rank has an address of this host in the hostfile; give --rank" in run.stderr[0]


def test_rank_0_needs_its_address(pair: tuple[Rank, Rank], up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """It is the coordinator; this is detected before any link."""
    zero = pair[0]
    zero.pins.add("203.0.113.2", pair[1].key)
    run = up(zero, write_hostfile(tmp_path / "hosts.json", ["203.0.113.1", "203.0.113.2"]), "--json")
    assert "which is not an address of this host" in failed(run, "not-own-address")["message"]
    nothing_left(run)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--hostfile", "HOSTS", "--rank", "3"], "rank 3 is wrong, use 0 to 2, or auto"),
        (["--hostfile", "HOSTS", "--rank", "-1"], "--rank -1 is wrong"),
        (["--hostfile", "HOSTS", "--own-ip", "127.0.0.1"], "use --own-ip and --peer-ip, or --hostfile"),
        (["--hostfile", "HOSTS", "--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2"], "or --hostfile"),
        ([], "use --own-ip and --peer-ip, or --hostfile"),
        (["--hostfile", "HOSTS", "--rank", "0", "--peer", "mac-b"], "use --peer RANK=NAME or RANK=KEY"),
        (["--hostfile", "HOSTS", "--rank", "0", "--restart", "-1"], "--restart"),
        (["--hostfile", "nowhere.json"], "cannot read the hostfile nowhere.json: No such file or directory"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, command: Start, tmp_path: Path, nothing_left: Check) -> None:
    hostfile = write_hostfile(tmp_path / "hosts.json", ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    env = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    run = command("up", *[str(hostfile) if each == "HOSTS" else each for each in arguments], env=env)
    assert run.end() == 2
    (line,) = run.stderr
    assert text in line
    assert not (tmp_path / "home").exists()
    nothing_left(run)


# -- ranks that do not mean the same group -----------------------------------------------------------------------------


def run_all(group: list[Rank], up: Start, hostfiles: list[Path], *options: str) -> list[Any]:
    runs = [
        up(rank, hostfile, "--json", "--timeout", "4", "--backend", "ring", *options, program="quick.py")
        for rank, hostfile in zip(group, hostfiles, strict=True)
    ]
    for run in runs:
        assert run.end() == 3, (run.events, run.stderr)
        assert error(run)["code"] == run.events[-1]["code"]
    return runs


def test_ranks_in_another_order(ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Ranks 1 and 2 have swapped numbers: no init starts, and all end at the deadline."""
    group = ranks(3)
    right = write_hostfile(tmp_path / "right.json", [group[n].ip for n in (0, 1, 2)])
    wrong = write_hostfile(tmp_path / "wrong.json", [group[n].ip for n in (0, 2, 1)])
    group[1].number, group[2].number = 2, 1
    runs = run_all(group, up, [right, wrong, wrong])
    for run in runs:
        nothing_left(run)


def test_both_are_rank_0(pair: tuple[Rank, Rank], up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Each is told, although it connects to a port without a listener."""
    ips = [rank.ip for rank in pair]
    files = [write_hostfile(tmp_path / "a.json", ips), write_hostfile(tmp_path / "b.json", ips[::-1])]
    pair[1].number = 0
    runs = run_all(list(pair), up, files, "--timeout", "40")
    for run in runs:
        assert error(run)["code"] == "same-rank"
        nothing_left(run, *pair)


@pytest.mark.parametrize("larger", [0, 1])
def test_groups_of_other_sizes(larger: int, ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """One has a third host in its file, which never connects."""
    group = ranks(3)
    ips = [rank.ip for rank in group]
    files = [write_hostfile(tmp_path / f"{n}.json", ips[: 3 if n == larger else 2]) for n in (0, 1)]
    runs = run_all(group[:2], up, files, "--timeout", "3")
    codes = [error(run)["code"] for run in runs]
    if larger == 0:
        assert codes[0] == "link-refused"  # by the third
    else:
        assert "deadline" in codes
    for run in runs:
        nothing_left(run, *group)


def test_rank_0_at_another_address(ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Rank 1 has pinned the connecting host, but expects another as rank 0. [HANDSHAKE-PIN]"""
    group = ranks(3)
    ips = [rank.ip for rank in group]
    files = [write_hostfile(tmp_path / "0.json", ips[:2]), write_hostfile(tmp_path / "1.json", [ips[2], ips[1]])]
    runs = run_all(group[:2], up, files, "--timeout", "2")
    assert of(runs[1], "link-lost")[0]["code"] == "handshake-wrong-pin"
    for run in runs:
        nothing_left(run, *group)


def test_a_third_rank_at_another_address(ranks: Ranks, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """Only rank 1 has it wrong, and only ring's init needs it: it ends at the deadline, or before."""
    group = ranks(4)
    ips = [rank.ip for rank in group]
    right = write_hostfile(tmp_path / "right.json", ips[:3])
    wrong = write_hostfile(tmp_path / "wrong.json", [ips[0], ips[1], ips[3]])
    runs = run_all(group[:3], up, [right, wrong, right])
    for run in runs:
        nothing_left(run, *group)
