"""Completion in bash, with the script that the programs print: subcommands, options, and files where neither fits."""

import shutil
import subprocess

import pytest

from tests.test_readme import ENVIRONMENT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")

COMPLETE = """
eval "$({0} --show-completion)"
COMP_WORDS=({1})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p {0} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {0}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("wireproto de", ["decode"]),
        ("wireproto fuzz corpus e", ["export"]),
        ("wireproto inspect --key", ["--keylog"]),
        ("jaccl-bootstrap la", ["launch"]),
        ("jaccl-bootstrap up --peer", ["--peer", "--peer-ip"]),
    ],
)
def test_bash(line: str, offered: list[str]) -> None:
    program = line.partition(" ")[0]
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE.format(program, line)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(done.stdout.split()) == offered, done.stderr


def test_no_shell() -> None:
    """A wrong request, which only a broken script makes, is answered without a traceback."""
    done = subprocess.run(
        ["wireproto"],
        env={**ENVIRONMENT, "_WIREPROTO_COMPLETE": "complete_dash"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Shell dash not supported.\n")
