"""IP fragments, put together. RFC 791, RFC 8200."""

from typing import Final, NamedTuple

MAX_HELD: Final = 1024 * 1024
"""Bytes of fragments that wait for others; beyond it the oldest datagram is given up."""
_MAX_DATAGRAMS: Final = 1024
_LIFETIME: Final = 30.0
"""Seconds after which a datagram's number may be used again."""


Key = tuple[bytes, bytes, int]
"""Both addresses of a datagram, and its number."""


class Datagram(NamedTuple):
    """The payload of an IP datagram, as far as its fragments were captured."""

    time: float
    """Of the last fragment that came."""
    key: Key
    runs: list[tuple[int, bytes]]
    """Bytes without a gap between them, and where they start. Not empty."""
    size: int | None
    """Of the whole; None where the last fragment is missing."""
    fragments: int
    """How many came."""


class Fragments:
    """Holds fragments until their datagram is complete, or given up."""

    def __init__(self) -> None:
        self.taken = 0
        """Bytes that came in fragments."""
        self.repeated = 0
        """Of these, bytes that came before."""
        self._held: dict[Key, _Parts] = {}
        self._size = 0

    def take(self, key: Key, time: float, offset: int, data: bytes, size: int, is_last: bool) -> list[Datagram]:
        """Take a fragment, of whose `size` bytes `data` were captured; return the datagrams that are done."""
        done = []
        parts = self._held.get(key)
        if parts is not None and time - parts.time > _LIFETIME:
            done.append(self._done(key))
            parts = None
        if parts is None:
            parts = self._held[key] = _Parts()
        parts.time = time
        parts.pieces.append((offset, data, size))
        parts.sizes += size
        self.taken += len(data)
        self._size += len(data)
        if is_last:
            parts.size = offset + size
        if parts.is_complete:
            done.append(self._done(key))
        while self._size > MAX_HELD or len(self._held) > _MAX_DATAGRAMS:
            done.append(self._done(next(iter(self._held))))
        return done

    def give_up(self) -> list[Datagram]:
        """Return what is held: no more fragments come."""
        return [self._done(key) for key in list(self._held)]

    def _done(self, key: Key) -> Datagram:
        parts = self._held.pop(key)
        runs: list[tuple[int, bytearray]] = []
        for offset, data, _ in sorted(parts.pieces, key=lambda piece: piece[0]):
            self._size -= len(data)
            end = runs[-1][0] + len(runs[-1][1]) if runs else 0
            known = min(max(end - offset, 0), len(data))
            self.repeated += known
            if runs and offset <= end:
                runs[-1][1].extend(data[known:])
            else:
                runs.append((offset, bytearray(data)))
        return Datagram(
            parts.time, key, [(offset, bytes(data)) for offset, data in runs], parts.size, len(parts.pieces)
        )


class _Parts:
    """The fragments of one datagram."""

    def __init__(self) -> None:
        self.time = 0.0
        self.size: int | None = None
        self.sizes = 0
        self.pieces: list[tuple[int, bytes, int]] = []  # where each starts; its bytes; how many it had on the wire

    @property
    def is_complete(self) -> bool:
        if self.size is None or self.sizes < self.size:
            return False
        end = 0
        for offset, _, size in sorted(self.pieces, key=lambda piece: piece[0]):
            if offset > end:
                return False
            end = max(end, offset + size)
        return end >= self.size
