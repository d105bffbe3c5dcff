"""The identity keys of simulated ranks."""

import hashlib
from functools import cache

from wireproto.testing.fixed_keys import KnownSide


@cache
def signer(rank: int) -> KnownSide:
    """Return the identity of a rank."""
    scalar = (int.from_bytes(hashlib.sha256(b"%d" % rank).digest()) % (1 << 255) + 1).to_bytes(32)
    return KnownSide(scalar, bytes(32), bytes(32))
