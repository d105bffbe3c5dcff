"""Vectors of tensor boxes: a sealed box, and the activation or the token in it."""

from collections.abc import Iterator
from struct import pack
from typing import Any, Literal

from tests.vectors.seals import KEY, nonce
from tests.vectors.writing import BEYOND_LAYOUT, fault, file
from tests.wireproto.peers import box
from wireproto.testing.vectors import Group, Hex, TensorTest, VectorFile

_ABOUT = (
    "A tensor box, as in 0x05, 0x06, 0x0B and 0x0C. With `key` it must open to `plaintext`, which must be an "
    "activation of `seqLen` rows of `hiddenDim` bfloat16 values (a `seqLen` of -1 means stop), or the token "
    "`tokenId`; or it must fail with `error`. The offset counts in the plaintext if there is one, or else in the "
    "box."
)


def _tensor(
    name: str,
    comment: str,
    rule: str,
    plaintext: bytes,
    error: tuple[str, int, str | None] | None = None,
    *,
    holds: Literal["activation", "token"],
    **values: int,
) -> TensorTest:
    return TensorTest(
        id=name,
        comment=comment,
        requirements=("SEAL-LAYOUT", rule),
        result="valid" if error is None else "invalid",
        error=None if error is None else fault(*error),
        key=Hex(KEY),
        box=Hex(box(KEY, plaintext, nonce(len(name)))),
        holds=holds,
        plaintext=Hex(plaintext),
        **values,  # type: ignore[arg-type]
    )


def _activation(name: str, comment: str, seq_len: int, hidden_dim: int, data: bytes) -> TensorTest:
    rule = "TENSOR-STOP" if seq_len == -1 else "TENSOR-ACTIVATION"
    plaintext = pack("<i", seq_len) + data
    return _tensor(name, comment, rule, plaintext, holds="activation", seq_len=seq_len, hidden_dim=hidden_dim)


def _no_activation(
    name: str, comment: str, plaintext: bytes, code: str, offset: int, *, dim: int = 4, path: str | None = None
) -> TensorTest:
    rule = "TENSOR-STOP" if plaintext[3:4] == b"\xff" else "TENSOR-ACTIVATION"
    return _tensor(name, comment, rule, plaintext, (code, offset, path), holds="activation", hidden_dim=dim)


def _token(name: str, comment: str, token_id: int) -> TensorTest:
    return _tensor(name, comment, "TENSOR-TOKEN", pack("<i", token_id), holds="token", token_id=token_id)


def _activations() -> Iterator[TensorTest]:
    values = bytes.fromhex("803f 0040 4040 8040".replace(" ", ""))
    yield _activation("one-row", "1.0, 2.0, 3.0, 4.0 as bfloat16, little-endian", 1, 4, values)
    yield _activation("two-rows", "Row-major: the second row after the first", 2, 4, values + values[::-1])
    yield _activation("rows-of-one", "Three rows of one value", 3, 1, values[:6])
    yield _activation("no-rows", "seqLen 0 and no bytes: an activation without rows, and no stop", 0, 4, b"")
    yield _activation("special-values", "Zero, -0, infinities, NaN with a payload: bits travel as they are", 1, 6,
                      bytes.fromhex("0000 0080 807f 80ff c17f 0100".replace(" ", "")))  # fmt: skip
    yield _activation("many-values", "300 values in a row", 1, 300, bytes(n % 251 for n in range(600)))
    yield _activation("stop", "seqLen -1 and no bytes says stop", -1, 4, b"")
    yield _activation("stop-any-model", "The same, whatever the model", -1, 4096, b"")
    yield _no_activation("empty", "No bytes", b"", "truncated", 0)
    for size in (1, 3):
        yield _no_activation(f"seq-len-cut-{size}", f"{size} bytes of seqLen", b"\x01\0\0"[:size], "truncated", size)
    one = pack("<i", 1)
    yield _no_activation("data-missing", "seqLen 1 and no data", one, "truncated", 4)
    yield _no_activation("data-cut", "Half a value is missing", one + values[:7], "truncated", 11)
    yield _no_activation("data-behind", "One byte after the last value", one + values + b"\0", "trailing-data", 12)
    yield _no_activation("float32", "The values as float32: twice the bytes", one + values * 2, "trailing-data", 12)
    yield _no_activation(
        "other-model", "A row for a model of another hiddenDim", one + values, "trailing-data", 8, dim=2
    )
    yield _no_activation("big-endian", "seqLen in the wrong byte order", pack(">i", 1) + values, "truncated", 12)
    yield _no_activation("seq-len-greatest", "2^31 - 1 rows, and no data: nothing may be made ready for them",
                         pack("<i", 2**31 - 1), "truncated", 4)  # fmt: skip
    for value in (-2, -(2**31)):
        yield _no_activation(f"seq-len{value}".replace("--", "-minus-"), f"seqLen {value}", pack("<i", value),
                             "activation-seq-len", 0, path="seqLen")  # fmt: skip
    yield _no_activation("stop-and-data", "seqLen -1 and a value", pack("<i", -1) + b"\0\0", "trailing-data", 4)
    yield _no_activation("stop-and-row", "seqLen -1 and a row", pack("<i", -1) + values, "trailing-data", 4)


def _tokens() -> Iterator[TensorTest]:
    yield _token("token", "A token", 3186)
    yield _token("token-0", "The first token", 0)
    yield _token("token-greatest", "2^31 - 1", 2**31 - 1)
    yield _token("token-minus-1", "-1 is a token ID like any other here", -1)
    yield _token("token-least", "-2^31", -(2**31))
    for size in (0, 1, 3):
        yield _tensor(f"token-cut-{size}", f"{size} bytes", "TENSOR-TOKEN", bytes(size), ("truncated", size, None),
                      holds="token")  # fmt: skip
    yield _tensor("token-behind", "A fifth byte", "TENSOR-TOKEN", bytes(5), ("trailing-data", 4, None), holds="token")
    yield _tensor("token-i64", "A token of 8 bytes", "TENSOR-TOKEN", pack("<q", 1), ("trailing-data", 4, None),
                  holds="token")  # fmt: skip


def _closed() -> Iterator[TensorTest]:
    whole = box(KEY, pack("<i", 3186), nonce(0))
    for name, comment, sealed, code, offset in (
        ("box-empty", "No box", b"", "truncated", 0),
        ("box-cut", "One byte less than a box has", whole[:27], "truncated", 27),
        ("box-flipped", "One bit of the tag is another", whole[:-1] + bytes([whole[-1] ^ 1]), "seal-tag", 0),
        ("box-other-key", "Sealed with another key", box(bytes(32), pack("<i", 1), nonce(0)), "seal-tag", 0),
        ("box-behind", "A byte after the box", whole + b"\0", "seal-tag", 0),
        ("not-a-box", "A token that is not sealed, as long as a box", pack("<i", 3186) * 8, "seal-tag", 0),
    ):
        yield TensorTest(
            id=name,
            comment=comment,
            requirements=("SEAL-LAYOUT",),
            flags=(BEYOND_LAYOUT,) if code == "seal-tag" else (),
            result="invalid",
            error=fault(code, offset),
            key=Hex(KEY),
            box=Hex(sealed),
            holds="token",
        )


def make() -> VectorFile[Any]:
    return file(
        TensorTest,
        _ABOUT,
        (
            Group(name="activations", about="What 0x05 and 0x0B carry.", tests=tuple(_activations())),
            Group(name="tokens", about="What 0x06 and 0x0C carry.", tests=tuple(_tokens())),
            Group(name="boxes", about="Boxes that do not open.", tests=tuple(_closed())),
        ),
    )
