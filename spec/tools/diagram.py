"""Draw the generated parts of spec/protocol.md: layouts, types, fields, session states, error codes, worked example.

Each part is between `<!-- drawn: NAME -->` and `<!-- /drawn -->`, where NAME is one of `DRAWN`.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import construct

from spec.tools.fields import Facts, Field, Message, messages
from spec.tools.worked_example import worked_example
from wireproto import schema
from wireproto.errors import ERROR_CODES
from wireproto.messages import SPEC_BY_TYPE, ClusterMsgType
from wireproto.session.states import BOX_OPENS, RECEIVES, SENDS, Role, State

_PLACE: Final = re.compile(r"(<!-- drawn: ([^\n]+) -->\n).*?(<!-- /drawn -->)", re.DOTALL)


def with_diagrams(text: str) -> str:
    """Return the text of the specification with every part regenerated. Raise KeyError for an unknown NAME."""
    return _PLACE.sub(lambda place: place[1] + DRAWN[place[2]]() + place[3], text)


# -- layouts -----------------------------------------------------------------------------------------------------------


class _Field(NamedTuple):
    name: str
    kind: str
    size: int | str
    """In bytes: a number, a formula if it varies, or empty for the rest of the frame."""


def layout_diagram(
    layout: construct.Construct,
    sizes: Mapping[str, str] = MappingProxyType({}),
    names: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a diagram of a layout: its fields in a row, with their offsets above.

    `sizes` gives the formulas of fields that vary in size; `names` gives other names for fields.
    """
    fixed, formula = 0, ""
    columns = []
    for field in _fields(layout, sizes):
        columns.append((_offset(fixed, formula), names.get(field.name, field.name), field.kind))
        if isinstance(field.size, int):
            fixed += field.size
        else:
            formula = field.size
    end = _offset(fixed, formula) if formula or isinstance(field.size, int) else "end"
    widths = [max(map(len, column)) + 2 for column in columns]
    offsets = "".join(column[0].ljust(width + 1) for column, width in zip(columns, widths, strict=True)) + end

    def line(row: int) -> str:
        return "│".join(f" {column[row]}".ljust(width) for column, width in zip(columns, widths, strict=True))

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * width for width in widths) + right

    lines = [offsets, rule("├", "┼", "┤"), f"│{line(1)}│", f"│{line(2)}│", rule("└", "┴", "┘")]
    return "\n" + "".join(f"    {each}\n" for each in lines) + "\n"


def _offset(fixed: int, formula: str) -> str:
    return f"{fixed} + {formula}" if formula else str(fixed)


def _fields(layout: construct.Construct, sizes: Mapping[str, str]) -> Iterator[_Field]:
    for named in _bare(layout).subcons:
        field = _bare(named)
        if isinstance(field, construct.IfThenElse):
            field = _bare(field.elsesubcon)
        if isinstance(field, construct.Struct):
            yield from _fields(field, sizes)
        elif isinstance(field, construct.FormatField):
            sign, order = ("i" if field.fmtstr[1].islower() else "u"), (" LE" if field.fmtstr[0] == "<" else "")
            yield _Field(named.name, f"{sign}{8 * field.length}{order if field.length > 1 else ''}", field.length)
        elif named.name in sizes:
            formula = sizes[named.name]
            yield _Field(named.name, f"{formula} bytes" if formula else "the rest", formula)
        else:
            yield _Field(named.name or "padding", f"{field.sizeof()} bytes", field.sizeof())


def _bare(layout: construct.Construct) -> construct.Construct:
    """Return a layout without the wrappers that check, name or convert it."""
    while isinstance(layout, construct.Subconstruct) and not isinstance(layout, construct.Padded):
        layout = layout.subcon
    return layout


# -- tables of frames and fields ---------------------------------------------------------------------------------------

_KINDS: Final = {"json": "JSON", "empty": "empty", "opaque": "opaque: a tensor box"}


def type_table() -> str:
    """Return the table of the types of the plain protocol."""
    rows = [
        [f"0x{each.number:02X}", each.name, _direction(each), _KINDS[each.kind], str(each.revision)]
        for each in messages()
        if each.extension is None
    ]
    return _table(["type", "name", "from → to", "payload", "since revision"], rows)


def extension_table() -> str:
    """Return the table of the types of extensions."""
    kinds = _KINDS | {"numbered": "a number, then opaque bytes"}
    rows = [
        [f"0x{each.number:02X}", each.name, _direction(each), kinds[each.kind], f"`{each.extension}`"]
        for each in messages()
        if each.extension is not None
    ]
    return _table(["type", "name", "from → to", "payload", "extension"], rows)


