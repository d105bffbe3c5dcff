"""Bytes-like arguments, read as flat bytes whatever their item type or shape."""

from typing import TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""Any object with the buffer protocol works; these are the common ones."""


def byte_view(data: BytesLike) -> memoryview:
    """Return the bytes of a bytes-like object as a flat view of unsigned bytes.

    Bytes are copied only if they are not contiguous or have a format that `memoryview.cast` does not know.
    Raises `TypeError` for anything that is not bytes-like, such as a number.
    """
    view = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    try:
        return view.cast("B")
    except TypeError:
        return memoryview(view.tobytes())
