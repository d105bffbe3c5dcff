"""The error tree and the table of codes: sources and table have the same codes."""

import ast
import copy
import pickle
import re
from functools import cache
from pathlib import Path

import pytest

import wireproto
from wireproto import (
    ERROR_CODES,
    HandshakeError,
    HandshakeHello,
    JacclBootstrapPayload,
    LimitError,
    MalformedError,
    SealError,
    StateError,
    TruncatedError,
    UnknownTypeError,
    WireError,
    decode_frame,
    encode_frame,
)

CLASSES = {
    cls.__name__: cls
    for cls in (
        *(TruncatedError, MalformedError, LimitError, UnknownTypeError),
        *(SealError, HandshakeError, StateError),
    )
}
SOURCES = sorted(Path(wireproto.__file__).parent.glob("**/*.py"))
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RAISED_LATER: set[str] = set()
"""Codes in the table for parts of the package that do not exist yet."""


@pytest.mark.parametrize("code", ERROR_CODES)
def test_code(code: str) -> None:
    cls, meaning = ERROR_CODES[code]
    assert KEBAB.fullmatch(code)
    assert cls in CLASSES.values()
    assert meaning
    assert meaning[-1] not in ".!"


def test_codes_are_stable() -> None:
    """Codes may be added, but none may change its name or class."""
    known = {
        TruncatedError: "truncated",
        UnknownTypeError: "type-unknown",
        LimitError: "link-length-limit json-nesting",
        StateError: "link-not-drained",
        MalformedError: "trailing-data link-length-zero payload-not-empty payload-not-object json-bom json-utf8 "
        "json-control-character json-escape json-surrogate json-syntax json-duplicate-key field-missing field-type "
        "field-not-integer field-range field-length field-base64 field-enum activation-seq-len jaccl-rank "
        "jaccl-local-id jaccl-queue-pair jaccl-sequence-number",
    }
    for cls, codes in known.items():
        for code in codes.split():
            assert ERROR_CODES[code][0] is cls, code


def test_tree() -> None:
    assert issubclass(WireError, ValueError)
    for cls in CLASSES.values():
        assert cls.__bases__ == (WireError,)
        assert getattr(wireproto, cls.__name__) is cls


# -- the sources ------------------------------------------------------------------------------------------------------


@cache
def calls() -> list[tuple[str, ast.Call, str]]:
    """Return (place, call, name of the function) for each call in the package."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                found.append((f"{path.name}:{node.lineno}", node, name))
    return found


def first_string(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def test_every_raised_code_is_in_the_table_with_its_class() -> None:
    found = 0
    for place, call, name in calls():
        code = first_string(call)
        if code is not None and name in CLASSES:
            assert code in ERROR_CODES, place
            assert ERROR_CODES[code][0] is CLASSES[name], place
            found += 1
    assert found >= 10


def test_scanner_fails_with_malformed_codes() -> None:
    of_scanner = ("json_scanner", "payloads")
    codes = {first_string(call) for place, call, name in calls() if name == "fail" and place.startswith(of_scanner)}
    codes.discard(None)
    assert len(codes) >= 10
    assert {ERROR_CODES[str(code)][0] for code in codes} == {MalformedError}


def test_every_code_in_the_table_is_used_outside_it() -> None:
    used = {
        node.value
        for path in SOURCES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(ERROR_CODES) - used == RAISED_LATER


def test_no_other_error_of_ours_is_raised() -> None:
    """`WireError` itself is never raised: it is too general."""
    assert [place for place, _, name in calls() if name == "WireError"] == []


# -- one error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "path"), [(None, None), (0, None), (7, "tokens[3]"), (None, "uid")])
def test_pickle_and_copy(offset: int | None, path: str | None) -> None:
    for code, (cls, *_) in ERROR_CODES.items():
        error = cls(code, "some detail", offset=offset, path=path)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
            assert type(again) is cls
            assert (again.code, again.detail, again.offset, again.path) == (code, "some detail", offset, path)
            assert str(again) == str(error)
        for again in (copy.copy(error), copy.deepcopy(error)):
            assert (type(again), str(again)) == (cls, str(error))


@pytest.mark.parametrize(
    ("offset", "path", "text"),
    [
        (None, None, "field-range: too much"),
        (0, None, "field-range at byte 0: too much"),
        (12, "port", "field-range in port at byte 12: too much"),
        (None, "tokens[3]", "field-range in tokens[3]: too much"),
    ],
)
def test_text(offset: int | None, path: str | None, text: str) -> None:
    assert str(MalformedError("field-range", "too much", offset=offset, path=path)) == text


def test_real_error_through_pickle() -> None:
    with pytest.raises(MalformedError) as caught:
        decode_frame(b'\x07{"port":70000,"sessionID":""}')
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert str(again) == str(caught.value) == "field-range in port at byte 9: 70000 is not from 0 to 65535"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b'\x07{"port":65536,"sessionID":""}', ["65536", "0", "65535", "port", "byte 9"]),
        (b'\x09{"uid":"","token":9223372036854775808}', ["-9223372036854775808", "9223372036854775807", "token"]),
        (b'\x01{"nonce":"AA=="}', ["32", "1", "nonce"]),
        (b'\x01{"sePubKeyRaw":"AAAA"}', ["64", "3", "sePubKeyRaw"]),
        (b'\x0a{"x":' + b"[" * 600, ["512"]),
        (b"\x0e", ["0x0e", "revision 2"]),
        (b'\x0a{"uid":"u","uid":"v"}', ["uid"]),
        (b'\x04{"memoryPressure":"low"}', ["normal", "warning", "critical", "low"]),
        (b'\x07{"port":true}', ["number", "boolean"]),
        (b"\x03{}", ["ping"]),
    ],
)
def test_message_names_the_limit(frame: bytes, words: list[str]) -> None:
    with pytest.raises(WireError) as caught:
        decode_frame(frame)
    assert [word for word in words if word not in str(caught.value)] == []


def test_encoding_message_names_the_limit() -> None:
    with pytest.raises(MalformedError, match=r"65536 is not from 0 to 65535"):
        encode_frame(JacclBootstrapPayload(65536, ""))
    with pytest.raises(MalformedError, match=r"expected 64 bytes, not 63"):
        encode_frame(HandshakeHello(bytes(63), bytes(32), bytes(32), b""))


@pytest.mark.parametrize(
    "frame",
    [
        b'\x07{"port":' + b"9" * 60_000 + b',"sessionID":""}',
        b'\x0a{"' + b"k" * 30_000 + b'":1,"' + b"k" * 30_000 + b'":1}',
        b'\x04{"memoryPressure":"' + b"x" * 60_000 + b'"}',
        b'\x0c{"sealedToken":"' + b"*" * 60_000 + b'"}',
    ],
    ids=["number", "key", "enum", "base64"],
)
def test_message_stays_short(frame: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_frame(frame)
    assert len(str(caught.value)) < 300
