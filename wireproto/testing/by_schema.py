"""Messages read and written by the schema: what `decode_frame` and `encode_frame` are compared with."""

from collections.abc import Collection
from enum import Enum
from typing import Any, Final

from msgspec.structs import fields

from wireproto import schema
from wireproto.errors import UnknownTypeError
from wireproto.messages import SPEC_BY_CLASS, SPEC_BY_TYPE, Message, Revision


def parse_message(data: bytes, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> Message:
    """Return the message that a cluster frame carries. Raises `WireError`."""
    frame = schema.parse(schema.ClusterFrame, data, revision=revision, extensions=extensions)
    cls: Any = SPEC_BY_TYPE[int(frame.type)].payload
    message: Message = cls(**{f.name: _from_wire(frame.payload[f.encode_name], f.type) for f in fields(cls)})
    return message


def build_message(message: Message, revision: Revision = Revision.V2, extensions: Collection[str] = ()) -> bytes:
    """Return the cluster frame of a message. Raises `WireError`, without an offset."""
    if (spec := SPEC_BY_CLASS.get(type(message))) is None:
        raise UnknownTypeError("type-unknown", f"{type(message).__name__} is not a message")
    payload = {f.encode_name: _to_wire(getattr(message, f.name), f.type) for f in fields(spec.payload)}
    frame = {"type": spec.msg_type.wire_name, "payload": payload or b""}
    return schema.build(schema.ClusterFrame, frame, revision=revision, extensions=extensions)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _from_wire(value: Any, kind: Any) -> Any:
    return kind(value) if _is_enum(kind) else value


def _to_wire(value: Any, kind: Any) -> Any:
    """A field's value as its layout takes it; `_MISFIT`, which no layout takes, if its class is not the field's."""
    if _is_enum(kind):
        return value.value if type(value) is kind else _MISFIT
    return _MISFIT if isinstance(value, list) else value


_MISFIT: Final = object()
