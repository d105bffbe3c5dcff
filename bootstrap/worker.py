"""The process that holds MLX, for one rank: `python -m bootstrap.worker BACKEND`, started by the control process.

It loads MLX and reports what that can do. Then stdin brings one JSON order, and a line for each step that waits for
the other ranks: the init and the program. Events go to stdout as JSON lines, log lines to stderr.

At the deadline the control process ends it; if that was killed, the guard does; and if neither does, the kernel with
SIGALRM, since no code of this process runs while native init waits.
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
"""Seconds for the control process, or the guard, to end this process in a cleaner way."""
RING_STAGGER = 0.002
"""Seconds by which the last rank of a ring delays its init. It connects first, all others listen first, and MLX sleeps
for a second if the neighbour is not listening yet."""


def main() -> int:
    # Native code may print, which must not mix with the events.
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
        signal.signal(signal.SIGTERM, _end)  # only now: an exception while MLX loads aborts the process
        line = sys.stdin.buffer.readline()
        if not line:
            return 3  # the control process is gone
        order = msgspec.json.decode(line, type=Order)
        rank, origin = order.plan.rank, order.origin
        if order.deadline is not None:
            left = max(0.0, order.deadline - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, left + ALARM_AFTER_DEADLINE)
        may_continue = run(order, emit)
    except BootstrapError as error:
        emit("error", stage=error.stage, code=error.code, message=str(error))
        return 3
    if order.plan.command and may_continue:
        run_program(order, emit)
    return 0


def run(order: Order, emit: OnStep) -> bool:
    """Form and check the group, and keep it until stdin ends. Return True earlier if its program may run."""
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
    may_continue = sys.stdin.buffer.readline() != b""
    signal.setitimer(signal.ITIMER_REAL, 0)
    return may_continue


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
