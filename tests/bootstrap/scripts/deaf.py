"""Stuck, and all ranks ignore SIGTERM."""

import runpy
import signal
from pathlib import Path

true_signal = signal.signal


def ignore_term(number, handler):
    return true_signal(number, signal.SIG_IGN if number == signal.SIGTERM else handler)


signal.signal = ignore_term
runpy.run_path(str(Path(__file__).with_name("stuck.py")), run_name="__main__")
