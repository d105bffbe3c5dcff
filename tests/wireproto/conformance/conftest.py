"""Play fewer scripts, and skip frames of 256 MiB: the suite runs on many peers here."""

import pytest

from wireproto.session import Role


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.conformance.cases.model._SCRIPTS", {Role.RESPONDER: 3, Role.INITIATOR: 1})
    monkeypatch.setattr("wireproto.conformance.cases.generated._LONGEST", ())
