"""`make campaign`: seeded faults at every stage, on real pairs of ranks; a table of the results.

Exit code 0 if every rank ended as it must and nothing was left, 1 otherwise.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import psutil

from tests.campaign import exit_with, say
from tests.campaign.plan import FAULTS, SHAPES, Case, Shape, cases, lacks
from tests.campaign.play import Result, play
from tests.campaign.scene import Lane
from tests.campaign.table import table

LANES: Final = 3 * (os.cpu_count() or 1)
"""Parallel cases: they mostly wait, but on a busier machine they do not reach their stages in time."""


def run(wanted: Iterable[Case], lanes: int) -> Iterator[Result]:
    """Play cases in parallel; yield each result when it is ready."""
    waiting: dict[Shape, SimpleQueue[Case]] = {shape: SimpleQueue() for shape in SHAPES}
    total = 0
    for case in wanted:
        waiting[case.shape].put(case)
        total += 1
    results: SimpleQueue[Result | BaseException] = SimpleQueue()

    def work(lane: Lane) -> None:
        try:
            while not lane.news.is_stopped:
                results.put(play(waiting[lane.shape].get_nowait(), lane))
        except Empty:
            pass
        except BaseException as error:
            results.put(error)

    with tempfile.TemporaryDirectory(prefix="campaign-") as directory, ExitStack() as opened:
        lanes_open, threads = [], []
        for number, shape in enumerate(_shapes({shape: queue.qsize() for shape, queue in waiting.items()}, lanes)):
            place = Path(directory, str(number))
            place.mkdir()
            lane = opened.enter_context(Lane(place, shape, f"cw{os.getpid()}l{number}"))
            lanes_open.append(lane)
            threads.append(threading.Thread(target=work, args=(lane,)))
        try:
            for thread in threads:
                thread.start()
            for _ in range(total):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            for lane in lanes_open:
                lane.news.is_stopped = True
            for thread in threads:
                thread.join()


def _shapes(counts: dict[Shape, int], lanes: int) -> Iterator[Shape]:
    """Return the shape of each lane: as in the cases, and at least one of each shape."""
    total = sum(counts.values())
    for shape, count in counts.items():
        yield from [shape] * min(count, max(round(lanes * count / total), 1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=None, help="which (default: drawn, and printed)")
    parser.add_argument("--only", default="", metavar="STAGE:FAULT", help="one cell; either may be empty")
    parser.add_argument("--number", type=int, default=None, metavar="N", help="the fault of that number alone")
    parser.add_argument("--brisk", action="store_true", help="none with the product's own, longer times")
    parser.add_argument(
        "--lanes", type=int, default=LANES, metavar="N", help=f"pairs of ranks at once (default: {LANES})"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a fault")
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    drawn = cases(seed, brisk=given.brisk, only=given.only)
    if given.number is None:
        wanted = list(islice(drawn, given.faults))
    else:
        wanted = [next(case for case in drawn if case.number == given.number)]
    if not given.json:
        say(f"seed {seed}, {len(wanted)} faults")
        for reason, cells in _missing().items():
            say(f"skipped: {', '.join(cells)}: {reason}")
    results: list[Result] = []
    began, descriptors = time.monotonic(), psutil.Process().num_fds()
    try:
        for result in run(wanted, min(given.lanes, len(wanted))):
            results.append(result)
            _tell(result, len(results), len(wanted), given.json)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted after {len(results)} of {len(wanted)} faults\n")
    wrong = [result for result in results if result.wrong]
    left = psutil.Process().num_fds() - descriptors
    if not given.json:
        say("\n".join(table(results)))
        recovered = sum(result.recovered and not result.wrong for result in results)
        say(
            f"{len(results)} faults in {time.monotonic() - began:.0f} s, seed {seed}: {recovered} recovered, "
            f"{len(results) - recovered - len(wrong)} failed cleanly, {len(wrong)} wrong"
        )
        for result in wrong:  # again, since CI's record keeps only the end
            say(_wrong(result))
        if left > 0:
            say(f"WRONG: the campaign itself has {left} descriptors more open than before")
    return 1 if wrong or left > 0 or len(results) < len(wanted) else 0


def _missing() -> dict[str, list[str]]:
    """Return the cells that cannot be tried here, by reason."""
    missing: dict[str, list[str]] = {}
    for shape in SHAPES:
        for fault in FAULTS:
            if reason := lacks(shape, fault):
                missing.setdefault(reason, []).append(f"{shape} {fault}")
    return missing


def _tell(result: Result, count: int, total: int, as_json: bool) -> None:
    if as_json:
        say(json.dumps(asdict(result)))
        return
    on_terminal = sys.stdout.isatty()
    if result.wrong:
        say(("\r\x1b[K" if on_terminal else "") + _wrong(result))
    done = 40 * count // total
    if on_terminal:
        say(f"\r[{'#' * done}{'.' * (40 - done)}] {count} of {total}", end="\n" if count == total else "")
    elif 10 * count // total > 10 * (count - 1) // total:
        say(f"{count} of {total}")


def _wrong(result: Result) -> str:
    case = result.case
    head = f"WRONG, {case.shape} {case.stage}:{case.fault}:"
    return "\n".join([*(f"{head} {text}" for text in result.wrong), f"    {case.again()}"])


if __name__ == "__main__":
    exit_with(main)
