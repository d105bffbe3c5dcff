"""Faults, bad input and endurance: no rank may hang, leak or misreport."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def say(text: str, end: str = "\n") -> None:
    """Print to the user at once. Leave silently if the reader has exited."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its exit
        sys.exit(128 + signal.SIGPIPE)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command of this package, and exit: silently on Ctrl-C, and on SIGTERM only once all is cleaned up."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
