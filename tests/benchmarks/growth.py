"""Growth of cost: the exponent of processor time over size, 1 if linear."""

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

from harness import Row, benchmark

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import LinkDecoder, encode_link_frame
from wireproto.messages import InferenceStep
from wireproto.session.seal import Seal


def frame(size: int) -> Callable[[], object]:
    stream = encode_link_frame(encode_frame(InferenceStep(os.urandom(size))))
    chunks = [stream[at : at + 64 * 1024] for at in range(0, len(stream), 64 * 1024)]

    def work() -> None:
        decoder = LinkDecoder()
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                encode_frame(decode_frame(frame))

    return work


def boxes(count: int) -> Callable[[], object]:
    def work() -> None:
        near, far = Seal(bytes(32)), Seal(bytes(32))
        for _ in range(count):
            far.decrypt(near.encrypt(b"text"))

    return work


def exponent(work: str, of: Callable[[int], Callable[[], object]], sizes: list[int], rounds: int) -> Row:
    """Return the slope of the medians' logarithms over those of the sizes."""
    times = []
    for size in sizes:
        run = of(size)
        times.append(benchmark(f"{work}: {size}", [_seconds(run) for _ in range(rounds)]))
    slope = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(each.median()) for each in times]
    ).slope
    return Row(work, f"{sizes[0]:,}, exponent", times[-1], times[0], slope, ("<=", 1.1))


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def rows(quick: bool) -> list[Callable[[], Row]]:
    frames = [2**power for power in range(6, 21 if quick else 27, 2)]
    counts = [2**power for power in range(10, 15 if quick else 21, 2)]
    return [
        partial(exponent, f"a frame of {frames[-1]:,} bytes", frame, frames, 1 if quick else 9),
        partial(exponent, f"{counts[-1]:,} boxes", boxes, counts, 1 if quick else 3),
    ]
