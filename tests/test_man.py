"""Manual pages: one for each command, with all of its options, and without a complaint of what formats them."""

import re
import shutil
import subprocess

import pytest

from spec.tools.man import pages
from tests.test_help import COMMANDS

PAGES = dict(pages())


def test_each_command_has_a_page() -> None:
    shown = [path for path, command in COMMANDS.items() if not command.hidden]
    assert [*PAGES] == [f"{path.replace(' ', '-')}.1" for path in shown]
    for path in shown:
        text = PAGES[f"{path.replace(' ', '-')}.1"].replace("\\", "")
        for option in COMMANDS[path].params:
            if option.param_type_name == "option" and not option.hidden:
                assert re.search(rf"^\.B .*{option.opts[-1]}", text, re.MULTILINE)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(["groff", "-man", "-Tutf8", "-ww", "-z"], id="groff"),
        pytest.param(["mandoc", "-Tlint", "-Wwarning"], id="mandoc"),
    ],
)
def test_formats_without_warnings(check: list[str]) -> None:
    if shutil.which(check[0]) is None:
        pytest.skip(f"{check[0]} is not installed")
    for name, text in PAGES.items():
        done = subprocess.run(check, input=text, capture_output=True, text=True, timeout=60, check=False)
        said = [line for line in (done.stdout + done.stderr).splitlines() if "missing date" not in line]
        assert not said, name
