"""Input for other fuzzers: seeds, message sequences for AFLNet, and a dictionary."""

from collections.abc import Iterator
from pathlib import Path

from wireproto.codec.fields import payload_fields
from wireproto.fuzzing.sealed import LENGTHS, split_stream
from wireproto.fuzzing.seeds import SEEDS, session
from wireproto.messages import REGISTRY, MemoryPressure, OutcomeState, Program
from wireproto.testing.mutations import LITERALS, NUMBERS, STRING_FAULTS


def export(directory: Path) -> Iterator[Path]:
    """Write `DIR/LAYER/NAME` for each seed, and the messages of sessions; yield each path.

    `DIR/sequences/NAME` has all messages sent to one side of a connection, concatenated for AFLNet. `DIR/replay/NAME`
    has a `u32 little-endian length` before each message, for aflnet-replay. Messages after the handshake are sealed
    with the key of `wireproto.testing.fixed_keys.KNOWN`: a peer can open them if it uses the same values.
    """
    for layer, seeds in SEEDS.items():
        for name, data in seeds():
            yield _written(directory / layer / name, data)
    for name, data in session():
        bodies, tail = split_stream(data[1:])
        messages = [len(body).to_bytes(8, "little") + body for body in bodies] + [tail] * bool(tail)
        yield _written(directory / "sequences" / name, b"".join(messages))
        sized = (len(message).to_bytes(4, "little") + message for message in messages)
        yield _written(directory / "replay" / name, b"".join(sized))


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def dictionary() -> Iterator[str]:
    """Yield the lines of a dictionary for AFL and libFuzzer: `name="value"`."""
    for kind, values in _tokens().items():
        for number, value in enumerate(dict.fromkeys(values)):
            yield f'{kind}_{number}="{_escaped(value)}"'


def _tokens() -> dict[str, list[bytes]]:
    keys = [key for spec in REGISTRY for key in payload_fields(spec.payload)]
    words = [each.value for enum in (MemoryPressure, OutcomeState, Program) for each in enum]
    return {
        "type": [bytes([spec.msg_type]) for spec in REGISTRY],
        "length": [length.to_bytes(8, "little") for length in LENGTHS],
        "key": [f'"{key}":'.encode() for key in keys],
        "word": [f'"{word}"'.encode() for word in words],
        "extension": [f'"{spec.extension}"'.encode() for spec in REGISTRY if spec.extension],
        "literal": list(LITERALS),
        "number": list(NUMBERS),
        "string": list(STRING_FAULTS),
        "device": [b'"rdma_en5"', b'[["', b'"interface":', b'"ip":', b'"rank":', b'"169.254.1.1:29400"'],
    }


def _escaped(value: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in value)
