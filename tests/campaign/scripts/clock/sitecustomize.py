"""A wrong wall clock for each Python process with this on its path: $CLOCK names a file with seconds."""

import os
import time
from contextlib import suppress

true_time, true_time_ns, FILE = time.time, time.time_ns, os.environ["CLOCK"]


def offset():
    with suppress(OSError, ValueError), open(FILE) as file:  # noqa: PTH123 - it runs before all else
        return int(file.read())
    return 0


time.time = lambda: true_time() + offset()
time.time_ns = lambda: true_time_ns() + offset() * 10**9
