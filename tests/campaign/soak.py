"""`make soak`: sessions at full rate for minutes, and consecutive bootstraps: nothing may grow or slow down.

The sessions are one of each revision, beside each other. Both ends send every message that may travel in their
direction, as fast as the other takes them, and rank 0 a ping now and then, whose answer is timed. The bootstraps are
pairs of `up` on the same addresses, in the same directories.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

from bootstrap.link.transport import Link, connect, listen
from tests.bootstrap.links import HOST, session_0, session_1
from tests.campaign import say
from tests.campaign.plan import Case
from tests.campaign.scene import START_SECONDS, Lane, Scene
from wireproto.messages import (
    EXTENSIONS,
    REGISTRY,
    Direction,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPTokenPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import Established, MessageReceived, seal
from wireproto.testing.encodings import random_message

SECONDS = 30.0
"""Seconds for one message or one answer."""
SAMPLES = 24
"""Seconds between samples of memory, descriptors and latency."""
WARM = 4
"""The first of this many samples is left out, while buffers and caches fill."""
FIRST_BOX, BOX = 120, 14
"""Bytes that each end remembers of a box, so as not to open it twice: of the first, and of those that follow.
[SEAL-REPLAY]"""
GROWTH = 16 * 1024 * 1024
"""Allowed growth in bytes beyond those: buffers are reused, but not at once."""
SLOWER = 2.5
"""Allowed increase of the median latency in the second half: the machine is shared."""
TENSORS = (64, 4096, 65_536, 1 << 20)
"""Bytes of an activation."""
APART = (HandshakeHello, HandshakeAck, SessionEnd, Ping, PongPayload, JacclBootstrapPayload)
"""Messages that are sent at their own time."""


# -- sessions ----------------------------------------------------------------------------------------------------------


@dataclass
class Soaked:
    """The progress of one session."""

    revision: Revision
    messages: int = 0
    """Messages received by both ends."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from a ping to its pong, after all queued data."""


class Sample(NamedTuple):
    """A sample of all sessions."""

    seconds: float
    """Seconds since the start."""
    memory: int
    """Resident bytes of this process."""
    descriptors: int
    messages: int
    latency: float
    """Median, in seconds, since the last sample."""


