"""Helpers for the tables of vectors."""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from wireproto.testing.vectors import FILES, Fault, Group, Hex, VectorFile

BEYOND_LAYOUT: Final = "beyond-layout"
BEYOND_CAPTURE: Final = "beyond-capture"
FLAGS: Final = {
    BEYOND_LAYOUT: (
        "The fault is not one of the binary layout: it is in JSON text, in cryptography, or in what came before. "
        "A parser of layouts alone, such as that of cluster_link.ksy, takes these bytes."
    ),
    BEYOND_CAPTURE: (
        "The fault is not in the bytes that travel: it is in how the stream ends, or in a limit that the receiver has "
        "set. A dissector of captured packets, such as cluster_link.lua, shows none."
    ),
    "canonical": "The bytes are just those that this implementation writes for the message.",
    "foreign-spelling": "The message in an encoding that this implementation does not write.",
    "int64": "Integers beyond ±2^53: a JSON parser that reads numbers as doubles changes them, here and on the wire.",
    "rfc-6979": "The signatures are deterministic, by RFC 6979. A side with another source of k signs differently.",
    "this-implementation": "The protocol leaves this open; a peer may do it differently.",
}
"""Every flag and its meaning."""

_T = TypeVar("_T")


def file(kind: type[_T], about: str, groups: Iterable[Group[Any]]) -> VectorFile[Any]:
    """Return a file with the flags of its tests."""
    assert kind in FILES
    groups = tuple(groups)
    used = {flag for group in groups for test in group.tests for flag in test.flags}
    return VectorFile[kind](  # type: ignore[valid-type]
        about=about, flags={flag: FLAGS[flag] for flag in sorted(used)}, groups=groups
    )


def marked(data: bytes) -> tuple[Hex, int]:
    """Return bytes without the caret that marks the faulty one, and its place."""
    assert data.count(b"^") == 1
    return Hex(data.replace(b"^", b"")), data.index(b"^")


def fault(code: str, offset: int | None, path: str | None = None) -> Fault:
    return Fault(code=code, offset=offset, path=path)
