"""The grid: each frame gives its declared code, and every violation of `malformed` is included."""

from collections import defaultdict
from functools import cache

import pytest

from wireproto import Revision, WireError, decode_frame
from wireproto.messages import MessageSpec
from wireproto.testing.grid import Point, points, unknown_types
from wireproto.testing.malformed import VIOLATIONS

_SHORT = 2048


def code(frame: bytes, revision: Revision) -> str | None:
    try:
        decode_frame(frame, revision)
    except WireError as error:
        return error.code
    return None


@cache
def grid() -> list[tuple[MessageSpec, Point]]:
    return list(points(Revision.V2))


def test_each_point_is_judged_as_declared() -> None:
    """Skip long ones except the first of their kind."""
    seen: set[tuple[int, str]] = set()
    for spec, point in grid():
        if len(point.frame) < _SHORT or (spec.msg_type.value, point.kind) not in seen:
            assert code(point.frame, Revision.V2) == point.code, (spec.msg_type, point.kind, point.about)
        seen.add((spec.msg_type.value, point.kind))


@pytest.mark.parametrize("revision", Revision)
def test_each_unknown_type_is_refused(revision: Revision) -> None:
    assert {code(point.frame, revision) for point in unknown_types(revision)} == {"type-unknown"}


def test_it_has_every_violation() -> None:
    codes = defaultdict(set)
    for _, point in grid():
        codes[point.kind].add(point.code)
    for point in unknown_types(Revision.V2):
        codes[point.kind].add(point.code)
    without = {"no-type", "digest-of-other-form", "text-too-long", "number-cut-short"}  # no type, types of extensions
    for violation in VIOLATIONS:
        if violation.name not in without:
            kind = "unknown-key-twice" if violation.name == "nested-key-twice" else violation.name
            assert codes[kind] == {violation.code}, violation.name
