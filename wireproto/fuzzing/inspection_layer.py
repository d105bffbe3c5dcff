"""The harness of what `wireproto inspect` reads: captures, and the bytes of one direction."""

import io
import json
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Final

from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, cuts, expect
from wireproto.fuzzing.mutations import mutate_bytes
from wireproto.fuzzing.sealed import mutate_link, mutate_sealed
from wireproto.inspection import fields, hexdump, packets, timeline
from wireproto.inspection.connections import Capture, entries_of_stream
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.sessions import Entry, Kind
from wireproto.session import key_log_line
from wireproto.session.handshake import SessionSecrets
from wireproto.testing.fixed_keys import KNOWN

_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
_KEY_LOG: Final = key_log_line(SessionSecrets(KNOWN.key, KNOWN.rank_0.nonce, b""))


def inspection_harness() -> Harness:
    """Captures and streams, read with the key log of `KNOWN`, and each entry shown in every form."""
    scratch = Path(tempfile.mkdtemp(prefix="wireproto-fuzz-"))
    path = scratch / "capture"

    def check(data: bytes) -> object:
        path.write_bytes(data)
        kinds: set[object] = set()
        if packets.is_capture(path):
            kinds.update(_shown(_captured(path)))
        for ours, other in zip_longest(_in_step([data]), _in_step(cuts(data))):
            expect(ours == other, "any chunking")
        kinds.update(_shown(entries_of_stream([data], _keys())))
        return frozenset(kinds)

    weakref.finalize(check, shutil.rmtree, scratch, ignore_errors=True)
    modules = [f"wireproto.inspection.{name}" for name in _MODULES]
    return Harness("inspection", check, seeds.inspection, _mutate, modules)


_MODULES: Final = ("connections", "fields", "frames", "hexdump", "packets", "sessions", "tcp", "timeline")


def _keys() -> KeyLog:
    return KeyLog(io.StringIO(_KEY_LOG))


def _in_step(pieces: list[bytes]) -> Iterator[str]:
    """The entries up to the first fault: behind it, where the next frame is looked for depends on what has come."""
    for entry in entries_of_stream(pieces, _keys()):
        if entry.kind is Kind.BROKEN:
            yield str(entry.error)
            return
        yield timeline.as_json(entry)


def _captured(path: Path) -> Iterator[Entry]:
    capture = Capture(_keys())
    try:
        for packet in packets.read_packets(path):
            if packet.segment is not None:
                yield from capture.take(packet.segment)
    except packets.CaptureError:
        pass
    yield from capture.end()


def _shown(entries: Iterable[Entry]) -> Iterator[object]:
    """What kinds of entries there are; each is shown in every form, of which none may fail."""
    for entry in entries:
        json.loads(timeline.as_json(entry))
        text = timeline.title(entry) + timeline.summary(entry)
        expect(text.isprintable(), "what is shown is printable")
        for layer in fields.layers(entry):
            expect(layer is not None, "layers")
        for _ in hexdump.dump(entry):
            pass
        yield entry.kind, entry.sealed, entry.error and entry.error.code, type(entry.message)


# -- inputs -----------------------------------------------------------------------------------------------------------

_LONGEST: Final = 64 * 1024
"""Bytes of a stream: each of its frames is shown in every form, which takes a tenth of a millisecond."""
_mutate_boxes: Final = mutate_sealed(KNOWN.key)


def _mutate(random: Random, data: bytes) -> bytes:
    if data.startswith(_MAGIC):
        return _mutate_capture(random, data)
    return random.choice((mutate_bytes, mutate_link, _mutate_boxes))(random, data)[:_LONGEST]


def _mutate_capture(random: Random, data: bytes) -> bytes:
    """A capture: packets gone, twice or elsewhere, a byte of one changed; or any byte."""
    blocks = _blocks(data)
    if len(blocks) < 4 or random.random() < 0.1:
        return mutate_bytes(random, data)
    at = random.randrange(2, len(blocks))
    if random.random() < 0.5:
        block = blocks.pop(at)
        for _ in range(random.randrange(3)):
            blocks.insert(random.randint(2, len(blocks)), block)
    else:
        block = blocks[at]
        place = random.randrange(28, max(29, len(block) - 4))
        value = random.choice((0, 1, 0xFF, random.randrange(256)))
        blocks[at] = block[:place] + bytes([value]) + block[place + 1 :]
    return b"".join(blocks)


def _blocks(data: bytes) -> list[bytes]:
    blocks = []
    while len(data) >= 12:
        (size,) = struct.unpack_from("<I", data, 4)
        if not 12 <= size <= len(data):
            break
        blocks.append(data[:size])
        data = data[size:]
    return [*blocks, data] if data else blocks
