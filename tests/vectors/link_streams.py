"""Vectors of link streams."""

from typing import Any

from tests.vectors.writing import BEYOND_CAPTURE, fault, file, marked
from wireproto.messages import MAX_LINK_LENGTH
from wireproto.testing.vectors import Group, Hex, LinkStreamTest, VectorFile

_ABOUT = (
    "A stream of link frames from its first byte to its end. A receiver must return `bodies` in this order, however "
    "the stream is cut into chunks, and then reach the end, or fail with `error`. The offset counts from the first "
    "byte of the stream. `maxLength` is the limit that the receiver has set."
)


def _length(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _frame(body: bytes) -> bytes:
    return _length(len(body)) + body


def _valid(name: str, comment: str, bodies: list[bytes], *ids: str, stream: bytes | None = None, **more: Any) -> Any:
    return LinkStreamTest(
        id=name,
        comment=comment,
        requirements=("LINK-LAYOUT", *ids),
        result="valid",
        stream=Hex(b"".join(map(_frame, bodies)) if stream is None else stream),
        bodies=tuple(map(Hex, bodies)),
        **more,
    )


def _invalid(name: str, comment: str, rule: str, code: str, marked_stream: bytes, *bodies: bytes, **more: Any) -> Any:
    stream, offset = marked(marked_stream)
    return LinkStreamTest(
        id=name,
        comment=comment,
        requirements=(rule,),
        flags=(BEYOND_CAPTURE,) if code == "truncated" or more else (),
        result="invalid",
        error=fault(code, offset, None if code == "truncated" else "length"),
        stream=stream,
        bodies=tuple(map(Hex, bodies)),
        **more,
    )


_WHOLE = [
    _valid("empty", "A stream that ends before its first byte ends between two frames", [], "LINK-EOF"),
    _valid("one-byte", "The shortest frame: a ping", [b"\x03"], "LINK-LEN-MIN"),
    _valid("two", "Two frames in a row, nothing between them", [b"\x03", b"\xff"], "LINK-CHUNKS"),
    _valid("ten", "Ten frames that arrive together", [bytes([n]) * n for n in range(1, 11)], "LINK-CHUNKS"),
    _valid("length-in-body", "A body that looks like a length is no length", [_length(1), b"\x03"]),
    _valid("zeros-in-body", "A body of eight zeros is a body", [bytes(8)]),
    _valid("bytes-255", "One byte of the length is used", [b"a" * 255]),
    _valid("bytes-256", "Little-endian: the second byte counts 256s", [b"a" * 256]),
    _valid("bytes-257", "Both bytes of the length are used", [b"a" * 257]),
    _valid("bytes-1000", "A longer body", [bytes(n % 251 for n in range(1000))]),
    _valid("at-own-limit", "A body of just the limit", [b"a" * 64], "LINK-LEN-MAX", max_length=64),
    _valid("not-utf8", "A body is any bytes", [b"\xff\xfe\x00\x80"]),
    _valid("not-decoded", "Whether a body is a cluster frame is not the link's to say", [b"\x00", b"{"]),
]

_LENGTHS = [
    _invalid("length-zero", "A length of 0", "LINK-LEN-MIN", "link-length-zero", b"^" + _length(0)),
    _invalid("length-zero-second", "A frame, then a length of 0", "LINK-LEN-MIN", "link-length-zero",
             _frame(b"\x03") + b"^" + _length(0), b"\x03"),
    _invalid("length-zero-and-more", "Bytes after a length of 0 are ignored", "LINK-LEN-MIN", "link-length-zero",
             b"^" + _length(0) + _frame(b"\x03")),
    _invalid("length-limit-1", "One more than the limit, told before a byte of the body is there", "LINK-LEN-MAX",
             "link-length-limit", b"^" + _length(MAX_LINK_LENGTH + 1)),
    _invalid("length-limit-second", "A frame, then one more than the limit", "LINK-LEN-MAX", "link-length-limit",
             _frame(b"\x03\x03") + b"^" + _length(MAX_LINK_LENGTH + 1), b"\x03\x03"),
    _invalid("length-4-gib", "2^32: a parser that keeps 32 bits sees 0", "LINK-LEN-MAX", "link-length-limit",
             b"^" + _length(2**32) + b"\x03"),
    _invalid("length-4-gib-1", "2^32 + 1: a parser that keeps 32 bits sees 1", "LINK-LEN-MAX", "link-length-limit",
             b"^" + _length(2**32 + 1) + b"\x03"),
    _invalid("length-2-to-53", "2^53 + 1: a double cannot hold it", "LINK-LEN-MAX", "link-length-limit",
             b"^" + _length(2**53 + 1)),
    _invalid("length-signed", "2^63: negative for a parser that reads it as signed", "LINK-LEN-MAX",
             "link-length-limit", b"^" + _length(2**63)),
    _invalid("length-all-ones", "2^64 - 1: -1 for a parser that reads it as signed", "LINK-LEN-MAX",
             "link-length-limit", b"^" + _length(2**64 - 1) + b"\x03"),
    _invalid("length-big-endian", "A length of 1 in the wrong byte order is 2^56", "LINK-LEN-MAX",
             "link-length-limit", b"^" + (1).to_bytes(8, "big") + b"\x03"),
    _invalid("length-32-bit", "A 4-byte length with the body after it is another number", "LINK-LEN-MAX",
             "link-length-limit", b"^" + (5).to_bytes(4, "little") + b'\x07{"p":'),
    _invalid("no-length", "A cluster frame without its link frame", "LINK-LEN-MAX", "link-length-limit",
             b'^\x07{"port":29400,"sessionID":"a"}'),
    _invalid("http", "An HTTP client on the port", "LINK-LEN-MAX", "link-length-limit",
             b"^GET / HTTP/1.1\r\n\r\n"),
    _invalid("over-own-limit", "One more than a limit of one's own", "SESSION-LEN-MAX", "link-length-limit",
             b"^" + _length(65) + b"a" * 65, max_length=64),
    _invalid("over-64-kib", "One more than the limit before the handshake", "SESSION-LEN-MAX", "link-length-limit",
             b"^" + _length(65537), max_length=65536),
]  # fmt: skip

_ENDS = [
    *(
        _invalid(f"eof-in-length-{count}", f"The stream ends after {count} of the 8 bytes of a length", "LINK-EOF",
                 "truncated", _length(1)[:count] + b"^")
        for count in range(1, 8)
    ),
    _invalid("eof-behind-length", "The stream ends after a length", "LINK-EOF", "truncated", _length(1) + b"^"),
    _invalid("eof-in-body", "The stream ends inside a body", "LINK-EOF", "truncated", _length(3) + b"ab^"),
    _invalid("eof-in-second-length", "The stream ends in the second length", "LINK-EOF", "truncated",
             _frame(b"\x03") + b"\x05^", b"\x03"),
    _invalid("eof-in-second-body", "The stream ends in the second body", "LINK-EOF", "truncated",
             _frame(b"\x03") + _length(2) + b"a^", b"\x03"),
    _invalid("eof-in-longest", "A body of the greatest length begins, and does not come", "LINK-EOF", "truncated",
             _length(MAX_LINK_LENGTH) + b"a^"),
    _invalid("length-zero-cut", "Seven zero bytes are not yet a length of 0", "LINK-EOF", "truncated",
             bytes(7) + b"^"),
]  # fmt: skip


def make() -> VectorFile[Any]:
    return file(
        LinkStreamTest,
        _ABOUT,
        (
            Group(name="whole frames", about="Streams that end between two frames.", tests=tuple(_WHOLE)),
            Group(name="lengths", about="Lengths that end the connection.", tests=tuple(_LENGTHS)),
            Group(name="ends", about="Streams that end inside a frame: the peer may have crashed.", tests=tuple(_ENDS)),
        ),
    )
