"""The bytes of a file or pipe, decompressed where needed, read in pieces of any size."""

from collections.abc import Callable
from typing import Any, BinaryIO, Final

_CHUNK: Final = 256 * 1024
_HEAD: Final = 6
"""Bytes needed to recognise a compression."""


class Source:
    """Reads a file or pipe once, from start to end. `progress` gets the size of each raw read.

    A compressed file (gzip, bzip2, xz, zstd) is recognised by its first bytes. Data that cannot be decompressed end the
    file, and `fault` has the reason.
    """

    def __init__(self, file: BinaryIO, progress: Callable[[int], object] = lambda size: None) -> None:
        self.offset = 0
        """Decompressed bytes taken so far."""
        self.compression: str | None = None
        """The name of the compression."""
        self.fault: str | None = None
        """The reason if the compressed data ended early."""
        self.is_live = not file.seekable()
        """Whether more bytes may follow."""
        self._file = _Replayed(file, progress)
        self._read: Callable[[int], bytes] = self._file.read
        self._buffer = b""
        self._at = 0
        self._ended = False
        self._decompress()

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without taking them; fewer at the end."""
        if len(self._buffer) - self._at < size:
            self._fill(size)
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer at the end."""
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        data = self._buffer[self._at : end]
        self._at = end
        self.offset += len(data)
        return data

    def take_some(self) -> bytes:
        """Return the next available bytes; none at the end."""
        if self._at >= len(self._buffer):
            self._fill(1)
        data = self._buffer[self._at :]
        self._at = len(self._buffer)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Skip `size` bytes without keeping them; return how many there were."""
        left = size
        while left and (data := self.take(min(left, _CHUNK))):
            left -= len(data)
        return size - left

    def _fill(self, size: int) -> None:
        parts = [self._buffer[self._at :]]
        there = len(parts[0])
        while there < size and not self._ended:
            chunk = self._next()
            self._ended = not chunk
            parts.append(chunk)
            there += len(chunk)
        self._buffer = b"".join(parts)
        self._at = 0

    def _next(self) -> bytes:
        if self.compression is None:
            return self._read(_CHUNK)
        try:
            return self._read(_CHUNK)
        except EOFError:
            self.fault = f"the {self.compression} data end early"
        except Exception as error:  # each library has its own classes; some raise OSError
            self.fault = f"the {self.compression} data are damaged: {error}"
        return b""

    def _decompress(self) -> None:
        head = self._file.head(_HEAD)
        for name, (magic, opener) in _COMPRESSIONS.items():
            if head.startswith(magic):
                self.compression = name
                self._read = opener(self._file).read1


class _Replayed:
    """A file with its first bytes read ahead."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], object]) -> None:
        self._file = file
        self._progress = progress
        self._head = b""

    def head(self, size: int) -> bytes:
        while len(self._head) < size and (chunk := self._file.read(_CHUNK)):
            self._progress(len(chunk))
            self._head += chunk
        return self._head

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(data) :]
            return data
        data = self._file.read(_CHUNK if size < 0 else size)
        self._progress(len(data))
        return data


def _gzip(file: Any) -> Any:
    from gzip import GzipFile

    return GzipFile(fileobj=file, mode="rb")


def _bzip2(file: Any) -> Any:
    from bz2 import BZ2File

    return BZ2File(file)


def _xz(file: Any) -> Any:
    from lzma import LZMAFile

    return LZMAFile(file)


def _zstd(file: Any) -> Any:
    import sys

    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdFile
    else:
        from backports.zstd import ZstdFile

    return ZstdFile(file)


_COMPRESSIONS: Final[dict[str, tuple[bytes, Callable[[Any], Any]]]] = {
    "gzip": (b"\x1f\x8b\x08", _gzip),
    "bzip2": (b"BZh", _bzip2),
    "xz": (b"\xfd7zXZ\0", _xz),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
}
