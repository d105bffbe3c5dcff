"""Fewer scripts in the cases that play them: the suite runs on many peers here."""

import pytest

from wireproto.session import Role


@pytest.fixture(autouse=True)
def few_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.conformance.cases.model._SCRIPTS", {Role.RESPONDER: 3, Role.INITIATOR: 1})
