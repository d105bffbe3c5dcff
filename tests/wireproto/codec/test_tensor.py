"""Tensor plaintexts: plain buffers, and real MLX arrays."""

import struct
from functools import partial

import mlx.core as mx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.wireproto.verdicts import Accepted, Rejected, verdict
from wireproto import MalformedError, TruncatedError, WireError, schema
from wireproto.codec.tensor import (
    STOP,
    Activation,
    activation_from_array,
    activation_to_array,
    decode_activation,
    decode_token,
    encode_activation,
    encode_token,
)

EVERY_BFLOAT16 = struct.pack("<65536H", *range(65536))


def test_stop_is_four_bytes_of_ones() -> None:
    """[TENSOR-STOP]"""
    assert STOP == b"\xff\xff\xff\xff"
    assert decode_activation(STOP, 4096) is None
    assert schema.build(schema.Activation, {"seqLen": -1, "data": b""}, hidden_dim=4096) == STOP


@pytest.mark.parametrize(
    ("activation", "plaintext"),
    [
        (Activation(1, 2, b"\x01\x02\x03\x04"), b"\x01\x00\x00\x00\x01\x02\x03\x04"),
        (Activation(2, 1, memoryview(b"\x01\x02\x03\x04")), b"\x02\x00\x00\x00\x01\x02\x03\x04"),
        (Activation(0, 7, b""), b"\x00\x00\x00\x00"),
        (Activation(2**31 - 1, 0, b""), b"\xff\xff\xff\x7f"),
    ],
)
def test_activation(activation: Activation, plaintext: bytes) -> None:
    assert encode_activation(activation) == plaintext
    assert decode_activation(plaintext, activation.hidden_dim) == activation
    parsed = schema.parse(schema.Activation, plaintext, hidden_dim=activation.hidden_dim)
    assert (parsed.seqLen, parsed.data) == (activation.seq_len, activation.data)


def test_decoded_data_is_a_view() -> None:
    plaintext = bytearray(b"\x01\x00\x00\x00\x01\x02")
    activation = decode_activation(memoryview(plaintext), 1)
    assert activation is not None
    plaintext[4] = 9
    assert activation.data == b"\x09\x02"


@pytest.mark.parametrize(
    ("plaintext", "error", "code", "offset"),
    [
        (b"", TruncatedError, "truncated", 0),
        (b"\x01\x00\x00", TruncatedError, "truncated", 3),
        (b"\x01\x00\x00\x00", TruncatedError, "truncated", 4),
        (b"\x01\x00\x00\x00" + bytes(7), TruncatedError, "truncated", 11),
        (b"\x01\x00\x00\x00" + bytes(9), MalformedError, "trailing-data", 12),
        (b"\x02\x00\x00\x00" + bytes(8), TruncatedError, "truncated", 12),
        (b"\x00\x00\x00\x00\x00", MalformedError, "trailing-data", 4),
        (STOP + b"\x00", MalformedError, "trailing-data", 4),
        (b"\xfe\xff\xff\xff", MalformedError, "activation-seq-len", 0),
        (b"\x00\x00\x00\x80", MalformedError, "activation-seq-len", 0),
        (b"\xff\xff\xff\x7f" + bytes(8), TruncatedError, "truncated", 12),
    ],
)
def test_activation_rejected(plaintext: bytes, error: type[WireError], code: str, offset: int) -> None:
    """[TENSOR-ACTIVATION, TENSOR-STOP]"""
    by_schema = partial(schema.parse, schema.Activation, plaintext, hidden_dim=4)
    for reject in (lambda: decode_activation(plaintext, 4), by_schema):
        with pytest.raises(error) as caught:
            reject()
        assert (type(caught.value), caught.value.code, caught.value.offset) == (error, code, offset)


@given(st.binary(max_size=40), st.integers(1, 4))
def test_activation_agrees_with_the_schema(plaintext: bytes, hidden_dim: int) -> None:
    parsed = verdict(partial(schema.parse, hidden_dim=hidden_dim), schema.Activation, plaintext)
    decoded = verdict(decode_activation, plaintext, hidden_dim)
    if isinstance(parsed, Rejected):
        assert decoded == parsed
    else:
        assert isinstance(decoded, Accepted)
        stop = parsed.value.seqLen == -1
        assert decoded.value == (None if stop else (parsed.value.seqLen, hidden_dim, parsed.value.data))


