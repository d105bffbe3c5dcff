"""Reassembly of IP fragments. RFC 791, RFC 8200."""

from typing import Final, NamedTuple

MAX_HELD: Final = 1024 * 1024
"""Bytes of waiting fragments; beyond this the oldest datagram is given up."""
_MAX_DATAGRAMS: Final = 1024
_LIFETIME: Final = 30.0
"""Seconds after which a datagram's number may be used again."""


Key = tuple[bytes, bytes, int]
"""Both addresses of a datagram, and its number."""


class Datagram(NamedTuple):
    """The payload of an IP datagram, as far as its fragments were captured."""

    time: float
    """The time of the last fragment."""
    key: Key
    runs: list[tuple[int, bytes]]
    """Non-empty runs of bytes, with their offsets."""
    size: int | None
    """Size of the whole payload; None if the last fragment is missing."""
    fragments: int
    """The number of captured fragments."""


class Fragments:
    """Holds fragments until their datagram is complete or given up."""

    def __init__(self) -> None:
        self.taken = 0
        """Bytes in all fragments."""
        self.repeated = 0
        """Repeated bytes among these."""
        self._held: dict[Key, _Parts] = {}
        self._size = 0

    def take(self, key: Key, time: float, offset: int, data: bytes, size: int, is_last: bool) -> list[Datagram]:
        """Add a fragment of `size` bytes, `data` of them captured; return the datagrams complete or given up."""
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
        """Return the incomplete datagrams, at the end of the capture."""
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
        self.pieces: list[tuple[int, bytes, int]] = []  # offset, captured bytes, size on the wire

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
