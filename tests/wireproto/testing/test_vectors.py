"""Every vector through the package: the schemas and the fast codec agree with it."""

from collections.abc import Callable

import pytest

from tests.vectors.running import RUNNERS, fault_of, run_jaccl_exchange, run_session
from wireproto import WireError
from wireproto.testing import vectors
from wireproto.testing.vectors import FILES, JacclExchangeTest, SessionTest


def check(kind: type, run: Callable[..., object], **options: bool) -> None:
    for test in (test for group in vectors.load(kind).groups for test in group.tests):
        verdict = None
        with pytest.MonkeyPatch.context() as patch:
            try:
                run(test, patch, **options)
            except WireError as error:
                verdict = fault_of(error)
        assert verdict == test.error, test.id


@pytest.mark.parametrize("kind", FILES, ids=FILES.get)
def test_vector(kind: type) -> None:
    check(kind, RUNNERS[kind])


@pytest.mark.parametrize(("kind", "run"), [(SessionTest, run_session), (JacclExchangeTest, run_jaccl_exchange)])
def test_script_byte_by_byte(kind: type, run: Callable[..., object]) -> None:
    check(kind, run, single_bytes=True)
