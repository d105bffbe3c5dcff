"""The command line around a demo: help, version, and one line for wrong usage."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "0"], "port 0 is wrong, use 1 to 65534 with 2 ranks"),
        (["--port", "65535"], "port 65535 is wrong, use 1 to 65534 with 2 ranks"),
        (["--ranks", "8", "--port", "65529"], "port 65529 is wrong, use 1 to 65528 with 8 ranks"),
        (["--port", "x1"], "'x1'|integer"),
        (["--port", ""], "invalid value for '--port'"),
        (["--ranks", "1"], "1 ranks cannot form a group, use 2 to 64"),
        (["--ranks", "65"], "65 ranks cannot form a group, use 2 to 64"),
        (["--ranks", "1000000000000"], "1000000000000 ranks cannot form a group, use 2 to 64"),
        (["--ranks", "2.5"], "invalid value for '--ranks'"),
        (["--backend", "mpi"], "backend 'mpi' is unknown, use auto, jaccl or ring"),
        (["--host", "localhost"], "'localhost' is not the IPv4 address of a host, use one such as 169.254.1.1"),
        (
            ["--host", "10.0.0.1"],
            "--host 10.0.0.1 is not a loopback address, use one such as",
        ),
        (["--session-id", ""], "session ID '' is wrong, use 1 to 128 of"),
        (["--session-id", "../x"], "session ID '../x' is wrong, use 1 to 128 of"),
        (["--session-id", "a\nb"], r"session ID 'a\nb' is wrong, use 1 to 128 of"),
        (["--timeout", "0"], "timeout 0.0 is wrong, use 0.1 to 3600 seconds"),
        (["--timeout", "nan"], "timeout nan is wrong, use 0.1 to 3600 seconds"),
        (["--timeout", "inf"], "timeout inf is wrong, use 0.1 to 3600 seconds"),
        (["--nonsense"], "no such option"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_happens(arguments: list[str], text: str, command: Start) -> None:
    demo = command("demo", "--json", *arguments)
    assert demo.end() == 2
    assert demo.seen == []
    (line,) = demo.stderr
    assert line.startswith("jaccl-bootstrap demo: ")
    assert any(part in line for part in text.split("|")), line
    assert ", use " in line or line.endswith("(see 'jaccl-bootstrap demo --help')")
    assert list(demo.tmp.rglob("*")) == []


@pytest.mark.parametrize("arguments", [[], ["demos"], ["--nonsense"]])
def test_wrong_usage_of_the_command_itself(arguments: list[str], command: Start) -> None:
    run = command(*arguments)
    assert run.end() == 2
    (line,) = run.stderr
    assert line.startswith("jaccl-bootstrap: ")
    assert line.endswith("(see 'jaccl-bootstrap --help')")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["demo", "--help"]])
def test_help_fits_a_screen(arguments: list[str], command: Start) -> None:
    run = command(*arguments, env={"COLUMNS": "80"})
    assert run.end() == 0
    assert len(run.seen) <= 24
    assert max(len(line.rstrip("\n")) for line in run.seen) <= 80
    if "demo" in arguments:
        assert any("Example: jaccl-bootstrap demo --ranks 4" in line for line in run.seen)


def test_version(command: Start) -> None:
    run = command("--version")
    assert run.end() == 0
    (line,) = run.seen
    assert line.startswith("jaccl-bootstrap ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = f"""
import sys
sys.argv = ["jaccl-bootstrap", "{"doctor" if missing == "rich" else "demo"}"]
sys.modules["{missing}"] = None
{"sys.stdout.isatty = lambda: True" if missing == "rich" else ""}
from bootstrap.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"jaccl-bootstrap needs {missing}")
    assert line.endswith("pip install 'cluster-wireproto[bootstrap]'")


def test_a_module_of_our_own_that_is_missing_is_a_bug() -> None:
    code = "import sys; sys.modules['bootstrap.cli.app'] = None; from bootstrap.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered: str, tmp_path: Path) -> None:
    """Also if unwritten output is still buffered at the end."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "bootstrap", "demo"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 3
    assert [line for line in done.stderr.splitlines() if not line.startswith("[rank")] == [
        "jaccl-bootstrap demo: the output cannot be written: No space left on device"
    ]
    assert list(tmp_path.iterdir()) == []


def on_a_terminal(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Run the command with stdout and stderr on a terminal; return its exit code and the output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bootstrap", *arguments],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", **env},
    )
    os.close(follower)
    output = b""
    try:
        while chunk := os.read(leader, 65536):
            output += chunk
    except OSError:
        pass  # Linux reports the end of a terminal this way
    os.close(leader)
    return process.wait(60), output.decode()


def test_colour_and_a_spinner_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, output = on_a_terminal("demo", "--ranks", "2", env={})
    assert code == 0
    assert "\x1b[32mgroup ready: size 2, ring\x1b[0m" in output
    assert "forming a group of 2" in output
    assert "[rank 1] INFO bootstrap.group: ring DistributedGroup ready (rank 1): size=2" in output
    assert "\x1b[?25l" not in output  # the cursor is never hidden, so a crash cannot leave it hidden
    assert "forming" not in output.rpartition("\r\x1b[2K")[2]  # the spinner is cleared


def test_json_on_a_terminal_is_still_json() -> None:
    code, output = on_a_terminal("demo", "--json", env={})
    assert code == 0
    assert "\x1b" not in output


def test_no_colour_where_it_is_not_wanted() -> None:
    code, output = on_a_terminal("demo", env={"NO_COLOR": "1"})
    assert code == 0
    assert "\x1b[32m" not in output
    assert "group ready: size 2, ring" in output
