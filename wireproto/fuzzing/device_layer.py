"""The harness of the topology files."""

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, error_verdict, expect, kind_of, verdict_of
from wireproto.jaccl.topology import (
    DeviceVerdict,
    check_device_file,
    format_device_file,
    format_rank_entries,
    format_ring_hostfile,
    parse_device_file,
    parse_rank_entries,
    parse_ring_hostfile,
)
from wireproto.testing.mutations import LITERALS, NUMBERS, STRING_FAULTS, mutate_bytes

_FORMS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (parse_device_file, format_device_file),
    (parse_rank_entries, format_rank_entries),
    (parse_ring_hostfile, format_ring_hostfile),
)


def device_file_harness(check_file: Callable[[bytes], DeviceVerdict] = check_device_file) -> Harness:
    """Read each input as a device matrix, as rank entries and as a ring hostfile. [TOPOLOGY-*]"""

    def check(data: bytes) -> object:
        kinds = []
        for parse, write in _FORMS:
            verdict = verdict_of(parse, data)
            kinds.append(kind_of(verdict))
            if verdict[0] == "ok":
                json.loads(data)
                expect(parse(write(verdict[2])) == verdict[2], "writing again")
        found = check_file(data)
        faults = [error_verdict(fault) for fault in found.faults]
        expect((found.matrix is None) == bool(faults), "faults or a matrix")
        expect((found.matrix is not None) == (found.mesh or found.ring), "mesh or ring")
        expect(all(fault[3] is None or fault[3] <= len(data) for fault in faults), "offsets in the file")
        if found.matrix is not None:
            _check_matrix(found, json.loads(data))
        return (*kinds, *(kind_of(fault) for fault in faults[:2]), found.mesh, found.ring)

    modules = ("wireproto.jaccl.topology",)
    return Harness("device_file", check, seeds.device_file, _mutate_file, modules)


def _check_matrix(found: DeviceVerdict, rows: Any) -> None:
    """Compare with JACCL's requirements for a mesh and a ring, checked independently."""
    counts = [[len(entry) if isinstance(entry, list) else entry is not None for entry in row] for row in rows]
    size = len(counts)
    between = [counts[r][c] for r in range(size) for c in range(size) if r != c]
    around = [counts[r][c] for r in range(size) for c in ((r + 1) % size, (r - 1) % size)]
    linked = [[bool(count) for count in row] for row in counts]
    expect(linked == [list(column) for column in zip(*linked, strict=True)], "both ends of a link")
    expect(found.mesh == (size <= 8 and all(between)), "an independent check of a mesh")
    expect(found.wires == (min(between) if found.mesh else 0), "an independent count of a mesh's connections")
    expect(found.ring == (len({*around}) == 1 and 1 <= around[0] <= 4), "an independent check of a ring")
    for row in rows:
        names = [name for entry in row for name in (entry if isinstance(entry, list) else [entry]) if name]
        expect(len(names) == len({*names}), "no repeated name in a row")


def _mutate_file(random: Random, data: bytes) -> bytes:
    if random.random() < 0.5:
        return mutate_bytes(random, data)
    pieces = (*LITERALS, *NUMBERS, *STRING_FAULTS, b'"rdma_en5"', b'["a","b"]', b"[null]", b'"169.254.1.1:29400"', b",")
    at = random.randint(0, len(data))
    return data[:at] + random.choice(pieces) + data[at + random.choice((0, 0, 1, 4, 10)) :]
