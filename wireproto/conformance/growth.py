"""Measures how a codec's time grows with the length of a frame, up to a length that takes measurable time."""

from collections.abc import Callable, Generator, Sequence
from math import log
from typing import Final

_FIRST: Final = 25_000
_LAST: Final = 800_000
"""Bytes of the shortest and of the longest frame."""
_ENOUGH: Final = 0.25
"""Seconds that stand out from noise."""
_TIMES: Final = 3
_PARTS: Final = 4
"""Shorter frames with the same total length: other load on the machine slows both alike."""
_STEEP: Final = 1.6
"""The exponent from which the time counts as more than proportional to the length."""

Measuring = Generator[Sequence[bytes], float, str]
"""Yields frames, receives the seconds of their answers, and returns the fault, or an empty string."""


def measuring(make: Callable[[int], bytes]) -> Measuring:
    """Measure frames that `make(length)` returns."""
    size = _FIRST
    while (yield [make(size)]) < _ENOUGH:
        size *= 2
        if size > _LAST:
            return ""
    whole, parts = [make(size)], [make(size // _PARTS)] * _PARTS
    times = []
    for _ in range(_TIMES):
        times.append(((yield whole), (yield parts)))
    long, short = (min(each) for each in zip(*times, strict=True))
    exponent = 1 + log(max(long, 1e-6) / max(short, 1e-6)) / log(_PARTS)
    if long < _ENOUGH / 2 or exponent < _STEEP:
        return ""
    return (
        f"the time grows as the length to the power of {exponent:.1f}: "
        f"{size // _PARTS:,} bytes take {short / _PARTS:.3f} s, {size:,} bytes {long:.3f} s"
    )
