"""Link streams built without the package, and ways to feed them to a decoder."""

from collections.abc import Iterator
from typing import Final

import pytest

from wireproto import LinkDecoder
from wireproto.codec.link import Frame

KIB, MIB = 1024, 1024 * 1024
STYLES: Final = {
    "feed": lambda _: False,
    "get_buffer": lambda _: True,
    "both": lambda index: bool(index % 2),
}
EVERY_STYLE = pytest.mark.parametrize("buffered", STYLES.values(), ids=list(STYLES))


def header(length: int) -> bytes:
    return length.to_bytes(8, "little")


def link(*bodies: bytes) -> bytes:
    return b"".join(header(len(body)) + body for body in bodies)


def fill(decoder: LinkDecoder, data: bytes | memoryview) -> Iterator[Frame]:
    """Feed data through get_buffer, like a socket."""
    data = memoryview(data)
    while data:
        buffer = decoder.get_buffer(-1)
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        yield from decoder.buffer_updated(count)
        data = data[count:]


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes with period 251, so that a piece from elsewhere in the stream is detected."""
    block = bytes((seed + i) % 251 for i in range(251))
    return (block * (length // 251 + 1))[:length]
