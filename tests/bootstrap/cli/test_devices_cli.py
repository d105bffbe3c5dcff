"""`devices check` for people and for programs, as processes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forks import run_text
from wireproto.jaccl.topology import MAX_FILE, RankEntry, format_rank_entries

Done = subprocess.CompletedProcess[str]
GOOD = '[[null,"rdma_en5"],["rdma_en4",null]]\n'
RING = '[[null,"a",null,"b"],["a",null,"b",null],[null,"a",null,"b"],["a",null,"b",null]]'
MESH = '[[null,["a","b"],"c"],[["a","b"],null,"c"],["a","b",null]]'
BAD = '[[null,""],["rdma_en4",7]]'
SECONDS = 60.0  # generous: it takes less than one on an idle machine


def check(*arguments: str | Path, stdin: str | bytes = "") -> Done:
    given = stdin.encode() if isinstance(stdin, str) else stdin
    env = {**os.environ, "COLUMNS": "80"}
    return run_text("devices", "check", *map(str, arguments), stdin=given, module="bootstrap", environment=env)


def events(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "devices.json"
    path.write_text(GOOD)
    return path


# -- valid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "is_mesh", "is_ring", "size"),
    [
        (GOOD, "valid mesh and ring, 2 ranks", True, True, 2),
        (RING, "valid ring, 4 ranks", False, True, 4),
        (MESH, "valid mesh, 3 ranks", True, False, 3),
    ],
)
def test_valid(text: str, line: str, is_mesh: bool, is_ring: bool, size: int, file: Path) -> None:
    file.write_text(text)
    done = check(file)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{line}\n", "")
    assert check("-", stdin=text).stdout == done.stdout
    as_json = check(file, "--json")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert events(as_json) == [{"event": "done", "ok": True, "mesh": is_mesh, "ring": is_ring, "size": size}]


def test_own_row(file: Path) -> None:
    file.write_text(MESH)
    assert check(file, "--rank", "1").stdout.splitlines() == [
        "valid mesh, 3 ranks",
        "rank 1 uses a, b towards rank 0",
        "rank 1 uses c towards rank 2",
    ]
    (verdict,) = events(check(file, "--rank", "1", "--json"))
    assert verdict["devices"] == {"0": ["a", "b"], "2": ["c"]}


# -- not valid ---------------------------------------------------------------------------------------------------------


def test_every_reason_is_a_line(file: Path) -> None:
    file.write_text(BAD)
    done = check(file)
    assert (done.returncode, done.stderr) == (1, "")
    verdict, first, second = done.stdout.splitlines()
    assert verdict == "not usable"
    assert first.startswith(
        "topology-name in [0][1] at byte 7: '' is not a device name: use one that `ibv_devices` lists"
    )
    assert second.startswith("topology-diagonal in [1][1] at byte 23: expected null")


def test_every_reason_as_json(file: Path) -> None:
    file.write_text(BAD)
    done = check(file, "--json", "--rank", "0")
    assert (done.returncode, done.stderr) == (1, "")
    first, second, verdict = events(done)
    assert "rdma_en5" in first.pop("message")
    assert "null" in second.pop("message")
    assert first == {"event": "fault", "code": "topology-name", "path": "[0][1]", "offset": 7}
    assert second == {"event": "fault", "code": "topology-diagonal", "path": "[1][1]", "offset": 23}
    assert verdict == {"event": "done", "ok": False, "mesh": False, "ring": False, "size": None}


def test_rank_entries_are_told_what_to_be(file: Path) -> None:
    file.write_bytes(format_rank_entries([RankEntry("bridge100", f"169.254.1.{r + 1}", r) for r in range(2)]))
    done = check(file)
    assert done.returncode == 1
    assert GOOD.strip() in done.stdout


def test_a_rank_that_the_file_does_not_have(file: Path) -> None:
    done = check(file, "--rank", "2")
    assert (done.returncode, done.stdout) == (
        1,
        "not usable\ntopology-rank: there is no rank 2 in a file for ranks 0 to 1\n",
    )


@pytest.mark.parametrize("size", [MAX_FILE + 1, 64 * MAX_FILE])
@pytest.mark.parametrize("by_stdin", [False, True])
def test_a_large_file(size: int, by_stdin: bool, file: Path) -> None:
    data = GOOD.encode().ljust(size)
    file.write_bytes(data)
    done = check("-", "--json", stdin=data) if by_stdin else check(file, "--json")
    assert done.returncode == 1
    assert [(event.get("code"), event.get("offset")) for event in events(done)] == [
        ("topology-limit", MAX_FILE),
        (None, None),
    ]


def test_nothing_on_standard_input() -> None:
    done = check("-", "--json")
    assert done.returncode == 1
    assert events(done)[0]["code"] == "truncated"


def test_standard_input_that_is_closed() -> None:
    code = "import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code, "-m", "bootstrap", "devices", "check", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (1, "not usable\ntruncated at byte 0: the JSON text ends too early\n")


# -- not read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "x")
    done = check(tmp_path / "x")
    assert (done.returncode, done.stdout) == (3, "")
    reason = "it is not a regular file"
    assert done.stderr == f"jaccl-bootstrap devices check: cannot read {tmp_path / 'x'}: {reason}\n"


def test_a_file_that_is_not_there_had_no_last_line(tmp_path: Path) -> None:
    done = check(tmp_path / "x", "--json")
    message = f"cannot read {tmp_path / 'x'}: No such file or directory"
    assert done.returncode == 3
    failure, last = events(done)
    assert failure == {"event": "error", "code": "unreadable", "message": message}
    assert last == {"event": "done", "ok": False}
    assert done.stderr == f"jaccl-bootstrap devices check: {message}\n"


def test_a_file_name_reached_the_terminal_unescaped(tmp_path: Path) -> None:
    done = check(tmp_path / "\x1b]0;title\x07\nx")
    assert done.returncode == 3
    assert done.stderr.removesuffix("\n").isprintable()


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["a", "b"], ["a", "--rank", "64"], ["a", "--rank", "-1"], ["a", "--nonsense"]]
)
def test_wrong_usage_is_one_line(arguments: list[str]) -> None:
    done = check("--json", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaccl-bootstrap devices check: ")


def test_help_fits_a_screen_and_has_an_example() -> None:
    done = check("-h")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("Example: jaccl-bootstrap devices check" in line for line in lines)


def on_a_terminal(file: Path, **variables: str) -> str:
    """Return what the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            subprocess.run(
                [sys.executable, "-m", "bootstrap", "devices", "check", str(file)],
                stdout=theirs,
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=SECONDS,
                env={**os.environ, "TERM": "xterm", **variables},
            )
            return terminal.read(4096).decode()
        finally:
            os.close(theirs)


@pytest.mark.parametrize(
    ("text", "line"), [(GOOD, "\x1b[32m\x1b[1mvalid mesh and ring"), (BAD, "\x1b[31m\x1b[1mnot usable")]
)
def test_colour_on_a_terminal(text: str, line: str, file: Path) -> None:
    file.write_text(text)
    assert on_a_terminal(file).startswith(line)


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_on_a_terminal_that_wants_none(variable: dict[str, str], file: Path) -> None:
    file.write_text(GOOD)
    assert on_a_terminal(file, **variable).startswith("valid mesh and ring, ")
