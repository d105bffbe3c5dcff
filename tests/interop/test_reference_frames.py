"""5,001 frames of revision 2 and the reference decoder's verdicts: it accepts everything that this project accepts."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from wireproto import Message, Revision, WireError, decode_frame
from wireproto.messages import SPEC_BY_CLASS

LINES: Final = gzip.decompress((Path(__file__).parent / "reference-frames.jsonl.gz").read_bytes()).splitlines()
FRAMES: Final[list[dict[str, Any]]] = [json.loads(line) for line in LINES]
STRICTER: Final = {
    "field-base64": "JSON-BASE64",
    "field-duplicate": "EXT-NAMES",
    "field-length": "PAYLOAD-HELLO, EXT-NAMES",
    "field-not-integer": "JSON-INTEGER",
    "field-pattern": "EXT-NAMES",
    "field-type": "EXT-NAMES",
    "json-bom": "JSON-TEXT",
    "json-control-character": "JSON-STRING",
    "json-duplicate-key": "JSON-DUPLICATE-KEY",
    "json-escape": "JSON-STRING",
    "json-nesting": "JSON-NESTING",
    "json-surrogate": "JSON-STRING",
    "json-syntax": "JSON-TEXT",
    "json-utf8": "JSON-STRING",
    "payload-not-empty": "PAYLOAD-EMPTY",
}
"""The codes of frames that the reference peer accepts, or crashes on, and this project refuses, with their rules."""


def decoded(frame: str) -> Message | str:
    """The message, or the code of the error."""
    try:
        return decode_frame(bytes.fromhex(frame), Revision.V2)
    except WireError as error:
        return error.code


def test_there_are_frames_of_each_verdict() -> None:
    assert len(FRAMES) == 5001
    assert {frame["verdict"] for frame in FRAMES} == {"accept", "refuse", "crash"}


def test_what_this_project_takes_the_reference_peer_takes_with_the_same_values() -> None:
    """Except for extensions, which it does not know. [JSON-TEXT, JSON-UNKNOWN-KEY]"""
    taken = [(frame, message) for frame in FRAMES if not isinstance(message := decoded(frame["frame"]), str)]
    assert len(taken) > 1000
    for frame, message in taken:
        assert frame["verdict"] == "accept", frame
        assert frame["type"] == SPEC_BY_CLASS[type(message)].msg_type
        fields: Any = json.loads(msgspec.json.encode(message))  # bytes as base64
        if not isinstance(frame["payload"], dict):
            payload = bytes.fromhex(frame["frame"])[1:]
            assert base64.b64decode(frame["payload"] or "") == payload
            assert list(fields.values()) in ([], [frame["payload"]])
            continue
        fields.pop("extensions", None)
        assert fields == frame["payload"], frame


def test_what_only_the_reference_peer_takes_breaks_a_rule() -> None:
    codes = {decoded(frame["frame"]) for frame in FRAMES if frame["verdict"] != "refuse"}
    assert {code for code in codes if isinstance(code, str)} == STRICTER.keys()


@pytest.mark.parametrize("code", STRICTER)
def test_each_rule_stands_in_the_specification(code: str) -> None:
    protocol = (Path(__file__).parents[2] / "spec" / "protocol.md").read_text()
    for rule in STRICTER[code].split(", "):
        assert f"- [{rule}] " in protocol
