"""`make planted`: count the planted faults that fuzzing finds with each of three seeds, within a minute each.

Each search runs in a process of its own, with a limit on its memory and time. Exit code 0 if every fault is found with
every seed, else 1.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.wireproto.fuzzing.faulty.frames import CODECS
from tests.wireproto.fuzzing.faulty.layers import FAULTS
from wireproto.fuzzing.differential import Differential
from wireproto.fuzzing.engine import Engine
from wireproto.fuzzing.harness import Harness

MEMORY = 4 * 1024**3
"""Address space in bytes of a search, and of the decoder that it queries."""
SECONDS = 60.0
"""Seconds for a search, from the start of its process to the reduced finding."""

Search = Callable[[int], str]
"""Return the first finding with a seed, or an empty string."""


def by_codec(name: str) -> Search:
    """Search like `wireproto fuzz codec`."""

    def search(seed: int) -> str:
        differential = Differential([sys.executable, "-m", "tests.wireproto.fuzzing.faulty", name], seed)
        return next((found.kind for found in differential.run(SECONDS)), "")

    return search


def by_harness(make: Callable[[], Harness]) -> Search:
    """Search like `wireproto fuzz run`."""

    def search(seed: int) -> str:
        findings = Engine(make(), seed).run(SECONDS)
        return next((f"{found.oracle}: {found.detail}" for found in findings), "")

    return search


SEARCHES: dict[str, Search] = {
    **{name: by_codec(name) for name in CODECS},
    **{name: by_harness(make) for name, make in FAULTS.items()},
}


def in_child(name: str, seed: int) -> tuple[float, str]:
    """Return the duration of a search in its own process, and its finding in time."""
    command = [sys.executable, "-m", "tests.wireproto.fuzzing.planted", "--search", name, str(seed)]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return SECONDS, ""
    if done.returncode:
        sys.stderr.write(f"{name}, seed {seed}: the search ends with exit code {done.returncode}\n{done.stderr}")
    return time.monotonic() - start, done.stdout.strip()


def search_here(name: str, seed: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _say(SEARCHES[name](int(seed)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every third fault, with one seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="searches at a time")
    parser.add_argument("--search", nargs=2, metavar=("NAME", "SEED"), help="only this one, in here")
    arguments = parser.parse_args()
    if arguments.search:
        search_here(*arguments.search)
        return 0
    names = [*SEARCHES][2::3] if arguments.quick else [*SEARCHES]
    seeds = (1,) if arguments.quick else (1, 2, 3)
    found = dict.fromkeys(seeds, 0)
    in_all = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = {name: [pool.submit(in_child, name, seed) for seed in seeds] for name in names}
        for name, searches in rows.items():
            outcomes = [search.result() for search in searches]
            for seed, (_, kind) in zip(seeds, outcomes, strict=True):
                found[seed] += bool(kind)
            in_all += all(kind for _, kind in outcomes)
            times = "".join(f"{taken:7.1f} s" if kind else "not found".rjust(9) for taken, kind in outcomes)
            _say(f"{name:<32}{times}  {outcomes[0][1]}")
    for seed in seeds:
        _say(f"seed {seed}: {found[seed]} of {len(names)} within {SECONDS:g} s each")
    _say(f"{in_all} of {len(names)} planted faults found with every seed")
    return 0 if in_all == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
