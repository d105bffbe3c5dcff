"""The layouts that have no fast path beside them in `frame` and `link`: boxes, tensor plaintexts, JACCL's records.

One helper takes each row through parse, build, size and parse again, and through every truncation and trailing byte.
"""

from typing import Any, Final, NamedTuple

import pytest
from construct import Construct, Container, SizeofError, Subconstruct
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto import MalformedError, WireError, schema
from wireproto.schema import (
    Activation,
    ClusterFrame,
    JacclDestination,
    JacclHello,
    LinkFrame,
    SealedBox,
    SideChannelPart,
    SideChannelWhole,
    Token,
    build,
    parse,
)


class Given(Subconstruct):  # type: ignore[misc]
    """A layout with what it needs to be told."""

    def __init__(self, subcon: Construct, **context: object) -> None:
        super().__init__(subcon)
        self.context = context

    def _parse(self, stream: Any, context: Container, path: str) -> Any:
        context.update(self.context)
        return self.subcon._parse(stream, context, path)

    def _build(self, obj: Any, stream: Any, context: Container, path: str) -> Any:
        context.update(self.context)
        return self.subcon._build(obj, stream, context, path)


def of_hidden_dim(hidden_dim: int) -> Construct:
    return Given(Activation, hidden_dim=hidden_dim)


def common(
    layout: Construct, data: bytes, value: Any, size: int | None = None, *, canonical: bytes | None = None
) -> None:
    """`data` means `value`, and `value` is built as `canonical`, where that is not `data` itself.

    `size` is the layout's, None where it has no fixed one.
    """
    canonical = data if canonical is None else canonical
    parsed = parse(layout, data)
    assert _plain(parsed) == value
    assert build(layout, value) == canonical
    assert build(layout, parsed) == canonical
    assert _plain(parse(layout, canonical)) == value
    if size is None:
        with pytest.raises(SizeofError):
            layout.sizeof()
    else:
        assert layout.sizeof() == size == len(data)


def _plain(value: Any) -> Any:
    """A construct Container as a dict, without what construct adds."""
    if isinstance(value, Container):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
    return value


class Row(NamedTuple):
    id: str
    layout: Construct
    data: bytes
    value: dict[str, Any]
    size: int | None
    greedy: bool = False
    """Trailing bytes belong to it."""


GID: Final = bytes(10) + b"\xff\xff\xa9\xfe\x01\x02"
NONCE, TAG = bytes(range(12)), bytes(range(100, 116))


def endpoint(queue_pair: int, gid: bytes) -> dict[str, Any]:
    return {"queue_pair_number": queue_pair, "packet_sequence_number": 7, "gid": gid}


