"""`make bench`: codec, session, tools and start times, compared with the work that they cannot avoid and with others.

Everything is a ratio of medians, measured in one run with both sides in turns. Exit code 0, whatever the ratios: these
machines are noisy, and the table says what was met, and why a target was missed.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import msgspec

from tests.benchmarks import floor, fuzzing, gathers, group, growth, inspection, peers, scanning, session
from tests.benchmarks.harness import Race, Row, benchmark, child, child_seconds, report
from tests.benchmarks.peers import BOOTSTRAP, FRAME
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import HEADER, LinkDecoder, encode_link_frame
from wireproto.messages import PPActivationPayload

CHUNK = 256 * 1024
LONG = 64 * 1024 * 1024

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


ENCODING = (
    "calling the function of the type takes 0.2 of the floor's time, the checks 0.35; other forms of both changed less "
    "than 0.03"
)
IMPORTING = "msgspec alone takes most of it"
HELP = "import sys; sys.argv[1:] = ['--help']; from bootstrap.__main__ import main; main()"


def start_time(work: str, code: str, other: str, most: float, reason: str, rounds: int) -> Row:
    """The processor time that code adds to the start of Python; the ratio is in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, each in enumerate((code, other)):
            times[side].append(child_seconds([sys.executable, "-c", each]))
    ours, bare = benchmark(work, times[0]), benchmark(f"{work}, without", times[1])
    return Row(
        work, f"python -c '{other}', + ms", ours, bare, (ours.median() - bare.median()) * 1e3, ("<=", most), reason
    )


def races() -> list[Race]:
    """The codec's own, and the fuzzer's."""
    long = LongFrame()
    msgspec_alone = msgspec.json.Decoder(PPActivationPayload).decode
    return [
        Race(
            "encode jacclBootstrap",
            "floor",
            partial(encode_frame, BOOTSTRAP),
            partial(floor.encode, BOOTSTRAP),
            ("<=", 1.4),
            reason=ENCODING,
        ),
        Race("10,000 frames", "floor", decode_stream, partial(floor.decode_stream, CHUNKS), (">=", 0.8), rate=True),
        Race("64 MiB frame", "copying to a warm buffer", long.ours, long.other, (">=", 0.8), rate=True),
        Race("64 MiB frame", "to a fresh one", long.ours_fresh, long.other_fresh, (">=", 0.95), rate=True),
        Race(
            "ppActivation, 1 MiB box",
            "msgspec alone",
            partial(decode_frame, ACTIVATION_FRAME),
            lambda: msgspec_alone(ACTIVATION_FRAME[1:]),
            ("<=", 1.5),
        ),
        fuzzing.race(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    quick = parser.parse_args().quick
    rounds, seconds = (3, 0.001) if quick else (25, 0.02)
    rows = [*peers.rows(rounds, seconds), *(partial(race.run, rounds, seconds) for race in races())]
    rows += scanning.rows(rounds, seconds)
    rows += [
        partial(peak_memory, 3 if quick else 5),
    ]
    rows += [
        partial(start_time, "import wireproto", "import wireproto", "pass", 20, IMPORTING, rounds),
        partial(start_time, "the same", "import wireproto", "import msgspec", 10, "", rounds),
        partial(start_time, "jaccl-bootstrap --help", HELP, "pass", 100, "", rounds),
    ]
    rows += [*session.rows(rounds, seconds), *gathers.rows(rounds)]
    rows += [*growth.rows(quick), *inspection.rows(quick)]
    if group.can_run():
        rows.append(partial(group.to_group, 3 if quick else 15))
    report(rows, Path(".benchmarks/ratios.json"))


if __name__ == "__main__":
    main()
