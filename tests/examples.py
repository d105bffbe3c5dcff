"""How much a test tries: everything in CI, a part of it elsewhere."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeVar

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "local")
_PART: Final = 7
"""A prime, so that every seventh of all combinations of a few values has most of the values."""

T = TypeVar("T")


def examples(count: int) -> int:
    """Return how many random examples to try: `count`, or a part of it in the profile `local`."""
    return max(1, count // _PART) if PROFILE == "local" else count


def some(values: Iterable[T]) -> list[T]:
    """Return the examples to try of a list: all of them, or a part in the profile `local`."""
    return list(islice(values, 0, None, _PART if PROFILE == "local" else 1))
