"""Every layout of the schema by itself: link frames, boxes, payloads, tensor plaintexts, JACCL's records.

One helper takes each row through parse, build, size and parse again, and through every truncation and trailing byte.
"""

import base64
from functools import partial
from typing import Any, Final, NamedTuple

import pytest
from construct import Construct, Container, SizeofError, Subconstruct
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto import ClusterMsgType, MalformedError, WireError, schema
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
    """A layout with its context."""

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
    """`data` parses to `value`, which builds to `canonical`, by default `data` itself.

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
    """Return a construct Container as a dict, without construct's own entries."""
    if isinstance(value, Container):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
    return value


class Row(NamedTuple):
    id: str
    layout: Construct
    data: bytes
    value: dict[str, Any]
    size: int | None = None
    greedy: bool = False
    """Trailing bytes are part of it."""


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
    Row("hello-63", JacclHello, b"\x3f\0\0\0", {"rank": 63}, 4),
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
EXTENSIONS: Final = b',"extensions":["outcome/1","a-2/9999"]}'
KEYS: Final = {"sePubKeyRaw": bytes(64), "ephemeralX25519PubKey": b"\1" * 32, "nonce": b"\2" * 32, "seSignature": b"\3"}
KEYS_TEXT: Final = b",".join(b'"%s":"%s"' % (key.encode(), base64.b64encode(value)) for key, value in KEYS.items())
PAYLOAD_ROWS: Final = [
    Row("hello", schema.HandshakeHello, b"{%s}" % KEYS_TEXT, KEYS),
    Row("ack", schema.HandshakeAck, b"{%s}" % KEYS_TEXT, KEYS),
    Row(
        "pong",
        schema.PongPayload,
        b'{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"warning"}',
        {"modelLoaded": True, "inferenceInFlight": False, "memoryPressure": "warning", "extensions": ()},
    ),
    Row(
        "bootstrap",
        schema.JacclBootstrapPayload,
        b'{"port":29400,"sessionID":"\xc3\xa9\\"\\u0000"}',
        {"port": 29400, "sessionID": 'é"\0', "extensions": ()},
    ),
    Row(
        "bootstrap-extensions",
        schema.JacclBootstrapPayload,
        b'{"port":0,"sessionID":""' + EXTENSIONS,
        {"port": 0, "sessionID": "", "extensions": ("outcome/1", "a-2/9999")},
    ),
    Row(
        "prompt",
        schema.PromptTokensPayload,
        b'{"uid":"u","tokens":[-9223372036854775808,0,9223372036854775807],"maxTokens":-1}',
        {"uid": "u", "tokens": (-(2**63), 0, 2**63 - 1), "maxTokens": -1},
    ),
    Row("step", schema.StepTokenPayload, b'{"uid":"u","token":7}', {"uid": "u", "token": 7}),
    Row("stop", schema.SessionStopPayload, b'{"uid":"u"}', {"uid": "u"}),
    Row(
        "pp-activation",
        schema.PPActivationPayload,
        b'{"uid":"u","seqLen":3,"sealedActivation":"/+A="}',
        {"uid": "u", "seqLen": 3, "sealedActivation": b"\xff\xe0"},
    ),
    Row(
        "pp-token", schema.PPTokenPayload, b'{"uid":"u","sealedToken":""}', {"uid": "u", "sealedToken": b""}, None, True
    ),
    Row("pp-end", schema.PPSessionEndPayload, b'{"uid":"u"}', {"uid": "u"}),
    Row(
        "outcome",
        schema.Outcome,
        b'{"rank":1,"state":"failed","stage":"init","code":"c","message":"m"}',
        {"rank": 1, "state": "failed", "stage": "init", "code": "c", "message": "m"},
    ),
    Row(
        "versions",
        schema.Versions,
        b'{"package":"1","mlx":"2","backend":"jaccl","devices":""}',
        {"package": "1", "mlx": "2", "backend": "jaccl", "devices": "", "program": None},
    ),
    *(
        Row(
            f"versions-{program}",
            schema.Versions,
            b'{"package":"","mlx":"","backend":"","devices":"","program":"%s"}' % program.encode(),
            {"package": "", "mlx": "", "backend": "", "devices": "", "program": program},
        )
        for program in ("hold", "module", "command", "dry-run")
    ),
]
FRAME_ROWS: Final = [
    Row("frame-ping", ClusterFrame, b"\x03", {"type": "ping", "payload": b""}),
    Row("frame-step", ClusterFrame, b"\x05box", {"type": "inferenceStep", "payload": {"box": b"box"}}),
    Row(
        "frame-bootstrap",
        ClusterFrame,
        b'\x07{"port":29400,"sessionID":"u"}',
        {"type": "jacclBootstrap", "payload": {"port": 29400, "sessionID": "u", "extensions": ()}},
    ),
    Row("type", schema.ClusterMsgType, b"\x07", "jacclBootstrap", 1),
    Row("part", SideChannelPart, b"\1\0\0\0part", {"sequence": 1, "part": b"part"}),
    Row("whole", SideChannelWhole, b"\xff\xff\xff\xff", {"sequence": 2**32 - 1, "whole": b""}),
]
EVERY_PAYLOAD = pytest.mark.parametrize("row", PAYLOAD_ROWS, ids=lambda row: row.id)


