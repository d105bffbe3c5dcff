"""Hypothesis profiles: `ci` is thorough, `local` is fast, `mutation` uses the same few examples each time.

HYPOTHESIS_PROFILE picks one; CI=true means `ci`. tests/examples.py scales all other numbers of examples.
Tests with the mark `waits` begin first.
"""

import gc
import os
import signal
from itertools import chain

import pytest
from hypothesis import HealthCheck, settings

from tests.examples import PROFILE, examples

_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=False, print_blob=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile("local", max_examples=examples(60), deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.register_profile(
    "mutation", max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile(PROFILE)

for number, handler in ((signal.SIGHUP, lambda number, frame: None), (signal.SIGINT, signal.default_int_handler)):
    # Under nohup, or in the background of a script, the tested commands would inherit ignored signals; a
    # handler is reset when they start.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


gc.disable()  # until the tests are collected, which makes a million objects that stay


def pytest_collection_finish() -> None:
    """Collect garbage from here on, but never look through the collected tests."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Many tests wait for processes, so more of them than there are cores run side by side."""
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker, which takes the tests in batches, start with some of the slow waiting ones.

    Left for the end, they would be waited for alone.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    waiting = [item for item in items if item.get_closest_marker("waits") is not None]
    others = [item for item in items if item.get_closest_marker("waits") is None]
    size = -(-len(others) // workers)
    parts = (waiting[number::workers] + others[number * size : (number + 1) * size] for number in range(workers))
    items[:] = chain.from_iterable(parts)
