"""The manual's examples run as they stand, and print what the pages say.

A page's Python is one script. `text` after it is its output; a block with a title is a file; `console` has commands
with their output; `sh` has commands that are only parsed.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import bootstrap
import wireproto
from bootstrap.system.network import reserved_ports
from tests.bootstrap.launch.sshd import ssh_hosts
from tests.bootstrap.tiny_model import NO_COMPILER
from tests.command_lines import called
from tests.test_readme import ENVIRONMENT, ROOT, launching
from wireproto import conformance, session

MANUAL = ROOT / "spec" / "manual" / "pages"
PAGES = sorted(MANUAL.glob("*.md"))
MARK = "\x1e\n"


class Block(NamedTuple):
    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def script(page: Path) -> tuple[str, list[str]]:
    """Return a page's Python, which prints a mark after each block, and the output of each block."""
    code, outputs = "", []
    for block in blocks(page):
        if block.kind == "python" and not block.title:
            code += f"{block.text}\nprint({MARK[0]!r}, flush=True)\n"
            outputs.append("")
        elif block.kind == "text":
            outputs[-1] = block.text
    return code, outputs


def write_files(page: Path, directory: Path) -> None:
    for block in blocks(page):
        if block.title:
            (directory / block.title).write_text(block.text)


def ran(command: str | list[str], directory: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=directory,
        env={**ENVIRONMENT, "XDG_CONFIG_HOME": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield each command of a console and its output."""
    for each in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = each.partition("\n")
        yield command, output


@pytest.mark.parametrize("page", [each for each in PAGES if each.stem != "launch"], ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path) -> None:
    code, outputs = script(page)
    with reserved_ports("127.0.0.1", 2) as port, reserved_ports("127.0.0.1", 2) as link_port:
        pass  # free, unless another program takes one in the next moment
    code = code.replace("29400, (7777, 7778)", f"{port}, ({link_port}, {link_port + 1})")
    write_files(page, tmp_path)
    if code:
        (tmp_path / "page.py").write_text(code)
        assert ran([sys.executable, "page.py"], tmp_path).split(MARK) == [*outputs, ""]
    for block in blocks(page):
        for command, output in commands(block) if block.kind == "console" else ():
            assert ran(command, tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}") == output


def test_launch(tmp_path: Path) -> None:
    variables = {"PATH": ENVIRONMENT["PATH"], **NO_COMPILER}
    with ssh_hosts(tmp_path / "hosts", 2, variables) as hosts:
        said = ran([sys.executable, "-c", script(MANUAL / "launch.md")[0]], tmp_path, **launching(hosts))
    assert sorted(said.split(MARK)[0].splitlines()) == ["rank 0: MLX_RANK 0", "rank 1: MLX_RANK 1"]


def test_group(tmp_path: Path) -> None:
    write_files(MANUAL / "group.md", tmp_path)
    with reserved_ports("127.0.0.1", 2) as port:
        command = [sys.executable, "rank.py"]
        one = subprocess.Popen(
            [*command, "1", str(port)], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        try:
            zero = ran([*command, "0", str(port)], tmp_path)
            said = one.communicate(timeout=60)[0]
        finally:
            one.kill()
            one.wait()
    assert (zero, said) == ("rank 0 of 2: 3\n", "rank 1 of 2: 3\n")


def test_pytest_plugin(tmp_path: Path) -> None:
    write_files(MANUAL / "conformance.md", tmp_path)
    found = ran([sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"], tmp_path)
    assert "test_peer.py::test_my_peer[rank1.framing.length-zero]" in found


def test_the_reference_is_complete() -> None:
    """Each public name of a package is on the page that lists it, and each page is in the navigation."""
    for package, names in ((wireproto, [*wireproto.__all__, *wireproto._SESSION]), (bootstrap, bootstrap.__all__)):
        page = (MANUAL / "reference" / f"{package.__name__}.md").read_text()
        assert sorted(re.findall(r"\[`(\w+)`\]", page)) == sorted(names)
    elsewhere = {"KeySigner", "LocalError", "RemoteError", "Signer", "TrustAnyKey"}
    for module, names in ((session, {*session.__all__} - elsewhere), (conformance, {*conformance.__all__})):
        page = (MANUAL / "reference" / f"{module.__name__}.md").read_text()
        assert {*re.findall(r"^ +- (\w+)$", page, re.MULTILINE)} == names
    shown = re.findall(r"[\w./]+\.md$", (MANUAL.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(str(each.relative_to(MANUAL)) for each in MANUAL.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_can_be_parsed(page: Path) -> None:
    for block in blocks(page):
        for line in block.text.splitlines() if block.kind == "sh" else ():
            assert called(line) or line.startswith("eval "), line
