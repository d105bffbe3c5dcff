"""The layouts that have no fast path beside them in `frame` and `link`: boxes, tensor plaintexts, JACCL's records.

One helper takes each row through parse, build, size and parse again, and through every truncation and trailing byte.
"""

from typing import Any, Final, NamedTuple

import pytest
from construct import Construct, Container, SizeofError
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto import MalformedError, Revision, WireError, schema
from wireproto.schema import (
    JACCL_DESTINATION,
    JACCL_HELLO,
    LINK_FRAME,
    SEALED_BOX,
    SIDE_CHANNEL_PART,
    SIDE_CHANNEL_WHOLE,
    TOKEN,
    activation,
    build,
    parse,
)


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
    Row("link", LINK_FRAME, b"\x03\0\0\0\0\0\0\0abc", {"length": 3, "body": b"abc"}, None),
    Row("link-least", LINK_FRAME, b"\x01\0\0\0\0\0\0\0\xff", {"length": 1, "body": b"\xff"}, None),
    Row("link-258", LINK_FRAME, b"\x02\x01\0\0\0\0\0\0" + bytes(258), {"length": 258, "body": bytes(258)}, None),
    Row("box", SEALED_BOX, NONCE + b"secret" + TAG, {"nonce": NONCE, "ciphertext": b"secret", "tag": TAG}, None, True),
    Row("box-empty", SEALED_BOX, NONCE + TAG, {"nonce": NONCE, "ciphertext": b"", "tag": TAG}, None, True),
    Row("box-one", SEALED_BOX, NONCE + b"x" + TAG, {"nonce": NONCE, "ciphertext": b"x", "tag": TAG}, None, True),
    Row("activation", activation(3), b"\x02\0\0\0" + bytes(range(12)), {"seq_len": 2, "data": bytes(range(12))}, None),
    Row("activation-one", activation(1), b"\x01\0\0\0\x80\x3f", {"seq_len": 1, "data": b"\x80\x3f"}, None),
    Row("activation-none", activation(4096), b"\0\0\0\0", {"seq_len": 0, "data": b""}, None),
    Row("activation-stop", activation(4096), b"\xff\xff\xff\xff", {"seq_len": -1, "data": b""}, None),
    Row("activation-256", activation(2), b"\0\x01\0\0" + bytes(1024), {"seq_len": 256, "data": bytes(1024)}, None),
    Row("token", TOKEN, b"\xf3\x4f\x02\0", {"token_id": 151539}, 4),
    Row("token-least", TOKEN, b"\0\0\0\x80", {"token_id": -(2**31)}, 4),
    Row("token-greatest", TOKEN, b"\xff\xff\xff\x7f", {"token_id": 2**31 - 1}, 4),
    Row("token-minus-1", TOKEN, b"\xff\xff\xff\xff", {"token_id": -1}, 4),
    Row("hello-1", JACCL_HELLO, b"\x01\0\0\0", {"rank": 1}, 4),
    Row("hello-7", JACCL_HELLO, b"\x07\0\0\0", {"rank": 7}, 4),
    Row(
        "destination",
        JACCL_DESTINATION,
        b"\x05\0\0\0" + b"\x01\x02\0\0" + b"\x07\0\0\0" + bytes(4) + GID,
        {"local_id": 5, "endpoint": endpoint(0x201, GID)},
        None,
    ),
    Row(
        "destination-zeros",
        JACCL_DESTINATION,
        bytes(8) + b"\x07" + bytes(23),
        {"local_id": 0, "endpoint": endpoint(0, bytes(16))},
        None,
    ),
    Row(
        "destination-greatest",
        JACCL_DESTINATION,
        b"\xff\xff\xff\x7f" * 2 + b"\x07\0\0\0" + bytes(4) + b"\xff" * 16,
        {"local_id": 2**31 - 1, "endpoint": endpoint(2**31 - 1, b"\xff" * 16)},
        None,
    ),
    Row(
        "destination-own", JACCL_DESTINATION, b"\xff\xff\xff\xff" + bytes(28), {"local_id": -1, "endpoint": None}, None
    ),
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
    assert parse(TOKEN, hold(b"\x01\0\0\0")).token_id == 1
    assert parse(schema.CLUSTER_FRAME[Revision.V2], hold(b'\x0a{"uid":"u"}')).uid == "u"


