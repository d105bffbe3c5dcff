"""The process that holds MLX, for one rank: `python -m bootstrap.worker BACKEND`, started by the control process.

It loads MLX and says what that can do; then one JSON order comes in on stdin, and a line for each step that has to wait
for the other ranks: the init, and the program. Events go out on stdout, a JSON object per line; log lines go to stderr.

It is ended by the control process at the deadline; by the guard when the control process was killed; and by the kernel,
with SIGALRM, when neither did, since no code of this process runs while native init waits.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import msgspec

from bootstrap.errors import BootstrapError
from bootstrap.events import OnStep
from bootstrap.files import private_directory
from bootstrap.group import check_sum, form_group, mlx_version, resolve_backend, takes_gather_factory
from bootstrap.link.gather import side_channel_factory
from bootstrap.plan import BackendChoice, Order
from bootstrap.program import run_program

ALARM_AFTER_DEADLINE = 2.0
"""Seconds in which the control process, or else the guard, ends this process in a cleaner way."""
RING_STAGGER = 0.002
"""Seconds by which the last rank of a ring starts its init later: it connects first, all others listen first, and where
nobody listens yet MLX sleeps for a second."""


def main() -> int:
    # Native code may print; that must not get between the events.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    rank, origin = 0, time.monotonic()

    def emit(event: str, /, **fields: object) -> None:
        t_ms = round((time.monotonic() - origin) * 1000, 1)
        events.write(json.dumps({"event": event, "rank": rank, **fields, "t_ms": t_ms}) + "\n")
        events.flush()

    try:
        backend = resolve_backend(cast(BackendChoice, sys.argv[1]))
        emit("loaded", backend=backend, version=mlx_version(), gather_factory=takes_gather_factory())
        signal.signal(signal.SIGTERM, _end)  # not before: an exception in the middle of MLX's start aborts the process
        line = sys.stdin.buffer.readline()
        if not line:
            return 3  # the control process is gone
        order = msgspec.json.decode(line, type=Order)
        rank, origin = order.plan.rank, order.origin
        if order.deadline is not None:
            left = max(0.0, order.deadline - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, left + ALARM_AFTER_DEADLINE)
        is_to_go_on = run(order, emit)
    except BootstrapError as error:
        emit("error", stage=error.stage, code=error.code, message=str(error))
        return 3
    if order.plan.command and is_to_go_on:
        run_program(order, emit)
    return 0


def run(order: Order, emit: OnStep) -> bool:
    """Form the group, check it, and keep it until stdin ends; or until its program may run, and return True."""
    plan = order.plan

    def wait_for_turn() -> None:
        if not sys.stdin.buffer.readline():
            raise SystemExit(3)  # the control process is gone
        if plan.backend == "ring" and plan.rank == plan.size - 1:
            time.sleep(RING_STAGGER)

    with private_directory(Path(str(plan.directory))):
        group = form_group(plan, emit, side_channel_factory() if order.side_channel else None, wait_for_turn)
    if order.no_sum:
        emit("sum-skipped", reason=order.no_sum)
    else:
        emit("sum-checked", value=check_sum(group))
    if not order.plan.command:
        signal.setitimer(signal.ITIMER_REAL, 0)
    is_to_go_on = sys.stdin.buffer.readline() != b""
    signal.setitimer(signal.ITIMER_REAL, 0)
    return is_to_go_on


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
