"""One rank of the demo in a process of its own: `python -m bootstrap.worker`, run by the supervisor.

One JSON order comes in on stdin; events go out on stdout, a JSON object a line; log lines go to stderr. The link
comes first, on an event loop; then the group, on the main thread and without one, since native init holds the GIL.

Who ends it: the supervisor at its deadline; the guard when the supervisor was killed; the kernel, by SIGALRM, when
neither did, as no code of this process runs while native init waits.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from bootstrap import roles
from bootstrap.errors import BootstrapError, TopologyWriteError
from bootstrap.events import OnStep
from bootstrap.forming import form_group
from bootstrap.group import check_sum, resolve_backend
from bootstrap.plan import BackendChoice, Plan
from bootstrap.transport import listen
from wireproto import JacclBootstrapPayload

ALARM_AFTER_DEADLINE = 2.0
"""Seconds in which the supervisor, or else the guard, ends this process in a cleaner way."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells a rank. Times are of the system's monotonic clock."""

    rank: int
    ips: tuple[str, ...]
    host: str
    backend: BackendChoice
    directory: str
    """Where the file for MLX goes; made and removed by this rank, as all ranks share one host."""
    origin: float
    deadline: float
    bootstrap: JacclBootstrapPayload | None = None
    """Rank 0's only: the others learn it over the link."""
    peers: tuple[tuple[str, int], ...] = ()
    """Rank 0's only: where ranks 1, 2, … listen."""


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    # Whatever native code prints must not get between the events.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

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
    if order.bootstrap is None:
        with listen(order.host) as listener:
            emit("listening", host=listener.host, port=listener.port)
            payload = asyncio.run(roles.follow(listener, len(order.ips), _left(order), emit))
    else:
        payload = order.bootstrap
        asyncio.run(roles.lead(payload, order.peers, _left(order), emit))
    plan = Plan(
        rank=order.rank,
        ips=order.ips,
        port=payload.port,
        session_id=payload.session_id,
        backend=backend,
        directory=order.directory,
    )
    with _private_directory(Path(order.directory)):
        group = form_group(plan, emit)
    emit("sum-checked", value=check_sum(group))


@contextmanager
def _private_directory(path: Path) -> Iterator[None]:
    try:
        path.mkdir(0o700)
    except OSError as error:
        raise TopologyWriteError(
            f"cannot make {path}: {error.strerror}; check TMPDIR", code="directory-failed"
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _left(order: Order) -> float:
    return max(0.0, order.deadline - time.monotonic())


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
