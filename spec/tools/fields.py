"""Read the fields of each message from `wireproto.schema`, for spec/protocol.md and the dissector's tables."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import construct

from wireproto import schema

LINK_LIMIT: Final = schema.LinkFrame.length.subcon.subcon.high
"""The longest body of a link frame, in bytes."""

_TYPES: Final = {bool: "boolean", int: "integer", str: "string", bytes: "bytes"}


class Facts(NamedTuple):
    """The values that a field allows."""

    type: str
    """`boolean`, `integer`, `string`, `bytes` or `array`."""
    low: int | None = None
    high: int | None = None
    min: int | None = None
    """In bytes, characters or elements, like `max`."""
    max: int | None = None
    pattern: str | None = None
    """A regular expression that matches the whole string."""
    values: tuple[str, ...] = ()
    """The only strings allowed; if empty, any string is."""
    item: "Facts | None" = None
    unique: bool = False
    """Whether all elements of the array must be different."""


class Field(NamedTuple):
    """One field of a payload."""

    key: str
    facts: Facts
    optional: bool
    absent: object = None
    """The value of an optional field that is absent."""

    @property
    def name(self) -> str:
        """The name of the Python attribute."""
        return snake(self.key)


class Message(NamedTuple):
    """One type of cluster frame."""

    number: int
    name: str
    kind: str
    """`json`, `empty`, `opaque` or `numbered`."""
    revision: int
    extension: str | None
    limit: int
    """On the whole cluster frame, in bytes."""
    fields: tuple[Field, ...]


def snake(name: str) -> str:
    """Return a key in snake case: `snake("sessionID") == "session_id"`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def messages() -> Iterator[Message]:
    """Yield every type, in the order of the schema."""
    for name, payload in schema.ClusterFrame.payload.cases.items():
        layout, number = payload.subcon, schema.ClusterMsgType.encmapping[name]
        fields = tuple(payload_fields(layout))
        kind = "json" if isinstance(layout, schema.JsonObject) else ("empty", "opaque", "numbered")[len(fields)]
        yield Message(number, name, kind, payload.revision, payload.extension, payload.limit, fields)


def payload_fields(layout: construct.Construct) -> Iterator[Field]:
    """Yield the fields of a payload, none if it is empty."""
    if isinstance(layout, schema.JsonObject):
        members = layout.members
    elif isinstance(layout, construct.Struct):
        members = {member.name: member.subcon for member in layout.subcons}
    else:
        members = {}
    for key, value in members.items():
        if isinstance(value, schema.Optional):
            yield Field(key, facts(value.subcon), True, value.absent)
        else:
            yield Field(key, facts(value), False)


def facts(value: construct.Construct) -> Facts:
    """Return the values that a construct allows. Raise TypeError for a construct that no payload has."""
    match value:
        case schema.Within():
            return facts(value.subcon)._replace(low=value.low, high=value.high)
        case schema.Sized():
            return facts(value.subcon)._replace(min=value.least or None, max=value.most)
        case schema.Matches():
            return facts(value.subcon)._replace(pattern=value.pattern)
        case schema.OneOf():
            return facts(value.subcon)._replace(values=value.values)
        case schema.JsonArray():
            return Facts("array", max=value.most, item=facts(value.item), unique=value.unique)
        case schema.JsonValue():
            return Facts(_TYPES[value.python_type])
        case schema.Only(subcon=construct.FormatField(fmtstr=form, length=length)):
            signed = form[1].islower()
            bits = 8 * length - signed
            return Facts("integer", low=-(2**bits) if signed else 0, high=2**bits - 1)
        case schema.Only():
            return Facts(_TYPES[value.python_type])
    raise TypeError(f"no payload has a {type(value).__name__}")
