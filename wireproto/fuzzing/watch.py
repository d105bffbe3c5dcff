"""Runs one input through a harness; finds errors and excessive use of time or memory."""

import resource
import signal
import sys
import threading
import time
import traceback
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from wireproto.fuzzing.harness import FindingError, Harness

SLOW: Final = 2.0
"""Seconds of thread time for one input of up to `MAX_INPUT` bytes."""
HANGS: Final = 15.0
"""Seconds of process time after which an input is stopped; up to twice as many may pass."""
LARGE: Final = 64 * 1024 * 1024
"""Bytes of memory for one input."""
_QUICK: Final = 0.002
"""An input faster than this cannot use much memory: touching `LARGE` bytes takes longer."""


@dataclass(frozen=True)
class Finding:
    """An input that breaks a property."""

    layer: str
    oracle: str
    detail: str
    data: bytes
    trace: str = field(compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """Identifies a finding."""
        return self.oracle, self.detail


class _HangError(Exception):
    pass


def examine(harness: Harness, data: bytes) -> tuple[object, Finding | None]:
    """Run one input through a harness; return the kind of outcome or the finding."""
    try:
        return harness.check(data), None
    except FindingError as error:
        return None, _finding(harness, error.oracle, error.detail, data)
    except _HangError:
        return None, _finding(harness, "bounded time", f"no end within {HANGS:g} s", data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # such as SystemExit, or the panic of an extension in Rust
        place = traceback.extract_tb(error.__traceback__)[-1].name
        return None, _finding(harness, "only documented errors", f"{type(error).__name__} in {place}", data)


def _finding(harness: Harness, oracle: str, detail: str, data: bytes) -> Finding:
    return Finding(harness.name, oracle, detail, data, traceback.format_exc(limit=-6))


def watched(harness: Harness, data: bytes) -> tuple[object, Finding | None]:
    """Do the same as `Watch.examine`, for one input."""
    with Watch() as watch:
        return watch.examine(harness, data)


class Watch:
    """Watches the time and memory of a run. Once entered in the main thread, it stops hanging inputs by a signal."""

    def __init__(self) -> None:
        self._in_use = _resident()[1]
        self._ticks = 0
        self._is_inside = False

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGVTALRM, self._tick)
            signal.setitimer(signal.ITIMER_VIRTUAL, HANGS, HANGS)
        return self

    def __exit__(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._before)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self._is_inside and self._ticks > 1:
            raise _HangError

    def examine(self, harness: Harness, data: bytes) -> tuple[object, Finding | None]:
        """Run one input like the function `examine`. Repeated excessive time or memory is a finding, too."""
        start = time.perf_counter()
        kind, finding = self.limited(harness, data)
        taken = time.perf_counter() - start
        if taken > _QUICK and finding is None:
            peak, now = _resident()
            risen, self._in_use = peak - self._in_use, now
            if taken > SLOW or risen > LARGE // 2:
                finding = self._measured(harness, data)
        return kind, finding

    def limited(self, harness: Harness, data: bytes) -> tuple[object, Finding | None]:
        """Run one input like the function `examine`. A hang is a finding, too."""
        self._ticks = 0
        self._is_inside = True
        try:
            return examine(harness, data)
        finally:
            self._is_inside = False

    def _measured(self, harness: Harness, data: bytes) -> Finding | None:
        start = time.thread_time()
        self.limited(harness, data)
        if time.thread_time() - start > SLOW:
            return Finding(harness.name, "bounded time", f"more than {SLOW:g} s", data, "")
        tracemalloc.start()
        try:
            self.limited(harness, data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if peak > LARGE:
            return Finding(harness.name, "bounded memory", f"more than {LARGE >> 20} MiB", data, "")
        return None


_STATUS: Final = Path("/proc/self/status")
_MARKS: Final = Path("/proc/self/clear_refs")


def _resident() -> tuple[int, int]:
    """Return the peak memory of this process since the last call, and its current memory, in bytes.

    Except on Linux, both are the peak since its start.
    """
    try:
        text = _STATUS.read_bytes()
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    peak, now = (int(text.partition(name)[2].split(maxsplit=1)[0]) * 1024 for name in (b"VmHWM:", b"VmRSS:"))
    try:
        _MARKS.write_bytes(b"5")
    except OSError:
        return peak, peak
    return peak, now
