"""`up … -- CMD`: the input, output and cleanup of a command."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, error, failed, names, of, output

Pair = tuple[Rank, Rank]
TOLD = (sys.executable, str(SCRIPTS / "told.py"))


def sh(script: str) -> tuple[str, ...]:
    return "/bin/sh", "-c", script


READY = sh("echo ready; sleep 600")


@pytest.fixture
def on_both(pair: Pair, up: Start) -> Start:
    """Start a command on each rank; return the runs of rank 0 and rank 1."""

    def start(on_zero: tuple[str, ...], on_one: tuple[str, ...], *options: str, **wanted: Any) -> tuple[Any, Any]:
        zero, one = pair
        run_one = up(one, zero, *options, "--", *on_one, **wanted)
        return up(zero, one, *options, "--", *on_zero, **wanted), run_one

    return start


# -- what it is given --------------------------------------------------------------------------------------------------


def test_variables_and_file(on_both: Start, pair: Pair, nothing_left: Check) -> None:
    """The command gets the variables for MLX, no contradictory ones, all others; the file; no input."""
    stale = {"JACCL_RANK": "5", "JACCL_RING": "0", "MLX_RANK": "6", "MLX_IBV_DEVICES": "/nowhere", "KEPT": "yes"}
    command = (*TOLD, "--rank", "a b", "--", "-x")
    runs = on_both(command, command, "--json", env=stale)
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    hosts = [[f"{pair[0].ip}:29400"], [f"{pair[1].ip}:29401"]]
    for rank, run in enumerate(runs):
        (line,) = output(run)
        (set_event,) = of(run, "environment-set")
        assert set_event["cleared"] == ["JACCL_RANK", "JACCL_RING", "MLX_IBV_DEVICES"]
        told = json.loads(line)
        variables = told["variables"]
        assert Path(variables["MLX_HOSTFILE"]).is_relative_to(run.tmp)
        assert variables == {
            "MLX_RANK": str(rank),
            "MLX_JACCL_COORDINATOR": f"{pair[0].ip}:29400",
            "MLX_HOSTFILE": variables["MLX_HOSTFILE"],
        }
        assert json.loads(told["file"]) == hosts
        assert (told["arguments"], told["stdin"]) == (["--rank", "a b", "--", "-x"], "")
        assert (told["mode"], told["kept"]) == (0o600, "yes")
        steps = ["file-written", "environment-set", "started", "output", "command-ended", "done"]
        assert names(run, *steps) == steps
        nothing_left(run, *pair)


# -- what is passed on -------------------------------------------------------------------------------------------------


def test_plain_output_has_the_rank(on_both: Start) -> None:
    runs = on_both(sh("echo out; echo err >&2"), sh("printf 'no end'; printf 'none' >&2"))
    assert [run.end() for run in runs] == [0, 0]
    for run, out, err in zip(runs, ("[rank 0] out", "[rank 1] no end"), ("[rank 0] err", "[rank 1] none"), strict=True):
        assert [line for line in run.seen if "[rank" in line] == [f"{out}\n"]
        assert run.stderr == [err]
        assert run.seen[-1].endswith("done    the command ended with exit status 0\n")


def test_output_as_events(on_both: Start) -> None:
    """Lines in order, empty ones too; bytes that are not UTF-8; a last line without an end."""
    script = r"printf 'one\n\ntwo\r\n\377\000\303\251\nlast'; printf 'err\n' >&2"
    runs = on_both(sh(script), ("true",), "--json")
    assert [run.end() for run in runs] == [0, 0]
    assert output(runs[0]) == ["one", "", "two", "\\xff\0é", "last"]
    assert output(runs[0], "stderr") == ["err"]
    for event in of(runs[0], "output"):
        assert event.keys() == {"event", "rank", "stream", "line"} | ({"t_ms"} & event.keys())
        assert event["rank"] == 0


def test_much_output_and_long_lines(on_both: Start) -> None:
    """A line over the limit arrives in pieces; nothing is lost at the end."""
    long, many = 200_000, 20_000
    script = f"print('x' * {long}); [print(n) for n in range({many})]"
    runs = on_both(("true",), (sys.executable, "-c", script), "--json")
    assert [run.end() for run in runs] == [0, 0]
    lines = output(runs[1])
    pieces = [line for line in lines if line.startswith("x")]
    assert "".join(pieces) == "x" * long
    assert len(pieces) > 1
    assert lines[len(pieces) :] == [str(n) for n in range(many)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)]
)
def test_the_exit_status_is_passed_on(
    script: str, status: int, rank: int, on_both: Start, pair: Pair, nothing_left: Check
) -> None:
    commands = [READY, READY]
    commands[rank] = sh(script)
    runs = on_both(*commands, "--json", program="quick.py")
    assert runs[rank].end() == status, runs[rank].stderr
    assert error(runs[rank])["code"] == {137: "command-killed", 139: "command-crashed"}.get(status, "command-failed")
    assert (error(runs[rank])["rank"], runs[rank].events[-1]["ok"]) == (rank, False)
    assert [event["status"] for event in of(runs[rank], "command-ended")] == [status]
    runs[1 - rank].end()
    for run in runs:
        nothing_left(run, *pair)


def test_a_failure_on_one_rank_ends_the_command_of_the_other(on_both: Start) -> None:
    """The other's command would run for long."""
    zero, one = on_both(READY, sh("exit 7"), "--json")
    assert one.end() == 7
    assert zero.end() != 0
    assert of(zero, "error") != []


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_may_go_on_when_the_other_is_done(first: int, on_both: Start, tmp_path: Path) -> None:
    """This is not a failure of either."""
    go = tmp_path / "go"
    commands = [sh(f"until [ -e '{go}' ]; do sleep 0.01; done; echo done")] * 2
    commands[first] = ("true",)
    runs = on_both(*commands, "--json")
    runs[first].until(("command-ended", first))
    assert runs[1 - first].process.poll() is None
    go.touch()
    assert [run.end() for run in runs] == [0, 0]
    assert output(runs[1 - first]) == ["done"]


