"""Hex dumps of frames: each field starts a new line and has a colour and its name beside it."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from wireproto.inspection.fields import SYNTAX, UNREAD, Span, layers
from wireproto.inspection.sessions import Entry

ROW: Final = 16
"""Bytes on a line."""
_WHOLE: Final = 4096
"""Bytes of the longest field shown in full. Only the beginning and end of a longer one are shown."""
_END: Final = 64

FAULT: Final = "fault"
_COLOURS: Final = {
    "length": "yellow",
    "nonce": "magenta",
    "ciphertext": "dim",
    "tag": "magenta",
    "type": "green",
    SYNTAX: "dim",
    UNREAD: "dim",
}
_FIELDS: Final = ("cyan", "blue")
"""For all other fields in rotation, so that adjacent fields differ."""


class Line(NamedTuple):
    """One line of the dump."""

    offset: int
    """Offset of the first byte in the layer."""
    data: bytes
    """Up to `ROW` bytes; none if the line counts omitted bytes."""
    field: str = ""
    """The field's name, on its first line."""
    value: str = ""
    colour: str = "dim"
    """A name that ANSI terminals know, `dim`, or `FAULT`."""


def dump(entry: Entry) -> Iterator[Line | str]:
    """Yield the lines of an entry: for each layer its name and bytes, then the number of missing bytes."""
    for layer in layers(entry):
        yield f"{layer.name}: {sum(len(span.data) for span in layer.spans)} B"
        offset, fields = 0, 0
        for span in layer.spans:
            colour = FAULT if span.is_faulty else _COLOURS.get(span.name)
            if colour is None:
                colour = _FIELDS[fields % len(_FIELDS)]
                fields += 1
            yield from _lines(span, offset, colour)
            offset += len(span.data)
    missing = entry.size - len(entry.wire)
    if missing > 0:
        if entry.lost:
            yield f"{entry.lost} bytes missing from the capture"
        if missing > entry.lost:
            yield f"{missing - entry.lost} bytes not kept"


def _lines(span: Span, offset: int, colour: str) -> Iterator[Line]:
    size = len(span.data)
    shown = range(0, size, ROW)
    if size > _WHOLE:
        shown = range(0, _WHOLE - _END, ROW)
    name, value = span.name, span.value
    for at in shown:
        yield Line(offset + at, span.data[at : at + ROW], name, value, colour)
        name = value = ""
    if size > _WHOLE:
        left_out = size - _WHOLE
        yield Line(offset + _WHOLE - _END, b"", "", f"{left_out} more bytes of {span.name}", colour)
        for at in range(size - _END, size, ROW):
            yield Line(offset + at, span.data[at : at + ROW], "", "", colour)
