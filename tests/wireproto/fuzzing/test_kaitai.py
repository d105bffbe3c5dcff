"""Kaitai's parser, if its compiler is installed, accepts what the schema accepts, on inputs from fuzzing."""

from random import Random
from typing import Any

import pytest

from tests.vectors.kaitai import MISSING, Kaitai, compile_parser
from wireproto import WireError, schema
from wireproto.fuzzing.layers import harness_of

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
LAYOUTS = {
    "Token": schema.Token,
    "JacclHello": schema.JacclHello,
    "JacclDestination": schema.JacclDestination,
    "SealedBox": schema.SealedBox,
}


@pytest.fixture(scope="module")
def kaitai() -> Kaitai:
    return Kaitai(compile_parser())


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, kaitai: Kaitai) -> None:
    harness = harness_of("schema")
    random = Random(1)
    seeds = [data for _, data in harness.seeds()]
    for _ in range(2000):
        data = harness.mutate(random, random.choice(seeds))
        assert (kaitai.parse(name, data) is not None) == takes(LAYOUTS[name], data), data.hex()


def takes(layout: Any, data: bytes) -> bool:
    try:
        schema.parse(layout, data)
    except WireError:
        return False
    return True
