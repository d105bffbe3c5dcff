"""Every vector through Kaitai's parser: it accepts valid ones, and refuses what a layout can refuse."""

from typing import Any

import pytest

from tests.vectors.kaitai import ACCEPTS, MISSING, Kaitai, compile_parser
from tests.vectors.writing import BEYOND_LAYOUT
from wireproto.testing import vectors
from wireproto.testing.vectors import FILES, DeviceFileTest

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.xdist_group("kaitai"),  # compiled once for all tests
]


@pytest.fixture(scope="module")
def kaitai() -> Kaitai:
    return Kaitai(compile_parser())


@pytest.mark.parametrize("kind", ACCEPTS, ids=lambda kind: FILES[kind])
def test_one_verdict(kind: type[Any], kaitai: Kaitai) -> None:
    tests = [test for group in vectors.load(kind).groups for test in group.tests]
    wrong = [
        test.id
        for test in tests
        if ACCEPTS[kind](kaitai, test) is not (test.result == "valid" or BEYOND_LAYOUT in test.flags)
    ]
    assert tests
    assert wrong == []


def test_device_files_are_beyond_it() -> None:
    assert set(FILES) - set(ACCEPTS) == {DeviceFileTest}
    for group in vectors.load(DeviceFileTest).groups:
        assert all(BEYOND_LAYOUT in test.flags for test in group.tests if test.result == "invalid")


def test_the_main_type_is_a_link_stream(kaitai: Kaitai) -> None:
    assert [frame.body for frame in kaitai.parse("LinkStream", bytes([1, 0, 0, 0, 0, 0, 0, 0, 3]), 64).frames] == [
        b"\3"
    ]
    with pytest.raises(EOFError):
        kaitai.parser.from_bytes(b"\1")
