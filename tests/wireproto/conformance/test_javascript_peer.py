"""The suite on the JavaScript peer, which shares no code with this project; `make conform` repeats it.

Here one process serves case after case; `make conform` starts one for each.
"""

import shutil
from pathlib import Path

import pytest

from tests.wireproto.conformance.foreign import ROLES, javascript, one_run
from wireproto.conformance import CASES
from wireproto.session import Role

pytestmark = pytest.mark.waits


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ROLES)
def test_it_passes(tmp_path: Path, role: str) -> None:
    _, verdicts, wrong = one_run(tmp_path, role, javascript(), "--keep")
    assert wrong == []
    assert sum(verdicts.values()) == sum(case.role is Role(role) for case in CASES.values())
