"""The grid: each frame gives the code that it is declared with, and each violation that is drawn at random is on it."""

from collections import defaultdict

import pytest

from wireproto import Revision, WireError, decode_frame
from wireproto.testing.grid import points, unknown_types
from wireproto.testing.malformed import VIOLATIONS

_SHORT = 2048


def code(frame: bytes, revision: Revision) -> str | None:
    try:
        decode_frame(frame, revision)
    except WireError as error:
        return error.code
    return None


@pytest.mark.parametrize("revision", Revision)
def test_each_point_is_judged_as_declared(revision: Revision) -> None:
    """The long ones only where they are the first of their kind."""
    seen: set[tuple[int, str]] = set()
    for spec, point in points(revision):
        if len(point.frame) < _SHORT or (spec.msg_type.value, point.kind) not in seen:
            assert code(point.frame, revision) == point.code, (spec.msg_type, point.kind, point.about)
        seen.add((spec.msg_type.value, point.kind))
    for point in unknown_types(revision):
        assert code(point.frame, revision) == point.code


def test_it_has_every_violation() -> None:
    codes = defaultdict(set)
    for _, point in points(Revision.V2):
        codes[point.kind].add(point.code)
    for point in unknown_types(Revision.V2):
        codes[point.kind].add(point.code)
    of_extensions = {"digest-of-other-form", "text-too-long", "number-cut-short"}
    renamed = {"no-type": "any", "nested-key-twice": "unknown-key-twice"}
    for violation in VIOLATIONS:
        if violation.name not in of_extensions | {"no-type"}:
            assert codes[renamed.get(violation.name, violation.name)] == {violation.code}, violation.name