def test_destination_padding_means_nothing() -> None:
    head, padded, zeros = b"\x05\0\0\0\x01\0\0\0\x07\0\0\0", b"\xde\xad\xbe\xef", bytes(4)
    value = {"local_id": 5, "endpoint": endpoint(1, GID)}
    common(JACCL_DESTINATION, head + padded + GID, value, canonical=head + zeros + GID)


def test_own_entry_is_anything() -> None:
    """Its other 28 bytes are memory that was never written."""
    own = b"\xff\xff\xff\xff"
    for rest in (bytes(28), b"\xff" * 28, bytes(range(28)), b"\xff\xff\xff\xff\x08" + bytes(23)):
        common(JACCL_DESTINATION, own + rest, {"local_id": -1, "endpoint": None}, canonical=own + bytes(28))


def test_destination_is_32_bytes() -> None:
    assert all(len(row.data) == 32 for row in ROWS if row.layout is JACCL_DESTINATION)


@pytest.mark.parametrize(
    ("layout", "data", "code", "offset", "path"),
    [
        (LINK_FRAME, bytes(8), "link-length-zero", 0, "length"),
        (LINK_FRAME, bytes(9), "link-length-zero", 0, "length"),
        (LINK_FRAME, b"\x01\0\0\x10\0\0\0\0x", "link-length-limit", 0, "length"),
        (LINK_FRAME, b"\0\0\0\0\0\0\0\x80", "link-length-limit", 0, "length"),
        (LINK_FRAME, b"\xff" * 8, "link-length-limit", 0, "length"),
        (activation(3), b"\xfe\xff\xff\xff", "activation-seq-len", 0, "seqLen"),
        (activation(3), b"\0\0\0\x80" + bytes(6), "activation-seq-len", 0, "seqLen"),
        (activation(3), b"\xff\xff\xff\xff\0", "trailing-data", 4, None),
        (activation(3), b"\xff\xff\xff\xff" + bytes(6), "trailing-data", 4, None),
        (activation(3), b"\x01\0\0\0" + bytes(5), "truncated", 9, None),
        (activation(3), b"\x01\0\0\0" + bytes(7), "trailing-data", 10, None),
        (activation(4096), b"\xff\xff\xff\x7f" + bytes(100), "truncated", 104, None),
        (JACCL_HELLO, bytes(4), "jaccl-rank", 0, "rank"),
        (JACCL_HELLO, b"\x08\0\0\0", "jaccl-rank", 0, "rank"),
        (JACCL_HELLO, b"\xff\xff\xff\xff", "jaccl-rank", 0, "rank"),
        (JACCL_HELLO, b"GET ", "jaccl-rank", 0, "rank"),
        (JACCL_HELLO, b"\0\0\0\x01", "jaccl-rank", 0, "rank"),
        (JACCL_HELLO, b"\x00\x00\x00\x00\x00", "jaccl-rank", 0, "rank"),
        (JACCL_DESTINATION, b"\xfe\xff\xff\xff" + bytes(28), "jaccl-local-id", 0, "local_id"),
        (JACCL_DESTINATION, b"\0\0\0\x80" + bytes(28), "jaccl-local-id", 0, "local_id"),
        (JACCL_DESTINATION, b"\0\0\0\0\xff\xff\xff\xff\x07" + bytes(23), "jaccl-queue-pair", 4, "queue_pair_number"),
        (JACCL_DESTINATION, b"\0\0\0\0\0\0\0\x80\x07" + bytes(23), "jaccl-queue-pair", 4, "queue_pair_number"),
        (JACCL_DESTINATION, bytes(32), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JACCL_DESTINATION, bytes(8) + b"\x06" + bytes(23), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JACCL_DESTINATION, bytes(8) + b"\x08" + bytes(23), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JACCL_DESTINATION, bytes(8) + b"\0\0\0\x07" + bytes(20), "jaccl-sequence-number", 8, "packet_sequence_number"),
        (JACCL_DESTINATION, b"\xfe\xff\xff\xff", "jaccl-local-id", 0, "local_id"),
        (SEALED_BOX, bytes(27), "truncated", 27, None),
        (SEALED_BOX, b"", "truncated", 0, None),
    ],
)
def test_rejected(layout: Construct, data: bytes, code: str, offset: int, path: str | None) -> None:
    assert verdict(parse, layout, data) == expected(code, offset, path)


