"""`jaccl-bootstrap` where a run cannot even begin."""

import re
from pathlib import Path

import pytest

from tests.bootstrap.ranks import Check, Rank, Start

PAIR = ("--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2")
GONE = ("sh", "-c", 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"')


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--capture", "link.pcapng"),
        ("demo", "--keylog", "keys"),
        ("up", *PAIR, "--trust-first-use", "--ready-file", "ready"),
        ("up", *PAIR, "--trust-first-use", "-m", "serve"),
        ("launch", "--hosts", "mac-a.invalid,mac-b.invalid"),
    ],
    ids=" ".join,
)
def test_a_current_directory_that_is_gone_was_no_such_file(
    arguments: tuple[str, ...], command: Start, nothing_left: Check, tmp_path: Path
) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    run = command(*arguments, env=env, prefix=(*GONE, str(tmp_path / "gone")))
    assert run.end() == 2
    assert run.seen == []
    (line,) = run.stderr
    assert line.endswith(": the current directory no longer exists; change to one that does")
    nothing_left(run)


@pytest.mark.parametrize(("program", "code"), [((), 3), (("--", "true"), 125), (("--script", __file__), 125)])
def test_with_a_program_a_missing_pin_had_the_exit_code_of_a_program(
    program: tuple[str, ...], code: int, pair: tuple[Rank, Rank], up: Start
) -> None:
    """3 may be the program's own."""
    own, other = pair
    own.pins.remove(other.ip)
    run = up(own, other, *program)
    assert run.end() == code
    assert "no key is pinned" in run.stderr[0]


@pytest.mark.parametrize(
    ("arguments", "code", "end"),
    [
        (("up", *PAIR), "not-pinned", 3),
        (("up", *PAIR, "--", "true"), "not-pinned", 125),
    ],
)
def test_without_a_run_json_had_no_last_line(
    arguments: tuple[str, ...], code: str, end: int, command: Start, tmp_path: Path
) -> None:
    name, *rest = arguments
    run = command(name, "--json", *rest, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert run.end() == end
    failure, done = run.events
    assert failure["event"] == "error"
    assert done["event"] == "done"
    assert done["ok"] is False
    assert failure["code"] == done["code"]
    assert failure["message"] in run.stderr[0]


@pytest.mark.parametrize("option", ["--capture", "--keylog"])
def test_a_demo_blamed_native_code_for_a_file_that_it_cannot_write(
    option: str, command: Start, nothing_left: Check, tmp_path: Path
) -> None:
    file = tmp_path / "missing" / "file"
    run = command("demo", option, str(file))
    assert run.end() == 2
    assert run.seen == []
    (line,) = run.stderr
    assert re.fullmatch(rf"jaccl-bootstrap demo: cannot .*{re.escape(str(file))}.*: No such file or directory", line)
    nothing_left(run)
