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
from contextlib import suppress
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
NAMES: Final = "import platform, sys; print(platform.python_version(), sys.executable, sep='\\n')"


class FailedError(Exception):
    """A command failed; with its output."""


def main(directory: Path) -> None:
    run("uvx", "twine", "check", "--strict", *map(str, directory.iterdir()))
    say(f"metadata of {', '.join(sorted(file.name for file in directory.iterdir()))}: good")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        # Of a directory that it knows, uv takes an older wheel of the same name from its cache.
        links = str(shutil.copytree(directory, scratch / "dist"))
        pythons = [each for minor in PYTHONS for each in found(minor).items()]
        for version, python in pythons:
            try_wheel(python, version, links, scratch / version)
        try_readme(pythons[-1][1], links, scratch / "readme")


def found(minor: str) -> dict[str, Path]:
    """Return the Pythons on PATH with this name, by version. Those of pyenv work where its variable names them."""
    pythons = {}
    for folder in os.get_exec_path():
        if (command := shutil.which(f"python{minor}", path=folder)) is not None:
            with suppress(FailedError):
                version, executable = run(command, "-c", NAMES, PYENV_VERSION=minor).splitlines()
                pythons.setdefault(version, Path(executable))
    if not pythons:
        say(f"Python {minor}: not found")
    return pythons


def try_wheel(python: Path, version: str, links: str, scratch: Path) -> None:
    began = time.monotonic()
    run("uv", "venv", "--python", str(python), str(scratch))
    own = f"{scratch}/bin"
    install = ("uv", "pip", "install", "--python", f"{own}/python", "--find-links", links)
    name = PROJECT["name"]
    run(*install, f"{name}=={PROJECT['version']}")
    run(f"{own}/python", "-W", "error", "-c", ALONE)
    try:
        run(*install, f"{name}[bootstrap]")
    except FailedError as error:
        if "mlx" not in str(error):
            raise
        say(f"Python {version}: import passed; there is no MLX for it to try more\n{error}")
        return
    cases = ("--only", "codec.v*", "--only", "codec.*escape*", "--json")
    said = run(f"{own}/wireproto", "conform", "codec", *cases, "--", f"{own}/wireproto", "codec")
    if '"non-strict":0' not in said:
        raise FailedError(f"Python {version}: not strict: {said}")
    said = run(f"{own}/jaccl-bootstrap", "demo").splitlines()[-1].split("done")[-1].strip()
    say(f"Python {version}: import, vectors and demo ({said}) passed in {time.monotonic() - began:.0f} s")


def try_readme(python: Path, links: str, home: Path) -> None:
    """Install as README says, with this wheel in place of an index's, and try what was installed."""
    began = time.monotonic()
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    variables = {"HOME": str(home), "XDG_CACHE_HOME": caches, "PIP_FIND_LINKS": links, "UV_FIND_LINKS": links}
    variables["PIP_NO_COMPILE"] = "1"  # half of its time
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