@pytest.mark.parametrize("row", PAYLOAD_ROWS + FRAME_ROWS, ids=lambda row: row.id)
def test_payload_and_frame_rows(row: Row) -> None:
    common(row.layout, row.data, row.value, row.size)


@EVERY_PAYLOAD
def test_every_truncation_of_a_payload(row: Row) -> None:
    for length in range(len(row.data)):
        assert verdict(parse, row.layout, row.data[:length]) == expected("truncated", length)


@EVERY_PAYLOAD
def test_only_white_space_follows_a_payload(row: Row) -> None:
    assert _plain(parse(row.layout, b"\n " + row.data + b"\r\t")) == row.value
    assert verdict(parse, row.layout, row.data + b" ,") == expected("trailing-data", len(row.data) + 1)


@EVERY_PAYLOAD
def test_a_payload_needs_each_member(row: Row) -> None:
    for key in row.value:
        value = {other: row.value[other] for other in row.value if other != key}
        if key not in ("extensions", "program"):
            assert verdict(build, row.layout, value) == expected("field-missing", None, key)
        elif not row.value[key]:
            assert build(row.layout, value) == row.data


def test_a_payload_works_by_itself() -> None:
    """construct's own `parse` and `build`, a list for an array, keys in any order, unknown ones ignored."""
    layout = schema.JacclBootstrapPayload
    parsed = layout.parse(b'{"sessionID":"u","x":[{"y":[1.5e3,null]}],"port":29400}')
    assert (parsed.port, parsed.sessionID, parsed.extensions) == (29400, "u", ())
    assert layout.build(parsed) == b'{"port":29400,"sessionID":"u"}'
    assert layout.build({"port": 1, "sessionID": "u", "extensions": ["a/1"], "x": 1}) == (
        b'{"port":1,"sessionID":"u","extensions":["a/1"]}'
    )
    assert layout.build({"port": 1, "sessionID": "u", "extensions": []}) == b'{"port":1,"sessionID":"u"}'
    with pytest.raises(MalformedError, match="field-range in port at byte 8"):
        layout.parse(b'{"port":70000,"sessionID":"u"}')


@pytest.mark.parametrize(
    ("layout", "key", "value"),
    [
        (schema.JacclBootstrapPayload, "extensions", None),
        (schema.JacclBootstrapPayload, "extensions", ""),
        (schema.JacclBootstrapPayload, "extensions", {}),
        (schema.JacclBootstrapPayload, "extensions", 0),
        (schema.Versions, "program", ()),
        (schema.Versions, "program", []),
        (schema.Versions, "program", 0),
        (schema.Versions, "program", False),
        (schema.Versions, "program", b"hold"),
    ],
    ids=repr,
)
def test_only_one_value_means_that_a_member_is_absent(layout: Construct, key: str, value: object) -> None:
    """[EXT-EMPTY, EXT-VERSIONS]"""
    rest = {"port": 1, "sessionID": ""} if key == "extensions" else dict.fromkeys(VERSIONS, "")
    assert verdict(build, layout, rest | {key: value}) == expected("field-type", None, key)


VERSIONS: Final = ("package", "mlx", "backend", "devices")


@pytest.mark.parametrize("program", ["", "Hold", "hold ", "dry_run", "script"])
def test_program_that_there_is_not(program: str) -> None:
    """[EXT-VERSIONS]"""
    value = dict.fromkeys(VERSIONS, "") | {"program": program}
    assert verdict(build, schema.Versions, value) == expected("field-enum", None, "program")


