"""Storage of inputs as `DIR/LAYER/NAME`, so that a file's path names its layer."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from wireproto.fuzzing.watch import Finding


def inputs(directory: Path, layer: str) -> Iterator[bytes]:
    """Return the inputs of a layer, always in the same order."""
    for path in sorted((directory / layer).glob("*")):
        yield path.read_bytes()


def keep(directory: Path, layer: str, data: bytes, name: str = "") -> Path:
    """Write an input unless it exists; its file name is the given name and a hash."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = directory / layer / f"{name}{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def keep_finding(directory: Path, layer: str, finding: Finding) -> Path:
    words = "".join(char if char.isalnum() else "-" for char in finding.oracle)
    return keep(directory, layer, finding.data, f"{words}-")
