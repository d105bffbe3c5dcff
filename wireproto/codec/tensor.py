"""Tensor plaintexts: what the boxes of 0x05, 0x06, 0x0B and 0x0C hold once they are open.

Activations are bfloat16 `[1, seqLen, hiddenDim]`, row-major. The bits travel as they are: never by way of float32.
"""

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from wireproto.errors import MalformedError, TruncatedError

if TYPE_CHECKING:
    import mlx.core as mx

_I32: Final = Struct("<i")
_I32_MIN: Final = -(2**31)
_I32_MAX: Final = 2**31 - 1
_BFLOAT16: Final = 2  # bytes

STOP: Final = _I32.pack(-1)
"""The plaintext that says stop: seqLen −1 and nothing behind it. [TENSOR-STOP]"""


class Activation(NamedTuple):
    """bfloat16 values of shape `[1, seq_len, hidden_dim]`, row-major, little-endian. [TENSOR-ACTIVATION]"""

    seq_len: int
    hidden_dim: int
    """The model's; it is not on the wire."""
    data: bytes | memoryview
    """seq_len × hidden_dim × 2 bytes."""


def encode_activation(activation: Activation) -> bytes:
    """`i32 little-endian seqLen ‖ data`. Raises `MalformedError` where the sizes do not fit. [TENSOR-ACTIVATION]"""
    seq_len, hidden_dim, data = activation
    if not 0 <= seq_len <= _I32_MAX:
        detail = f"{seq_len} is not from 0 to {_I32_MAX}; to say stop, send STOP"
        raise MalformedError("activation-seq-len", detail, path="seqLen")
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size != (wanted := seq_len * hidden_dim * _BFLOAT16):
        raise MalformedError("activation-size", f"{size} bytes, where {seq_len} × {hidden_dim} × 2 = {wanted} belong")
    return b"".join((_I32.pack(seq_len), data))


def decode_activation(plaintext: bytes | memoryview, hidden_dim: int) -> Activation | None:
    """The activation that a plaintext holds, its data a view of it; None for the stop sentinel.

    Raises `TruncatedError` and `MalformedError`. [TENSOR-ACTIVATION, TENSOR-STOP]
    """
    view = memoryview(plaintext)
    seq_len = _read_i32(view)
    if seq_len < -1:
        detail = f"{seq_len} is not from -1 to {_I32_MAX}"
        raise MalformedError("activation-seq-len", detail, offset=0, path="seqLen")
    end = _I32.size + max(seq_len, 0) * hidden_dim * _BFLOAT16
    _check_end(view, end)
    return None if seq_len == -1 else Activation(seq_len, hidden_dim, view[_I32.size :])


def encode_token(token_id: int) -> bytes:
    """`i32 little-endian tokenID`. Raises `MalformedError` for one that needs more bits. [TENSOR-TOKEN]"""
    if not _I32_MIN <= token_id <= _I32_MAX:
        raise MalformedError("field-range", f"{token_id} is not from {_I32_MIN} to {_I32_MAX}", path="tokenID")
    return _I32.pack(token_id)


def decode_token(plaintext: bytes | memoryview) -> int:
    """The token ID that a plaintext holds. Raises `TruncatedError` and `MalformedError`. [TENSOR-TOKEN]"""
    view = memoryview(plaintext)
    token_id = _read_i32(view)
    _check_end(view, _I32.size)
    return token_id


def activation_from_array(array: "mx.array") -> Activation:
    """An MLX array of dtype bfloat16 and shape `[1, seqLen, hiddenDim]` as an activation, bit for bit.

    Raises `MalformedError` for another dtype or shape: a conversion is the caller's to make.
    """
    import mlx.core as mx  # its stubs do not know that arrays and buffers are made from each other

    if array.dtype != mx.bfloat16:
        raise MalformedError("activation-dtype", f"expected bfloat16, not {array.dtype}")
    if array.ndim != 3 or array.shape[0] != 1:
        raise MalformedError("activation-shape", f"expected [1, seqLen, hiddenDim], not {list(array.shape)}")
    _, seq_len, hidden_dim = array.shape
    return Activation(seq_len, hidden_dim, memoryview(array.view(mx.uint16)).tobytes())  # type: ignore[arg-type]


def activation_to_array(activation: Activation) -> "mx.array":
    """An activation as an MLX array of dtype bfloat16 and shape `[1, seqLen, hiddenDim]`, bit for bit."""
    import mlx.core as mx

    bits = mx.array(memoryview(activation.data).cast("B").cast("H"))  # type: ignore[arg-type]
    return bits.view(mx.bfloat16).reshape(1, activation.seq_len, activation.hidden_dim)


def _read_i32(view: memoryview) -> int:
    if len(view) < _I32.size:
        raise TruncatedError("truncated", f"{_I32.size} bytes are needed", offset=len(view))
    value: int = _I32.unpack_from(view)[0]
    return value


def _check_end(view: memoryview, end: int) -> None:
    if len(view) < end:
        raise TruncatedError("truncated", f"{end} bytes are needed", offset=len(view))
    if len(view) > end:
        raise MalformedError("trailing-data", f"{end} bytes are all that belong here", offset=end)