@pytest.mark.parametrize(
    ("activation", "code", "path"),
    [
        (Activation(-1, 4, b""), "activation-seq-len", "seqLen"),
        (Activation(2**31, 0, b""), "activation-seq-len", "seqLen"),
        (Activation(1, 4, bytes(7)), "activation-size", None),
        (Activation(1, 4, bytes(9)), "activation-size", None),
        (Activation(1, 4, memoryview(bytes(6)).cast("H")), "activation-size", None),
        (Activation(0, 4, bytes(8)), "activation-size", None),
        pytest.param(Activation(10**5000, 4, b""), "activation-seq-len", "seqLen", id="huge seq_len"),
        pytest.param(Activation(1, 10**5000, b""), "activation-size", None, id="huge hidden_dim"),
    ],
)
def test_activation_that_is_not_encoded(activation: Activation, code: str, path: str | None) -> None:
    with pytest.raises(MalformedError) as caught:
        encode_activation(activation)
    assert (caught.value.code, caught.value.offset, caught.value.path) == (code, None, path)


@given(st.integers(-(2**31), 2**31 - 1))
@example(-(2**31))
@example(2**31 - 1)
def test_token(token_id: int) -> None:
    plaintext = encode_token(token_id)
    assert plaintext == token_id.to_bytes(4, "little", signed=True)
    assert decode_token(plaintext) == token_id
    assert schema.parse(schema.Token, plaintext).tokenID == token_id


@pytest.mark.parametrize(
    ("plaintext", "code", "offset"), [(b"", "truncated", 0), (b"abc", "truncated", 3), (b"abcde", "trailing-data", 4)]
)
def test_token_rejected(plaintext: bytes, code: str, offset: int) -> None:
    """[TENSOR-TOKEN]"""
    for reject in (lambda: decode_token(plaintext), lambda: schema.parse(schema.Token, plaintext)):
        with pytest.raises(WireError) as caught:
            reject()
        assert (caught.value.code, caught.value.offset) == (code, offset)


def test_hidden_dim_that_cannot_be() -> None:
    """The caller's mistake, for which the bytes were blamed; a huge one could not be printed."""
    for call in (lambda: decode_activation(bytes(8), -1), lambda: encode_activation(Activation(0, -1, b""))):
        with pytest.raises(ValueError, match="hidden_dim must not be negative"):
            call()
    with pytest.raises(TruncatedError, match=r"a number of \d+ bits"):
        decode_activation(b"\1\0\0\0", 10**5000)


@pytest.mark.parametrize("token_id", [2**31, -(2**31) - 1, pytest.param(10**5000, id="huge")])
def test_token_out_of_range(token_id: int) -> None:
    with pytest.raises(MalformedError) as caught:
        encode_token(token_id)
    assert (caught.value.code, caught.value.path) == ("field-range", "tokenID")


# -- MLX arrays --------------------------------------------------------------------------------------------------------


def bits(array: mx.array) -> bytes:
    return memoryview(mx.contiguous(array.view(mx.uint16))).tobytes()  # type: ignore[arg-type]


def test_every_bfloat16_comes_through_bit_for_bit() -> None:
    """NaNs with payloads, infinities, subnormals, both zeros: converting to float32 would quiet some of the NaNs."""
    activation = Activation(256, 256, EVERY_BFLOAT16)
    array = activation_to_array(activation)
    assert (array.dtype, array.shape) == (mx.bfloat16, (1, 256, 256))
    assert bits(array) == EVERY_BFLOAT16
    assert activation_from_array(array) == activation


def test_values_are_row_major() -> None:
    """[TENSOR-ACTIVATION]"""
    array = mx.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], dtype=mx.bfloat16)
    activation = activation_from_array(array)
    assert (activation.seq_len, activation.hidden_dim) == (2, 3)
    assert struct.unpack("<6H", activation.data) == (0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0)
    assert mx.array_equal(activation_to_array(activation), array)


def test_array_that_is_not_contiguous() -> None:
    array = mx.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], dtype=mx.bfloat16)
    transposed = mx.transpose(array, (0, 2, 1))
    activation = activation_from_array(transposed)
    assert (activation.seq_len, activation.hidden_dim) == (3, 2)
    assert mx.array_equal(activation_to_array(activation), transposed)


def test_array_over_the_wire() -> None:
    array = mx.random.normal((1, 5, 16)).astype(mx.bfloat16)
    plaintext = encode_activation(activation_from_array(array))
    assert len(plaintext) == 4 + 5 * 16 * 2
    activation = decode_activation(plaintext, 16)
    assert activation is not None
    assert bits(activation_to_array(activation)) == bits(array)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.uint16])
def test_array_of_another_dtype(dtype: mx.Dtype) -> None:
    with pytest.raises(MalformedError) as caught:
        activation_from_array(mx.zeros((1, 2, 2), dtype=dtype))
    assert caught.value.code == "activation-dtype"


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2), (1, 1, 2, 2), (0, 2, 2)])
def test_array_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(MalformedError) as caught:
        activation_from_array(mx.zeros(shape, dtype=mx.bfloat16))
    assert caught.value.code == "activation-shape"


def test_no_rows() -> None:
    activation = activation_from_array(mx.zeros((1, 0, 4), dtype=mx.bfloat16))
    assert activation == Activation(0, 4, b"")
    assert activation_to_array(activation).shape == (1, 0, 4)
