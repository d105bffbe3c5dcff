"""Timing of both sides of each row in turns, and the resulting table.

pyperf keeps the values and gives the medians; the loop is here, since its runner does not take two sides in turns.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

    @property
    def cells(self) -> tuple[str, ...]:
        target = verdict = ""
        if self.bound is not None:
            sign, limit = self.bound
            met = self.ratio <= limit if sign == "<=" else self.ratio >= limit
            verdict = "[green]met[/]" if met else "[red]missed[/]"
            target = f"{'≤' if sign == '<=' else '≥'} {limit:g}"
        ours, other = (each.format_value(each.median()) for each in (self.ours, self.other))
        return self.work, ours, self.against, other, f"{self.ratio:.2f}", target, verdict


@dataclass(frozen=True)
class Race:
    """Two ways to do the same work. `rate` means that the ratio is of rates (more is better), otherwise of times."""

    work: str
    against: str
    ours: Callable[[], object]
    other: Callable[[], object]
    bound: Bound | None
    rate: bool = False

    def run(self, rounds: int, seconds: float) -> Row:
        """Medians of `rounds` timings of each side, taken in turns, each at least `seconds` long."""
        works = (self.ours, self.other)
        loops = [_loops(work, seconds) for work in works]
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(_time(works[side], loops[side]))
        ours, other = (
            benchmark(f"{self.work}: {name}", times[side]) for side, name in enumerate(("ours", self.against))
        )
        ratio = ours.median() / other.median()
        return Row(self.work, self.against, ours, other, 1 / ratio if self.rate else ratio, self.bound)


def benchmark(name: str, values: list[float], unit: str = "second") -> pyperf.Benchmark:
    return pyperf.Benchmark([pyperf.Run(values, metadata={"name": name, "unit": unit}, collect_metadata=False)])


def report(rows: list[Callable[[], Row]], save: Path) -> None:
    """Measure all rows, print the table and save the values, for `python -m pyperf stats`."""
    done = [row() for row in track(rows, "measuring", console=Console(stderr=True), transient=True)]
    table = Table(
        title=f"{platform.python_implementation()} {platform.python_version()}, {platform.platform(terse=True)}"
    )
    for name in ("work", "ours", "against", "theirs", "ratio", "target", ""):
        table.add_column(name, justify="right" if name in ("ours", "theirs", "ratio") else "left")
    for row in done:
        table.add_row(*row.cells)
    console = Console(width=max(Console().width, 110))
    console.print(table)
    save.parent.mkdir(exist_ok=True)
    values = {each.get_name(): each for row in done for each in (row.ours, row.other)}
    pyperf.BenchmarkSuite(list(values.values())).dump(str(save), replace=True)
    console.print(f"saved to {save}")


def child(code: str) -> str:
    """Return the output of a fresh interpreter, which may keep bytecode like an installed package."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout


def _loops(work: Callable[[], object], seconds: float) -> int:
    loops = 1
    while (taken := _time(work, loops) * loops) < seconds:
        loops = max(2 * loops, int(loops * seconds / max(taken, 1e-9)))
    return loops


def _time(work: Callable[[], object], loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        work()
    return (time.perf_counter() - start) / loops
