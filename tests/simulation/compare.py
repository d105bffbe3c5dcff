"""`make simulate-compare`: faults of the campaign, each played for real and in simulated worlds.

The real outcome is the code, the blamed rank and the exit status of each rank. It must be that of a simulated world.
Exit code 0 if that is so, 1 otherwise.
"""

import argparse
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tests.campaign import exit_with, say
from tests.campaign.__main__ import LANES, run
from tests.campaign.plan import FAULTS, Case, cases
from tests.campaign.play import End, Result
from tests.simulation.__main__ import begin_worker
from tests.simulation.played import LACKING, Played

WORLDS: Final = 30
"""Simulated worlds a case."""
MOST_SHOWN: Final = 5

Outcome = tuple[End, ...]


@dataclass
class Compared:
    """A case, played for real and simulated."""

    real: Result
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Of the simulated worlds."""
    broken: list[str] = field(default_factory=list)
    """Violations in these."""

    @property
    def has_agreed(self) -> bool:
        return any(fits(self.real.ends, outcome) for outcome in self.outcomes)

    @property
    def verdict(self) -> str:
        if self.real.wrong or self.broken:
            return "wrong"
        return "agreed" if self.has_agreed else "different"


def fits(real: Outcome, simulated: Outcome) -> bool:
    """Whether two outcomes are the same, as far as the real ranks could report theirs."""
    return len(real) == len(simulated) and all(
        one.status == other.status and (one.code == "?" or one == other)
        for one, other in zip(real, simulated, strict=True)
    )


def simulated(real: Result, worlds: int) -> Compared:
    """Run simulated worlds of a case that was played."""
    compared = Compared(real)
    for seed in range(0 if real.wrong else worlds):
        world = Played(real, seed)
        world.run()
        compared.broken += [f"world {seed}: {text}" for text in world.broken]
        if world.has_reached_stage and not world.broken:
            compared.outcomes[world.ends] += 1
    return compared


def drawn(seed: int, count: int) -> Iterator[Case]:
    """Yield cases until `count` of them can be compared."""
    for case in cases(seed, brisk=True):
        if count == 0:
            return
        count -= case.fault not in LACKING
        yield case


# -- the results -------------------------------------------------------------------------------------------------------


def again(real: Result) -> Iterator[str]:
    """Yield the commands that replay a case: for real, and in simulated worlds."""
    case = real.case
    yield f"{case.again()} --brisk"
    known = json.dumps({"chosen": real.chosen, "gap": real.gap})
    yield f"python -m tests.simulation.compare --seed {case.seed} --number {case.number} --known '{known}'"


def table(compared: Iterable[Compared]) -> Iterator[str]:
    """Yield a row per fault."""
    verdicts = ("agreed", "different", "wrong")
    rows: dict[str, Counter[str]] = {fault: Counter() for fault in (*FAULTS, "all")}
    for each in compared:
        for row in (each.real.case.fault, "all"):
            rows[row] += Counter((each.verdict, "compared", "one" if len(each.outcomes) == 1 else "several"))
    yield f"{'':<12}{'compared':>10}" + "".join(f"{verdict:>10}" for verdict in verdicts) + "  one simulated outcome"
    for fault, row in rows.items():
        if row:
            counts = "".join(f"{row[name]:>10}" for name in ("compared", *verdicts))
            yield f"{fault:<12}{counts}  {row['one']}"


def details(each: Compared) -> Iterator[str]:
    """Yield a difference, and how to replay it."""
    case = each.real.case
    yield f"{each.verdict.upper()}, {case.shape} {case.stage}:{case.fault} rank {case.rank}: {shown(each.real.ends)}"
    yield from (f"    {text}" for text in (*each.real.wrong, *each.broken[:MOST_SHOWN]))
    yield from outcomes(each)
    yield from (f"    {command}" for command in again(each.real))


def outcomes(each: Compared) -> Iterator[str]:
    for outcome, count in each.outcomes.most_common(MOST_SHOWN):
        yield f"    {count} of {each.outcomes.total()} worlds: {shown(outcome)}"


def shown(outcome: Outcome) -> str:
    def one(end: End) -> str:
        return f"exit {end.status}" + (f" ({end.code} of rank {end.blamed})" if end.blamed is not None else "")

    return ", ".join(map(one, outcome)) or "no end"


def as_json(seed: int, left_out: Iterable[Case], compared: Iterable[Compared]) -> dict[str, Any]:
    return {
        "seed": seed,
        "leftOut": Counter(LACKING[case.fault] for case in left_out),
        "compared": [
            {
                "number": each.real.case.number,
                "cell": [each.real.case.shape, each.real.case.stage, each.real.case.fault],
                "verdict": each.verdict,
                "real": each.real.ends,
                "simulated": [[count, outcome] for outcome, count in each.outcomes.most_common()],
                "wrong": [*each.real.wrong, *each.broken],
                "again": list(again(each.real)),
            }
            for each in compared
        ],
    }


def replay(real: Result, worlds: int) -> None:
    """Print the events of the first simulated world, and the outcomes of all."""
    first = Played(real, 0)
    first.run()
    say("\n".join(first.trace))
    say("\n".join(outcomes(simulated(real, worlds))))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.compare", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the campaign (default 1)")
    parser.add_argument("--count", type=int, default=100, help="how many cases (default 100)")
    parser.add_argument("--number", type=int, help="the case of that number alone")
    parser.add_argument("--known", type=json.loads, metavar="JSON", help="only simulate it, with this of the real one")
    parser.add_argument("--worlds", type=int, default=WORLDS, help=f"simulated worlds a case (default {WORLDS})")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"pairs of real ranks at once (default {LANES})")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args()
    if given.number is None:
        wanted = list(drawn(given.seed, given.count))
    else:
        wanted = [next(case for case in cases(given.seed, brisk=True) if case.number == given.number)]
    if given.known is not None:
        replay(Result(wanted[0], **given.known), given.worlds)
        return 0
    left_out = [case for case in wanted if case.fault in LACKING]
    played = [case for case in wanted if case.fault not in LACKING]
    results = list(run(played, min(given.lanes, len(played))))
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork"), begin_worker, (os.getpid(),)) as pool:
        compared = list(pool.map(partial(simulated, worlds=given.worlds), results))
    if given.json:
        say(json.dumps(as_json(given.seed, left_out, compared)))
    else:
        _tell(given.seed, left_out, compared)
    return 0 if all(each.verdict == "agreed" for each in compared) else 1


def _tell(seed: int, left_out: Iterable[Case], compared: list[Compared]) -> None:
    for each in compared:
        if each.verdict != "agreed":
            say("\n".join(details(each)))
    say("\n".join(table(compared)))
    for fault, count in Counter(case.fault for case in left_out).items():
        say(f"left out: {fault} {count}: {LACKING[fault]}")
    verdicts = Counter(each.verdict for each in compared)
    say(
        f"{len(compared)} faults of seed {seed} compared: {verdicts['agreed']} agreed, "
        f"{verdicts['different']} different, {verdicts['wrong']} wrong"
    )


if __name__ == "__main__":
    exit_with(main)
