"""Encode and decode activations and tokens, the plaintexts of the tensor boxes in 0x05, 0x06, 0x0B and 0x0C.

An activation is bfloat16 of shape `[1, seqLen, hiddenDim]`, row-major, little-endian. Its bits are copied and never
converted to float32.
"""

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import MalformedError, TruncatedError, shown

if TYPE_CHECKING:
    import mlx.core as mx

_I32: Final = Struct("<i")
_I32_MIN: Final = -(2**31)
_I32_MAX: Final = 2**31 - 1
_BFLOAT16: Final = 2  # bytes

STOP: Final = _I32.pack(-1)
"""The stop sentinel: i32 little-endian −1, without data. [TENSOR-STOP]"""


class Activation(NamedTuple):
    """bfloat16 values of shape `[1, seq_len, hidden_dim]`, row-major, little-endian. [TENSOR-ACTIVATION]"""

    seq_len: int
    """Number of tokens, from 0."""
    hidden_dim: int
    """Hidden dimension of the model. It is not on the wire."""
    data: BytesLike
    """seq_len × hidden_dim × 2 bytes, any bytes-like object."""


def encode_activation(activation: Activation) -> bytes:
    """Return `i32 little-endian seqLen ‖ data`. Raise `MalformedError` if the sizes differ. [TENSOR-ACTIVATION]

    Raise ValueError for a negative `hidden_dim`.
    """
    seq_len, hidden_dim, data = activation
    _check_integer("seq_len", seq_len)
    _check_hidden_dim(hidden_dim)
    if not 0 <= seq_len <= _I32_MAX:
        detail = f"{shown(seq_len)} is not from 0 to {_I32_MAX}; to say stop, send STOP"
        raise MalformedError("activation-seq-len", detail, path="seqLen")
    size = memoryview(data).nbytes
    if size != (wanted := seq_len * hidden_dim * _BFLOAT16):
        detail = f"{size} bytes, not {seq_len} × {shown(hidden_dim)} × 2 = {shown(wanted)}"
        raise MalformedError("activation-size", detail)
    return b"".join((_I32.pack(seq_len), byte_view(data)))


def decode_activation(plaintext: BytesLike, hidden_dim: int) -> Activation | None:
    """Return the activation in a plaintext, or None for the stop sentinel. Its data is a view of the plaintext.

    Raise `TruncatedError` or `MalformedError`, and ValueError for a negative `hidden_dim`.
    [TENSOR-ACTIVATION, TENSOR-STOP]
    """
    _check_hidden_dim(hidden_dim)
    with byte_view(plaintext) as view:
        seq_len = _read_i32(view)
        if seq_len < -1:
            detail = f"{seq_len} is not from -1 to {_I32_MAX}"
            raise MalformedError("activation-seq-len", detail, offset=0, path="seqLen")
        end = _I32.size + max(seq_len, 0) * hidden_dim * _BFLOAT16
        _check_end(view, end)
        return None if seq_len == -1 else Activation(seq_len, hidden_dim, view[_I32.size :])


def encode_token(token_id: int) -> bytes:
    """Return `i32 little-endian tokenID`. Raise `MalformedError` if the ID does not fit. [TENSOR-TOKEN]"""
    _check_integer("token_id", token_id)
    if not _I32_MIN <= token_id <= _I32_MAX:
        raise MalformedError("field-range", f"{shown(token_id)} is not from {_I32_MIN} to {_I32_MAX}", path="tokenID")
    return _I32.pack(token_id)


def decode_token(plaintext: BytesLike) -> int:
    """Return the token ID in a plaintext. Raise `TruncatedError` or `MalformedError`. [TENSOR-TOKEN]"""
    with byte_view(plaintext) as view:
        token_id = _read_i32(view)
        _check_end(view, _I32.size)
        return token_id


def activation_from_array(array: "mx.array") -> Activation:
    """Return an MLX array of dtype bfloat16 and shape `[1, seqLen, hiddenDim]` as an activation, bit for bit.

    Raise `MalformedError` for another dtype or shape; the caller has to convert.
    """
    import mlx.core as mx  # its stubs do not declare arrays as buffers

    if array.dtype != mx.bfloat16:
        raise MalformedError("activation-dtype", f"expected bfloat16, not {array.dtype}")
    if array.ndim != 3 or array.shape[0] != 1:
        raise MalformedError("activation-shape", f"expected [1, seqLen, hiddenDim], not {list(array.shape)}")
    _, seq_len, hidden_dim = array.shape
    return Activation(seq_len, hidden_dim, memoryview(array.view(mx.uint16)).tobytes())  # type: ignore[arg-type]


def activation_to_array(activation: Activation) -> "mx.array":
    """Return an activation as an MLX array of dtype bfloat16 and shape `[1, seqLen, hiddenDim]`, bit for bit."""
    import mlx.core as mx

    bits = mx.array(byte_view(activation.data).cast("H"))  # type: ignore[arg-type]
    return bits.view(mx.bfloat16).reshape(1, activation.seq_len, activation.hidden_dim)


def _check_hidden_dim(value: int) -> None:
    _check_integer("hidden_dim", value)
    if value < 0:
        raise ValueError("hidden_dim must not be negative")


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")


def _read_i32(view: memoryview) -> int:
    if len(view) < _I32.size:
        raise TruncatedError("truncated", f"{_I32.size} bytes are needed", offset=len(view))
    value: int = _I32.unpack_from(view)[0]
    return value


def _check_end(view: memoryview, end: int) -> None:
    if len(view) < end:
        raise TruncatedError("truncated", f"{shown(end)} bytes are needed", offset=len(view))
    if len(view) > end:
        raise MalformedError("trailing-data", f"bytes follow the {end} that belong here", offset=end)
