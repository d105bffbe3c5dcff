"""The dissector and the decoder agree on a cluster frame: the decoder's result in the dissector's terms."""

from enum import Enum
from typing import Final

from tests.wireproto.inspection.dissecting import Error, LinkFrame, Value
from wireproto import Message, Revision, WireError, decode_frame
from wireproto.codec.fields import payload_fields
from wireproto.messages import REGISTRY, SPEC_BY_CLASS


def check_frame(frame: LinkFrame, data: bytes, revision: Revision, extensions: tuple[str, ...] = ()) -> None:
    """Check that the dissector shows for `data`, a part of `frame`, the result of `decode_frame`."""
    said = _decoded(data, revision, extensions)
    assert errors(frame) == ([said] if isinstance(said, Error) else []), data
    if not isinstance(said, Error):
        assert frame.all("type") == [str(data[0])]
        assert _fields(frame) == _shown(said), data


def errors(frame: LinkFrame) -> list[Error]:
    """The errors without that of an unopened tensor box: to the frame it is opaque. [PAYLOAD-OPAQUE]"""
    return [error for error in frame.errors if error.code != "seal-tag"]


def _decoded(data: bytes, revision: Revision, extensions: tuple[str, ...]) -> Message | Error:
    try:
        return decode_frame(data, revision, extensions)
    except WireError as error:
        return Error(error.code, error.offset, error.path)


_GROUPS: Final = {spec.msg_type: spec.msg_type.name.partition("_")[0].lower() for spec in REGISTRY}
"""Prefix of the names of a message's fields."""


def _fields(frame: LinkFrame) -> dict[str, list[Value]]:
    """The fields of a message shown by the dissector."""
    names = [name for name in frame.names if "." in name and name.partition(".")[0] in _GROUPS.values()]
    return {name: frame.all(name) for name in names}


def _shown(message: Message) -> dict[str, list[Value]]:
    """The fields of a message that have a value."""
    group = _GROUPS[SPEC_BY_CLASS[type(message)].msg_type]
    fields = payload_fields(type(message)).values()
    values = {f"{group}.{field.name}": _as_shown(getattr(message, field.name)) for field in fields}
    return {name: value for name, value in values.items() if value}


def _as_shown(value: object) -> list[Value]:
    match value:
        case None:
            return []
        case tuple():
            return [each for item in value for each in _as_shown(item)]
        case bool():
            return [str(value).lower()]
        case Enum():
            return [str(value.value)]
        case str():
            return [value.replace("\0", "\\u0000")]
        case bytes():
            return [value]
    return [str(value)]
