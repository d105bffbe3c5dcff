"""Writes spec/vectors/: `make vectors`. The output is deterministic.

A test that is committed keeps its id and its meaning: one that would change is refused, and gets another id.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from tests.vectors import cluster_frames, device_files, handshakes, jaccl, link_streams, seals, sessions, tensors
from wireproto.testing import vectors
from wireproto.testing.vectors import (
    ClusterFrameTest,
    DeviceFileTest,
    HandshakeTest,
    JacclExchangeTest,
    JacclInitTest,
    JacclRecordTest,
    LinkStreamTest,
    SealTest,
    SessionTest,
    TensorTest,
    VectorFile,
)

MAKERS: Final[dict[type, Callable[[], VectorFile[Any]]]] = {
    LinkStreamTest: link_streams.make,
    ClusterFrameTest: cluster_frames.make,
    HandshakeTest: handshakes.make,
    SealTest: seals.make,
    TensorTest: tensors.make,
    SessionTest: sessions.make,
    JacclRecordTest: jaccl.make_records,
    JacclExchangeTest: jaccl.make_exchanges,
    JacclInitTest: jaccl.make_inits,
    DeviceFileTest: device_files.make,
}

_WORDS: Final = {"comment", "requirements", "flags"}
"""Texts that may change without changing a test's meaning."""


def schema_text() -> str:
    return json.dumps(vectors.json_schema(), indent=2, ensure_ascii=False) + "\n"


def changed(old: VectorFile[Any], new: VectorFile[Any]) -> list[str]:
    """Return the ids of `old` that `new` lacks, or has with another meaning."""
    meanings = _meanings(new)
    return [each for each, meaning in _meanings(old).items() if meanings.get(each) != meaning]


def _meanings(file: VectorFile[Any]) -> dict[str, dict[str, Any]]:
    return {
        test.id: {name: getattr(test, name) for name in test.__struct_fields__ if name not in _WORDS}
        for group in file.groups
        for test in group.tests
    }


def main() -> str | None:
    vectors.DIRECTORY.mkdir(exist_ok=True)
    made = {kind: make() for kind, make in MAKERS.items()}
    for kind, file in made.items():
        path = vectors.path(kind)
        if path.exists() and (ids := changed(vectors.load(kind), file)):
            return f"{path.name}: these would change their meaning, so give them other ids: {', '.join(ids)}"
    for kind, file in made.items():
        vectors.path(kind).write_bytes(vectors.encode(file))
    (vectors.DIRECTORY / "schema.json").write_text(schema_text())
    return None


if __name__ == "__main__":
    sys.exit(main())
