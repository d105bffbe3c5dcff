"""Helpers for the tables of vectors."""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from wireproto.testing.vectors import FILES, Fault, Group, Hex, VectorFile

BEYOND_LAYOUT: Final = "beyond-layout"
BEYOND_CAPTURE: Final = "beyond-capture"
FOR_EXTENSIONS: Final = "for-extensions"
FLAGS: Final = {
    BEYOND_LAYOUT: (
        "The fault is not in the binary layout: it is in JSON text, in cryptography, or in what was sent before. "
        "A parser of layouts only, such as cluster_link.ksy, accepts these bytes."
    ),
    BEYOND_CAPTURE: (
        "The fault is not in the bytes sent: it is in how the stream ends, or in a limit that the receiver has set. "
        "A dissector of captured packets, such as cluster_link.lua, shows none."
    ),
    "canonical": "The bytes are exactly those that this implementation writes for the message.",
    FOR_EXTENSIONS: (
        "For a peer that implements extensions. To any other peer `extensions` is an unknown key, which it ignores."
    ),
    "foreign-spelling": "The message is in a form that this implementation does not write.",
    "int64": "There are integers beyond ±2^53, which a JSON parser that reads numbers as doubles changes.",
    "rfc-6979": "The signatures are deterministic (RFC 6979). A side with another source of k signs differently.",
    "this-implementation": "The protocol leaves this open: a peer may do it differently.",
}
"""Every flag and its meaning."""

_T = TypeVar("_T")


def file(kind: type[_T], about: str, groups: Iterable[Group[Any]]) -> VectorFile[Any]:
    """Return a file with the flags that its tests use."""
    assert kind in FILES
    groups = tuple(groups)
    used = {flag for group in groups for test in group.tests for flag in test.flags}
    return VectorFile[kind](  # type: ignore[valid-type]
        about=about, flags={flag: FLAGS[flag] for flag in sorted(used)}, groups=groups
    )


def marked(data: bytes) -> tuple[Hex, int]:
    """Remove the caret before the byte at fault; return the bytes and its offset."""
    assert data.count(b"^") == 1
    return Hex(data.replace(b"^", b"")), data.index(b"^")


def fault(code: str, offset: int | None, path: str | None = None) -> Fault:
    return Fault(code=code, offset=offset, path=path)
