"""Growth of cost with the size of a frame, the number of boxes, and the number of ranks."""

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from bootstrap.plan import Plan
from tests.benchmarks.harness import Row, exponent
from tests.simulation.scenario import Scenario, ip, matrix
from tests.simulation.world import World
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import LinkDecoder, encode_link_frame
from wireproto.messages import InferenceStep
from wireproto.session.seal import Seal

RANKS = (
    "each of n ranks checks n addresses, and reads n versions and n parts of each gather; the simulation sorts the "
    "events of all"
)
STOPPED = 30.0
"""Simulated seconds after which a group of any size has formed and is stopped."""


def frame(size: int) -> Callable[[], float]:
    stream = encode_link_frame(encode_frame(InferenceStep(os.urandom(size))))
    chunks = [stream[at : at + 64 * 1024] for at in range(0, len(stream), 64 * 1024)]

    def work() -> None:
        decoder = LinkDecoder()
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                encode_frame(decode_frame(frame))

    return partial(_seconds, work)


def boxes(count: int) -> Callable[[], float]:
    def work() -> None:
        near, far = Seal(bytes(32)), Seal(bytes(32))
        for _ in range(count):
            far.decrypt(near.encrypt(b"text"))

    return partial(_seconds, work)


def ranks(backend: Literal["jaccl", "ring"], size: int) -> Callable[[], float]:
    """All ranks of a group, from their start to their end in a simulated world: no time passes in waiting."""
    ips = tuple(map(ip, range(size)))
    devices = matrix(size, is_ring=False) if backend == "jaccl" else None
    plans = [Plan(rank=rank, ips=ips, session_id="S-1", backend=backend, devices=devices) for rank in range(size)]
    scenario = Scenario(plans=plans, starts=[0.0] * size, stop=STOPPED, stops=0, latency=0.0001, faults=[])

    def work() -> None:
        world = World(1, scenario)
        world.run()
        assert not world.broken, world.broken
        assert all(control.last("group-ready") for control in world.controls)

    return partial(_seconds, work)


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def rows(quick: bool) -> list[Callable[[], Row]]:
    frames = [2**power for power in range(6, 21 if quick else 27, 2)]
    counts = [2**power for power in range(10, 15 if quick else 21, 2)]
    meshes, rings = [2, 3, 4, 6, 8], [2, 4, 8, 16, 32]
    rounds = 1 if quick else 3
    return [
        partial(exponent, f"a frame of {frames[-1]:,} bytes", frame, frames, 3 * rounds),
        partial(exponent, f"{counts[-1]:,} boxes", boxes, counts, rounds),
        partial(exponent, "a mesh of 8 ranks, simulated", partial(ranks, "jaccl"), meshes, rounds, RANKS),
        partial(exponent, "a ring of 32 ranks, simulated", partial(ranks, "ring"), rings, rounds, RANKS),
    ]
