"""How the time of a codec grows with the length of a frame: from a small one up, until it takes long enough to tell."""

from collections.abc import Callable, Generator, Sequence
from math import log
from typing import Final

_FIRST: Final = 25_000
_LAST: Final = 800_000
"""Bytes of the shortest and of the longest frame."""
_ENOUGH: Final = 0.25
"""Seconds that can be told from chance."""
_TIMES: Final = 3
_PARTS: Final = 4
"""Shorter frames that have the bytes of a long one: what else the machine does slows both alike."""
_STEEP: Final = 1.6
"""The exponent from which on the time does not grow as the length does."""

Measuring = Generator[Sequence[bytes], float, str]
"""Takes the seconds of the answers to the frames that it yields; returns what is wrong, or nothing."""


def measuring(make: Callable[[int], bytes]) -> Measuring:
    """Measure frames that `make` makes of their length."""
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
