"""Faults, bad input and endurance: what no rank may answer with a hang, a leak or a lie."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def say(text: str, end: str = "\n") -> None:
    """To whoever runs a command of this package, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command of this package, and exit: quietly at Ctrl-C, and where a reader has seen enough."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
