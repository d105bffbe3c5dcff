"""Arguments of every kind: bytes-like objects are read as bytes, everything else is a TypeError at the call."""

import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from wireproto import (
    InferenceStep,
    JacclBootstrapPayload,
    LinkDecoder,
    Ping,
    StepTokenPayload,
    WireError,
    decode_frame,
    encode_frame,
    encode_link_frame,
)
from wireproto.codec.link import link_frame_pieces
from wireproto.codec.tensor import (
    STOP,
    Activation,
    decode_activation,
    decode_token,
    encode_activation,
    encode_token,
)
from wireproto.jaccl import (
    OWN_ENTRY,
    Destination,
    Root,
    Worker,
    decode_destination,
    encode_destination,
    mesh_init,
    ring_init,
)

FRAME = encode_frame(InferenceStep(bytes(range(23))))
DESTINATION = encode_destination(Destination(1, 2, 7, bytes(range(16))))


def _feed(data: Any) -> list[bytes]:
    return [bytes(frame) for frame in LinkDecoder().feed(data)]


def _activation(data: Any) -> Any:
    found = decode_activation(data, 2)
    return found and found._replace(data=bytes(found.data))


def _receive(data: Any) -> int:
    connection = Root(3).connect()
    connection.receive(data)
    return connection.waiting


def _worker(data: Any) -> Any:
    worker = Worker(1, 2)
    worker.gather(bytes(12))
    return worker.receive(data)


def _result(data: Any) -> Any:
    step = ring_init(0, 2, [Destination(1)], [Destination(1)])
    next(step)
    return step.send(data)


TAKE_BYTES: dict[str, tuple[Callable[[Any], Any], bytes]] = {
    "decode_frame": (decode_frame, FRAME),
    "decode_frame of JSON": (decode_frame, encode_frame(StepTokenPayload("u", 1)).ljust(24)),
    "LinkDecoder.feed": (_feed, encode_link_frame(bytes(16))),
    "encode_link_frame": (encode_link_frame, FRAME),
    "link_frame_pieces": (lambda data: b"".join(link_frame_pieces(data)), FRAME),
    "encode_activation": (lambda data: encode_activation(Activation(3, 4, data)), bytes(range(24))),
    "decode_activation": (_activation, struct.pack("<i", 5) + bytes(range(20))),
    "decode_token": (decode_token, struct.pack("<i", 5)),
    "decode_destination": (decode_destination, DESTINATION),
    "Worker.gather": (lambda data: Worker(1, 2).gather(data), bytes(range(16))),
    "Worker.receive": (_worker, bytes(24)),
    "Connection.receive": (_receive, struct.pack("<i", 1) + bytes(12)),
    "mesh_init's results": (_result, struct.pack("<2i", 1, 1)),
}
NAMES = list(TAKE_BYTES)


def _doubled(data: bytes) -> memoryview:
    """Return the bytes as every other byte of a buffer: not contiguous."""
    return memoryview(bytes(each for byte in data for each in (byte, 0)))[::2]