@pytest.mark.parametrize(
    "value", [7, "jacclBootstrap", ClusterMsgType.JACCL_BOOTSTRAP, schema.ClusterMsgType.jacclBootstrap]
)
def test_type_is_built_from_its_name_or_number(value: Any) -> None:
    assert schema.ClusterMsgType.build(value) == b"\x07"
    assert int(schema.ClusterMsgType.parse(b"\x07")) == 7
    frame = {"type": value, "payload": {"port": 1, "sessionID": "u"}}
    assert build(ClusterFrame, frame) == b'\x07{"port":1,"sessionID":"u"}'


def test_unknown_type() -> None:
    for data in (b"\x00", b"\x0e", b"\x7f"):
        assert verdict(parse, schema.ClusterMsgType, data) == expected("type-unknown", 0, "type")
        assert verdict(build, schema.ClusterMsgType, data[0]) == expected("type-unknown", None)
    assert verdict(build, schema.ClusterMsgType, "hello") == expected("type-unknown", None)


@pytest.mark.parametrize(
    ("revision", "extensions", "known"), [(1, (), False), (2, (), False), (2, ("outcome/1",), True)]
)
def test_type_of_an_extension(revision: int, extensions: tuple[str, ...], known: bool) -> None:
    frame = b'\x43{"package":"","mlx":"","backend":"","devices":""}'
    read = partial(parse, revision=revision, extensions=extensions)
    value = {"type": "versions", "payload": {"package": "", "mlx": "", "backend": "", "devices": ""}}
    write = partial(build, revision=revision, extensions=extensions)
    if known:
        assert read(ClusterFrame, frame).payload.mlx == ""
        assert write(ClusterFrame, value) == frame
    else:
        assert verdict(read, ClusterFrame, frame) == expected("type-unknown", 0, "type")
        assert verdict(write, ClusterFrame, value) == expected("type-unknown", None)


@pytest.mark.parametrize(
    ("name", "limit"),
    [(name, payload.limit) for name, payload in ClusterFrame.payload.cases.items() if payload.limit < 2**20],
)
def test_longest_frame(name: str, limit: int) -> None:
    """[PAYLOAD-LIMIT]"""
    number = ClusterFrame.type.encmapping[name]
    read = partial(parse, extensions=("outcome/1",))
    for excess in (0, 1):
        refused = verdict(read, ClusterFrame, bytes([number]) + b"?" * (limit - 1 + excess))
        assert refused == (expected("payload-limit", 1) if excess else expected("json-syntax", 1))


def test_longest_frame_is_built() -> None:
    """[PAYLOAD-LIMIT]"""
    fits = {"type": "sessionStop", "payload": {"uid": "u" * (2**16 - 1 - len('{"uid":""}'))}}
    assert len(build(ClusterFrame, fits)) == 2**16
    fits["payload"]["uid"] += "u"  # type: ignore[index]
    assert verdict(build, ClusterFrame, fits) == expected("payload-limit", None)


@pytest.mark.parametrize("count", [1, 32, 33, 32_768])
def test_count(count: int) -> None:
    """[JACCL-COUNT, JACCL-MESH-INIT, JACCL-RING-INIT]"""
    common(schema.JacclCount, count.to_bytes(4, "little"), {"count": count}, 4)
    for other in (0, 32_769, -1):
        data = other.to_bytes(4, "little", signed=True)
        assert verdict(parse, schema.JacclCount, data) == expected("jaccl-count", 0, "count")


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
    """Its other 28 bytes are uninitialised memory."""
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
        (JacclHello, b"\x40\0\0\0", "jaccl-rank", 0, "rank"),
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


@pytest.mark.parametrize("value", [-2, -1, 0, 64, 65, 255, 2**31 - 1])
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
    """Accepted bytes are built again, to bytes with the same meaning."""
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
    """Whatever construct raises, the caller gets a `WireError`."""
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


def test_activation_without_hidden_dim() -> None:
    """A caller's mistake was an AttributeError of construct."""
    with pytest.raises(TypeError, match="give hidden_dim="):
        parse(Activation, b"\0\0\0\1")
    with pytest.raises(MalformedError, match="give hidden_dim="):
        build(Activation, {"seqLen": 0, "data": b""})


def test_cause_is_kept() -> None:
    with pytest.raises(WireError) as caught:
        parse(Token, b"")
    assert caught.value.__cause__ is not None
    with pytest.raises(MalformedError) as caught_too:
        build(Token, {"tokenID": 2**31})
    assert caught_too.value.__cause__ is not None
