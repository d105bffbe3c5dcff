"""Ctrl-Z: a run stops its children and itself, and continues them after SIGCONT."""

import os
import signal
import subprocess
import sys

SCRIPT = """
import signal
from bootstrap.control.run import Run
from bootstrap.control.watchers import Watchers

class Child:
    def send(self, number):
        print(signal.Signals(number).name, flush=True)

run = Run.__new__(Run)
run._children, run.watchers = [Child()], Watchers()
run.watchers.starting.add(Child())
run.suspend()
"""


def test_children_stop_before_the_run_and_continue_after_it() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            os.set_blocking(process.stdout.fileno(), False)
            assert os.read(process.stdout.fileno(), 100) == b"SIGSTOP\n" * 2
            os.set_blocking(process.stdout.fileno(), True)
            process.send_signal(signal.SIGCONT)
            assert process.stdout.read() == b"SIGCONT\n" * 2
            assert process.wait(10.0) == 0
        finally:
            process.kill()
