"""Reduces an input that shows a finding: removes pieces, larger ones first, until none can be removed."""

import time
from collections.abc import Callable
from math import inf
from typing import TypeVar

from wireproto.fuzzing.sealed import split_stream
from wireproto.fuzzing.seeds import link_stream

_Pieces = TypeVar("_Pieces", bytes, list[bytes])


def minimized(data: bytes, is_same: Callable[[bytes], bool], end: float = inf) -> bytes:
    """Remove irrelevant link frames, then irrelevant bytes. Stop at `end`, by `time.monotonic`."""
    for head in (0, 1):  # a session's input starts with one byte of choices
        bodies, tail = split_stream(data[head:])
        if bodies:
            pieces = [data[:head], *(link_stream(body) for body in bodies), tail]
            data = b"".join(fewest(pieces, lambda kept: is_same(b"".join(kept)), end))
    return fewest(data, is_same, end)


def fewest(pieces: _Pieces, is_same: Callable[[_Pieces], bool], end: float = inf) -> _Pieces:
    """Return the pieces that cannot be removed, as far as found before `end`."""
    size = len(pieces)
    while size:
        at = 0
        while at < len(pieces):
            if time.monotonic() > end:
                return pieces
            without = pieces[:at] + pieces[at + size :]
            if is_same(without):
                pieces = without
            else:
                at += size
        size = min(size, len(pieces)) // 2
    return pieces
