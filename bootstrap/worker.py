"""The process that holds MLX, for one rank: `python -m bootstrap.worker`, run by the supervisor.

One JSON order comes in on stdin; events go out on stdout, a JSON object a line; log lines go to stderr. MLX is loaded
while the order is awaited. The demo's workers have the link as well: it comes first, on an event loop; then the group,
on the main thread and without one, since native init holds the GIL.

Who ends it: the supervisor at its deadline; the guard when the supervisor was killed; the kernel, by SIGALRM, when
neither did, as no code of this process runs while native init waits.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import msgspec

from bootstrap.errors import BootstrapError
from bootstrap.events import OnStep
from bootstrap.forming import form_group
from bootstrap.group import check_sum, preload, resolve_backend
from bootstrap.keylog import open_key_log
from bootstrap.link.record import Capture, open_capture
from bootstrap.link.sessions import RankOne, RankZero, alongside
from bootstrap.link.side_channel import side_channel_factory
from bootstrap.link.transport import MakeSession
from bootstrap.plan import BackendChoice, Plan
from bootstrap.topology import private_directory
from wireproto.jaccl.topology import DeviceMatrix
from wireproto.messages import JacclBootstrapPayload, Revision
from wireproto.session import Config, Role, Session
from wireproto.session.handshake import KeySigner

ALARM_AFTER_DEADLINE = 2.0
"""Seconds in which the supervisor, or else the guard, ends this process in a cleaner way."""
RING_STAGGER = 0.01
"""Seconds by which the last rank of a ring starts its init later: it connects first, all others listen first, and where
nobody listens yet MLX sleeps for a second."""


class LinkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a rank of the demo, where the link is the worker's as well, is to speak to the others."""

    host: str
    identity: bytes
    """Own key, as KeySigner.scalar gives it."""
    keys: tuple[bytes, ...]
    """Public keys of all ranks."""
    revision: Revision
    peers: tuple[tuple[str, int], ...] = ()
    """Rank 0's only: where ranks 1, 2, … listen."""
    capture: str | None = None
    """The file to record the links in."""

    def __repr__(self) -> str:
        return f"LinkOrder(host={self.host!r}, revision={self.revision!r}, peers={self.peers!r})"  # without the key


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells a rank. Times are of the system's monotonic clock."""

    rank: int
    ips: tuple[str, ...]
    backend: BackendChoice
    directory: str
    """Where the file for MLX goes; made and removed by this rank, as all ranks may share one host."""
    origin: float
    deadline: float
    bootstrap: JacclBootstrapPayload | None = None
    """None for a rank that learns it over the link."""
    link: LinkOrder | None = None
    all_ips: tuple[tuple[str, ...], ...] = ()
    devices: DeviceMatrix | None = None
    jaccl_ring: bool = False
    envs: tuple[tuple[str, str], ...] = ()
    side_channel: bool = False
    """JACCL's gathers go over the link."""
    no_sum: str = ""
    """Why the group is not checked by a sum; empty where it is. [PLAIN-SUM]"""
    hold: bool = False
    """Keep the group until stdin ends."""


def main() -> int:
    # Whatever native code prints must not get between the events.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    preload()
    signal.signal(signal.SIGTERM, _end)  # not before: an exception in the middle of MLX's own start aborts the process
    line = sys.stdin.buffer.readline()
    if not line:
        return 3  # the supervisor is gone
    order = msgspec.json.decode(line, type=Order)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, _left(order) + ALARM_AFTER_DEADLINE))

    def emit(event: str, /, **fields: object) -> None:
        t_ms = round((time.monotonic() - order.origin) * 1000, 1)
        events.write(json.dumps({"event": event, "rank": order.rank, **fields, "t_ms": t_ms}) + "\n")
        events.flush()

    try:
        run(order, emit)
    except BootstrapError as error:
        emit("error", stage=error.stage, code=error.code, message=str(error))
        return 3
    return 0


def run(order: Order, emit: OnStep) -> None:
    backend = resolve_backend(order.backend)  # before any link is made
    payload = order.bootstrap
    if order.link is not None:
        path = None if order.link.capture is None else Path(order.link.capture)
        with open_key_log() as key_log, open_capture(path) as capture:
            payload = _run_loop(_exchange(order.link, order, emit, key_log, capture))
    assert payload is not None  # noqa: S101 - where there is no link, the order has it
    plan = Plan(
        rank=order.rank,
        ips=order.ips,
        all_ips=order.all_ips,
        port=payload.port,
        session_id=payload.session_id,
        backend=backend,
        devices=order.devices,
        jaccl_ring=order.jaccl_ring,
        envs=order.envs,
        directory=order.directory,
    )
    if backend == "ring" and plan.rank == plan.size - 1:
        time.sleep(RING_STAGGER)
    with private_directory(Path(order.directory)):
        group = form_group(plan, emit, side_channel_factory() if order.side_channel else None)
    if order.no_sum:
        emit("sum-skipped", reason=order.no_sum)
    else:
        emit("sum-checked", value=check_sum(group))
    if order.hold:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdin.buffer.read()


def _run_loop(work: Coroutine[None, None, JacclBootstrapPayload]) -> JacclBootstrapPayload:
    """What `work` gives. SIGTERM cancels it: an exception from the handler would leave the loop by any of its tasks."""

    async def until_term() -> JacclBootstrapPayload:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run makes one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(until_term())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, _end)


async def _exchange(
    link: LinkOrder, order: Order, emit: OnStep, key_log: TextIO | None, capture: Capture | None
) -> JacclBootstrapPayload:
    """Rank 0 sends the bootstrap to each other rank, and the others get it."""
    signer = KeySigner.from_scalar(link.identity)

    def session(role: Role, peer: int) -> MakeSession:
        return lambda peer_ip: Session(
            Config(role=role, signer=signer, pin=link.keys[peer], revision=link.revision, key_log=key_log)
        )

    async with asyncio.timeout(_left(order)):
        if order.bootstrap is None:
            size = len(order.ips)
            follower = RankOne(link.host, 0, session(Role.RESPONDER, 0), size=size, capture=capture, report=emit)
            return await alongside(_take(follower), follower.run())
        leaders = [
            RankZero(host, port, session(Role.INITIATOR, peer), peer=peer, capture=capture, report=emit)
            for peer, (host, port) in enumerate(link.peers, start=1)
        ]
        await alongside(_give(leaders, order.bootstrap), *(leader.run() for leader in leaders))
        return order.bootstrap


async def _give(leaders: Sequence[RankZero], payload: JacclBootstrapPayload) -> None:
    for leader in leaders:
        await leader.bootstrap(payload)
    for leader in leaders:
        await leader.stop()


async def _take(follower: RankOne) -> JacclBootstrapPayload:
    payload = await follower.bootstrap()
    await follower.over()
    return payload


def _left(order: Order) -> float:
    return max(0.0, order.deadline - time.monotonic())


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
