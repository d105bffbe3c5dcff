"""`up -m MODULE` and `up --script FILE`: the user's program runs in the process that formed the group."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, error, failed, names, of, output, write_hostfile

IN_GROUP = SCRIPTS / "in_group.py"
STEPS = ["group-ready", "sum-checked", "running", "command-ended", "done"]
RING = ("--json", "--backend", "ring")


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Write a script, and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("count", [2, 4])
def test_a_program_finds_the_group_formed(
    count: int, ranks: Any, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """As a module and as a script: in the worker, with Python's usual arguments, streams and variables."""
    group = ranks(count)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group])
    as_module = ("-m", "tests.bootstrap.scripts.in_group", "--json", "-x")
    programs = [as_module if rank.number % 2 else ("--script", str(IN_GROUP), "--json", "-x") for rank in group]
    env = {"PYTHONPATH": str(tmp_path)}
    runs = [up(rank, hostfile, *RING, *program, env=env) for rank, program in zip(group, programs, strict=True)]
    assert [run.end() for run in runs] == [0] * count, [(run.events, run.stderr) for run in runs]
    for rank, run in enumerate(runs):
        assert names(run, *STEPS) == STEPS
        assert {event["all_ready"] for event in of(run, "running")} == {True}
        assert json.loads(output(run)[0]) == {
            "group": [rank, count, count * (count + 1) // 2],
            "pid": run.pid_of(rank),
            "argv": [str(IN_GROUP), "--json", "-x"],
            "path": str(Path.cwd() if rank % 2 else SCRIPTS),
            "main": str(IN_GROUP),
            "stdin": "",
            "variables": [str(tmp_path), None, str(rank)],
        }
        assert output(run, "stderr") == ["no newline"]
        nothing_left(run, *group)


@pytest.mark.parametrize(
    ("text", "code", "status", "says"),
    [
        ("raise SystemExit(7)", "command-failed", 7, []),
        ("import sys; sys.exit('because')", "command-failed", 1, ["because"]),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "command-killed", 137, []),
    ],
)
def test_its_exit_status(
    text: str, code: str, status: int, says: list[str], pair: tuple[Rank, Rank], up: Start, script: Any
) -> None:
    """Rank 1's fails; rank 0's continues until it is stopped for that."""
    zero, one = pair
    runs = (
        up(zero, one, *RING, "-m", "tests.bootstrap.scripts.waits"),
        up(one, zero, *RING, "--script", script(text)),
    )
    assert [run.end() for run in runs] == [125, status], [(run.events, run.stderr) for run in runs]
    for run in runs:
        assert (error(run)["rank"], error(run)["code"]) == (1, code)
    assert output(runs[1], "stderr") == says


def test_a_traceback_shows_the_program_alone(both: Start, script: Any) -> None:
    path = script("def fail():\n    raise ValueError('wrong')\n\n\nfail()\n")
    runs = both("--backend", "ring", "--script", path)
    assert {run.end() for run in runs} <= {1, 125}
    texts = [output(run, "stderr") for run in runs]
    whole = max(texts, key=len)
    assert whole[:2] == ["Traceback (most recent call last):", f'  File "{path}", line 5, in <module>'], whole
    assert whole[-1] == "ValueError: wrong"
    assert not any("bootstrap/" in line or "runpy" in line for line in whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_it_as_it_came(
    number: signal.Signals, code: int, pair: tuple[Rank, Rank], up: Start, script: Any, nothing_left: Check
) -> None:
    """It handles SIGINT like Python by default, and SIGTERM in its own way."""
    text = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit('ended'))\n"
        "try:\n    print('up', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit('interrupted')\n"
    )
    zero, one = pair
    path = script(text)
    runs = [up(own, other, *RING, "--script", path) for own, other in (pair, pair[::-1])]
    for rank, run in enumerate(runs):
        run.until(("output", rank))
    runs[0].process.send_signal(number)
    assert [run.end() for run in runs] == [code, 0], [(run.events, run.stderr) for run in runs]
    assert output(runs[0], "stderr") == ["interrupted" if number == signal.SIGINT else "ended"]
    for run in runs:
        nothing_left(run, zero, one)


def test_a_group_of_another_backend_is_warned_of(both: Start, script: Any) -> None:
    """MLX would silently give the program a group of one."""
    runs = both("--backend", "ring", "--script", script("import mlx.core as mx\nmx.distributed.init(backend='mpi')\n"))
    for run in runs:
        assert run.end() == 0, (run.events, run.stderr)
        (warning,) = of(run, "warning")
        assert "asked MLX for backend 'mpi' and got a group of 1, not this group of 2" in warning["message"]


def test_no_program_runs_before_every_rank_is_ready(pair: tuple[Rank, Rank], up: Start, script: Any) -> None:
    """Rank 1's worker has formed its group, and exits before checking it."""
    zero, one = pair
    program = ("--script", script("print('runs', flush=True)"))
    runs = [up(zero, one, *RING, *program), up(one, zero, *RING, *program, worker="dies_after_group.py")]
    for run in runs:
        failed(run, "worker-killed")
        assert of(run, "output") == of(run, "running") == []


@pytest.mark.parametrize("programs", [((), ("--", "true")), (("--", "true"), ("--script", str(IN_GROUP)))])
def test_a_rank_that_makes_a_sum_met_a_command(
    programs: tuple[tuple[str, ...], ...], pair: tuple[Rank, Rank], up: Start, nothing_left: Check
) -> None:
    """The command's first collective would be paired with the sum: refused before any init. [EXT-VERSIONS-PROGRAM]"""
    runs = [up(own, other, *RING, *program) for (own, other), program in zip((pair, pair[::-1]), programs, strict=True)]
    for run in runs:
        assert "the program is" in failed(run, "programs-differ")["message"]
        assert names(run, "environment-set", "output") == []
        nothing_left(run, *pair)


@pytest.mark.parametrize("option", ["--revision", "--extensions"])
def test_where_ranks_cannot_say_that_they_are_ready(option: str, both: Start) -> None:
    """No sum is made, and the event reports only this rank as ready. [PLAIN-SUM]"""
    value = {"--revision": "1", "--extensions": "off"}[option]
    runs = both("--backend", "ring", option, value, "--script", str(IN_GROUP))
    for rank, run in enumerate(runs):
        assert run.end() == 0, (run.events, run.stderr)
        assert names(run, "group-ready", "sum-skipped", "running") == ["group-ready", "sum-skipped", "running"]
        assert {event["all_ready"] for event in of(run, "running")} == {False}
        assert json.loads(output(run)[0])["group"] == [rank, 2, 3]


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (["-m"], "no program is given; name it after -m or --script"),
        (["--script"], "no program is given; name it after -m or --script"),
        (["-m", "no_such_package.server"], f"{sys.executable} has no module 'no_such_package.server'"),
        (["--script", "no-such-file.py"], "the script 'no-such-file.py' does not exist; check its name"),
        (["-m", "--script", "a.py"], "-m and --script cannot be combined"),
        (["--dry-run", "-m", "json.tool"], "a dry run starts no program"),
    ],
)
def test_wrong_usage(program: list[str], text: str, command: Start) -> None:
    run = command("up", "--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", *program)
    assert run.end() == 2
    assert text in run.stderr[0]
