"""Messages decoded and encoded by the schema, as a reference for `decode_frame` and `encode_frame`."""

from collections.abc import Collection
from enum import Enum
from typing import Any, Final, get_args

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


def _enum(kind: Any) -> type[Enum] | None:
    """Return the enum that a field takes, optional or not; None if it takes another type."""
    return next((each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, Enum)), None)


def _from_wire(value: Any, kind: Any) -> Any:
    enum = _enum(kind)
    return value if enum is None or value is None else enum(value)


def _to_wire(value: Any, kind: Any) -> Any:
    """Return a field's value for its layout, or `_MISFIT`, which every layout refuses, if its class is wrong."""
    enum = _enum(kind)
    if enum is None or value is None:
        return _MISFIT if isinstance(value, list) else value
    return value.value if type(value) is enum else _MISFIT


_MISFIT: Final = object()
