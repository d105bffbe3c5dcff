"""Sealed boxes: `nonce[12] ‖ ciphertext ‖ tag[16]`, AES-256-GCM without associated data. [SEAL-LAYOUT]

One key serves both directions, so a recorded box would open again, and so would a side's own box that is sent back. A
`Seal` remembers the nonces of its session and refuses both. [SEAL-REPLAY, SEAL-REFLECTION]
"""

import os
from collections.abc import Callable
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from wireproto.errors import SealError, TruncatedError

NONCE: Final = 12
"""Bytes of a nonce."""
TAG: Final = 16
"""Bytes of a tag."""
OVERHEAD: Final = NONCE + TAG
"""Bytes that a box adds to its plaintext: 28."""

MAX_BOXES: Final = 2**24
"""Number of boxes that one key may seal and open. Random 96-bit nonces would allow 2^32, but each is remembered, which
takes 230 MiB at this limit. [SEAL-LIMIT]"""

_DRAWN: Final = Struct("12s" * 256)
"""Nonces drawn at a time: one system call each would take as long as sealing a short frame."""
_FIRST: Final = 2**18
"""Nonces kept in a dictionary: fast, but 90 bytes each, 23 MiB in all. Later ones take 13 bytes each, and more time.
Benchmark rows: "the same after 200,000", "after 1,000,000"."""
_MASK: Final = 0xFFFF
"""Selects one of 65,536 rows by a hash."""
_SENT: Final = b"s"
_OPENED: Final = b"o"
_RECORD: Final = NONCE + len(_SENT)

_Buffer = bytes | bytearray | memoryview
Random = Callable[[int], bytes]
"""A function that returns so many random bytes of cryptographic quality, such as `os.urandom`."""


_forks = 0
"""The number of forks since the module was imported. Comparing process ids instead would cost a third of the time of
sealing a short frame."""


def _count_fork() -> None:  # pragma: no cover - only in the child
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # pragma: no branch - otherwise nothing forks
    os.register_at_fork(after_in_child=_count_fork)


def draw(random: Random, count: int) -> bytes:
    """Return `count` bytes from `random`. Raise ValueError if it returns more or fewer."""
    drawn = random(count)
    if len(drawn) != count:
        raise ValueError(f"the random source returned {len(drawn)} bytes, not {count}")
    return drawn


class Seal:
    """Seals and opens the boxes of one session. `key` is the session key, 32 bytes.

    The methods raise `TruncatedError` for less than 28 bytes, and `SealError` for a box that does not open, was opened
    before or was sealed here, and once the key has reached `MAX_BOXES`. After an error the contents of `out` are
    undefined. After a fork, parent and child can both use the object: the child draws new nonces.
    """

    def __init__(self, key: bytes, random: Random = os.urandom) -> None:
        self._aead = AESGCM(key)
        self._aes = AES256(key)
        self._encrypt, self._decrypt = self._aead.encrypt, self._aead.decrypt
        self._random = random
        self._drawn: list[bytes] = []  # unused nonces, in reverse order
        self._forks = _forks  # the value of `_forks` when they were drawn
        self._first: dict[bytes, bytes] = {}  # nonces with their origin
        self._room = min(_FIRST, MAX_BOXES)  # capacity of `_first`
        # The other nonces are in rows of records, which take less memory. Python's hash of the nonce selects the row.
        # Its key is random in each process, so a peer cannot choose nonces that share a row.
        self._rows: list[bytes] = []
        self._row_room = MAX_BOXES - self._room

    @property
    def left(self) -> int:
        """Number of boxes that the key may still seal or open."""
        return self._room - len(self._first) + max(self._row_room, 0)

    def encrypt(self, plaintext: _Buffer) -> bytes:
        """Return the box of a plaintext, 28 bytes more. For a long plaintext, `encrypt_into` saves a copy."""
        nonce = self._next_nonce()
        return nonce + self._encrypt(nonce, plaintext, None)

    def encrypt_into(self, plaintext: _Buffer, out: memoryview, more: _Buffer = b"") -> None:
        """Write the box of `plaintext ‖ more` to `out`, which must be exactly 28 bytes longer."""
        between, end = NONCE + len(plaintext), len(out) - TAG
        if between + len(more) != end:
            raise ValueError(f"the box has {OVERHEAD + len(plaintext) + len(more)} bytes, not {len(out)}")
        nonce = self._next_nonce()
        out[:NONCE] = nonce
        encryptor = Cipher(self._aes, GCM(nonce)).encryptor()  # unlike AESGCM, it takes the plaintext in pieces
        encryptor.update_into(plaintext, out[NONCE:])
        encryptor.update_into(more, out[between:])
        encryptor.finalize()
        out[end:] = encryptor.tag

    def decrypt(self, box: bytes | memoryview) -> bytes:
        """Return the plaintext of a box."""
        nonce = box[:NONCE]
        if nonce.__class__ is not bytes:
            nonce = bytes(nonce)
        first = self._first
        rows = self._rows
        if nonce in first or (rows and rows[hash(nonce) & _MASK].find(nonce) >= 0) or len(box) < OVERHEAD:
            self._check(nonce, len(box))  # `find`, because `in` takes twice as long
        try:
            plaintext = self._decrypt(nonce, box[NONCE:], None)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        if len(first) < self._room:
            first[nonce] = _OPENED
        else:
            self._put_in_row(nonce, _OPENED)
        return plaintext

    def decrypt_into(self, box: bytes | memoryview, out: bytearray | memoryview) -> None:
        """Write the plaintext of a box to `out`, which must be exactly 28 bytes shorter."""
        nonce = bytes(box[:NONCE])
        self._check(nonce, len(box))
        try:
            self._aead.decrypt_into(nonce, memoryview(box)[NONCE:], None, out)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        if len(self._first) < self._room:
            self._first[nonce] = _OPENED
        else:
            self._put_in_row(nonce, _OPENED)

    def _next_nonce(self) -> bytes:
        if not self._drawn or self._forks != _forks:
            self._drawn = list(_DRAWN.unpack(draw(self._random, _DRAWN.size)))
            self._drawn.reverse()
            self._forks = _forks
        nonce = self._drawn.pop()
        first = self._first
        if len(first) < self._room:
            first[nonce] = _SENT
        else:
            self._put_in_row(nonce, _SENT)
        return nonce

    def _check(self, nonce: bytes, size: int) -> None:
        """Raise the error of a box that must not be opened."""
        if size < OVERHEAD:
            raise TruncatedError("truncated", f"a box has at least {OVERHEAD} bytes", offset=size)
        if nonce in self._first:
            origin = self._first[nonce]
        elif self._rows:
            row = self._rows[hash(nonce) & _MASK]
            at = row.find(nonce)
            while at % _RECORD:  # a match across two records, or -1
                if at < 0:
                    return
                at = row.find(nonce, at + 1)
            origin = row[at + NONCE : at + _RECORD]
        else:
            return
        if origin == _SENT:
            raise SealError("seal-reflection", "the box was sealed on this side", offset=0)
        raise SealError("seal-replay", "a box with this nonce was opened before", offset=0)

    def _put_in_row(self, nonce: bytes, origin: bytes) -> None:
        self._row_room -= 1
        if self._row_room < 0:
            raise SealError("seal-exhausted", f"the key has reached its limit of {MAX_BOXES} boxes: reconnect")
        rows = self._rows = self._rows or [b""] * (_MASK + 1)
        rows[hash(nonce) & _MASK] += nonce + origin