def messages(revision: Revision, direction: Direction) -> list[Message]:
    """Some messages of every type in this direction; those with tensors in all sizes."""
    random = Random(int(revision))
    bootstrap = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF", _extensions(revision))
    made: list[Message] = [bootstrap] if direction is Direction.RANK_0_TO_1 else []
    for spec in REGISTRY:
        travels = spec.direction in (direction, Direction.BOTH) and spec.is_known(revision, EXTENSIONS)
        if not travels or spec.payload in APART:
            continue
        if spec.payload in (InferenceStep, InferenceToken):
            made += [spec.payload(bytes(size)) for size in TENSORS]
        elif spec.payload is PPActivationPayload:
            made += [PPActivationPayload("request-1", size // 128, bytes(size)) for size in TENSORS]
        elif spec.payload is PPTokenPayload:
            made += [PPTokenPayload("request-1", bytes(size)) for size in TENSORS[:2]]  # its frame has 64 KiB at most
        else:
            made += [random_message(random, spec.payload) for _ in range(4)]
    return made


def _extensions(revision: Revision) -> tuple[str, ...]:
    return tuple(sorted(EXTENSIONS)) if revision is Revision.V2 else ()


async def soak_sessions(
    seconds: float, tell: Callable[[Sample], None] = lambda sample: None
) -> tuple[list[Soaked], list[Sample]]:
    """Run one session per revision in parallel for some time. Raise any fault."""
    sessions = [Soaked(revision) for revision in Revision]
    samples: list[Sample] = []
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(_soak(session))
            group.create_task(_watch(sessions, samples, seconds / SAMPLES, tell))
    except TimeoutError:
        pass
    return sessions, samples


async def _watch(
    sessions: Sequence[Soaked], samples: list[Sample], every: float, tell: Callable[[Sample], None]
) -> None:
    process, began = psutil.Process(), time.monotonic()
    seen = [0] * len(sessions)
    while True:
        await asyncio.sleep(every)
        recent = [each for session, count in zip(sessions, seen, strict=True) for each in session.latencies[count:]]
        seen = [len(session.latencies) for session in sessions]
        count = sum(session.messages for session in sessions)
        latency = statistics.median(recent) if recent else SECONDS
        seconds = time.monotonic() - began
        samples.append(Sample(seconds, process.memory_info().rss, process.num_fds(), count, latency))
        tell(samples[-1])


async def _soak(soaked: Soaked) -> None:
    async with _linked(soaked.revision) as (near, far), asyncio.TaskGroup() as group:
        ponged, ready = asyncio.Event(), asyncio.Event()
        pong = PongPayload(True, False, MemoryPressure.NORMAL, _extensions(soaked.revision))

        async def take(link: Link) -> None:
            while True:
                match await link.receive():
                    case MessageReceived(Ping()):
                        await link.send(pong, SECONDS)
                    case MessageReceived(PongPayload()):
                        ponged.set()
                soaked.messages += 1

        async def ping() -> None:
            while True:
                ponged.clear()
                began = time.monotonic()
                await near.send(Ping(), SECONDS)
                async with asyncio.timeout(SECONDS):
                    await ponged.wait()
                soaked.latencies.append(time.monotonic() - began)
                ready.set()
                await asyncio.sleep(0.05)

        async def pour(link: Link, direction: Direction) -> None:
            await ready.wait()  # the first pong offers the extensions, the jacclBootstrap chooses them
            for message in cycle(messages(soaked.revision, direction)):
                await link.send(message, SECONDS)
                await asyncio.sleep(0)

        group.create_task(take(near))
        group.create_task(take(far))
        group.create_task(ping())
        group.create_task(pour(near, Direction.RANK_0_TO_1))
        group.create_task(pour(far, Direction.RANK_1_TO_0))


@asynccontextmanager
async def _linked(revision: Revision) -> AsyncIterator[tuple[Link, Link]]:
    """Both ends of one session, which know all extensions."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    make = {"revision": revision, "extensions": EXTENSIONS}
    server = await listen(HOST, 0, partial(session_1, **make), accepted.set_result)
    port = server.sockets[0].getsockname()[1]
    try:
        async with (
            await connect(HOST, port, partial(session_0, **make), seconds=SECONDS) as near,
            await accepted as far,
        ):
            for end in (near, far):
                assert isinstance(await end.receive(), Established)
            yield near, far
    finally:
        server.close()


def _remembered(messages: int) -> int:
    """Return the bytes that both ends remember for some boxes."""
    first = min(messages, seal._FIRST)
    return 2 * (FIRST_BOX * first + BOX * (messages - first))


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """Return the measurements that grew."""
    warm = samples[WARM:]
    first, last = warm[0], warm[-1]
    remembered = _remembered(last.messages) - _remembered(first.messages)
    if last.memory - first.memory > remembered + GROWTH:
        yield f"memory grows from {first.memory} to {last.memory} bytes, {remembered} of them for the boxes"
    if last.descriptors > first.descriptors:
        yield f"descriptors grow from {first.descriptors} to {last.descriptors}"
    yield from slower("the answer to a ping", [sample.latency for sample in warm])


def slower(what: str, seconds: Sequence[float]) -> Iterator[str]:
    half = len(seconds) // 2
    early, late = (statistics.median(part) for part in (seconds[:half], seconds[half:]))
    if late > SLOWER * early:
        yield f"{what} takes {late * 1000:.1f} ms in the second half, {early * 1000:.1f} ms in the first"


# -- bootstraps --------------------------------------------------------------------------------------------------------


class Bootstrap(NamedTuple):
    """One pair of `up` that forms, holds and ends its group. Seconds are from the start of rank 0 to the group."""

    seconds: float
    memory: int
    """Resident bytes of both control processes."""
    descriptors: int
    """Of both."""


def bootstraps(count: int, directory: Path) -> Iterator[Bootstrap]:
    """Run several in a row, revisions alternating. Raise AssertionError if one fails or leaves anything."""
    with Lane(directory, "loopback", "soak") as lane:
        for number in range(count):
            scene = Scene(lane, _undisturbed(number), lambda _: None)
            try:
                yield _bootstrap(scene)
            finally:
                scene.close()


def _undisturbed(number: int) -> Case:
    return Case(
        seed=0,
        number=number,
        shape="loopback",
        stage="",
        fault="",
        rank=0,
        work="group",
        revision=number % 2 + 1,
        extensions="on",
        restarts=0,
        brisk=False,
    )


def _bootstrap(scene: Scene) -> Bootstrap:
    scene.start(1)
    assert scene.news.until(lambda: scene.runs[1].said("listening"), START_SECONDS), scene.runs[1].events
    began = time.monotonic()
    scene.start(0)
    assert scene.news.until(lambda: scene.both(lambda run: run.said("holding")), START_SECONDS), scene.runs[0].events
    seconds = time.monotonic() - began
    controls = [psutil.Process(run.process.pid) for run in scene.runs.values()]
    held = Bootstrap(
        seconds, sum(each.memory_info().rss for each in controls), sum(each.num_fds() for each in controls)
    )
    scene.signal(0, signal.SIGINT)
    assert scene.news.until(lambda: scene.is_over, START_SECONDS), "a rank does not end"
    assert [scene.runs[rank].process.returncode for rank in (0, 1)] == [130, 0], scene.runs[0].events[-1]
    left = [scene.files(), scene.processes(), scene.lane.listeners()]
    assert left == [[], [], []], left
    return held


def bootstrap_growth(done: Sequence[Bootstrap]) -> Iterator[str]:
    """Return the measurements that grew."""
    if len(done) < 2:
        return
    yield from slower("a bootstrap", [each.seconds for each in done])
    half = len(done) // 2
    for name in ("memory", "descriptors"):
        early, late = (statistics.median(getattr(each, name) for each in part) for part in (done[:half], done[half:]))
        if late > 1.1 * early:
            yield f"{name} grow from {early:.0f} to {late:.0f}"


# -- the command -------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the sessions (default: 600)")
    parser.add_argument("--bootstraps", type=int, default=300, metavar="N", help="in a row (default: 300)")
    given = parser.parse_args()
    say(f"one session of each revision for {given.seconds:.0f} s: memory, descriptors, messages so far, ping to pong")
    sessions, samples = asyncio.run(soak_sessions(given.seconds, _tell))
    wrong = list(growth(samples))
    for session in sessions:
        latency = statistics.median(session.latencies) * 1000
        say(
            f"revision {session.revision:d}: {session.messages} messages in {given.seconds:.0f} s, "
            f"ping to pong {latency:.1f} ms in the median, {max(session.latencies) * 1000:.1f} ms at most"
        )
    say(f"{given.bootstraps} bootstraps in a row; of each tenth: median seconds, memory and descriptors of both ranks")
    done: list[Bootstrap] = []
    size = max(given.bootstraps // 10, 1)
    with tempfile.TemporaryDirectory(prefix="campaign-") as directory:
        for each in bootstraps(given.bootstraps, Path(directory)):
            done.append(each)
            if len(done) % size == 0:
                _tell_tenth(len(done), done[-size:])
    wrong += bootstrap_growth(done)
    for text in wrong:
        say(f"WRONG: {text}")
    return 1 if wrong else 0


def _tell(sample: Sample) -> None:
    say(
        f"  {sample.seconds:5.0f} s  {sample.memory / 2**20:6.1f} MiB  {sample.descriptors} descriptors  "
        f"{sample.messages:9} messages  {sample.latency * 1000:6.1f} ms"
    )


def _tell_tenth(count: int, part: Sequence[Bootstrap]) -> None:
    say(
        f"  {count:5}  {statistics.median(each.seconds for each in part):5.2f} s  "
        f"{statistics.median(each.memory for each in part) / 2**20:6.1f} MiB  "
        f"{statistics.median(each.descriptors for each in part):.0f} descriptors"
    )


if __name__ == "__main__":
    sys.exit(main())