ROWS: Final = [
    Row("link", LinkFrame, b"\x03\0\0\0\0\0\0\0abc", {"length": 3, "body": b"abc"}, None),
    Row("link-least", LinkFrame, b"\x01\0\0\0\0\0\0\0\xff", {"length": 1, "body": b"\xff"}, None),
    Row("link-258", LinkFrame, b"\x02\x01\0\0\0\0\0\0" + bytes(258), {"length": 258, "body": bytes(258)}, None),
    Row("box", SealedBox, NONCE + b"secret" + TAG, {"nonce": NONCE, "ciphertext": b"secret", "tag": TAG}, None, True),
    Row("box-empty", SealedBox, NONCE + TAG, {"nonce": NONCE, "ciphertext": b"", "tag": TAG}, None, True),
    Row("box-one", SealedBox, NONCE + b"x" + TAG, {"nonce": NONCE, "ciphertext": b"x", "tag": TAG}, None, True),
    Row(
        "activation", of_hidden_dim(3), b"\x02\0\0\0" + bytes(range(12)), {"seqLen": 2, "data": bytes(range(12))}, None
    ),
    Row("activation-one", of_hidden_dim(1), b"\x01\0\0\0\x80\x3f", {"seqLen": 1, "data": b"\x80\x3f"}, None),
    Row("activation-none", of_hidden_dim(4096), b"\0\0\0\0", {"seqLen": 0, "data": b""}, None),
    Row("activation-stop", of_hidden_dim(4096), b"\xff\xff\xff\xff", {"seqLen": -1, "data": b""}, None),
    Row("activation-256", of_hidden_dim(2), b"\0\x01\0\0" + bytes(1024), {"seqLen": 256, "data": bytes(1024)}, None),
    Row("token", Token, b"\xf3\x4f\x02\0", {"tokenID": 151539}, 4),
    Row("token-least", Token, b"\0\0\0\x80", {"tokenID": -(2**31)}, 4),
    Row("token-greatest", Token, b"\xff\xff\xff\x7f", {"tokenID": 2**31 - 1}, 4),
    Row("token-minus-1", Token, b"\xff\xff\xff\xff", {"tokenID": -1}, 4),
    Row("hello-1", JacclHello, b"\x01\0\0\0", {"rank": 1}, 4),
    Row("hello-7", JacclHello, b"\x07\0\0\0", {"rank": 7}, 4),
    Row(
        "destination",
        JacclDestination,
        b"\x05\0\0\0" + b"\x01\x02\0\0" + b"\x07\0\0\0" + bytes(4) + GID,
        {"local_id": 5, "endpoint": endpoint(0x201, GID)},
        None,
    ),
    Row(
        "destination-zeros",
        JacclDestination,
        bytes(8) + b"\x07" + bytes(23),
        {"local_id": 0, "endpoint": endpoint(0, bytes(16))},
        None,
    ),
    Row(
        "destination-greatest",
        JacclDestination,
        b"\xff\xff\xff\x7f" * 2 + b"\x07\0\0\0" + bytes(4) + b"\xff" * 16,
        {"local_id": 2**31 - 1, "endpoint": endpoint(2**31 - 1, b"\xff" * 16)},
        None,
    ),
    Row("destination-own", JacclDestination, b"\xff\xff\xff\xff" + bytes(28), {"local_id": -1, "endpoint": None}, None),
]
EVERY_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


@EVERY_ROW
def test_row(row: Row) -> None:
    common(row.layout, row.data, row.value, row.size)


@EVERY_ROW
def test_every_truncation(row: Row) -> None:
    for length in range(len(row.data)):
        if row.greedy and length >= 28:
            continue
        assert verdict(parse, row.layout, row.data[:length]) == expected("truncated", length)


@EVERY_ROW
def test_trailing_bytes(row: Row) -> None:
    for tail in (b"\0", b"\xff" * 40):
        if row.greedy:
            assert len(parse(row.layout, row.data + tail).ciphertext) == len(row.data) - 28 + len(tail)
        else:
            assert verdict(parse, row.layout, row.data + tail) == expected("trailing-data", len(row.data))


@pytest.mark.parametrize("hold", [bytes, bytearray, memoryview])
def test_any_buffer(hold: type) -> None:
    assert parse(Token, hold(b"\x01\0\0\0")).tokenID == 1
    assert parse(schema.SessionStopPayload, hold(b'{"uid":"u"}')).uid == "u"


def test_destination_padding_means_nothing() -> None:
    head, padded, zeros = b"\x05\0\0\0\x01\0\0\0\x07\0\0\0", b"\xde\xad\xbe\xef", bytes(4)
    value = {"local_id": 5, "endpoint": endpoint(1, GID)}
    common(JacclDestination, head + padded + GID, value, canonical=head + zeros + GID)


def test_own_entry_is_anything() -> None:
    """Its other 28 bytes are memory that was never written."""
    own = b"\xff\xff\xff\xff"
    for rest in (bytes(28), b"\xff" * 28, bytes(range(28)), b"\xff\xff\xff\xff\x08" + bytes(23)):
        common(JacclDestination, own + rest, {"local_id": -1, "endpoint": None}, canonical=own + bytes(28))


