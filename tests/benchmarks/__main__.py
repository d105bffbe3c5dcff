"""`make bench`: the codec compared with the floor, with interpreted construct and with the standard library.

Everything is a ratio of medians, measured in one run with both sides in turns. Exit code 0, whatever the ratios: these
machines are noisy, and the table says what was met.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import floor
import fuzzing
import gathers
import group
import growth
import inspection
import msgspec
import scanning
import session
from harness import Race, Row, benchmark, child, report

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import HEADER, LinkDecoder, encode_link_frame
from wireproto.messages import JacclBootstrapPayload, PPActivationPayload
from wireproto.testing.by_schema import parse_message

CHUNK = 256 * 1024
LONG = 64 * 1024 * 1024

BOOTSTRAP = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF")
FRAME = encode_frame(BOOTSTRAP)
ACTIVATION_FRAME = encode_frame(PPActivationPayload("request-1", 128, os.urandom(1024 * 1024)))
STREAM = encode_link_frame(FRAME) * 10_000
CHUNKS = [STREAM[at : at + 64 * 1024] for at in range(0, len(STREAM), 64 * 1024)]


def decode_stream() -> None:
    decoder = LinkDecoder()
    for chunk in CHUNKS:
        for frame in decoder.feed(chunk):
            decode_frame(frame)


class LongFrame:
    """A 64 MiB opaque frame from a socket that gives 256 KiB at a time: from one chunk that stays in the cache, as the
    kernel's would. Warm, both sides have their memory: the buffer is there, and the decoder has seen such a frame."""

    def __init__(self) -> None:
        self.chunk = memoryview(b"\x05" + os.urandom(CHUNK - 1))
        self.buffer = memoryview(bytearray(LONG))
        self.decoder = LinkDecoder()

    def ours_fresh(self) -> None:
        self.decoder = LinkDecoder()
        self.ours()

    def other_fresh(self) -> None:
        self.buffer = memoryview(bytearray(LONG))
        self.other()

    def ours(self) -> None:
        self.write(HEADER.pack(LONG))
        left = LONG
        while left:
            left -= self.write(self.chunk[:left])

    def write(self, data: bytes | memoryview) -> int:
        space = self.decoder.get_buffer(CHUNK)
        count = min(len(space), len(data))
        space[:count] = data[:count]
        for frame in self.decoder.buffer_updated(count):
            assert len(frame) == LONG
        return count

    def other(self) -> None:
        for at in range(0, LONG, CHUNK):
            self.buffer[at : at + CHUNK] = self.chunk


PEAK = f"""
import pathlib, resource, sys
from wireproto.codec.link import HEADER, LinkDecoder

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts from the parent's there
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def write(data):
    space = decoder.get_buffer({CHUNK})
    count = min(len(space), len(data))
    space[:count] = data[:count]
    return count, list(decoder.buffer_updated(count))

decoder, chunk, left = LinkDecoder(), memoryview(b"x" * {CHUNK}), {LONG}
before = peak()
write(HEADER.pack(left))
while left:
    count, frames = write(chunk[:left])
    left -= count
assert len(frames[0]) == {LONG}
print(peak() - before)
"""


def peak_memory(rounds: int) -> Row:
    """Resident memory of a fresh process, measured by the system."""
    peak = benchmark("64 MiB frame: peak memory", [float(child(PEAK)) for _ in range(rounds)], "byte")
    frame = benchmark("64 MiB frame: length", [float(LONG)], "byte")
    return Row("64 MiB frame: peak memory", "the frame", peak, frame, peak.median() / LONG, ("<=", 1.1))


HELP = "import sys; sys.argv[1:] = ['--help']; from bootstrap.__main__ import main; main()"


def start_time(work: str, code: str, other: str, most: float, rounds: int) -> Row:
    """The time that code adds to the start of Python; the ratio is in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, each in enumerate((code, other)):
            start = time.perf_counter()
            child(each)
            times[side].append(time.perf_counter() - start)
    ours, bare = benchmark(work, times[0]), benchmark(f"{work}, without", times[1])
    return Row(work, f"python -c '{other}', + ms", ours, bare, (ours.median() - bare.median()) * 1e3, ("<=", most))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    quick = parser.parse_args().quick
    rounds, seconds = (3, 0.001) if quick else (25, 0.02)
    long = LongFrame()
    msgspec_alone = msgspec.json.Decoder(PPActivationPayload).decode
    bootstrap, activation = "decode jacclBootstrap", "ppActivation, 1 MiB box"
    ours = partial(decode_frame, FRAME)
    construct = partial(parse_message, FRAME)
    races = [
        Race(bootstrap, "floor", ours, partial(floor.decode, FRAME), ("<=", 1.5)),
        Race(bootstrap, "construct", ours, construct, (">=", 8), rate=True),
        Race(bootstrap, "struct + json", ours, partial(floor.decode_stdlib, FRAME), ("<=", 1.0)),
        Race(
            "encode the same", "floor", partial(encode_frame, BOOTSTRAP), partial(floor.encode, BOOTSTRAP), ("<=", 1.4)
        ),
        Race("10,000 frames", "floor", decode_stream, partial(floor.decode_stream, CHUNKS), (">=", 0.8), rate=True),
        Race("64 MiB frame", "copying to a warm buffer", long.ours, long.other, (">=", 0.8), rate=True),
        Race("64 MiB frame", "to a fresh one", long.ours_fresh, long.other_fresh, (">=", 0.95), rate=True),
        Race(
            activation,
            "msgspec alone",
            partial(decode_frame, ACTIVATION_FRAME),
            lambda: msgspec_alone(ACTIVATION_FRAME[1:]),
            ("<=", 1.5),
        ),
    ]
    races.append(fuzzing.race())
    rows: list[Callable[[], Row]] = [partial(race.run, rounds, seconds) for race in races]
    rows += scanning.rows(rounds, seconds)
    rows += [
        partial(peak_memory, 3 if quick else 5),
    ]
    rows += [
        partial(start_time, "import wireproto", "import wireproto", "pass", 20, rounds),
        partial(start_time, "the same", "import wireproto", "import msgspec", 10, rounds),
        partial(start_time, "jaccl-bootstrap --help", HELP, "pass", 100, rounds),
    ]
    rows += [*session.rows(rounds, seconds), *gathers.rows(rounds)]
    rows += [*growth.rows(quick), *inspection.rows(quick)]
    if group.can_run():
        rows.append(partial(group.to_group, 3 if quick else 15))
    report(rows, Path(".benchmarks/ratios.json"))


if __name__ == "__main__":
    main()
