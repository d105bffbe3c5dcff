"""Generate the tables of spec/cluster_link.lua, the dissector for Wireshark, from the schema: `make spec`.

They are between `-- made` and `-- /made`; the rest of the file is not generated.
"""

import re
import sys
from pathlib import Path
from typing import Final

from spec.tools.fields import LINK_LIMIT, Facts, Field, Message, messages, snake
from wireproto import schema
from wireproto.errors import ERROR_CODES

_PLACE: Final = re.compile(r"(-- made\n).*?(-- /made\n)", re.DOTALL)


def with_tables(text: str) -> str:
    """Return the dissector with new tables: the messages of the schema, and the meanings of the codes that it uses."""
    named = [code for code in ERROR_CODES if f'"{code}"' in _PLACE.sub("", text)]
    return _PLACE.sub(lambda place: place[1] + _tables(named) + place[2], text)


def _tables(codes: list[str]) -> str:
    limits = {"MAX_LINK_LENGTH": LINK_LIMIT, "MAX_NESTING": schema.MAX_NESTING}
    lines = [*(f"local {name} = {limit}" for name, limit in limits.items()), "local MESSAGES = {"]
    for message in messages():
        lines += _message(message)
    lines += ["}", "local MEANINGS = {"]
    lines += [f"  [{_text(code)}] = {_text(ERROR_CODES[code][1])}," for code in codes]
    return "\n".join([*lines, "}\n"])


def _message(message: Message) -> list[str]:
    said = [f"name = {_text(message.name)}", f"kind = {_text(message.kind)}", f"revision = {message.revision}"]
    if message.limit < LINK_LIMIT:
        said.append(f"limit = {message.limit}")
    if message.extension is not None:
        said.append(f"extension = {_text(message.extension)}")
    group = snake(message.name).partition("_")[0]
    fields = [_field(group, field) for field in message.fields]
    opening = f"  [0x{message.number:02x}] = {{ {', '.join(said)}, fields = {{"
    return [opening + "} },"] if not fields else [opening, *(f"    {field}," for field in fields), "  } },"]


def _field(group: str, field: Field) -> str:
    said = [f"key = {_text(field.key)}", f"name = {_text(f'{group}.{field.name}')}", *_facts(field.facts)]
    if field.optional:
        said.append("optional = true")
    return f"{{ {', '.join(said)} }}"


def _facts(facts: Facts) -> list[str]:
    """Return the allowed values in Lua. Bounds are strings, since numbers in some Luas have fewer than 64 bits."""
    if facts.type == "integer":
        low, high = facts.low or 0, facts.high or 0
        kind = "uint32" if low >= 0 and high < 2**32 else "int64"
        return [f"type = {_text(kind)}", f'low = "{low}"', f'high = "{high}"']
    said = [f"type = {_text(facts.type)}"]
    if facts.values:
        said.append(f"values = {{ {', '.join(map(_text, facts.values))} }}")
    if facts.item is not None:
        said.append(f"item = {{ {', '.join(_facts(facts.item))} }}")
    said += [f"{name} = {limit}" for name, limit in (("min", facts.min), ("max", facts.max)) if limit is not None]
    if facts.pattern is not None:
        said.append(rf"pattern = [[^{facts.pattern}\z]]")
    return said


def _text(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
