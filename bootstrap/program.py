"""Runs the user's module or script in the process that has formed the group, as Python itself would.

MLX returns that group to the program's own `mx.distributed.init()`.
"""

import functools
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from bootstrap.events import OnStep
from bootstrap.group import on_init
from bootstrap.link.gather import VARIABLE
from bootstrap.plan import Order

_BELOW = {__file__, str(Path(__file__).with_name("worker.py")), runpy.__file__, "<frozen runpy>"}
"""Files with stack frames below the program's."""


def run_program(order: Order, emit: OnStep) -> None:
    """Run the module or script of the order's plan to its end. Its exceptions propagate, and print as in Python."""
    plan = order.plan
    name, *arguments = plan.command
    _restore(order)
    if plan.cwd is not None:
        os.chdir(plan.cwd)
    on_init(functools.partial(_warn_of_another_group, plan.size, emit))
    sys.excepthook = functools.partial(_without_our_frames, sys.excepthook)
    if plan.runs == "module":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = [name, *arguments]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(name).resolve().parent))
        sys.argv = [name, *arguments]
        runpy.run_path(name, run_name="__main__")


def _restore(order: Order) -> None:
    """Restore the streams, signals, variables and logging that a new Python process has."""
    assert order.output is not None  # noqa: S101 - the worker was started for a program
    stdin = os.open(os.devnull, os.O_RDONLY) if order.stdin is None else order.stdin
    for number, descriptor in enumerate((stdin, *order.output)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    os.environ.pop(VARIABLE, None)
    if order.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = order.python_path


def _warn_of_another_group(formed: int, emit: OnStep, backend: object, size: int) -> None:
    """MLX has one group per backend, and a group of one if a backend cannot form any."""
    if size != formed:
        text = f"the program asked MLX for backend {backend!r} and got a group of {size}, not this group of {formed}"
        emit("warning", message=f"{text}; name no backend there, or the same as --backend")


def _without_our_frames(
    hook: Callable[[type[BaseException], BaseException, TracebackType | None], Any],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Print an uncaught error without the frames below the program's own."""
    own = traceback
    while own is not None and own.tb_frame.f_code.co_filename in _BELOW:
        own = own.tb_next
    hook(kind, error.with_traceback(own), own)