@pytest.mark.parametrize("value", [-2, -1, 0, 8, 9, 255, 2**31 - 1])
def test_hello_ranks(value: int) -> None:
    data = value.to_bytes(4, "little", signed=True)
    assert verdict(parse, JACCL_HELLO, data) == expected("jaccl-rank", 0, "rank")
    assert verdict(build, JACCL_HELLO, {"rank": value}) == expected("jaccl-rank", None, "rank")


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        (LINK_FRAME, {"body": b""}),
        (LINK_FRAME, {"body": "text"}),
        (LINK_FRAME, {"body": None}),
        (LINK_FRAME, {"body": 3}),
        (LINK_FRAME, {}),
        (LINK_FRAME, None),
        (SEALED_BOX, {"nonce": bytes(11), "ciphertext": b"", "tag": TAG}),
        (SEALED_BOX, {"nonce": bytes(13), "ciphertext": b"", "tag": TAG}),
        (SEALED_BOX, {"nonce": NONCE, "ciphertext": b"", "tag": bytes(15)}),
        (SEALED_BOX, {"nonce": NONCE, "ciphertext": b"", "tag": bytes(17)}),
        (SEALED_BOX, {"nonce": NONCE, "ciphertext": "text", "tag": TAG}),
        (SEALED_BOX, {"nonce": NONCE, "ciphertext": None, "tag": TAG}),
        (SEALED_BOX, {"nonce": NONCE, "tag": TAG}),
        (SEALED_BOX, {}),
        (SEALED_BOX, None),
        (TOKEN, {"token_id": 2**31}),
        (TOKEN, {"token_id": -(2**31) - 1}),
        (TOKEN, {"token_id": "1"}),
        (TOKEN, {"token_id": 1.5}),
        (TOKEN, {"token_id": None}),
        (TOKEN, {}),
        (activation(3), {"seq_len": 1, "data": bytes(5)}),
        (activation(3), {"seq_len": 1, "data": bytes(7)}),
        (activation(3), {"seq_len": -1, "data": bytes(6)}),
        (activation(3), {"seq_len": 2**31, "data": b""}),
        (activation(3), {"seq_len": "1", "data": bytes(6)}),
        (activation(3), {"seq_len": 1}),
        (JACCL_HELLO, {"rank": "1"}),
        (JACCL_HELLO, {"rank": 2**31}),
        (JACCL_HELLO, {}),
        (JACCL_DESTINATION, {"local_id": 0, "endpoint": None}),
        (JACCL_DESTINATION, {"local_id": 0}),
        (JACCL_DESTINATION, {"local_id": 0, "endpoint": endpoint(1, bytes(15))}),
        (JACCL_DESTINATION, {"local_id": 0, "endpoint": endpoint(1, bytes(17))}),
        (JACCL_DESTINATION, {"local_id": 0, "endpoint": endpoint(2**31, GID)}),
        (JACCL_DESTINATION, {}),
    ],
)
def test_not_built(layout: Construct, value: Any) -> None:
    refused = verdict(build, layout, value)
    assert isinstance(refused, Rejected)
    assert refused.offset is None


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        (SEALED_BOX, {"nonce": 5, "ciphertext": b"", "tag": TAG}),
        (SEALED_BOX, {"nonce": NONCE, "ciphertext": b"", "tag": 5}),
        (activation(3), {"seq_len": 1, "data": 5}),
        (JACCL_DESTINATION, {"local_id": 0, "endpoint": endpoint(1, 5)}),  # type: ignore[arg-type]
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
    assert verdict(build, JACCL_DESTINATION, value) == expected(code, None, path)


