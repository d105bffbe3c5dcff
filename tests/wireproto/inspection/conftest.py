"""The fixture of the tests that need tshark."""

import pytest

from tests.wireproto.inspection.dissecting import missing


@pytest.fixture(scope="session")
def working_tshark() -> None:
    """Skip without a tshark that runs the dissector; it is started to find out, so not while tests are collected."""
    if reason := missing():
        pytest.skip(reason)
