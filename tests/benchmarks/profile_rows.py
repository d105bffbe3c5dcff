"""`make profile`: the functions that take the time of the three rows closest to their targets, or furthest beyond.

The rows are measured briefly to choose them. Rows of other processes (starts, groups, `inspect`) are not among them.
"""

import cProfile
import pstats
import time

from rich.console import Console
from rich.progress import track

from tests.benchmarks import __main__ as codec
from tests.benchmarks import peers, scanning, session
from tests.benchmarks.harness import loops_for

ROUNDS, SECONDS = 3, 0.01
SLOWEST = 3
PROFILED_SECONDS = 0.1  # under the profiler, ten times that
FUNCTIONS = 12


def main() -> None:
    races = [*peers.races()[:1], *codec.races(), *scanning.races(), *session.races(ROUNDS)]  # the first peer: the floor
    rows = [
        (race.run(ROUNDS, SECONDS), race)
        for race in track(races, "measuring", console=Console(stderr=True), transient=True)
    ]
    for row, race in sorted(rows, key=lambda each: each[0].share, reverse=True)[:SLOWEST]:
        loops = loops_for(race.ours, PROFILED_SECONDS)
        with cProfile.Profile(time.process_time) as profile:
            for _ in range(loops):
                race.ours()
        work, ours, against, _, ratio, target, _ = row.cells
        print(f"\n== {work}: {ours}; ratio to {against} {ratio}, target {target}; {loops:,} times")  # noqa: T201 - a command
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS)


if __name__ == "__main__":
    main()
