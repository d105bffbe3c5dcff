"""The contract of `wireproto codec`: the required answer to a frame, and the faults of an answer."""

import json
from typing import Any, Final

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.errors import ERROR_CODES, WireError
from wireproto.messages import SPEC_BY_CLASS, PayloadKind, Revision

NONE: Final = "a malformed answer"
"""The fault of a line that is not a JSON object with "ok"."""


def expected_answer(frame: bytes, revision: Revision, *, has_extensions: bool = True) -> dict[str, Any]:
    """Return the answer of `wireproto codec`, with or without extensions; empty if it depends on them."""
    try:
        message = decode_frame(frame, revision)
    except WireError as error:
        if not has_extensions and (error.path or "").startswith("extensions"):
            return {}  # a codec without extensions skips the key, so its answer depends on the rest
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
    """Return the answer in a line, or None if it is malformed."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("ok"), bool) else None


def names_no_code(line: bytes) -> bool:
    """Return whether a line is an error with a name that the specification does not define."""
    answer = read(line)
    return answer is not None and not answer["ok"] and str(answer.get("error")) not in ERROR_CODES


def wrong(expected: dict[str, Any], line: bytes) -> str:
    """Return the kind of fault of an answer, or an empty string.

    If an answer has no error code of the specification, only its verdict is compared.
    """
    answer = read(line)
    if answer is None:
        return NONE
    if not expected:
        return ""
    ok = answer["ok"]
    if ok != expected["ok"]:
        return f"accepts {expected['error']}" if ok else f"refuses a valid frame, with {answer.get('error', 'no code')}"
    if not ok:
        code = str(answer.get("error"))
        if code not in ERROR_CODES:
            return ""
        if code != expected["error"]:
            return f"{code} instead of {expected['error']}"
        if answer.get("offset", expected["offset"]) != expected["offset"]:
            return f"a wrong offset of {code}"
        return ""
    if exactly(answer.get("type")) != exactly(expected["type"]):
        return "a wrong type"
    return "" if exactly(answer.get("payload")) == exactly(expected["payload"]) else _other_value(expected, answer)


def _other_value(expected: dict[str, Any], answer: dict[str, Any]) -> str:
    payload, other = expected["payload"], answer.get("payload")
    if not isinstance(payload, dict) or not isinstance(other, dict):
        return "a wrong payload"
    keys = [key for key in payload if exactly(payload[key]) != exactly(other.get(key))]
    return f"a wrong value of {keys[0]}" if keys else "an extra key"


def exactly(value: Any) -> str:
    """Return JSON text, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)