# -- what cannot be run ------------------------------------------------------------------------------------------------


def test_a_command_that_is_not_there(pair: Pair, up: Start, nothing_left: Check) -> None:
    """Wrong usage, before anything is started."""
    run = up(*pair, "--", "no-such-command", "x")
    assert run.end() == 2
    (line,) = run.stderr
    assert "'no-such-command' is not on PATH" in line
    nothing_left(run, *pair)


def test_a_command_that_cannot_be_run(on_both: Start, pair: Pair, tmp_path: Path, nothing_left: Check) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF and no more")
    garbage.chmod(0o755)
    zero, one = on_both((str(garbage),), ("true",), "--json")
    assert failed(zero, "command-refused")["retry"] == "fix-first"
    one.end()
    for run in (zero, one):
        nothing_left(run, *pair)


def test_a_dry_run_has_no_command(pair: Pair, up: Start) -> None:
    run = up(*pair, "--dry-run", "--", "true")
    assert run.end() == 2
    assert "a dry run starts no program" in run.stderr[0]


# -- what it leaves ----------------------------------------------------------------------------------------------------

LEFT_BEHIND = {
    "with the pipes": "sleep 600 & exit 3",
    "without the pipes": "sleep 600 >/dev/null 2>&1 & exit 3",
    "with the pipes, later": "sleep 600 & sleep 0.2; exit 3",
    "deaf": "(trap '' TERM; sleep 600) & sleep 0.2; exit 3",
    "deaf without the pipes": "(trap '' TERM; sleep 600) >/dev/null 2>&1 & exit 3",
    "deaf grandchild": "sh -c '(trap \"\" TERM; echo more; sleep 600) & sleep 600' & exit 3",
}


@pytest.mark.parametrize("script", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_a_child_in_the_background_is_ended(script: str, on_both: Start, pair: Pair, nothing_left: Check) -> None:
    """Like after the exit of its parent; the exit status is the parent's."""
    zero, one = on_both(sh(script), ("true",), "--json", program="quick.py")
    assert zero.end() == 3
    assert error(zero)["code"] == "command-failed"
    one.end()
    for run in (zero, one):
        nothing_left(run, *pair)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_deaf_command_is_killed(rank: int, on_both: Start, pair: Pair, nothing_left: Check) -> None:
    deaf = sh("trap '' TERM INT; echo ready; while :; do sleep 600; done")
    runs = on_both(deaf, deaf, "--json", program="quick.py")
    for number, run in enumerate(runs):
        run.until(("output", number))
    runs[rank].process.send_signal(signal.SIGINT)
    assert runs[rank].end() == 130
    runs[1 - rank].end()
    for run in runs:
        nothing_left(run, *pair)


def test_a_command_is_given_time_to_save(on_both: Start) -> None:
    """Ctrl-C is SIGINT for the command, as at a shell."""
    saving = sh("trap 'echo saved; exit 0' INT; echo ready; while :; do sleep 0.05; done")
    zero, one = on_both(saving, READY, "--json")
    zero.until(("output", 0))
    one.until(("output", 1))
    zero.process.send_signal(signal.SIGINT)
    assert zero.end() == 130
    assert output(zero) == ["ready", "saved"]
    assert (zero.events[-1]["ok"], zero.events[-1]["stopped"]) == (True, True)
    assert one.end() == 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_control_process_leaves_no_command(
    victim: int, on_both: Start, pair: Pair, nothing_left: Check, nothing_left_soon: Check
) -> None:
    runs = on_both(READY, sh("(trap '' TERM; sleep 600) & echo ready; sleep 600"), "--json", program="quick.py")
    for number, run in enumerate(runs):
        run.until(("output", number))
    os.kill(runs[victim].process.pid, signal.SIGKILL)
    assert runs[1 - victim].end() != 0
    nothing_left(runs[1 - victim], pair[1 - victim])
    nothing_left_soon(runs[victim], *pair)


def test_a_killed_control_process_leaves_no_child_of_an_ended_command(
    on_both: Start, pair: Pair, nothing_left_soon: Check
) -> None:
    """Rank 0 waits for rank 1, whose command continues while its own child ignores TERM."""
    zero, one = on_both(sh("(trap '' TERM; sleep 600) >/dev/null 2>&1 &"), READY, "--json", "--grace", "0.5")
    zero.until(("command-ended", 0))
    one.until(("output", 1))
    os.kill(zero.process.pid, signal.SIGKILL)
    assert one.end() != 0
    nothing_left_soon(zero, *pair)


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_a_reader_that_leaves(arguments: list[str], on_both: Start, pair: Pair, up: Start, nothing_left: Check) -> None:
    zero, one = pair
    talks = sh("trap '' PIPE; while :; do echo more; sleep 0.01; done")
    run_one = up(one, zero, "--json", "--", *READY)
    run_zero = up(zero, one, *arguments, "--", *talks, into="sed /more/q", program="quick.py")
    assert run_zero.end() == 0
    assert "more" in run_zero.seen[-1]
    assert run_zero.stderr[-1] == "exit 125"
    assert "Traceback" not in "".join(run_zero.stderr)
    run_one.end()
    for run in (run_zero, run_one):
        nothing_left(run, *pair)
