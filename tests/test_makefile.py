"""`make demo` and `make test` say what to do where they cannot work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def path_with(folder: Path, *programs: str) -> str:
    """A PATH with only these programs."""
    folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        (folder / program).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_no_python(checkout: Path, target: str) -> None:
    path = path_with(checkout / "bin", "make", "sh", "echo")
    done = make(checkout, target, PATH=path)
    assert done.returncode != 0
    assert "no Python 3.11 or newer on PATH. Install one" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_network(checkout: Path) -> None:
    """The second target finds the first one's virtual environment, and fails the same way."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for target in ("demo", "test"):
        done = make(
            checkout,
            target,
            PATH=path,
            PIP_CONFIG_FILE=os.devnull,
            PIP_INDEX_URL="http://127.0.0.1:9/simple",
            PIP_EXTRA_INDEX_URL="",
            PIP_FIND_LINKS="",
            PIP_RETRIES="0",
        )
        assert done.returncode != 0
        assert "the install failed (see above). It needs a network" in done.stderr
        assert not list((checkout / ".venv").glob(".*-installed"))


def make(folder: Path, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(folder), target],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
