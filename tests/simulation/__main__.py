"""`python -m tests.simulation`: many worlds, one per seed; each broken one with the command that replays it."""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tests.campaign import exit_with, say
from tests.simulation.planted import show_planted
from tests.simulation.scenario import Scenario
from tests.simulation.shrinking import shrunk
from tests.simulation.world import World

EACH_TWICE: Final = 100
"""One of this many worlds is run twice, with the same result."""
CHUNK: Final = 50
MOST_SHOWN: Final = 10


@dataclass
class Totals:
    """The results of many worlds."""

    runs: int = 0
    seconds: float = 0.0
    """Seconds of CPU time."""
    ranks: Counter[int] = field(default_factory=Counter)
    """Worlds by the number of ranks."""
    cpu: Counter[int] = field(default_factory=Counter)
    """Nanoseconds by the number of ranks."""
    faults: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    """Worlds by the exception to an invariant that they use."""
    broken: list[tuple[int, str]] = field(default_factory=list)
    """The seed and the fault."""

    def add(self, other: "Totals") -> None:
        self.runs += other.runs
        self.seconds += other.seconds
        for name in ("ranks", "cpu", "faults", "causes", "excused"):
            getattr(self, name).update(getattr(other, name))
        self.broken += other.broken


def run_seeds(seeds: range) -> Totals:
    """Run one world per seed."""
    totals = Totals(runs=len(seeds))
    gc.disable()  # a world is collected as a whole
    gc.collect()
    gc.freeze()  # so that collecting a world looks at nothing else
    for seed in seeds:
        began = time.process_time_ns()
        size = _run_one(seed, totals)
        gc.collect()
        spent = time.process_time_ns() - began
        totals.seconds += spent / 1e9
        totals.ranks[size] += 1
        totals.cpu[size] += spent
    return totals


def _run_one(seed: int, totals: Totals) -> int:
    """Run one world and add what happened to the totals. Return the number of its ranks."""
    world = World(seed)
    world.run()
    if seed % EACH_TWICE == 0:
        again = World(seed)
        again.run()
        if again.trace != world.trace:
            world.broken.append("the same seed gave another trace")
    totals.faults.update(fault.kind for fault in world.struck)
    for control in world.controls:
        error = control.last("error")
        totals.causes[str(error["code"]) if error is not None else "none"] += 1
    totals.excused.update(world.excused)
    totals.broken += [(seed, text) for text in world.broken]
    return len(world.scenario.plans)


def run_all(first: int, runs: int, jobs: int, seconds: float | None, least: int = 0) -> Totals:
    """Run `runs` worlds from the seed `first` on, or, once time is over, only `least`."""
    totals, began = Totals(), time.monotonic()
    seeds = iter([range(start, min(start + CHUNK, first + runs)) for start in range(first, first + runs, CHUNK)])
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), begin_worker, (os.getpid(),)) as pool:
        pending = {pool.submit(run_seeds, each) for each in islice(seeds, jobs)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            spent = time.monotonic() - began
            for part in done:
                totals.add(part.result())
                under_way = CHUNK * len(pending)
                if seconds is None or spent < seconds or totals.runs + under_way < least:
                    pending |= {pool.submit(run_seeds, each) for each in islice(seeds, 1)}
            if sys.stderr.isatty():
                rate = totals.runs / spent
                sys.stderr.write(f"\r{totals.runs} of {runs}, {rate:.0f} a second, {len(totals.broken)} broken")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return totals


def begin_worker(parent: int) -> None:
    """Let a worker end with its parent, whatever ends the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def replay(seed: int, scenario: Scenario | None = None) -> World:
    world = World(seed, scenario)
    world.run()
    say("\n".join(world.trace))
    return world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--from", type=int, default=0, dest="skip", help="how many worlds to leave out (default 0)")
    parser.add_argument("--runs", type=int, default=1000, help="how many worlds (default 1000)")
    parser.add_argument("--seconds", type=float, help="start no more worlds after this time")
    parser.add_argument("--least", type=int, default=0, help="but run so many, however long it takes (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default one a core)")
    parser.add_argument("--replay", action="store_true", help="run the one world of --seed, and print what happens")
    parser.add_argument(
        "--shrink", action="store_true", help="the same with as few faults and ranks as it takes to fail"
    )
    parser.add_argument("--json", action="store_true", help="print the totals as a JSON object")
    parser.add_argument(
        "--planted", action="store_true", help="plant bugs, and count the worlds that it takes to find each"
    )
    parser.add_argument("--results", type=Path, help="a file that keeps those counts, so that another call goes on")
    wanted = parser.parse_args()
    if wanted.planted:
        return show_planted(wanted.seed, wanted.jobs, wanted.results)
    if wanted.replay or wanted.shrink:
        world = replay(wanted.seed, shrunk(wanted.seed) if wanted.shrink else None)
        say("\n".join(world.broken) or "nothing is broken")
        return 1 if world.broken else 0
    totals = run_all(wanted.seed + wanted.skip, wanted.runs - wanted.skip, wanted.jobs, wanted.seconds, wanted.least)
    if wanted.json:
        say(json.dumps(_as_json(wanted.seed, totals)))
    else:
        _show(wanted.seed, totals)
    return 1 if totals.broken else 0


def _rates(totals: Totals) -> dict[int, float]:
    return {size: totals.ranks[size] / (totals.cpu[size] / 1e9) for size in sorted(totals.ranks)}


def _as_json(seed: int, totals: Totals) -> dict[str, Any]:
    return {
        "seed": seed,
        "runs": totals.runs,
        "perSecondAndCore": {str(size): round(rate, 1) for size, rate in _rates(totals).items()},
        "faults": dict(totals.faults.most_common()),
        "causes": dict(totals.causes.most_common()),
        "exceptions": dict(totals.excused.most_common()),
        "broken": [{"seed": number, "what": text} for number, text in totals.broken],
    }


def _show(seed: int, totals: Totals) -> None:
    say(f"{totals.runs} worlds from seed {seed} on, {len(totals.broken)} broken")
    rates = ", ".join(f"{size} ranks {rate:.0f}" for size, rate in _rates(totals).items())
    say(f"worlds a second and core: {rates}")
    say("faults: " + ", ".join(f"{kind} {count}" for kind, count in totals.faults.most_common()))
    say("causes: " + ", ".join(f"{code} {count}" for code, count in totals.causes.most_common()))
    say("exceptions: " + ", ".join(f"{name} {count}" for name, count in totals.excused.most_common()))
    for number, text in totals.broken[:MOST_SHOWN]:
        say(f"broken: {text}\n  make simulate ARGS='--seed {number} --replay'")


if __name__ == "__main__":
    exit_with(main)
