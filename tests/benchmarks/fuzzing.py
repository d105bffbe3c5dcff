"""The fuzzer of cluster frames, compared with a bare loop that decodes the same inputs."""

from itertools import islice

from tests.benchmarks.harness import Race
from wireproto import EXTENSIONS, Revision, WireError, decode_frame
from wireproto.fuzzing.codec_layers import frame_harness
from wireproto.fuzzing.engine import Engine

BEFORE = 20_000
COUNT = 10_000


def race() -> Race:
    """Executions of a run with all their checks, and `decode_frame` on the same inputs."""
    engine = Engine(frame_harness(), 1)
    coming = engine.inputs()
    inputs: list[bytes] = []

    def fuzz(count: int) -> None:
        inputs.clear()
        for data in islice(coming, count):
            inputs.append(data)
            engine.feed(data)

    def bare() -> None:
        for data in inputs:
            try:
                decode_frame(data, Revision.V2, EXTENSIONS)
            except WireError:
                continue

    fuzz(BEFORE)
    return Race(f"{COUNT:,} fuzzed frames", "decode_frame alone", lambda: fuzz(COUNT), bare, (">=", 0.6), rate=True)
