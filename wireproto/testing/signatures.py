"""Signatures and keys that a handshake must refuse: faults of the DER grammar, scalars and points out of range.

Each is made from a valid signature or key, so that it has only one fault. [HANDSHAKE-SIGNATURE, HANDSHAKE-ORDER]
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256's group."""
_PRIME: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_SEQUENCE, _INTEGER = 0x30, 0x02


class Wrong(NamedTuple):
    """A signature or a key."""

    about: str
    data: bytes


def wrong_signatures(r: int, s: int) -> Iterator[Wrong]:
    """Yield signatures with `r` and `s` in a form other than DER, and with other numbers in DER."""
    one, two = _integer(r), _integer(s)
    body, good = one + two, _sequence(one + two)
    raw = r.to_bytes(32) + s.to_bytes(32)
    yield Wrong("nothing", b"")
    yield Wrong("r ‖ s without DER", raw)
    yield Wrong("0x04 and r ‖ s", b"\x04" + raw)
    for size in (1, 2, 3, 4, len(good) // 2, len(good) - 2, len(good) - 1):
        yield Wrong(f"the first {size} bytes", good[:size])
    for tail in (b"\0", b"\0\0", b"\x05\0", one, good):
        yield Wrong(f"{len(tail)} bytes after the sequence", good + tail)
        yield Wrong(f"{len(tail)} bytes after s in the sequence", _sequence(body + tail))
    for tag in (0x00, 0x10, 0x31, 0x24, 0x70, 0xB0):
        yield Wrong(f"the tag 0x{tag:02x} of the sequence", _tagged(tag, body))
    for name, length in _lengths(len(body)):
        yield Wrong(f"{name} of the sequence", bytes([_SEQUENCE]) + length + body)
    yield Wrong("an indefinite length", b"\x30\x80" + body + b"\0\0")
    yield Wrong("r alone", _sequence(one))
    yield Wrong("an empty sequence", _sequence(b""))
    yield Wrong("a sequence in a sequence", _sequence(good))
    for which, number in (("r", r), ("s", s)):

        def make(part: bytes, is_r: bool = which == "r") -> bytes:
            return part + two if is_r else one + part

        content = _content(number)
        for tag in (0x00, 0x03, 0x04, 0x0A, 0x22, 0x82):
            yield Wrong(f"the tag 0x{tag:02x} of {which}", _sequence(make(_tagged(tag, content))))
        for name, length in _lengths(len(content)):
            yield Wrong(f"{name} of {which}", _sequence(make(bytes([_INTEGER]) + length + content)))
        for count in (1, 2, 8):
            padded = _tagged(_INTEGER, bytes(count) + content)
            yield Wrong(f"{count} more zero bytes before {which}", _sequence(make(padded)))
        yield Wrong(f"{which} without content", _sequence(make(b"\x02\0")))
        negative = (number - 2**256).to_bytes(33, signed=True)
        yield Wrong(f"{which} − 2^256", _sequence(make(_tagged(_INTEGER, negative))))
        if content[0] == 0:
            yield Wrong(f"{which} without its zero byte, so negative", _sequence(make(_tagged(_INTEGER, content[1:]))))
        for name, other in (
            ("0", 0), ("−1", -1), ("n", ORDER), ("n + 1", ORDER + 1), ("2^256 − 1", 2**256 - 1),
            (f"−{which}", -number), (f"{which} + 1", number + 1), (f"{which} + n", number + ORDER),
            (f"{which} + 2^256", number + 2**256), (f"{which} + n · 2^64", number + (ORDER << 64)),
        ):  # fmt: skip
            yield Wrong(f"{name} in place of {which}", _sequence(make(_integer(other))))
    yield Wrong("s and r", _sequence(two + one))


def read_laxly(der: bytes) -> tuple[int, ...]:
    """Return the numbers found by a reader that checks neither tags nor lengths."""
    numbers: list[int] = []
    data, _ = _split(der)
    while data and len(numbers) < 2:
        content, data = _split(data)
        numbers.append(int.from_bytes(content))
    return tuple(numbers)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of the first element, as far as present, and the rest."""
    size, start = int.from_bytes(data[1:2]), 2
    if size >= 0x80:
        start += size - 0x80
        size = int.from_bytes(data[2:start])
    return data[start : start + size], data[start + size :]


def wrong_points(public: bytes) -> Iterator[Wrong]:
    """Yield 64-byte values that are neither the identity key `public` nor a key that signed anything."""
    x, y = int.from_bytes(public[:32]), int.from_bytes(public[32:])
    for name, first, second in (
        ("the other y", x, _PRIME - y), ("y + 1", x, (y + 1) % _PRIME), ("x alone", x, 0), ("y alone", 0, y),
        ("x and y exchanged", y, x), ("zeros", 0, 0), ("ones", 2**256 - 1, 2**256 - 1), ("p and p", _PRIME, _PRIME),
    ):  # fmt: skip
        yield Wrong(name, first.to_bytes(32) + second.to_bytes(32))
    yield Wrong("little-endian", public[:32][::-1] + public[32:][::-1])


_X25519_PRIME: Final = 2**255 - 19
_ORDER_8: Final = (
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)
LOW_ORDER: Final = tuple(
    bytes([*value[:31], value[31] | top])
    for value in (
        *((number).to_bytes(32, "little") for number in (0, 1, *(_X25519_PRIME + off for off in (-1, 0, 1)))),
        *map(bytes.fromhex, _ORDER_8),
    )
    for top in (0, 0x80)
)
"""The X25519 keys that give the all-zero secret, in every encoding: reduced or not, with or without the top bit."""


def _lengths(length: int) -> Iterator[tuple[str, bytes]]:
    yield "a length in two bytes", bytes([0x81, length])
    yield "a length in three bytes", bytes([0x82, 0, length])
    yield "a length in nine bytes", bytes([0x88]) + length.to_bytes(8)
    yield "a length that is one too small", bytes([length - 1])
    yield "a length that is one too large", bytes([length + 1])
    yield "a length of 2^32", bytes([0x85]) + (2**32 + length).to_bytes(5)
    yield "a length of 2^64", bytes([0x89]) + (2**64 + length).to_bytes(9)


def _content(number: int) -> bytes:
    return number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, signed=True)


def _integer(number: int) -> bytes:
    return _tagged(_INTEGER, _content(number))


def _sequence(body: bytes) -> bytes:
    return _tagged(_SEQUENCE, body)


def _tagged(tag: int, content: bytes) -> bytes:
    length = bytes([len(content)]) if len(content) < 0x80 else bytes([0x81, len(content)])
    return bytes([tag]) + length + content
