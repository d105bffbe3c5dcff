"""spec/conformance.md: its codec programs are built and tested, and its commands have their options."""

import asyncio
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import pytest
from typer.main import get_command

from wireproto.cli.app import app
from wireproto.conformance import Verdict
from wireproto.conformance.codec import run_codec
from wireproto.conformance.codec_cases import codec_cases
from wireproto.conformance.program import Program
from wireproto.messages import Revision
from wireproto.testing.requirements import DIRECTORY

TEXT: Final = (DIRECTORY / "conformance.md").read_text(encoding="utf-8")
PROGRAMS: Final = dict(re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL))
BUILDS: Final = {
    "rust": ("codec.rs", ["rustc", "--edition", "2021", "codec.rs", "-o", "codec"]),
    "go": ("codec.go", ["go", "build", "-o", "codec", "codec.go"]),
    "swift": ("main.swift", ["swiftc", "main.swift", "-o", "codec"]),
}
KNOWN: Final = ("codec.ping*", "codec.sessionEnd*", "codec.inference*", "codec.any.*")
"""The cases of the types that the programs decode."""


@pytest.mark.parametrize("language", BUILDS)
def test_the_program_of_a_codec(language: str, tmp_path: Path) -> None:
    file, build = BUILDS[language]
    if shutil.which(build[0]) is None:
        pytest.skip(f"{build[0]} is not installed")
    (tmp_path / file).write_text(PROGRAMS[language])
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    cases = [each for each in codec_cases(Revision.V2) if any(fnmatchcase(each.id, pattern) for pattern in KNOWN)]

    async def verdicts() -> dict[str, str]:
        results = run_codec(Program([str(tmp_path / "codec")]), cases)
        return {result.id: result.reason async for result in results if result.verdict is not Verdict.PASS}

    assert len(cases) > 10
    assert asyncio.run(verdicts()) == {}


def test_its_commands_have_the_options_that_they_name() -> None:
    commands = re.findall(
        r"^ +(?:- run: )?(?:uvx --from '[^']*' )?(wireproto (?:conform|fuzz) .*)$", TEXT, re.MULTILINE
    )
    assert len(commands) > 8
    for command in commands:
        group, name, *arguments = shlex.split(command)[1:]
        parameters = get_command(app).commands[group].commands[name].params  # type: ignore[attr-defined]
        options = {option for parameter in parameters for option in parameter.opts}
        before = arguments[: arguments.index("--")] if "--" in arguments else arguments
        assert {each for each in before if each.startswith("--")} <= options, command


def test_its_known_failures_are_cases_that_exist() -> None:
    (block,) = re.findall(r"^    # conform\.expected\n((?:    .+\n)+)", TEXT, re.MULTILINE)
    listed = [line.split()[0] for line in block.splitlines()]
    assert len(listed) == 2
    assert {*listed} <= {each.id for each in codec_cases(Revision.V2)}
