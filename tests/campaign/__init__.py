"""Faults, bad input and endurance: no rank may hang, leak or misreport."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def say(text: str, end: str = "\n") -> None:
    """Print to the user at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command of this package, and exit: silently on Ctrl-C or when the reader has exited."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