def test_destination_is_32_bytes() -> None:
    assert all(len(row.data) == 32 for row in ROWS if row.layout is JacclDestination)


@pytest.mark.parametrize(
    ("layout", "data", "code", "offset", "path"),
    [
        (LinkFrame, bytes(8), "link-length-zero", 0, "length"),
        (LinkFrame, bytes(9), "link-length-zero", 0, "length"),
        (LinkFrame, b"\x01\0\0\x10\0\0\0\0x", "link-length-limit", 0, "length"),
        (LinkFrame, b"\0\0\0\0\0\0\0\x80", "link-length-limit", 0, "length"),
        (LinkFrame, b"\xff" * 8, "link-length-limit", 0, "length"),
        (of_hidden_dim(3), b"\xfe\xff\xff\xff", "activation-seq-len", 0, "seqLen"),
        (of_hidden_dim(3), b"\0\0\0\x80" + bytes(6), "activation-seq-len", 0, "seqLen"),
        (of_hidden_dim(3), b"\xff\xff\xff\xff\0", "trailing-data", 4, None),
        (of_hidden_dim(3), b"\xff\xff\xff\xff" + bytes(6), "trailing-data", 4, None),
        (of_hidden_dim(3), b"\x01\0\0\0" + bytes(5), "truncated", 9, None),
        (of_hidden_dim(3), b"\x01\0\0\0" + bytes(7), "trailing-data", 10, None),
        (of_hidden_dim(4096), b"\xff\xff\xff\x7f" + bytes(100), "truncated", 104, None),
        (JacclHello, bytes(4), "jaccl-rank", 0, "rank"),
        (JacclHello, b"\x08\0\0\0", "jaccl-rank", 0, "rank"),
        (JacclHello, b"\xff\xff\xff\xff", "jaccl-rank", 0, "rank"),
        (JacclHello, b"GET ", "jaccl-rank", 0, "rank"),
        (JacclHello, b"\0\0\0\x01", "jaccl-rank", 0, "rank"),
        (JacclHello, b"\x00\x00\x00\x00\x00", "jaccl-rank", 0, "rank"),
        (JacclDestination, b"\xfe\xff\xff\xff" + bytes(28), "jaccl-local-id", 0, "local_id"),
        (JacclDestination, b"\0\0\0\x80" + bytes(28), "jaccl-local-id", 0, "local_id"),
        (JacclDestination, b"\0\0\0\0\xff\xff\xff\xff\x07" + bytes(23), "jaccl-queue-pair", 4, "queue_pair_number"),
        (JacclDestination, b"\0\0\0\0\0\0\0\x80\x07" + bytes(23), "jaccl-queue-pair", 4, "queue_pair_number"),
        (JacclDestination, bytes(32), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JacclDestination, bytes(8) + b"\x06" + bytes(23), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JacclDestination, bytes(8) + b"\x08" + bytes(23), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JacclDestination, bytes(8) + b"\0\0\0\x07" + bytes(20), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JacclDestination, b"\xfe\xff\xff\xff", "jaccl-local-id", 0, "local_id"),
        (SealedBox, bytes(27), "truncated", 27, None),
        (SealedBox, b"", "truncated", 0, None),
    ],
)
def test_rejected(layout: Construct, data: bytes, code: str, offset: int, path: str | None) -> None:
    assert verdict(parse, layout, data) == expected(code, offset, path)


