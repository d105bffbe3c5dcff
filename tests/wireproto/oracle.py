"""An independent reader of JSON frames, based on `json`: returns the message, or None for a rejected frame.

It shares no code with the package: not its scanner, not msgspec, not its base64.
"""

import json
from typing import Any, Final

from tests.wireproto.payloads import (
    ALL_EXTENSIONS,
    EXTENSION_OF,
    JSON_FIELDS,
    MAX_FRAME,
    OPTIONAL,
    TYPE_BYTE,
    V1_TYPES,
)
from wireproto import MemoryPressure, Message, OutcomeState, Program, Revision

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_CLASSES: Final = {TYPE_BYTE[cls]: cls for cls in JSON_FIELDS}
_INTEGER_RANGES: Final = {"u16": (0, 65535), "i64": (-9223372036854775808, 9223372036854775807)}
_ENUMS: Final = {"pressure": MemoryPressure, "state": OutcomeState, "program": Program}
_LENGTHS: Final = {"bytes64": 64, "bytes32": 32, "bytes": None}


class _NoError(ValueError):
    pass


class _Real:
    """A number with a fraction or an exponent, which is not an integer whatever its value."""


class _Object(dict[str, Any]):
    pass


def judge(frame: bytes, revision: Revision, extensions: frozenset[str] = ALL_EXTENSIONS) -> Message | None:
    """Return the message in a frame of a JSON type, None if it must be rejected."""
    if not frame or frame[0] not in _CLASSES or (revision == Revision.V1 and frame[0] not in V1_TYPES):
        return None
    cls = _CLASSES[frame[0]]
    if cls in EXTENSION_OF and EXTENSION_OF[cls] not in extensions:
        return None
    if len(frame) > MAX_FRAME.get(frame[0], len(frame)):
        return None
    try:
        value = _load(frame[1:])
        if not isinstance(value, _Object):
            return None
        fields = {name: row for name, row in JSON_FIELDS[cls].items() if row[0] in value or row[0] not in OPTIONAL}
        return cls(**{name: _field(value[key], kind) for name, (key, kind) in fields.items()})
    except (ValueError, KeyError, RecursionError):
        return None


def _load(data: bytes) -> Any:
    value = json.loads(
        data.decode("utf-8", "strict"),
        object_pairs_hook=_no_duplicates,
        parse_constant=_no_constant,
        parse_float=lambda _: _Real(),
        parse_int=lambda text: int(text) if len(text) < 30 else 10**30,
    )
    _check_tree(value)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> _Object:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _NoError
    return _Object(pairs)


def _no_constant(_: str) -> None:
    raise _NoError  # NaN, Infinity, -Infinity


def _check_tree(root: Any) -> None:
    """Check for surrogates in strings, and for more than 512 levels."""
    todo = [(root, 1)]
    while todo:
        value, level = todo.pop()
        if isinstance(value, str):
            value.encode()  # UnicodeEncodeError is a ValueError
        elif isinstance(value, dict | list):
            if level > 512:
                raise _NoError
            children = [*value, *value.values()] if isinstance(value, dict) else value
            todo += [(child, level + 1) for child in children]


def _field(value: Any, kind: str) -> Any:
    if kind == "i64s":
        return tuple(_field(item, "i64") for item in _typed(value, list))
    if kind in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[kind]
        if not low <= _typed(value, int) <= high:
            raise _NoError
        return value
    if kind == "bool":
        return _typed(value, bool)
    if kind in _ENUMS:
        return _ENUMS[kind](_typed(value, str))
    if kind == "names":
        names = tuple(_name(_typed(item, str)) for item in _typed(value, list))
        if len(names) > 32 or len({*names}) < len(names):
            raise _NoError
        return names
    if kind == "short" and len(_typed(value, str)) > 1024:
        raise _NoError
    if kind == "digest" and _typed(value, str) and (len(value) != 64 or {*value} - {*"0123456789abcdef"}):
        raise _NoError
    if kind in _LENGTHS:
        data = _base64(_typed(value, str))
        if _LENGTHS[kind] not in (None, len(data)):
            raise _NoError
        return data
    return _typed(value, str)


def _name(text: str) -> str:
    """An extension's name, letter by letter."""
    name, slash, version = text.partition("/")
    small = "abcdefghijklmnopqrstuvwxyz"
    letters = name[:1] in [*small] and not {*name} - {*small, *"0123456789-"}
    digits = version[:1] in [*"123456789"] and not {*version} - {*"0123456789"} and len(version) <= 4
    if not (slash and letters and digits and len(text) <= 64):
        raise _NoError
    return text


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _NoError
    return value


def _base64(text: str) -> bytes:
    digits = text[:-2] if text.endswith("==") else text.removesuffix("=")
    if len(text) % 4 or any(digit not in _ALPHABET for digit in digits):
        raise _NoError
    bits = "".join(f"{_ALPHABET.index(digit):06b}" for digit in digits)
    whole = len(bits) // 8 * 8
    if "1" in bits[whole:]:
        raise _NoError
    return bytes(int(bits[i : i + 8], 2) for i in range(0, whole, 8))
