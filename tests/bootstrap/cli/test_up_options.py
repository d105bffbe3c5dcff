"""Usual features of a launcher: variables, directory, logs, restarts, readiness, options in a file."""

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.ranks import Check, Rank, Start, failed, of, output, write_hostfile

Pair = tuple[Rank, Rank]
Soon = Callable[[Callable[[], bool], str], None]
RING = ("--json", "--backend", "ring")
SHOW = "import os, sys; print(os.environ['COLOUR'], os.getcwd(), sys.stdin.read(), flush=True)"
FAILS_ONCE = "mkdir '{}'/$MLX_RANK 2>/dev/null && echo first && exit 7; echo second"


def show(kind: str, directory: Path) -> tuple[str, ...]:
    """A program that shows its variable, directory and input: a command, or a script."""
    if kind == "command":
        return ("--", sys.executable, "-c", SHOW)
    (directory / "show.py").write_text(SHOW)
    return ("--script", "show.py")


@pytest.mark.parametrize("kind", ["command", "script"])
def test_variables_directory_and_input(kind: str, ranks: Any, up: Start, tmp_path: Path) -> None:
    """For a program: --env after the hostfile's `envs`, --cwd, and --stdin only for rank 0's."""
    group = ranks(2)
    directory = tmp_path / "there"
    directory.mkdir()
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], envs=["COLOUR=red"])
    options = ("--cwd", str(directory), "--stdin", *show(kind, directory))
    runs = [up(group[0], hostfile, *RING, "--env", "COLOUR=blue", *options), up(group[1], hostfile, *RING, *options)]
    runs[0].process.stdin.write("typed")
    runs[0].process.stdin.close()
    assert [run.end() for run in runs] == [0, 0], [(run.events, run.stderr) for run in runs]
    assert output(runs[0]) == [f"blue {directory} typed"]
    assert output(runs[1]) == [f"red {directory} "]


def test_lines_without_the_rank(pair: Pair, up: Start) -> None:
    runs = [
        up(own, other, "--backend", "ring", "--no-prefix", "--", "echo", "line") for own, other in (pair, pair[::-1])
    ]
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    for run in runs:
        assert "line\n" in run.seen