def test_stop_sentinel_is_not_built_otherwise() -> None:
    assert verdict(build, activation(3), {"seq_len": -2, "data": b""}) == expected("activation-seq-len", None, "seqLen")


# -- arbitrary bytes --------------------------------------------------------------------------------------------------

LAYOUTS: Final = {
    "link": LINK_FRAME,
    "box": SEALED_BOX,
    "activation-1": activation(1),
    "activation-0": activation(0),
    "activation-8192": activation(8192),
    "token": TOKEN,
    "hello": JACCL_HELLO,
    "destination": JACCL_DESTINATION,
    "cluster-1": schema.CLUSTER_FRAME[Revision.V1],
    "cluster-2": schema.CLUSTER_FRAME[Revision.V2],
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
        if layout not in (JACCL_DESTINATION, *schema.CLUSTER_FRAME.values()):
            assert built == data
    else:
        assert outcome.offset is not None
        assert 0 <= outcome.offset <= len(data)


@pytest.mark.parametrize(
    ("layout", "field", "limit"), [(SIDE_CHANNEL_PART, "part", 2**20), (SIDE_CHANNEL_WHOLE, "whole", 2**23)]
)
def test_longest_gather(layout: Construct, field: str, limit: int) -> None:
    """[EXT-SIDE-CHANNEL-SIZE]"""
    longest = bytes(4 + limit)
    assert len(parse(layout, longest)[field]) == limit
    assert verdict(parse, layout, longest + b"\0") == expected("field-length", 4, field)
    assert verdict(build, layout, {"sequence": 0, field: bytes(limit + 1)}) == expected("field-length", None, field)


@pytest.mark.parametrize("value", [None, 5, "abc", b"abc", [1], [("body", b"")], {}, Ellipsis], ids=repr)
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), SIDE_CHANNEL_PART], ids=[*LAYOUTS, "part"])
def test_value_that_is_nothing_of_the_kind(layout: Construct, value: object) -> None:
    """Whatever construct makes of it, the caller gets a `WireError`."""
    code = "type-unknown" if layout in schema.CLUSTER_FRAME.values() else "field-type"
    assert verdict(build, layout, value) == expected(code, None)


@pytest.mark.parametrize(
    "value", [{"local_id": 1}, {"local_id": 1, "endpoint": 5}, {"local_id": 1, "endpoint": "ab"}], ids=repr
)
def test_destination_without_an_endpoint(value: object) -> None:
    assert verdict(build, JACCL_DESTINATION, value) == expected("field-type", None)


@pytest.mark.parametrize("hidden_dim", [1, 2, 64, 4096])
@given(seq_len=st.integers(-3, 3), around=st.integers(-2, 2))
def test_activation_size(hidden_dim: int, seq_len: int, around: int) -> None:
    size = max(seq_len, 0) * hidden_dim * 2
    data = seq_len.to_bytes(4, "little", signed=True) + bytes(max(0, size + around))
    outcome = verdict(parse, activation(hidden_dim), data)
    if seq_len < -1:
        assert outcome == expected("activation-seq-len", 0, "seqLen")
    elif len(data) - 4 < size:
        assert outcome == expected("truncated", len(data))
    elif len(data) - 4 > size:
        assert outcome == expected("trailing-data", 4 + size)
    else:
        assert isinstance(outcome, Accepted)
        assert _plain(outcome.value) == {"seq_len": seq_len, "data": bytes(size)}


def test_cause_is_kept() -> None:
    with pytest.raises(WireError) as caught:
        parse(TOKEN, b"")
    assert caught.value.__cause__ is not None
    with pytest.raises(MalformedError) as caught_too:
        build(TOKEN, {"token_id": None})
    assert caught_too.value.__cause__ is not None
