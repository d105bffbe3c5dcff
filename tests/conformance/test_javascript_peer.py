"""Parts of the suite on the JavaScript peer, which shares no code with this one; `make conform` runs all of it."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.javascript import FINE, PEER
from tests.conformance.test_conform_cli import Done, conform, events, new_key

__all__ = ["conform"]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize(("rank", "role"), [("rank1", "listen"), ("rank0", "connect")])
@pytest.mark.parametrize("section", ["framing", "seal", "bootstrap"])
def test_it_passes(conform: Callable[..., Done], tmp_path: Path, rank: str, role: str, section: str) -> None:
    theirs = new_key(tmp_path / "node.pem")
    ours = tmp_path / "ours.pub"
    start = shlex.join(
        ["node", str(PEER), role, "--identity", str(tmp_path / "node.pem"), "--peer-key", ours.read_text()]
    )
    done = conform(rank, "--json", "--section", section, key=theirs, start=start)
    *cases, summary = events(done)
    assert {str(case["id"]): case.get("reason") for case in cases if case["verdict"] not in FINE} == {}
    assert (done.returncode, summary["exit_code"]) == (0, 0)
