"""Tools that answer, fail, are missing, hang or flood: results, timing, and that nothing is left."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from bootstrap.system.tools import MAX_OUTPUT, ToolResult
from bootstrap.tools import run_tool
from tests.bootstrap.system_tools import Tools

LIMIT = 2.0  # long enough for a tool to say something first

Soon = Callable[[Callable[[], bool], str], None]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tools.path))
    return tools


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_answer(tools: Tools) -> None:
    tools.runs("tool", 'echo "to $1"; echo aside >&2')
    assert run_tool(["tool", "a b"]) == ToolResult(status="ok", stdout="to a b\n", stderr="aside\n", returncode=0)


def test_no_input_and_the_c_locale(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    tools.runs("tool", '/bin/cat; echo "$LC_ALL"')
    assert run_tool(["tool"]).stdout == "C\n"


@pytest.mark.parametrize(("script", "returncode"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_a_failure_keeps_what_was_said(tools: Tools, script: str, returncode: int) -> None:
    tools.runs("tool", f"echo so far; echo why >&2; {script}")
    expected = ToolResult(status="failed", stdout="so far\n", stderr="why\n", returncode=returncode)
    assert run_tool(["tool"]) == expected


def test_a_tool_that_is_not_there(tools: Tools) -> None:
    assert run_tool(["tool"]) == ToolResult(status="missing", stderr="No such file or directory")


def test_a_file_that_cannot_be_run(tools: Tools) -> None:
    (tools.path / "tool").write_text("no program")
    assert run_tool(["tool"]) == ToolResult(status="missing", stderr="Permission denied")


def test_bytes_that_are_no_text(tools: Tools) -> None:
    tools.runs("tool", r"printf '\377\0a'")
    assert run_tool(["tool"]).stdout == "\ufffd\0a"


def test_a_tool_that_hangs_is_killed_with_its_children(tools: Tools, soon: Soon) -> None:
    tools.hangs("tool", "/bin/sleep 60 &\necho $$ $!")
    start = time.monotonic()
    result = run_tool(["tool"], LIMIT)
    assert LIMIT <= time.monotonic() - start < 30.0
    assert (result.status, result.stderr, result.returncode) == ("hung", "", -9)
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    soon(lambda: all(map(gone, pids)), "the tool and its child are gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_a_signal_in_the_middle_of_the_start(
    number: signal.Signals, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it arrived while the system creates the process, whose id is not known yet."""
    tools.hangs("tool")
    popen = subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        signal.raise_signal(number)
        started.append(popen(*arguments, **options))
        return started[0]

    def handle(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.signal(number, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tool(["tool"])
    finally:
        signal.signal(number, before)
    assert started[0].wait(60) == -signal.SIGKILL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_child_that_keeps_the_output_open_is_not_waited_for(tools: Tools, soon: Soon) -> None:
    tools.runs("tool", "/bin/sleep 60 &\necho $!")
    result = run_tool(["tool"], LIMIT)
    assert result.status == "hung"
    soon(lambda: gone(int(result.stdout)), "the child is gone")


def test_a_tool_that_ends_its_output_but_not_itself(tools: Tools) -> None:
    tools.runs("tool", "echo all; exec >&- 2>&-; exec /bin/sleep 60")
    assert run_tool(["tool"], LIMIT) == ToolResult(status="hung", stdout="all\n", returncode=-9)


def test_what_a_tool_that_never_ends_says_is_bounded() -> None:
    script = "import os\nwhile True: os.write(1, b'x' * 65536)"
    result = run_tool([sys.executable, "-S", "-c", script], LIMIT)
    assert (result.status, len(result.stdout)) == ("hung", MAX_OUTPUT)


def test_much_but_not_too_much() -> None:
    script = f"import os, sys\nsys.stderr.write('e' * {MAX_OUTPUT})\nsys.stdout.write('o' * {MAX_OUTPUT + 1})"
    result = run_tool([sys.executable, "-S", "-c", script], 60.0)
    assert result == ToolResult(status="ok", stdout="o" * MAX_OUTPUT, stderr="e" * MAX_OUTPUT, returncode=0)


def test_no_descriptor_is_left(tools: Tools) -> None:
    tools.runs("tool", "exit 0")
    tools.hangs("hanger")
    run_tool(["tool"])
    before = sorted(Path("/dev/fd").iterdir())
    for tool in ("tool", "hanger", "missing"):
        run_tool([tool], 0.2)
    assert sorted(Path("/dev/fd").iterdir()) == before
