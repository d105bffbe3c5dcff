"""Careful hand-written code without the strictness: the floor that the codec is compared with."""

import json
import struct
from collections.abc import Callable

import msgspec

from wireproto.messages import REGISTRY, Message, PayloadKind

HEADER = struct.Struct("<Q")
MAX = 256 * 1024 * 1024
DECODERS = {
    spec.msg_type.value: msgspec.json.Decoder(spec.payload) for spec in REGISTRY if spec.kind is PayloadKind.JSON
}
TYPES = {spec.payload: bytes([spec.msg_type]) for spec in REGISTRY}
ENCODER = msgspec.json.Encoder()


def decode(frame: bytes) -> Message:
    return DECODERS[frame[0]].decode(frame[1:])


def encode(message: Message) -> bytes:
    return TYPES[type(message)] + ENCODER.encode(message)


def decode_stdlib(frame: bytes) -> tuple[int, dict[str, object]]:
    return struct.unpack_from("B", frame)[0], json.loads(frame[1:])


def decode_stream(chunks: list[bytes], take: Callable[[bytes], object] = decode) -> int:
    buffer = b""
    count = 0
    for chunk in chunks:
        buffer += chunk
        start, end = 0, len(buffer)
        while end - start >= 8:
            (length,) = HEADER.unpack_from(buffer, start)
            if not 0 < length <= MAX:
                raise ValueError(length)
            stop = start + 8 + length
            if stop > end:
                break
            take(buffer[start + 8 : stop])
            start = stop
            count += 1
        buffer = buffer[start:]
    return count
