"""`jaccl-bootstrap up --config FILE`: a file that is not what it should be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bootstrap.ranks import Start

PAIR = ("--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("json = 1", "json takes true or false"),
        ("module = 'yes'", "module takes true or false"),
        ("log-dir = ['a']", "log-dir takes a string or a number"),
        ("log-dir = true", "log-dir takes a string or a number"),
        ("own-ip = 1979-05-27", "own-ip takes a string or a number"),
        ("peer = {}", "peer takes a list of strings"),
        ("env = {COLOUR = 'red'}", "env takes a list of strings"),
        ("env = [['COLOUR=red']]", "env takes a list of strings"),
        ("program = 'serve --fast'", "program takes a list of strings"),
        ("program = ['sleep', 1]", "program takes a list of strings"),
        ("restart = true", "restart takes a string or a number"),
    ],
)
def test_a_value_of_another_type_was_a_traceback_or_taken_for_something_else(
    text: str, message: str, command: Start, tmp_path: Path
) -> None:
    config = tmp_path / "up.toml"
    config.write_text(text)
    run = command("up", *PAIR, "--config", str(config))
    assert run.end() == 2
    (line,) = run.stderr
    assert f"{config}: {message} " in line


def test_half_a_restart_was_none(command: Start, tmp_path: Path) -> None:
    config = tmp_path / "up.toml"
    config.write_text("restart = 0.5")
    run = command("up", *PAIR, "--config", str(config))
    assert run.end() == 2
    assert "invalid value for '--restart': '0.5' is not a valid int" in run.stderr[0]


def _deep(path: Path) -> None:
    path.write_text("program = " + "[" * 100_000)


def _long(path: Path) -> None:
    with path.open("w") as file:
        file.truncate(1 << 30)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_deep, ""),
        (_long, "it has more than 1048576 bytes"),
        (_endless, "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
    ],
)
def test_a_file_without_an_end_was_read_to_its_end(
    make: Callable[[Path], None], reason: str, command: Start, tmp_path: Path
) -> None:
    config = tmp_path / "up.toml"
    make(config)
    run = command("up", *PAIR, "--config", str(config))
    assert run.end() == 2
    (line,) = run.stderr
    assert f"cannot read {config}: " in line
    assert reason in line


def test_a_byte_order_mark_and_crlf_are_ignored(command: Start, tmp_path: Path) -> None:
    config = tmp_path / "up.toml"
    config.write_bytes(b'\xef\xbb\xbfown-ip = "127.0.0.1"\r\npeer-ip = "127.0.0.1"\r\n')
    run = command("up", "--config", str(config))
    assert run.end() == 2
    assert "both addresses are 127.0.0.1" in run.stderr[0]


def test_a_rank_of_many_digits_was_a_traceback(command: Start) -> None:
    run = command("up", *PAIR, "--rank", "0" * 5000)
    assert run.end() == 2
    (line,) = run.stderr
    assert line.endswith(" is wrong, use a number or auto")
