"""`make release`: check the distributions in a directory, and try the wheel on each supported Python on PATH.

On each: import, test vectors, demo. Then README's commands to install, and all that they install. uv comes from the
environment of this module.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Final

from tests.campaign import say

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS: Final = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
INSTALL: Final = "\n".join(
    re.findall(r"^    ((?:python3 -m venv|pip|uvx) .+)$", (ROOT / "README.md").read_text(), re.M)
)
TOOLS: Final = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SECONDS: Final = 600
"""A command may download MLX."""

ALONE: Final = """
from wireproto import Ping, decode_frame
from wireproto.testing.vectors import ClusterFrameTest, load

assert decode_frame(bytes([3])) == Ping()
assert load(ClusterFrameTest).groups
"""
"""It needs no extra."""


class FailedError(Exception):
    """A command failed; with its output."""


def main(directory: Path) -> None:
    run("uvx", "twine", "check", "--strict", *map(str, directory.iterdir()))
    say(f"metadata of {', '.join(sorted(file.name for file in directory.iterdir()))}: good")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        # Of a directory that it knows, uv takes an older wheel of the same name from its cache.
        links = str(shutil.copytree(directory, scratch / "dist"))
        pythons = [python for version in PYTHONS if (python := find(version)) is not None]
        for python in pythons:
            try_wheel(python, links, scratch / python.name)
        try_readme(pythons[-1], links, scratch / "readme")


def find(version: str) -> Path | None:
    """Return a Python of this version on PATH. Those of pyenv work where its variable names them."""
    check = f"import sys; print(sys.executable); sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for folder in os.get_exec_path():
        if (command := shutil.which(f"python{version}", path=folder)) is not None:
            try:
                return Path(run(command, "-c", check, PYENV_VERSION=version).strip())
            except FailedError:
                continue
    say(f"Python {version}: not found")
    return None


def try_wheel(python: Path, links: str, scratch: Path) -> None:
    began = time.monotonic()
    run("uv", "venv", "--python", str(python), str(scratch))
    own = f"{scratch}/bin"
    install = ("uv", "pip", "install", "--python", f"{own}/python", "--find-links", links)
    name, version = PROJECT["name"], PROJECT["version"]
    run(*install, f"{name}=={version}")
    run(f"{own}/python", "-W", "error", "-c", ALONE)
    try:
        run(*install, f"{name}[bootstrap]")
    except FailedError as error:
        if "mlx" not in str(error):
            raise
        say(f"Python {python.name}: import passed; there is no MLX for it to try more\n{error}")
        return
    run(f"{own}/wireproto", "conform", "codec", "--only", "codec.v*", "--", f"{own}/wireproto", "codec")
    said = run(f"{own}/jaccl-bootstrap", "demo").splitlines()[-1].split("done")[-1].strip()
    say(f"{python.name}: import, vectors and demo ({said}) passed in {time.monotonic() - began:.0f} s")


def try_readme(python: Path, links: str, home: Path) -> None:
    """Install as README says, with this wheel in place of an index's, and try what was installed."""
    began = time.monotonic()
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    variables = {"HOME": str(home), "XDG_CACHE_HOME": caches, "PIP_FIND_LINKS": links, "UV_FIND_LINKS": links}
    home.mkdir()
    run("sh", "-ec", INSTALL, PATH=f"{python.parent}:{TOOLS}", UV_PYTHON=str(python), **variables)
    own = str(next(home.glob("*/bin/wireproto")).parent)
    if run(f"{own}/jaccl-bootstrap", "--version").split()[-1] != PROJECT["version"]:
        raise FailedError("another version was installed than that in pyproject.toml")
    run(f"{own}/wireproto", "vectors", "export", f"{home}/vectors")
    run(f"{own}/wireproto", "fuzz", "run", "frame", "--seconds", "1")
    run(f"{own}/jaccl-bootstrap", "demo", "--ranks", "4", "--json")
    run(f"{own}/wireproto", "conform", "codec", "--", f"{own}/wireproto", "codec")
    say(f"README's commands, all extras, all vectors and a demo of 4 passed in {time.monotonic() - began:.0f} s")


def run(*command: str, **variables: str) -> str:
    """Run a command in an empty directory, without the checkout; return its output. Raise FailedError if it fails."""
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            command,
            cwd=elsewhere,
            env={**os.environ, "PATH": TOOLS, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode != 0:
        raise FailedError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve())
    except FailedError as error:
        sys.exit(str(error))
