"""Timing of both sides of each row in turns, and the resulting table.

Work that waits for nothing is timed in processor time, so that a busy machine changes little. pyperf keeps the values
and gives the medians; the loop is here, since its runner does not take two sides in turns.
"""

import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pyperf
from rich.console import Console
from rich.progress import track
from rich.table import Table

Bound = tuple[Literal["<=", ">="], float]


@dataclass(frozen=True)
class Row:
    """One line of the table: our time and the other's, shown by `form`, and the bound of the ratio."""

    work: str
    against: str
    ours: pyperf.Benchmark
    other: pyperf.Benchmark
    ratio: float
    bound: Bound | None
    reason: str = ""
    """Why the ratio may miss the bound; shown if it does."""

    @property
    def share(self) -> float:
        """The share of the bound that is used up: above 1, the bound is missed."""
        if self.bound is None:
            return 0.0
        sign, limit = self.bound
        return self.ratio / limit if sign == "<=" else limit / self.ratio

    @property
    def cells(self) -> tuple[str, ...]:
        target = verdict = ""
        if self.bound is not None:
            sign, limit = self.bound
            missed = f"[red]missed[/]: {self.reason}" if self.reason else "[red]missed[/]"
            verdict = "[green]met[/]" if self.share <= 1 else missed
            target = f"{'≤' if sign == '<=' else '≥'} {limit:g}"
        ours, other = (each.format_value(each.median()) for each in (self.ours, self.other))
        return self.work, ours, self.against, other, f"{self.ratio:.2f}", target, verdict


@dataclass(frozen=True)
class Race:
    """Two ways to do the same work. `rate` means that the ratio is of rates (more is better), otherwise of times."""

    work: str
    against: str
    ours: Callable[[], object]
    other: "Callable[[], object] | Elsewhere"
    bound: Bound | None
    rate: bool = False
    reason: str = ""

    def run(self, rounds: int, seconds: float) -> Row:
        """Medians of `rounds` timings of each side, taken in turns, each at least `seconds` long."""
        works = (self.ours, self.other)
        loops = [loops_for(work, seconds) for work in works]
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(_time(works[side], loops[side]))
        ours, other = (
            benchmark(f"{self.work}: {name}", times[side]) for side, name in enumerate(("ours", self.against))
        )
        ratio = ours.median() / other.median()
        return Row(self.work, self.against, ours, other, 1 / ratio if self.rate else ratio, self.bound, self.reason)


class Elsewhere:
    """Work of another process. For each line with a number, it does the work so often and writes the microseconds."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def seconds(self, loops: int) -> float:
        """Do the work so often; return the processor time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{loops}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline()) / 1e6


def exponent(
    work: str, of: Callable[[int], Callable[[], float]], sizes: list[int], rounds: int, reason: str = ""
) -> Row:
    """Return the exponent of time over size, 1 if linear: the slope of the medians' logarithms over those of the sizes.

    `of` returns a function for a size, which returns the seconds of one run.
    """
    times = []
    for size in sizes:
        seconds = of(size)
        times.append(benchmark(f"{work}: {size}", [seconds() for _ in range(rounds)]))
    slope = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(each.median()) for each in times]
    ).slope
    return Row(work, f"{sizes[0]:,}, exponent", times[-1], times[0], slope, ("<=", 1.1), reason)


def benchmark(name: str, values: list[float], unit: str = "second") -> pyperf.Benchmark:
    return pyperf.Benchmark([pyperf.Run(values, metadata={"name": name, "unit": unit}, collect_metadata=False)])


def report(rows: list[Callable[[], Row]], save: Path) -> None:
    """Measure all rows, print the table and save the values, for `python -m pyperf stats`."""
    done = [row() for row in track(rows, "measuring", console=Console(stderr=True), transient=True)]
    table = Table(
        title=f"{platform.python_implementation()} {platform.python_version()}, {platform.platform(terse=True)}"
    )
    for name in ("work", "ours", "against", "theirs", "ratio", "target"):
        table.add_column(name, justify="right" if name in ("ours", "theirs", "ratio") else "left", no_wrap=True)
    table.add_column("")
    for row in done:
        table.add_row(*row.cells)
    console = Console(width=max(Console().width, 160))
    console.print(table)
    save.parent.mkdir(exist_ok=True)
    values = {each.get_name(): each for row in done for each in (row.ours, row.other)}
    pyperf.BenchmarkSuite(list(values.values())).dump(str(save), replace=True)
    console.print(f"saved to {save}")


def child(code: str) -> str:
    """Return the output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=_environment())
    return done.stdout


def _environment() -> dict[str, str]:
    """Return variables with which Python keeps bytecode, as for an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def child_seconds(command: list[str]) -> float:
    """Return the processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    null = subprocess.DEVNULL
    subprocess.run(command, stdout=null, stderr=null, check=True, timeout=600, env=_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loops_for(work: Callable[[], object] | Elsewhere, seconds: float) -> int:
    """Return how many times to do the work so that it takes at least so long."""
    loops = 1
    while (taken := _time(work, loops) * loops) < seconds:
        loops = max(2 * loops, int(loops * seconds / max(taken, 1e-9)))
    return loops


def _time(work: Callable[[], object] | Elsewhere, loops: int) -> float:
    if isinstance(work, Elsewhere):
        return work.seconds(loops) / loops
    start = time.process_time()
    for _ in range(loops):
        work()
    return (time.process_time() - start) / loops
