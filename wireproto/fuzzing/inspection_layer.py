"""The harness of input files of `wireproto inspect`: captures, and the bytes of one direction."""

import io
import json
import struct
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from random import Random
from typing import Final

from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, cuts, expect
from wireproto.fuzzing.sealed import mutate_link, mutate_sealed
from wireproto.inspection import fields, hexdump, timeline
from wireproto.inspection.captures import CaptureError, CaptureFile
from wireproto.inspection.connections import NotAStreamError, entries_of_stream, starts_with_frame
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.reading import Reading
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.source import Source
from wireproto.session import key_log_line
from wireproto.session.handshake import SessionSecrets
from wireproto.testing.fixed_keys import KNOWN
from wireproto.testing.mutations import mutate_bytes

_KEY_LOG: Final = key_log_line(SessionSecrets(KNOWN.key, KNOWN.rank_0.nonce, b""))


def inspection_harness() -> Harness:
    """Return the harness: with the key log of `KNOWN`, no byte is lost, and every entry can be shown in every form."""
    modules = [f"wireproto.inspection.{name}" for name in _MODULES]
    return Harness("inspection", _check, seeds.inspection, _mutate, modules)


_MODULES: Final = (
    "captures",
    "connections",
    "fields",
    "fragments",
    "frames",
    "hexdump",
    "link_layer",
    "packets",
    "reading",
    "sessions",
    "source",
    "tcp",
    "timeline",
)


def _check(data: bytes) -> object:
    source = Source(io.BytesIO(data))
    reading = Reading(source, _keys())
    account = _Account()
    kinds: set[object] = set()
    try:
        kinds.update(_shown(account.seen(reading.entries())))
    except CaptureError as error:
        kinds.add(str(error).partition(" at byte")[0].rstrip("0123456789, bytes"))
    account.check(reading)
    if CaptureFile.is_capture(data[:4]):
        kinds.update(reading.others)
        expect(source.offset == len(data), "no silent loss", f"{source.offset} of {len(data)} bytes of the file")
        expect(reading.packets == reading.with_tcp + reading.others.total(), "no silent loss", "packets")
    elif source.compression is None and starts_with_frame(data) is not False:
        for ours, other in zip_longest(_in_step([data]), _in_step(cuts(data))):
            expect(ours == other, "any chunking")
    return frozenset(kinds)


class _Account:
    """Checks that the bytes of the entries add up."""

    def __init__(self) -> None:
        self._ends: dict[int, list[int]] = {}  # of the two streams of a connection so far
        self._shown = 0

    def seen(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self._shown += entry.size - entry.lost
            ends = self._ends.setdefault(entry.connection, [0, 0])
            if entry.size and entry.kind is not Kind.LATE:
                # Not by sender, because the rank of a side may become known later.
                expect(entry.offset in ends, "no silent loss", f"before the entry at {entry.offset}")
                ends[ends.index(entry.offset)] += entry.size
            yield entry

    def check(self, reading: Reading) -> None:
        if reading.packets:
            told = self._shown + reading.repeated + reading.other_bytes
            expect(told == reading.payload, "no silent loss", f"{told} of {reading.payload} bytes of segments")


def _keys() -> KeyLog:
    return KeyLog(io.StringIO(_KEY_LOG))


def _in_step(pieces: list[bytes]) -> Iterator[str]:
    """Yield the entries up to the first fault: after it, the place of the next frame depends on the pieces."""
    try:
        for entry in entries_of_stream(pieces, _keys()):
            if entry.kind in (Kind.BROKEN, Kind.SKIPPED):
                yield f"{entry.offset}: {entry.error}"
                return
            yield timeline.as_json(entry)
    except NotAStreamError:
        return


def _shown(entries: Iterable[Entry]) -> Iterator[object]:
    """Yield the kinds of entries, and show each in every form."""
    for entry in entries:
        json.loads(timeline.as_json(entry))
        text = timeline.title(entry) + timeline.summary(entry)
        expect(text.isprintable(), "printable output")
        for layer in fields.layers(entry):
            expect(layer is not None, "layers")
        for _ in hexdump.dump(entry):
            pass
        yield entry.kind, entry.sealed, entry.error and entry.error.code, type(entry.message)


# -- inputs -----------------------------------------------------------------------------------------------------------

_LONGEST: Final = 64 * 1024
"""Bytes of a stream: showing a frame in every form takes 0.1 ms."""
_mutate_boxes: Final = mutate_sealed(KNOWN.key)


def _mutate(random: Random, data: bytes) -> bytes:
    if data.startswith(seeds.PCAPNG):
        return _mutate_capture(random, data)
    if CaptureFile.is_capture(data[:4]):
        return mutate_bytes(random, data)
    return random.choice((mutate_bytes, mutate_link, _mutate_boxes))(random, data)[:_LONGEST]


def _mutate_capture(random: Random, data: bytes) -> bytes:
    """Change a capture: packets removed, repeated, moved, cut, or with another byte; or any byte."""
    blocks = _blocks(data)
    if len(blocks) < 4 or random.random() < 0.1:
        return mutate_bytes(random, data)
    for _ in range(random.choice((1, 1, 1, 4, 16))):
        at = random.randrange(2, len(blocks))
        block = blocks[at]
        action = random.random()
        if action < 0.5 and len(blocks) > 3:
            del blocks[at]
            for _ in range(random.choice((0, 1, 1, 2))):
                blocks.insert(random.randint(2, len(blocks)), block)
        elif action < 0.6 and len(block) > 32:
            blocks[at] = _cut(block, random.randrange(28, len(block) - 4))
        else:
            place = random.randrange(min(28, len(block) - 1), max(29, len(block) - 4))
            value = random.choice((0, 1, 0xFF, random.randrange(256)))
            blocks[at] = block[:place] + bytes([value]) + block[place + 1 :]
    return b"".join(blocks)


def _cut(block: bytes, end: int) -> bytes:
    """Cut the packet in a block at `end`, as a snapshot length does."""
    body = block[8:20] + struct.pack("<I", end - 28) + block[24:end]
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", len(body) + 12)
    return block[:4] + size + body + size


def _blocks(data: bytes) -> list[bytes]:
    blocks = []
    while len(data) >= 12:
        (size,) = struct.unpack_from("<I", data, 4)
        if not 12 <= size <= len(data):
            break
        blocks.append(data[:size])
        data = data[size:]
    return [*blocks, data] if data else blocks