FORMS: dict[str, Callable[[bytes], Any]] = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array of bytes": lambda data: array("B", data),
    "signed": lambda data: memoryview(data).cast("b"),
    "characters": lambda data: memoryview(data).cast("c"),
    "booleans": lambda data: memoryview(data).cast("?"),
    "16 bits": lambda data: memoryview(data).cast("H"),
    "32 bits": lambda data: memoryview(data).cast("I"),
    "two dimensions": lambda data: memoryview(data).cast("B", [len(data) // 2, 2]),
    "one column": lambda data: memoryview(data).cast("B", [len(data), 1]),
    "not contiguous": _doubled,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_like_means_its_bytes(name: str, form: str) -> None:
    call, data = TAKE_BYTES[name]
    assert call(FORMS[form](data)) == call(data)


@pytest.mark.parametrize("wrong", [5, True, 1.5, None, "text", [1, 2], (0x03,), {"a": 1}], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_not_bytes_is_a_type_error(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError):
        TAKE_BYTES[name][0](wrong)


REFUSED: dict[str, tuple[Callable[[Any], Any], bytes]] = {
    "decode_frame": (decode_frame, b'\x07{"port":1}'),
    "decode_frame of an unknown type": (decode_frame, b"\x77"),
    "decode_frame over the limit": (decode_frame, b"\x01".ljust(5000)),
    "LinkDecoder.feed": (_feed, bytes(8)),
    "encode_link_frame": (encode_link_frame, b""),
    "encode_activation": (lambda data: encode_activation(Activation(9, 9, data)), b"1"),
    "decode_activation": (_activation, b"\x01\0\0\0"),
    "decode_activation's stop": (_activation, STOP + b"1"),
    "decode_token": (decode_token, b"123"),
    "decode_destination": (decode_destination, DESTINATION + b"1"),
    "Worker.receive": (_worker, bytes(25)),
    "Connection.receive": (_receive, bytes(4)),
    "mesh_init's results": (_result, b"1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_buffer_can_be_resized_in_the_handler(name: str) -> None:
    """The exception does not keep a view of the data, nor does a view that the caller holds and releases."""
    call, data = REFUSED[name]
    for of_view in (False, True):
        buffer = bytearray(data)
        view = memoryview(buffer)
        try:
            call(view if of_view else buffer)
        except WireError:
            view.release()
            buffer.extend(b"more")
        else:
            pytest.fail("accepted")


@pytest.mark.parametrize("wrong", [1.5, True, "1", b"1234", None], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        encode_token,
        lambda number: encode_activation(Activation(number, 1, b"12")),
        lambda number: encode_activation(Activation(1, number, b"12")),
        lambda number: decode_activation(STOP, number),
        lambda number: Worker(number, 2),
        lambda number: Root(number),
        lambda number: mesh_init(number, 2, [OWN_ENTRY, Destination(1)]),
        lambda number: LinkDecoder().buffer_updated(number),
    ],
    ids=["token", "seq_len", "hidden_dim", "decoded hidden_dim", "rank", "size", "mesh rank", "count"],
)
def test_not_an_integer_is_a_type_error(call: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(TypeError):
        call(wrong)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**400])
def test_encoding_a_number_out_of_range_is_never_a_struct_error(number: int) -> None:
    for call in (
        lambda: encode_token(number),
        lambda: encode_activation(Activation(number, 1, b"")),
        lambda: encode_destination(Destination(number)),
        lambda: encode_destination(Destination(1, number)),
        lambda: encode_frame(JacclBootstrapPayload(number, "")),
    ):
        with pytest.raises(WireError):
            call()


def test_generators_check_their_arguments_at_the_call() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        mesh_init(2, 2, [OWN_ENTRY, Destination(1)])
    with pytest.raises(WireError, match="jaccl-count"):
        mesh_init(0, 2, [])
    with pytest.raises(WireError, match="jaccl-count"):
        ring_init(0, 2, [Destination(1)], [])
    with pytest.raises(ValueError, match="ranks"):
        ring_init(0, 65, [Destination(1)], [Destination(1)])
    with pytest.raises(TypeError):
        LinkDecoder().feed(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_revision_that_is_none_is_a_value_error(number: Any) -> None:
    for call in (lambda: decode_frame(b"\x03", number), lambda: encode_frame(Ping(), number)):
        with pytest.raises(ValueError, match="not a valid Revision"):
            call()


def test_extensions_are_a_collection_of_names_and_not_one_name() -> None:
    frame = b'\x42{"rank":0,"state":"ready","stage":"","code":"","message":""}'
    message = decode_frame(frame, extensions=["outcome/1"])
    with pytest.raises(TypeError, match="collection of names"):
        decode_frame(frame, extensions="outcome/1")
    with pytest.raises(TypeError, match="collection of names"):
        encode_frame(message, extensions="outcome/1")
