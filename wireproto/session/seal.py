"""Sealed boxes: `nonce[12] ‖ ciphertext ‖ tag[16]`, AES-256-GCM without associated data. [SEAL-LAYOUT]

One key serves both directions, so a recorded box would open a second time, and a side's own box would open when it is
sent back. A `Seal` remembers the nonces of its session and refuses both. [SEAL-REPLAY, SEAL-REFLECTION]
"""

import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wireproto.errors import SealError, TruncatedError

NONCE: Final = 12
TAG: Final = 16
OVERHEAD: Final = NONCE + TAG
"""Bytes that a box adds to its plaintext."""

MAX_BOXES: Final = 2**24
"""Boxes that one key seals and opens. Random 96-bit nonces would allow 2^32, but each is remembered: 13 bytes a box,
211 MiB at this limit, and 3 MiB for the latest. [SEAL-LIMIT]"""

_DRAWN: Final = 256
"""Nonces that are drawn at a time: a system call for each takes as long as sealing a short frame."""
_RECENT: Final = 16_384
_ROWS: Final = 65_536
_SENT: Final = b"s"
_OPENED: Final = b"o"
_RECORD: Final = NONCE + len(_SENT)

_Buffer = bytes | bytearray | memoryview
Random = Callable[[int], bytes]
"""A source of random bytes: as many as it is asked for, of cryptographic quality."""


def draw(random: Random, count: int) -> bytes:
    """Return `count` bytes from `random`. Raise ValueError if it gives another number of them."""
    drawn = random(count)
    if len(drawn) != count:
        raise ValueError(f"the random source returned {len(drawn)} bytes, not {count}")
    return drawn


class Seal:
    """Seals and opens the boxes of one session. `key` is the 32-byte session key.

    Raises `TruncatedError` for less than a box, `SealError` for a box that does not open, was opened before or was
    sealed here, and once the key has served
    for `MAX_BOXES` of them; then `out` holds nothing of use. A process that forks may go on with its `Seal` in the
    child: nonces drawn before the fork are used by the parent only.
    """

    def __init__(self, key: bytes, random: Random = os.urandom) -> None:
        self.left = MAX_BOXES
        """Boxes that the key may still seal or open."""
        self._aead = AESGCM(key)
        self._random = random
        self._drawn = b""
        self._used = 0  # bytes of _drawn
        self._process = 0
        self._recent: dict[bytes, bytes] = {}  # nonces, each with its origin
        # The older ones in rows of records, which take less memory. The row is chosen by Python's hash of the nonce,
        # whose key is random in each process: a peer cannot choose nonces that share a row.
        self._old: list[bytes] = []

    def encrypt(self, plaintext: _Buffer) -> bytes:
        """Return the box of a plaintext; for a long one, `encrypt_into` saves a copy."""
        nonce = self._next_nonce()
        return nonce + self._aead.encrypt(nonce, plaintext, None)

    def encrypt_into(self, plaintext: _Buffer, out: memoryview) -> None:
        """Write the box of a plaintext to `out`, which has its length: 28 bytes more than the plaintext."""
        nonce = self._next_nonce()
        out[:NONCE] = nonce
        self._aead.encrypt_into(nonce, plaintext, None, out[NONCE:])

    def decrypt(self, box: bytes | memoryview) -> bytes:
        """Return the plaintext of a box."""
        nonce = self._checked_nonce(box)
        try:
            plaintext = self._aead.decrypt(nonce, box[NONCE:], None)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        self._remember(nonce, _OPENED)
        return plaintext

    def decrypt_into(self, box: bytes | memoryview, out: bytearray | memoryview) -> None:
        """Write the plaintext of a box to `out`, which has its length: 28 bytes less than the box."""
        nonce = self._checked_nonce(box)
        try:
            self._aead.decrypt_into(nonce, memoryview(box)[NONCE:], None, out)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        self._remember(nonce, _OPENED)

    def _next_nonce(self) -> bytes:
        start = self._used
        if start == len(self._drawn) or self._process != os.getpid():
            self._drawn = draw(self._random, NONCE * _DRAWN)
            self._process = os.getpid()
            start = 0
        self._used = start + NONCE
        nonce = self._drawn[start : start + NONCE]
        self._remember(nonce, _SENT)
        return nonce

    def _checked_nonce(self, box: bytes | memoryview) -> bytes:
        """Return the nonce of a box that may be opened."""
        if len(box) < OVERHEAD:
            raise TruncatedError("truncated", f"a box has at least {OVERHEAD} bytes", offset=len(box))
        nonce = bytes(box[:NONCE])
        origin = self._recent.get(nonce)
        if origin is None and self._old:
            origin = self._old_origin(nonce)
        if origin is None:
            return nonce
        if origin == _SENT:
            raise SealError("seal-reflection", "the box was sealed on this side", offset=0)
        raise SealError("seal-replay", "a box with this nonce was opened before", offset=0)

    def _old_origin(self, nonce: bytes) -> bytes | None:
        row = self._old[hash(nonce) % _ROWS]
        at = row.find(nonce)
        while at % _RECORD:  # across two records; or -1, which is not divisible either
            if at < 0:
                return None
            at = row.find(nonce, at + 1)
        return row[at + NONCE : at + _RECORD]

    def _remember(self, nonce: bytes, origin: bytes) -> None:
        if not self.left:
            raise SealError("seal-exhausted", f"the key has served for {MAX_BOXES} boxes: reconnect")
        self.left -= 1
        self._recent[nonce] = origin
        if len(self._recent) >= _RECENT:
            old = self._old = self._old or [b""] * _ROWS
            for each, its_origin in self._recent.items():
                old[hash(each) % _ROWS] += each + its_origin
            self._recent.clear()
