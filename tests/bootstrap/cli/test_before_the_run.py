"""`jaccl-bootstrap` where a run cannot even begin."""

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