@pytest.mark.parametrize("value", [-2, -1, 0, 8, 9, 255, 2**31 - 1])
def test_hello_ranks(value: int) -> None:
    data = value.to_bytes(4, "little", signed=True)
    assert verdict(parse, JacclHello, data) == expected("jaccl-rank", 0, "rank")
    assert verdict(build, JacclHello, {"rank": value}) == expected("jaccl-rank", None, "rank")


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        (LinkFrame, {"body": b""}),
        (LinkFrame, {"body": "text"}),
        (LinkFrame, {"body": None}),
        (LinkFrame, {"body": 3}),
        (LinkFrame, {}),
        (LinkFrame, None),
        (SealedBox, {"nonce": bytes(11), "ciphertext": b"", "tag": TAG}),
        (SealedBox, {"nonce": bytes(13), "ciphertext": b"", "tag": TAG}),
        (SealedBox, {"nonce": NONCE, "ciphertext": b"", "tag": bytes(15)}),
        (SealedBox, {"nonce": NONCE, "ciphertext": b"", "tag": bytes(17)}),
        (SealedBox, {"nonce": NONCE, "ciphertext": "text", "tag": TAG}),
        (SealedBox, {"nonce": NONCE, "ciphertext": None, "tag": TAG}),
        (SealedBox, {"nonce": NONCE, "tag": TAG}),
        (SealedBox, {}),
        (SealedBox, None),
        (Token, {"tokenID": 2**31}),
        (Token, {"tokenID": -(2**31) - 1}),
        (Token, {"tokenID": "1"}),
        (Token, {"tokenID": 1.5}),
        (Token, {"tokenID": None}),
        (Token, {}),
        (of_hidden_dim(3), {"seqLen": 1, "data": bytes(5)}),
        (of_hidden_dim(3), {"seqLen": 1, "data": bytes(7)}),
        (of_hidden_dim(3), {"seqLen": -1, "data": bytes(6)}),
        (of_hidden_dim(3), {"seqLen": 2**31, "data": b""}),
        (of_hidden_dim(3), {"seqLen": "1", "data": bytes(6)}),
        (of_hidden_dim(3), {"seqLen": 1}),
        (JacclHello, {"rank": "1"}),
        (JacclHello, {"rank": 2**31}),
        (JacclHello, {}),
        (JacclDestination, {"local_id": 0, "endpoint": None}),
        (JacclDestination, {"local_id": 0}),
        (JacclDestination, {"local_id": 0, "endpoint": endpoint(1, bytes(15))}),
        (JacclDestination, {"local_id": 0, "endpoint": endpoint(1, bytes(17))}),
        (JacclDestination, {"local_id": 0, "endpoint": endpoint(2**31, GID)}),
        (JacclDestination, {}),
    ],
)
def test_not_built(layout: Construct, value: Any) -> None:
    refused = verdict(build, layout, value)
    assert isinstance(refused, Rejected)
    assert refused.offset is None


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        (SealedBox, {"nonce": 5, "ciphertext": b"", "tag": TAG}),
        (SealedBox, {"nonce": NONCE, "ciphertext": b"", "tag": 5}),
        (of_hidden_dim(3), {"seqLen": 1, "data": 5}),
        (JacclDestination, {"local_id": 0, "endpoint": endpoint(1, 5)}),  # type: ignore[arg-type]
    ],
    ids=["nonce", "tag", "data", "gid"],
)
def test_number_is_no_bytes(layout: Construct, value: Any) -> None:
    """construct itself would build a number as big-endian bytes."""
    assert isinstance(verdict(build, layout, value), Rejected)


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        ({"local_id": -2, "endpoint": endpoint(1, GID)}, "jaccl-local-id", "local_id"),
        ({"local_id": 0, "endpoint": endpoint(-1, GID)}, "jaccl-queue-pair", "queue_pair_number"),
        (
            {"local_id": 0, "endpoint": endpoint(1, GID) | {"packet_sequence_number": 8}},
            "jaccl-sequence-number",
            "packet_sequence_number",
        ),
    ],
)
def test_destination_not_built(value: Any, code: str, path: str) -> None:
    assert verdict(build, JacclDestination, value) == expected(code, None, path)


def test_stop_sentinel_is_not_built_otherwise() -> None:
    assert verdict(build, of_hidden_dim(3), {"seqLen": -2, "data": b""}) == expected(
        "activation-seq-len", None, "seqLen"
    )


