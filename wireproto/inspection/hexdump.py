"""A frame byte by byte: each field starts a line of its own, has its name beside it, and has a colour."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from wireproto.inspection.fields import SYNTAX, UNREAD, Span, layers
from wireproto.inspection.sessions import Entry

ROW: Final = 16
"""Bytes on a line."""
_WHOLE: Final = 4096
"""Of a longer field only the beginning and the end are shown."""
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
"""For all others, in turns: two fields side by side differ."""


class Line(NamedTuple):
    """One line of the dump."""

    offset: int
    """Of its first byte, in the layer."""
    data: bytes
    """Up to `ROW` bytes; none on a line that says how many are left out."""
    field: str = ""
    """On a field's first line."""
    value: str = ""
    colour: str = "dim"
    """A name that ANSI terminals know, `dim`, or `FAULT`."""


def dump(entry: Entry) -> Iterator[Line | str]:
    """Yield the lines of an entry's bytes, after the name of each layer; then how many bytes are not there."""
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
            yield f"{entry.lost} bytes that the capture lacks"
        if missing > entry.lost:
            yield f"{missing - entry.lost} bytes that are not kept"


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
