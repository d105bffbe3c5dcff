"""Messages that cannot be encoded are refused before a byte is made: each field, each kind of wrong value."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.payloads import ALL_EXTENSIONS, JSON_FIELDS, OPTIONAL, TYPE_BYTE, V1_TYPES
from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto import (
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    OutcomeState,
    PongPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    UnknownTypeError,
    Versions,
    encode_frame,
)
from wireproto.codec.frame import frame_pieces
from wireproto.testing.by_schema import build_message, parse_message

I64_MIN, I64_MAX = -(2**63), 2**63 - 1
GOOD: Final[dict[str, Any]] = {
    "str": "u",
    "bool": True,
    "pressure": MemoryPressure.NORMAL,
    "u16": 1,
    "i64": 1,
    "i64s": (1, 2),
    "bytes": b"b",
    "bytes32": bytes(32),
    "bytes64": bytes(64),
    "state": OutcomeState.READY,
    "short": "s" * 1024,
    "digest": "0" * 64,
    "names": ("a/1", "b/1"),
    "program": Program.COMMAND,
}
NO_NAME: Final = (
    "",
    "a",
    "a/",
    "/1",
    "a/0",
    "a/10000",
    "A/1",
    "1a/1",
    "a_b/1",
    " a/1",
    "a/1\n",
    "a/1 ",
    "é/1",
    "\ud800/1",
)
NOT_BYTES: Final = (None, "x" * 32, "AAAA", 1, [1], bytearray(32), memoryview(bytes(32)))
NOT_INT: Final = (None, "1", b"1", 1.0, 1.5, float("nan"), True, False, (1,), 1 + 0j)
BAD: Final[dict[str, list[tuple[Any, str, str]]]] = {
    "str": [(value, "field-type", "") for value in (None, b"u", 1, True, ["u"], bytearray(b"u"))]
    + [
        (value, "json-surrogate", "")
        for value in ("\ud800", "a\udfff", "\ud83d\ude00", "\udc00\ud800", "x" * 99 + "\udbff")
    ],
    "bool": [(value, "field-type", "") for value in (None, 0, 1, "true", b"", 1.0)],
    "pressure": [(value, "field-type", "") for value in (None, "normal", "NORMAL", 0, MemoryPressure, b"normal")],
    "u16": [(value, "field-type", "") for value in NOT_INT]
    + [(value, "field-range", "") for value in (-1, 65536, 2**31, I64_MIN, 2**64, -(2**64), 10**100)],
    "i64": [(value, "field-type", "") for value in NOT_INT]
    + [(value, "field-range", "") for value in (I64_MIN - 1, I64_MAX + 1, 2**64 - 1, 2**64, 10**100)],
    "i64s": [(value, "field-type", "") for value in (None, [1, 2], [], "12", {1, 2}, 1, range(3), b"12")]
    + [((1, value), "field-type", "[1]") for value in (*NOT_INT, [1], "")]
    + [((value, 1), "field-range", "[0]") for value in (I64_MIN - 1, I64_MAX + 1, 2**64)]
    + [((1, 2, I64_MAX + 1), "field-range", "[2]"), ((I64_MAX + 1, None), "field-range", "[0]")],
    "bytes": [(value, "field-type", "") for value in NOT_BYTES],
    "bytes32": [(value, "field-type", "") for value in NOT_BYTES]
    + [(value, "field-length", "") for value in (b"", bytes(31), bytes(33), bytes(64))],
    "bytes64": [(value, "field-type", "") for value in NOT_BYTES]
    + [(value, "field-length", "") for value in (b"", bytes(32), bytes(63), bytes(65))],
    "state": [(value, "field-type", "") for value in (None, "ready", "READY", 0, OutcomeState, MemoryPressure.NORMAL)],
    "program": [
        (value, "field-type", "") for value in ("hold", "HOLD", "", 0, False, (), [], Program, OutcomeState.READY)
    ],
    "short": [(value, "field-type", "") for value in (None, b"s", 1, ["s"])]
    + [("s" * 1025, "field-length", ""), ("😀" * 1025, "field-length", ""), ("\ud800", "json-surrogate", "")],
    "digest": [(value, "field-type", "") for value in (None, bytes(32), 0)]
    + [(value, "field-pattern", "") for value in ("0" * 63, "0" * 65, "A" * 64, "g" * 64, " ", "\n", "0" * 64 + "\n")],
    "names": [(value, "field-type", "") for value in (None, ["a/1"], [], "a/1", {"a/1"}, frozenset(), 0, b"")]
    + [(("a/1", value), "field-type", "[1]") for value in (None, b"a/1", 1, ("a/1",))]
    + [((value, "a/1"), "field-pattern", "[0]") for value in NO_NAME]
    + [(("a/1", "a" * 63 + "/1"), "field-length", "[1]"), (("a/1", "b/1", "a/1"), "field-duplicate", "[2]")]
    + [(tuple(f"a/{number}" for number in range(1, 34)), "field-length", "")],
}


class Row(NamedTuple):
    id: str
    message: Message
    code: str
    path: str


def message_of(cls: type[Message], **wrong: object) -> Any:
    fields: dict[str, Any] = {name: GOOD[kind] for name, (_, kind) in JSON_FIELDS[cls].items()}
    return cls(**(fields | wrong))


ROWS: Final = (
    [
        Row(f"{cls.__name__}-{key}{at}-{code}-{index}", message_of(cls, **{name: value}), code, key + at)
        for cls, fields in JSON_FIELDS.items()
        for name, (key, kind) in fields.items()
        for index, (value, code, at) in enumerate(BAD[kind])
    ]
    + [
        Row(f"{cls.__name__}-{key}-{index}", cls(*before, value), "field-type", key)
        for cls, key, before in (
            (InferenceStep, "box", ()),
            (InferenceToken, "box", ()),
            (SideChannelPart, "part", (0,)),
            (SideChannelWhole, "whole", (0,)),
        )
        for index, value in enumerate((None, "x", 1, bytearray(b"x"), memoryview(b"x"), [1], ()))
    ]
    + [
        Row(f"{cls.__name__}-sequence-{index}", cls(value, b""), code, "sequence")
        for cls in (SideChannelPart, SideChannelWhole)
        for index, (value, code) in enumerate(
            [(value, "field-type") for value in NOT_INT] + [(value, "field-range") for value in (-1, 2**32, 10**100)]
        )
    ]
)
REVISIONS_OF = {cls: [rev for rev in Revision if rev == Revision.V2 or TYPE_BYTE[cls] in V1_TYPES] for cls in TYPE_BYTE}


def encoded(message: Any, revision: Revision = Revision.V2) -> Accepted | Rejected:
    whole = verdict(encode_frame, message, revision, ALL_EXTENSIONS)
    if isinstance(whole, Rejected):
        assert verdict(frame_pieces, message, revision, ALL_EXTENSIONS) == whole
    return whole


def built(message: Any, revision: Revision = Revision.V2) -> Accepted | Rejected:
    return verdict(build_message, message, revision, ALL_EXTENSIONS)


EVERY_CLASS: Final = pytest.mark.parametrize("cls", sorted({type(row.message) for row in ROWS}, key=str))


def each_of(cls: type[Message]) -> Iterator[tuple[Row, Revision]]:
    return ((row, revision) for row in ROWS if type(row.message) is cls for revision in REVISIONS_OF[cls])


@EVERY_CLASS
def test_wrong_field(cls: type[Message]) -> None:
    for row, revision in each_of(cls):
        assert encoded(row.message, revision) == expected(row.code, None, row.path), row.id


@EVERY_CLASS
def test_schema_refuses_too(cls: type[Message]) -> None:
    for row, revision in each_of(cls):
        refused = built(row.message, revision)
        if refused[1] == "json-surrogate":  # the schema makes the text before it checks its form
            refused = refused._replace(code=row.code)
        assert refused == expected(row.code, None, row.path), row.id


@pytest.mark.parametrize("cls", [PongPayload, JacclBootstrapPayload, Versions])
def test_wrong_field_where_no_optional_one_is_set(cls: type[Message]) -> None:
    """Such a message is checked by one expression."""
    required = {name: kind for name, (key, kind) in JSON_FIELDS[cls].items() if key not in OPTIONAL}
    assert len(required) == len(JSON_FIELDS[cls]) - 1
    for name, kind in required.items():
        for value, code, at in BAD[kind]:
            fields = {other: GOOD[kind] for other, kind in required.items()} | {name: value}
            assert encoded(cls(**fields)) == expected(code, None, JSON_FIELDS[cls][name][0] + at)


def test_every_field_is_in_the_table() -> None:
    assert {(type(row.message), row.path) for row in ROWS} >= {
        (cls, key) for cls, fields in JSON_FIELDS.items() for key, _ in fields.values()
    }
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("good", list(JSON_FIELDS), ids=lambda cls: cls.__name__)
def test_the_same_message_without_the_fault_is_encoded(good: type[Message]) -> None:
    assert isinstance(encoded(message_of(good)), Accepted)


def test_first_wrong_field_is_named() -> None:
    wrong = message_of(HandshakeHello, nonce=b"", se_signature=None, ephemeral_x25519_pub_key=bytes(31))
    assert encoded(wrong) == expected("field-length", None, "ephemeralX25519PubKey")


# Python does not print a number of more than 4,300 digits even in an error message.
@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["high", "low"])
@pytest.mark.parametrize(
    ("cls", "name", "path"),
    [
        (JacclBootstrapPayload, "port", "port"),
        (StepTokenPayload, "token", "token"),
        (PromptTokensPayload, "tokens", "tokens[0]"),
    ],
)
def test_huge_number(cls: type[Message], name: str, path: str, number: int) -> None:
    message = message_of(cls, **{name: (number,) if path.endswith("]") else number})
    assert encoded(message) == expected("field-range", None, path)
    assert isinstance(built(message), Rejected)


class Text(str):
    __slots__ = ()


class Number(IntEnum):
    ONE = 1


class Data(bytes):
    pass


class Numbers(tuple[int, ...]):
    __slots__ = ()


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (StepTokenPayload(Text("u"), 1), "uid"),
        (StepTokenPayload("u", Number.ONE), "token"),
        (JacclBootstrapPayload(Number.ONE, ""), "port"),
        (PPTokenPayload("u", Data(b"b")), "sealedToken"),
        (PromptTokensPayload("u", (Number.ONE,), 1), "tokens[0]"),
        (PromptTokensPayload("u", Numbers((1,)), 1), "tokens"),
        (InferenceStep(Data(b"b")), "box"),
    ],
    ids=repr,
)
def test_subclass_of_a_fields_type(message: Message, path: str) -> None:
    """The decoded value would differ."""
    assert encoded(message) == expected("field-type", None, path)
    assert isinstance(built(message), Rejected)


def test_value_that_contains_itself() -> None:
    endless: Any = []
    endless.append(endless)
    message = PromptTokensPayload("u", endless, 1)
    assert encoded(message) == expected("field-type", None, "tokens")
    assert isinstance(built(message), Rejected)


@pytest.mark.parametrize(
    "cls", [cls for cls in JSON_FIELDS if TYPE_BYTE[cls] not in V1_TYPES], ids=lambda cls: cls.__name__
)
def test_message_of_the_other_revision(cls: type[Message]) -> None:
    message = message_of(cls)
    refused = encoded(message, Revision.V1)
    assert isinstance(refused, Rejected)
    assert refused[:3] == (UnknownTypeError, "type-unknown", None)
    refused = built(message, Revision.V1)
    assert isinstance(refused, Rejected)
    assert refused[:3] == (UnknownTypeError, "type-unknown", None)


class Subclass(StepTokenPayload, frozen=True, gc=False):
    pass


@pytest.mark.parametrize(
    "thing",
    [
        None,
        0,
        7,
        b"\x03",
        "ping",
        {},
        {"uid": "u"},
        [],
        object(),
        StepTokenPayload,
        Subclass("u", 1),
        MemoryPressure.NORMAL,
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_not_a_message(thing: Any) -> None:
    for revision in Revision:
        for refused in (
            encoded(thing, revision),
            built(thing, revision),
        ):
            assert isinstance(refused, Rejected)
            assert refused[:3] == (UnknownTypeError, "type-unknown", None)


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.sampled_from(MemoryPressure),
    st.text(st.characters(categories=["Cs", "Lu"])), st.lists(st.integers()), st.lists(st.integers()).map(tuple),
    st.dictionaries(st.text(), st.integers()), st.lists(st.none() | st.booleans() | st.integers()).map(tuple),
)  # fmt: skip


@given(data=st.data(), cls=st.sampled_from(tuple(JSON_FIELDS)))
def test_any_value_in_any_field(data: st.DataObject, cls: type[Message]) -> None:
    """Encoder and schema accept the same messages, and decoding returns them."""
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(JSON_FIELDS[cls])), anything, min_size=1, max_size=2))
    message = message_of(cls, **wrong)
    outcome = encoded(message)
    by_schema = built(message)
    if isinstance(outcome, Accepted):
        assert by_schema == outcome
        assert parse_message(outcome.value, Revision.V2, ALL_EXTENSIONS) == message
    else:
        assert outcome.offset is None
        assert outcome.path is not None
        assert isinstance(by_schema, Rejected)
        assert by_schema.offset is None


def test_pong_takes_only_members() -> None:
    assert isinstance(verdict(encode_frame, message_of(PongPayload)), Accepted)
    assert verdict(encode_frame, message_of(PongPayload, memory_pressure="critical")) == expected(
        "field-type", None, "memoryPressure"
    )
