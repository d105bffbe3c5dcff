"""README is a promise: its commands and its code run here, but for the make targets, which CI runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.ports import reserved_ports

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip() for line in re.findall(r"^    ((?:make|wireproto|echo|jaccl).*)$", README, re.M)
]
TARGETS = [command for command in COMMANDS if command.startswith("make")]

# What the commands of this environment print, as a user sees it.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in TARGETS])
def test_command(command: str) -> None:
    done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S602
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_there_are_commands_of_each_kind() -> None:
    assert TARGETS == ["make demo", "make test"]
    assert len(COMMANDS) - len(TARGETS) >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_ci_runs_the_make_targets(target: str) -> None:
    assert re.search(rf"^{target}$", (ROOT / ".ci" / "run").read_text(), re.M)


def test_codec_example() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE[0]], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "json-duplicate-key 15\n"


def test_embedding_example(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(CODE[1])
    with reserved_ports("127.0.0.1", 2) as port:
        ranks = [
            subprocess.Popen(
                [sys.executable, script, str(rank), str(port)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
            )
            for rank in (0, 1)
        ]
        try:
            said = [rank.communicate(timeout=60)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    assert said == ["rank 0 of 2: 3\n", "rank 1 of 2: 3\n"]
