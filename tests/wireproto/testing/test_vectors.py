"""Every vector through the package: the schemas and the fast codec agree with it."""

from typing import Any

import pytest

from tests.vectors.running import RUNNERS, fault_of, run_jaccl_exchange, run_session
from wireproto import WireError
from wireproto.testing import vectors
from wireproto.testing.vectors import FILES, JacclExchangeTest, SessionTest


def each(*kinds: type) -> list[Any]:
    return [
        pytest.param(kind, test, id=f"{FILES[kind]}:{test.id}")
        for kind in kinds
        for group in vectors.load(kind).groups
        for test in group.tests
    ]


@pytest.mark.parametrize(("kind", "test"), each(*FILES))
def test_vector(kind: type, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = None
    try:
        RUNNERS[kind](test, monkeypatch)
    except WireError as error:
        verdict = fault_of(error)
    assert verdict == test.error


@pytest.mark.parametrize(("kind", "test"), each(SessionTest, JacclExchangeTest))
def test_script_byte_by_byte(kind: type, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_session if kind is SessionTest else run_jaccl_exchange
    verdict = None
    try:
        run(test, monkeypatch, single_bytes=True)  # type: ignore[operator]
    except WireError as error:
        verdict = fault_of(error)
    assert verdict == test.error
