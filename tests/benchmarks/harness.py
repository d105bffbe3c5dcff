"""Timing both sides of each row in turns, and the table that comes of it."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

Bound = tuple[Literal["<=", ">="], float]


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against another, and the bound that the ratio has to keep."""

    work: str
    against: str
    ours: float
    other: float
    unit: str
    ratio: float
    bound: str
    met: bool


@dataclass(frozen=True)
class Race:
    """Two ways to do one work. `rate` means that the ratio is of rates (more is better), else of times."""

    work: str
    against: str
    ours: Callable[[], object]
    other: Callable[[], object]
    bound: Bound
    rate: bool = False

    def run(self, rounds: int, seconds: float) -> Row:
        """Medians of `rounds` timings of each side, taken in turns, each at least `seconds` long."""
        loops = (_loops(self.ours, seconds), _loops(self.other, seconds))
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(_time((self.ours, self.other)[side], loops[side]))
        ours, other = map(statistics.median, times)
        return row(
            self.work,
            self.against,
            ours * 1e6,
            other * 1e6,
            "µs",
            other / ours if self.rate else ours / other,
            self.bound,
        )


def row(
    work: str,
    against: str,
    ours: float,
    other: float,
    unit: str,
    ratio: float,
    bound: tuple[Literal["<=", ">="], float],
) -> Row:
    sign, limit = bound
    met = ratio <= limit if sign == "<=" else ratio >= limit
    return Row(work, against, ours, other, unit, ratio, f"{'≤' if sign == '<=' else '≥'} {limit:g}", met)


def report(races: list[Callable[[], Row]], save: Path) -> list[Row]:
    """Runs the rows one after another, prints them as a table and saves them as JSON."""
    console = Console(width=max(Console().width, 120))
    rows = [race() for race in track(races, "measuring", console=Console(stderr=True), transient=True)]
    machine = f"{platform.system()} {platform.machine()}"
    table = Table(title=f"{platform.python_implementation()} {platform.python_version()}, {machine}")
    for name in ("work", "ours", "against", "theirs", "ratio", "target", ""):
        table.add_column(name, justify="right" if name in ("ours", "theirs", "ratio") else "left")
    for r in rows:
        verdict = "[green]met[/]" if r.met else "[red]missed[/]"
        table.add_row(
            r.work, f"{r.ours:.3g} {r.unit}", r.against, f"{r.other:.3g} {r.unit}", f"{r.ratio:.2f}", r.bound, verdict
        )
    console.print(table)
    save.parent.mkdir(exist_ok=True)
    save.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    console.print(f"saved to {save}")
    return rows


def child(code: str) -> str:
    """What a fresh interpreter prints; it may keep bytecode, as an installed package has it."""
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
