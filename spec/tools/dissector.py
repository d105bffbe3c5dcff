"""The tables of spec/cluster_link.lua, the dissector for Wireshark, made from the registry: `make spec`.

They stand between `-- made` and `-- /made`; what else is in the file is written by hand.
"""

import re
import sys
from pathlib import Path
from typing import Final

from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.errors import ERROR_CODES
from wireproto.messages import MAX_LINK_LENGTH, REGISTRY, MessageSpec

_PLACE: Final = re.compile(r"(-- made\n).*?(-- /made\n)", re.DOTALL)
_END, _PCRE_END = r"\Z", r"\z"
"""The very end of a text, in the patterns of Python and in those of Wireshark's `rex_pcre2`."""


def with_tables(text: str) -> str:
    """The dissector's text, with its tables as the registry is now, and the meanings of the codes that it names."""
    named = [code for code in ERROR_CODES if f'"{code}"' in _PLACE.sub("", text)]
    return _PLACE.sub(lambda place: place[1] + _tables(named) + place[2], text)


def _tables(codes: list[str]) -> str:
    lines = [f"local MAX_LINK_LENGTH = {MAX_LINK_LENGTH}", f"local MAX_NESTING = {MAX_NESTING}", "local MESSAGES = {"]
    for spec in REGISTRY:
        lines += _message(spec)
    lines += ["}", "local MEANINGS = {"]
    lines += [f"  [{_text(code)}] = {_text(ERROR_CODES[code][1])}," for code in codes]
    return "\n".join([*lines, "}\n"])


def _message(spec: MessageSpec) -> list[str]:
    facts = [f"name = {_text(spec.msg_type.wire_name)}", f"kind = {_text(spec.kind.name.lower())}"]
    facts.append(f"revision = {spec.revision:d}")
    if spec.max_length < MAX_LINK_LENGTH:
        facts.append(f"limit = {spec.max_length}")
    if spec.extension is not None:
        facts.append(f"extension = {_text(spec.extension)}")
    group = spec.msg_type.name.partition("_")[0].lower()
    fields = [_field(group, key, field) for key, field in payload_fields(spec.payload).items()]
    opening = f"  [0x{spec.msg_type:02x}] = {{ {', '.join(facts)}, fields = {{"
    return [opening + "} },"] if not fields else [opening, *(f"    {field}," for field in fields), "  } },"]


def _field(group: str, key: str, field: inspect.Field) -> str:
    facts = [f"key = {_text(key)}", f"name = {_text(f'{group}.{field.name}')}", *_facts(field.type)]
    if not field.required:
        facts.append("optional = true")
    return f"{{ {', '.join(facts)} }}"


def _facts(kind: inspect.Type) -> list[str]:
    """What a value may be. The bounds of integers are texts: not all of Lua's numbers hold 64 bits."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            wide = low is None or low < 0 or high is None or high > 0xFFFF_FFFF
            return [f"type = {_text('int64' if wide else 'uint32')}", f'low = "{low}"', f'high = "{high}"']
        case inspect.BoolType():
            return ['type = "boolean"']
        case inspect.EnumType(cls=enum):
            return ['type = "string"', f"values = {{ {', '.join(_text(member.value) for member in enum)} }}"]
        case inspect.VarTupleType(item_type=item):
            return ['type = "array"', f"item = {{ {', '.join(_facts(item))} }}", *_lengths(kind)]
        case inspect.BytesType():
            return ['type = "bytes"', *_lengths(kind)]
        case inspect.StrType(pattern=pattern):
            form = [] if pattern is None else [f"pattern = [[{pattern.replace(_END, _PCRE_END)}]]"]
            return ['type = "string"', *_lengths(kind), *form]
    raise TypeError(f"no payload has a {type(kind).__name__}")


def _lengths(kind: inspect.BytesType | inspect.StrType | inspect.VarTupleType) -> list[str]:
    limits = {"min": kind.min_length, "max": kind.max_length}
    return [f"{name} = {limit}" for name, limit in limits.items() if limit is not None]


def _text(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