# -- arbitrary bytes --------------------------------------------------------------------------------------------------

LAYOUTS: Final = {
    "link": LinkFrame,
    "box": SealedBox,
    "activation-1": of_hidden_dim(1),
    "activation-0": of_hidden_dim(0),
    "activation-8192": of_hidden_dim(8192),
    "token": Token,
    "hello": JacclHello,
    "destination": JacclDestination,
    "cluster": ClusterFrame,
}
small_words = st.lists(
    st.sampled_from([b"\xff" * 4, bytes(4), b"\x01\0\0\0", b"\x07\0\0\0", b"\xfe\xff\xff\xff", b"\0\0\0\x80"])
)
anything = st.one_of(st.binary(max_size=48), small_words.map(b"".join))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@given(data=anything)
def test_only_wire_errors_come_out(layout: Construct, data: bytes) -> None:
    """And what is accepted is built again, to bytes that mean the same."""
    outcome = verdict(parse, layout, data)
    if isinstance(outcome, Accepted):
        built = build(layout, outcome.value)
        assert _plain(parse(layout, built)) == _plain(outcome.value)
        if layout not in (JacclDestination, ClusterFrame):
            assert built == data
    else:
        assert outcome.offset is not None
        assert 0 <= outcome.offset <= len(data)


@pytest.mark.parametrize(
    ("layout", "field", "limit"), [(SideChannelPart, "part", 2**20), (SideChannelWhole, "whole", 2**23)]
)
def test_longest_gather(layout: Construct, field: str, limit: int) -> None:
    """[EXT-SIDE-CHANNEL-SIZE]"""
    longest = bytes(4 + limit)
    assert len(parse(layout, longest)[field]) == limit
    assert verdict(parse, layout, longest + b"\0") == expected("field-length", 4, field)
    assert verdict(build, layout, {"sequence": 0, field: bytes(limit + 1)}) == expected("field-length", None, field)


@pytest.mark.parametrize("value", [None, 5, "abc", b"abc", [1], [("body", b"")], {}, Ellipsis], ids=repr)
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), SideChannelPart], ids=[*LAYOUTS, "part"])
def test_value_that_is_nothing_of_the_kind(layout: Construct, value: object) -> None:
    """Whatever construct makes of it, the caller gets a `WireError`."""
    assert verdict(build, layout, value)[:3] == expected("field-type", None)[:3]


@pytest.mark.parametrize(
    "value", [{"local_id": 1}, {"local_id": 1, "endpoint": 5}, {"local_id": 1, "endpoint": "ab"}], ids=repr
)
def test_destination_without_an_endpoint(value: object) -> None:
    assert verdict(build, JacclDestination, value) == expected("field-type", None)


@pytest.mark.parametrize("hidden_dim", [1, 2, 64, 4096])
@given(seq_len=st.integers(-3, 3), around=st.integers(-2, 2))
def test_activation_size(hidden_dim: int, seq_len: int, around: int) -> None:
    size = max(seq_len, 0) * hidden_dim * 2
    data = seq_len.to_bytes(4, "little", signed=True) + bytes(max(0, size + around))
    outcome = verdict(parse, of_hidden_dim(hidden_dim), data)
    if seq_len < -1:
        assert outcome == expected("activation-seq-len", 0, "seqLen")
    elif len(data) - 4 < size:
        assert outcome == expected("truncated", len(data))
    elif len(data) - 4 > size:
        assert outcome == expected("trailing-data", 4 + size)
    else:
        assert isinstance(outcome, Accepted)
        assert _plain(outcome.value) == {"seqLen": seq_len, "data": bytes(size)}


def test_cause_is_kept() -> None:
    with pytest.raises(WireError) as caught:
        parse(Token, b"")
    assert caught.value.__cause__ is not None
    with pytest.raises(MalformedError) as caught_too:
        build(Token, {"tokenID": 2**31})
    assert caught_too.value.__cause__ is not None
