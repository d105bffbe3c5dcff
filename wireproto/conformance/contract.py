"""The contract of `wireproto codec`: what an answer to a frame must be, and what is wrong with one."""

import json
from typing import Any, Final

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.errors import ERROR_CODES, WireError
from wireproto.messages import SPEC_BY_CLASS, PayloadKind, Revision

NONE: Final = "an answer that is none"
"""What is wrong with a line that is no JSON object with "ok"."""


def expected_answer(frame: bytes, revision: Revision, *, has_extensions: bool = True) -> dict[str, Any]:
    """What `wireproto codec` answers, or would without extensions; nothing where that depends on them."""
    try:
        message = decode_frame(frame, revision)
    except WireError as error:
        if not has_extensions and (error.path or "").startswith("extensions"):
            return {}  # an unknown key to it: the value may be anything, and what follows it decides
        return {"ok": False, "error": error.code, "offset": error.offset}
    spec = SPEC_BY_CLASS[type(message)]
    payload = msgspec.to_builtins(message)
    if not has_extensions and isinstance(payload, dict):
        payload.pop("extensions", None)
    match spec.kind:
        case PayloadKind.EMPTY:
            payload = None
        case PayloadKind.OPAQUE:
            payload = payload["box"]
        case _:
            pass
    return {"ok": True, "type": spec.msg_type.value, "payload": payload}


def read(line: bytes) -> dict[str, Any] | None:
    """The answer of a line; None if it is none."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("ok"), bool) else None


def names_no_code(line: bytes) -> bool:
    """Whether a line is an error under a name that the specification does not have."""
    answer = read(line)
    return answer is not None and not answer["ok"] and str(answer.get("error")) not in ERROR_CODES


def wrong(expected: dict[str, Any], line: bytes) -> str:
    """What is wrong with an answer, in words that say the kind; empty where nothing is.

    A decoder that has no error codes, or others than the specification's, is held to its verdict alone.
    """
    answer = read(line)
    if answer is None:
        return NONE
    if not expected:
        return ""
    ok = answer["ok"]
    if ok != expected["ok"]:
        return f"accepts {expected['error']}" if ok else f"refuses what is right, with {answer.get('error', 'no code')}"
    if not ok:
        code = str(answer.get("error"))
        if code not in ERROR_CODES:
            return ""
        if code != expected["error"]:
            return f"{code} where it is {expected['error']}"
        if answer.get("offset", expected["offset"]) != expected["offset"]:
            return f"another offset of {code}"
        return ""
    if exactly(answer.get("type")) != exactly(expected["type"]):
        return "another type"
    return "" if exactly(answer.get("payload")) == exactly(expected["payload"]) else _other_value(expected, answer)


def _other_value(expected: dict[str, Any], answer: dict[str, Any]) -> str:
    payload, other = expected["payload"], answer.get("payload")
    if not isinstance(payload, dict) or not isinstance(other, dict):
        return "another payload"
    keys = [key for key in payload if exactly(payload[key]) != exactly(other.get(key))]
    return f"another value of {keys[0]}" if keys else "a key too many"


def exactly(value: Any) -> str:
    """As text, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)