def _direction(message: Message) -> str:
    return SPEC_BY_TYPE[message.number].direction.value


def field_table() -> str:
    """Return the table of the members of each JSON payload. Types with the same members share their rows."""
    names: dict[tuple[Field, ...], list[str]] = defaultdict(list)
    for message in messages():
        if message.kind == "json":
            names[message.fields].append(message.name)
    rows = [
        ["" if index else ", ".join(types), f"`{field.key}`", "optional: " * field.optional + _in_words(field.facts)]
        for fields, types in names.items()
        for index, field in enumerate(fields)
    ]
    return _table(["payload of", "key", "value"], rows)


def _in_words(facts: Facts) -> str:
    match facts:
        case Facts(type="integer", low=low, high=high):
            is_wide = (low, high) == (-(2**63), 2**63 - 1)
            return "signed 64-bit integer" if is_wide else f"integer from {low} to {high:,}"
        case Facts(type="array", item=Facts() as item):
            most = "" if facts.max is None else f" of at most {facts.max} elements"
            return f"array{most}{', all different' * facts.unique}; each element: {_in_words(item)}"
        case Facts(type="bytes", min=size):
            return "bytes" if size is None else f"{size} bytes"
        case Facts(values=values) if values:
            return "one of " + ", ".join(f'`"{value}"`' for value in values)
    most = "" if facts.max is None else f" of at most {facts.max:,} characters"
    return f"{facts.type}{most}" + ("" if facts.pattern is None else f" matching `{facts.pattern}`")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


# -- states ------------------------------------------------------------------------------------------------------------


def state_diagram(role: Role) -> str:
    """Return the states of one role as a Mermaid diagram, without the frames of extensions."""
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for sign, table in (("↓", RECEIVES[role]), ("↑", SENDS[role])):
        for state, row in table.items():
            for msg_type, following in row.items():
                if following is not state:
                    arrows[state, following].append(f"{sign} {_with_answer(role, sign, msg_type)}")
            steady = [
                msg_type.wire_name
                for msg_type, following in row.items()
                if following is state and not SPEC_BY_TYPE[msg_type].extension
            ]
            if steady:
                arrows[state, state].append(f"{sign} {', '.join(steady)}")
    for state, following in BOX_OPENS.items():
        arrows[state, following].append("first box opens")
    lines = [f"    [*] --> {_id(State.IDLE)}"]
    lines += [f"    {_id(a)} --> {_id(b)}: {', '.join(labels)}" for (a, b), labels in arrows.items()]
    lines += [f"    {_id(State.CLOSED)} --> [*]"]
    drawn = "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])
    return f"\n{role.value.capitalize()}:\n\n{drawn}\n\n"


def _with_answer(role: Role, sign: str, msg_type: ClusterMsgType) -> str:
    answered = role is Role.RESPONDER and sign == "↓" and msg_type is ClusterMsgType.HANDSHAKE_HELLO
    return msg_type.wire_name + (" / ↑ handshakeAck" if answered else "")


def _id(state: State) -> str:
    return state.value.replace(" ", "_")


# -- error codes -------------------------------------------------------------------------------------------------------


def error_table() -> str:
    """Return the table of error codes."""
    return _table(["code", "meaning"], [[f"`{code}`", meaning] for code, (_, meaning) in ERROR_CODES.items()])


DRAWN: Final[dict[str, Callable[[], str]]] = {
    "LinkFrame": partial(layout_diagram, schema.LinkFrame, {"body": "length"}),
    "SealedBox": partial(layout_diagram, schema.SealedBox, {"ciphertext": "n"}),
    "ClusterFrame": partial(layout_diagram, schema.ClusterFrame, {"payload": ""}),
    "SideChannelPart": partial(layout_diagram, schema.SideChannelPart, {"part": ""}),
    "SideChannelWhole": partial(layout_diagram, schema.SideChannelWhole, {"whole": ""}),
    "Activation": partial(layout_diagram, schema.Activation, {"data": "seqLen × hiddenDim × 2"}, {"data": "bfloat16"}),
    "Token": partial(layout_diagram, schema.Token),
    "JacclDestination": partial(layout_diagram, schema.JacclDestination),
    **{role.value: partial(state_diagram, role) for role in Role},
    "types": type_table,
    "payload fields": field_table,
    "types of extensions": extension_table,
    "error codes": error_table,
    "worked example": worked_example,
}
"""The generated parts, by their names in the specification."""


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_diagrams(path.read_text()))
