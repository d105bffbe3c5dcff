"""A correct decoder of cluster frames, in small steps that faults can replace. It has no error codes."""

import base64
import json
from typing import Any, ClassVar

from tests.wireproto.payloads import EXTENSION_OF, JSON_FIELDS, MAX_FRAME, OPTIONAL, TYPE_BYTE
from wireproto import InferenceStep, InferenceToken, MemoryPressure, Ping, SessionEnd

Answer = dict[str, Any]


class RefusedError(ValueError):
    """The frame is wrong."""


class Real:
    """A number with a fraction or an exponent."""

    def __init__(self, text: str) -> None:
        self.text = text


class Parser:
    """`answer(frame)` is the answer of `wireproto codec`, without code and offset."""

    json_types: ClassVar = {TYPE_BYTE[cls]: fields for cls, fields in JSON_FIELDS.items() if cls not in EXTENSION_OF}
    empty_types = (TYPE_BYTE[Ping], TYPE_BYTE[SessionEnd])
    opaque_types = (TYPE_BYTE[InferenceStep], TYPE_BYTE[InferenceToken])
    max_frame: ClassVar = MAX_FRAME
    max_nesting = 512
    i64 = (-(2**63), 2**63 - 1)
    u16 = (0, 65535)

    def answer(self, frame: bytes) -> Answer:
        try:
            payload = self.payload(frame)
        except (RefusedError, ValueError, RecursionError):
            return {"ok": False}
        return {"ok": True, "type": frame[0], "payload": payload}

    def payload(self, frame: bytes) -> Any:
        if not frame:
            raise RefusedError
        if frame[0] in self.empty_types:
            return self.empty(frame[1:])
        if frame[0] in self.opaque_types:
            return base64.b64encode(frame[1:]).decode()
        if frame[0] not in self.json_types:
            raise RefusedError
        if len(frame) > self.max_frame.get(frame[0], len(frame)):
            raise RefusedError
        value = self.load(self.text(frame[1:]))
        if not isinstance(value, dict):
            raise RefusedError
        return self.fields(self.json_types[frame[0]], value)

    def empty(self, rest: bytes) -> None:
        if rest:
            raise RefusedError

    def text(self, data: bytes) -> str:
        return data.decode()

    def load(self, text: str) -> Any:
        if text.startswith("\ufeff"):
            raise RefusedError
        hooks = {"parse_int": self.parse_int, "parse_float": self.real, "parse_constant": self.constant}
        value = json.loads(text, strict=self.is_strict, object_pairs_hook=self.pairs, **hooks)
        self.check_tree(value)
        return value

    is_strict = True

    def parse_int(self, text: str) -> Any:
        return int(text) if len(text) < 30 else 10**30

    def real(self, text: str) -> Any:
        return Real(text)

    def constant(self, text: str) -> Any:
        raise RefusedError

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise RefusedError
        return dict(pairs)

    def check_tree(self, root: Any) -> None:
        todo = [(root, 1)]
        while todo:
            value, level = todo.pop()
            if isinstance(value, str):
                self.check_string(value)
            elif isinstance(value, dict | list):
                if level > self.max_nesting:
                    raise RefusedError
                children = [*value, *value.values()] if isinstance(value, dict) else value
                todo += [(child, level + 1) for child in children]

    def check_string(self, text: str) -> None:
        text.encode()

    def fields(self, fields: dict[str, tuple[str, str]], value: dict[str, Any]) -> dict[str, Any]:
        payload = {key: self.field(key, kind, value) for key, kind in fields.values() if key not in OPTIONAL}
        for key in OPTIONAL.keys() & {key for key, _ in fields.values()}:
            if names := self.names(value.get(key, [])):
                payload[key] = names
        return payload

    def field(self, key: str, kind: str, value: dict[str, Any]) -> Any:
        if key not in value:
            raise RefusedError
        return getattr(self, f"to_{kind}")(value[key])

    def typed(self, value: Any, kind: type) -> Any:
        if type(value) is not kind:
            raise RefusedError
        return value

    def to_str(self, value: Any) -> str:
        text: str = self.typed(value, str)
        return text

    def to_bool(self, value: Any) -> bool:
        return bool(self.typed(value, bool))

    def to_pressure(self, value: Any) -> str:
        return MemoryPressure(self.typed(value, str)).value

    def within(self, value: Any, low: int, high: int) -> int:
        if not low <= self.typed(value, int) <= high:
            raise RefusedError
        return int(value)

    def to_u16(self, value: Any) -> int:
        return self.within(value, *self.u16)

    def to_i64(self, value: Any) -> int:
        return self.within(value, *self.i64)

    def to_i64s(self, value: Any) -> list[int]:
        return [self.to_i64(item) for item in self.typed(value, list)]

    def names(self, value: Any) -> list[str]:
        names = [self.name(item) for item in self.typed(value, list)]
        if len(names) > 32 or len({*names}) < len(names):
            raise RefusedError
        return names

    def name(self, value: Any) -> str:
        name, slash, version = self.to_str(value).partition("/")
        small, digits = {*"abcdefghijklmnopqrstuvwxyz"}, {*"0123456789"}
        good = name[:1] in [*small] and not {*name} - small - digits - {"-"} and slash and len(value) <= 64
        if not (good and version and version[0] != "0" and not {*version} - digits and len(version) <= 4):
            raise RefusedError
        return str(value)

    def sized(self, value: Any, size: int | None) -> str:
        data = self.from_base64(self.to_str(value))
        if size is not None and len(data) != size:
            raise RefusedError
        return base64.b64encode(data).decode()

    def from_base64(self, text: str) -> bytes:
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() != text:
            raise RefusedError
        return data

    def to_bytes(self, value: Any) -> str:
        return self.sized(value, None)

    def to_bytes32(self, value: Any) -> str:
        return self.sized(value, 32)

    def to_bytes64(self, value: Any) -> str:
        return self.sized(value, 64)
