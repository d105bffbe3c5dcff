"""Sealed boxes: `nonce[12] ‖ ciphertext ‖ tag[16]`, AES-256-GCM without associated data. [SEAL-LAYOUT]

One key serves both directions, so a recorded box would open again, and one's own would open when sent back. A `Seal`
remembers the nonces of its session, and refuses both. [SEAL-REPLAY, SEAL-REFLECTION]
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wireproto.errors import SealError, TruncatedError

NONCE: Final = 12
TAG: Final = 16
OVERHEAD: Final = NONCE + TAG
"""Bytes that a box is longer than what it holds."""

MAX_BOXES: Final = 2**24
"""Boxes that one key seals and opens at the most; then a fresh handshake. Random 96-bit nonces would bear 2^32, but
each is remembered: about 12 bytes a box, 210 MiB at this limit, and 3 MiB for the latest. [SEAL-LIMIT]"""

_RECENT: Final = 16_384
_RECORD: Final = 11
_SENT: Final = b"s"
_OPENED: Final = b"o"

_Buffer = bytes | bytearray | memoryview

# Nonces from the system's random numbers, drawn ahead: a system call for each takes as long as sealing a short frame.
# A child process must not use those that its parent may use.
_fresh: list[bytes] = []
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_fresh.clear)


def _draw_nonces() -> None:
    drawn = os.urandom(256 * NONCE)
    _fresh.extend(drawn[at : at + NONCE] for at in range(0, len(drawn), NONCE))


class Seal:
    """Seals and opens the boxes of one session. `key` is the 32-byte session key.

    Raises `SealError` for a box that does not open, is opened twice or is one's own, and once the key has served for
    `MAX_BOXES` of them; what `out` holds then means nothing.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._recent: dict[bytes, bytes] = {}  # nonces, each with who made it
        self._room = _RECENT - 1  # for so many and one more; 0 once the key is exhausted
        self._old: dict[bytes, bytearray] = {}  # by a nonce's first two bytes: its other ten and its maker, in a row
        self._retired = 0

    def encrypt(self, plaintext: _Buffer) -> bytes:
        """The box of a plaintext; for a long one, `encrypt_into` saves a copy."""
        nonce = self._next_nonce()
        return nonce + self._aead.encrypt(nonce, plaintext, None)

    def encrypt_into(self, plaintext: _Buffer, out: memoryview) -> None:
        """Writes the box of a plaintext to `out`, which is just as long: 28 bytes more than the plaintext."""
        nonce = self._next_nonce()
        out[:NONCE] = nonce
        self._aead.encrypt_into(nonce, plaintext, None, out[NONCE:])

    def decrypt(self, box: bytes | memoryview) -> bytes:
        """What a box holds."""
        nonce = bytes(box[:NONCE])
        if nonce in self._recent or self._old or len(box) < OVERHEAD:
            self._check(nonce, len(box))
        try:
            plaintext = self._aead.decrypt(nonce, box[NONCE:], None)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        self._remember_opened(nonce)
        return plaintext

    def decrypt_into(self, box: bytes | memoryview, out: bytearray | memoryview) -> None:
        """Writes what a box holds to `out`, which is just as long: 28 bytes less than the box."""
        nonce = bytes(box[:NONCE])
        self._check(nonce, len(box))
        try:
            self._aead.decrypt_into(nonce, memoryview(box)[NONCE:], None, out)
        except InvalidTag:
            raise SealError("seal-tag", "the box does not open with this key", offset=0) from None
        self._remember_opened(nonce)

    def _next_nonce(self) -> bytes:
        if not _fresh:
            _draw_nonces()
        nonce = _fresh.pop()
        self._recent[nonce] = _SENT
        if len(self._recent) > self._room:
            self._retire()
        return nonce

    def _remember_opened(self, nonce: bytes) -> None:
        self._recent[nonce] = _OPENED
        if len(self._recent) > self._room:
            self._retire()

    def _retire(self) -> None:
        """Moves the recent nonces to the table of old ones, which takes less memory."""
        if not self._room:
            self._recent.clear()
            raise SealError("seal-exhausted", f"the key has served for {MAX_BOXES} boxes: shake hands anew")
        for nonce, maker in self._recent.items():
            self._old.setdefault(nonce[:2], bytearray()).extend(nonce[2:] + maker)
        self._retired += len(self._recent)
        self._recent.clear()
        if self._retired >= MAX_BOXES:
            self._room = 0

    def _check(self, nonce: bytes, size: int) -> None:
        """Refuses a box before it is opened."""
        if size < OVERHEAD:
            raise TruncatedError("truncated", f"a box has {OVERHEAD} bytes at the least", offset=size)
        maker = self._recent.get(nonce) or self._old_maker(nonce)
        if maker == _SENT:
            raise SealError("seal-reflection", "the box is one that was sent from here", offset=0)
        if maker == _OPENED:
            raise SealError("seal-replay", "a box with this nonce was opened before", offset=0)

    def _old_maker(self, nonce: bytes) -> bytes | None:
        rest, records = nonce[2:], self._old.get(nonce[:2], b"")
        at = records.find(rest)
        while at % _RECORD:  # in the middle of two records; or -1, which is not divisible either
            if at < 0:
                return None
            at = records.find(rest, at + 1)
        return bytes(records[at + len(rest) : at + _RECORD])
