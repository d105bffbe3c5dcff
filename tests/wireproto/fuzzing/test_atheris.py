"""A harness under Atheris, if installed: it finds a fault, and saves it for `wireproto fuzz replay`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wireproto.fuzzing.test_fuzz_cli import BROKEN, fuzz

COMMAND = [sys.executable, "-m", "wireproto.fuzzing.under_atheris"]
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
with_atheris = pytest.mark.skipif(
    not HAS_ATHERIS, reason="Atheris is not installed: there is none for this platform or Python"
)


def under_atheris(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run without libFuzzer's limit of memory: Linux counts the peak of the process that started this one, too."""
    command = [*COMMAND, *arguments, "-rss_limit_mb=0"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@with_atheris
def test_a_finding_is_left_for_replay(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    done = under_atheris("mine:make", "-runs=20000", cwd=tmp_path)
    assert done.returncode != 0
    assert "FindingError: no mark: a mark" in done.stderr + done.stdout
    (crash,) = (tmp_path / "fuzz-findings" / "mine:make").iterdir()
    assert b"!" in crash.read_bytes()
    again = fuzz("replay", str(crash.relative_to(tmp_path)), cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, f"{crash.relative_to(tmp_path)}: no mark: a mark\n")


@with_atheris
def test_the_package_is_instrumented(tmp_path: Path) -> None:
    """Otherwise almost nothing would be new."""
    done = under_atheris("link", "-runs=500", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.rpartition("cov: ")[2].split()[0]) > 50


@pytest.mark.skipif(HAS_ATHERIS, reason="Atheris is installed")
def test_without_atheris(tmp_path: Path) -> None:
    done = under_atheris("link", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "Atheris is not installed; run: pip install atheris\n")


@with_atheris
@pytest.mark.parametrize("arguments", [[], ["links"]])
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    done = under_atheris(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "is not a layer; use one of link, frame" in done.stderr