def test_a_log_for_each_attempt_and_a_restart_after_a_failed_program(
    pair: Pair, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """Complete lines, one file per rank and attempt; a failed program is restarted on every rank."""
    logs = tmp_path / "logs"
    logs.mkdir()
    options = ("--log-dir", str(logs), "--restart", "1", "--restart-on", "exit")
    command = ("--", "/bin/sh", "-c", FAILS_ONCE.format(tmp_path))
    runs = [up(own, other, *RING, *options, *command) for own, other in (pair, pair[::-1])]
    assert [run.end() for run in runs] == [0, 0], [(run.events, run.stderr) for run in runs]
    for rank, run in enumerate(runs):
        assert [event["left"] for event in of(run, "restarting")] == [0]
        assert output(run)[-1] == "second"
        assert (logs / f"rank-{rank}.2.log").read_text() == "second\n"
        assert (logs / f"rank-{rank}.1.log").stat().st_mode & 0o777 == 0o600
        nothing_left(run, *pair)
    assert "first\n" in {(logs / f"rank-{rank}.1.log").read_text() for rank in (0, 1)}


def test_a_log_that_cannot_be_written(pair: Pair, up: Start, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "rank-0.1.log").symlink_to(tmp_path / "elsewhere")
    run = up(*pair, "--log-dir", str(logs))
    assert run.end() == 3
    assert "rank-0.1.log: it is a symbolic link" in run.stderr[0]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_ready_file_is_there_while_the_group_is(
    number: signal.Signals, pair: Pair, up: Start, tmp_path: Path, soon: Soon, nothing_left_soon: Check
) -> None:
    """It is also removed if the control process was killed."""
    zero, one = pair
    paths = [tmp_path / f"ready{rank}" for rank in (0, 1)]
    options = [("--ready-file", str(path)) for path in paths]
    runs = [up(zero, one, *RING, *options[0]), up(one, zero, *RING, *options[1])]
    for rank, (run, path) in enumerate(zip(runs, paths, strict=True)):
        run.until(("holding", rank))
        soon(path.exists, "the ready file")
        assert path.read_text() == f"{run.process.pid}\n"
    runs[0].process.send_signal(number)
    for run, path in zip(runs, paths, strict=True):
        run.end()
        nothing_left_soon(run)
        soon(lambda path=path: not path.exists(), "no ready file")  # type: ignore[misc]


def test_a_ready_file_that_is_something_else_was_removed(
    pair: Pair, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """A directory or a symbolic link is refused, and stays."""
    directory, link = tmp_path / "directory", tmp_path / "link"
    directory.mkdir()
    (directory / "kept").touch()
    link.symlink_to(directory / "kept")
    zero, one = pair
    runs = [up(zero, one, *RING, "--ready-file", str(directory)), up(one, zero, *RING, "--ready-file", str(link))]
    for run in runs:
        failed(run, "not-a-regular-file")
        nothing_left(run, *pair)
    assert (directory / "kept").exists()
    assert link.is_symlink()


def test_systemd_is_told(both: Start, tmp_path: Path) -> None:
    """Notifications of the group, at each half of the watchdog's time, and of the end; with any program or none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(tmp_path / "notify"))
        service.settimeout(60)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        script = "import os, time; print(os.environ.get('NOTIFY_SOCKET'), flush=True); time.sleep(60)"
        runs = both("--backend", "ring", "--", sys.executable, "-c", script, env=env)
        told = set()
        while told != {b"WATCHDOG=1", b"READY=1"}:
            told.add(service.recv(100))
        for rank, run in enumerate(runs):
            run.until(("output", rank))
            assert output(run) == ["None"]
        runs[0].process.send_signal(signal.SIGINT)
        while service.recv(100) != b"STOPPING=1":
            pass
        assert [run.end() for run in runs] == [130, 0]


def test_no_deadline(both: Start) -> None:
    runs = both("--backend", "ring", "--timeout", "0")
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    runs[0].process.send_signal(signal.SIGINT)
    assert [run.end() for run in runs] == [130, 0]


def test_options_from_a_file_and_from_variables(pair: Pair, command: Start, tmp_path: Path) -> None:
    """The command line comes first, then the variable, then the file."""
    runs = []
    for own, other in (pair, pair[::-1]):
        text = (
            f'own-ip = "{own.ip}"\npeer-ip = "{other.ip}"\nidentity = "{own.identity}"\njson = true\nrestart = 5\n'
            f'backend = "jaccl"\nrank = 9\npeer = "{other.ip}"\nenv = ["COLOUR=red"]\n'
            'program = ["/bin/sh", "-c", "echo $COLOUR"]\n'
        )
        config = tmp_path / f"{own.number}.toml"
        config.write_text(text)
        env = {"XDG_CONFIG_HOME": str(own.home), "JACCL_BOOTSTRAP_RANK": "8", "JACCL_BOOTSTRAP_BACKEND": "ring"}
        runs.append(command("up", "--config", str(config), "--rank", str(own.number), env=env))
    assert [run.end() for run in runs] == [0, 0], [(run.events, run.stderr) for run in runs]
    assert [output(run) for run in runs] == [["red"], ["red"]]


@pytest.mark.parametrize(
    ("arguments", "file", "text"),
    [
        ([], "own_ip = 1", "sets own_ip, which `up` does not have"),
        ([], "config = 'x'", "sets config, which `up` does not have"),
        ([], "= 1", "cannot read CONFIG: "),
        ([], "timeout = 'soon'", "invalid value for '--timeout'"),
        (["--env", "COLOUR"], "", "--env 'COLOUR' has no '='; use NAME=VALUE"),
        (["--env", "1=2"], "", "'1' is not a variable name"),
        (["--cwd", "nowhere"], "", "--cwd nowhere is not a directory"),
        (["--interface", "none0"], "", "interface none0 has no IPv4 address; use one that has: "),
        (["--interface", "lo", "--peer-ip", "127.0.0.1"], "", "both addresses are 127.0.0.1"),
        (["--restart-on", "never"], "", "--restart-on 'never' is wrong, use link, exit, any"),
    ],
)
def test_wrong_usage(arguments: list[str], file: str, text: str, command: Start, tmp_path: Path) -> None:
    config = tmp_path / "up.toml"
    config.write_text(file)
    if "--peer-ip" not in arguments:
        arguments = ["--peer-ip", "127.0.0.2", *arguments]
    if "--interface" not in arguments:
        arguments = ["--own-ip", "127.0.0.1", *arguments]
    run = command("up", "--config", str(config), *arguments)
    assert run.end() == 2
    assert text.replace("CONFIG", str(config)) in run.stderr[0]
