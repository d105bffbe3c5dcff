"""Where inputs are kept: `DIR/LAYER/NAME`, so that a file alone says what it is for."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from wireproto.fuzzing.watch import Finding


def inputs(directory: Path, layer: str) -> Iterator[bytes]:
    """Those of a layer, always in the same order."""
    for path in sorted((directory / layer).glob("*")):
        yield path.read_bytes()


def keep(directory: Path, layer: str, data: bytes, name: str = "") -> Path:
    """Writes an input, unless it is there; its name begins with the given one, and ends with its hash."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = directory / layer / f"{name}{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def keep_finding(directory: Path, layer: str, finding: Finding) -> Path:
    words = "".join(char if char.isalnum() else "-" for char in finding.oracle)
    return keep(directory, layer, finding.data, f"{words}-")
