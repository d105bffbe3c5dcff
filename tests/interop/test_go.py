"""The peer in Go, which was written from spec/protocol.md and the test vectors alone: its own tests, and the suite."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.golang import SOURCE, build, go, missing
from tests.wireproto.conformance.foreign import ROLES, Foreign, one_run
from tests.wireproto.conformance.test_codec import command

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the programs, one for all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return build((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "go")


def test_the_source_is_formatted() -> None:
    done = subprocess.run(["gofmt", "-l", str(SOURCE)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""


def test_vet_and_the_vectors() -> None:
    """Every test of the vectors for link frames, cluster frames, boxes and the handshake."""
    go("vet", "./...")
    said = go("test", "-count=1", "-v", "./...")
    for name in ("TestClusterFrames", "TestLinkStreams", "TestHandshakes", "TestBoxes"):
        assert f"--- PASS: {name} " in said


@pytest.mark.parametrize("revision", ["1", "2"])
def test_the_codec_conforms(built: Path, revision: str) -> None:
    """With the codes and offsets of the specification, too."""
    done = command("--json", "--revision", revision, "--", str(built / "codec"), "--revision", revision)
    *cases, summary = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert summary["verdicts"]["pass"] == len(cases) > 100


@pytest.mark.waits
@pytest.mark.parametrize("role", ROLES)
def test_it_conforms(built: Path, tmp_path: Path, role: str) -> None:
    """`make conform ARGS="--peer go"` runs all sections."""
    cases = [f"{role.replace(' ', '')}.{section}.*" for section in ("handshake", "seal", "extensions", "bootstrap")]
    _, verdicts, wrong = one_run(tmp_path, role, Foreign((str(built / "peer"),)), *cases)
    assert wrong == []
    assert verdicts["pass"] > 50
