"""Two sessions and an attacker: every schedule of short scripts, then random longer ones.

Each random run is decided by the seed and its number, so `--number` shows it again, byte for byte. Exits 1
if a promise is broken.
"""

import argparse
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from tests.campaign import exit_with, say
from tests.simulation.session.chance import Run, run, shrink
from tests.simulation.session.explore import Scenario, explore, replay, scenarios
from tests.simulation.session.planted import BUGS, hunt
from tests.simulation.session.snapshot import copyable

_SEEDS = (1, 2, 3)
_MOST_RUNS = 10_000


@dataclass
class Report:
    """Return the final report, for programs."""

    seed: int
    exhaustive: list[dict[str, object]] = field(default_factory=list)
    random: dict[str, object] = field(default_factory=dict)
    violations: list[dict[str, object]] = field(default_factory=list)


def exhaustive(report: Report, strikes: int, is_quiet: bool) -> None:
    """Explore every schedule of each scenario."""
    for name, scenario in scenarios(strikes).items():
        row = _explored(report, name, scenario)
        report.exhaustive.append(row)
        if not is_quiet:
            say(
                f"{name:<24} {row['schedules']:>10,} schedules, {row['states']:>8,} states, {row['steps']:>8,} steps, "
                f"{row['cpu_seconds']:>6} s"
            )
    if not is_quiet:
        total = sum(int(str(row["schedules"])) for row in report.exhaustive)
        say(f"every schedule with up to {strikes} strikes: {total:,} in all")


def _explored(report: Report, name: str, scenario: Scenario) -> dict[str, object]:
    began = time.process_time()
    explored = explore(scenario)
    seconds = round(time.process_time() - began, 1)
    if explored.violation is not None:
        trace = [name, *replay(scenario, explored.path)]
        report.violations.append({"scenario": name, "broken": str(explored.violation), "trace": trace})
    return {
        "scenario": name,
        "strikes": scenario.strikes,
        "schedules": explored.schedules,
        "states": explored.states,
        "steps": explored.steps,
        "cpu_seconds": seconds,
    }


def by_chance(report: Report, first: int, count: int, is_quiet: bool) -> None:
    """Run random schedules."""
    began = time.process_time()
    traces, settings, steps = sha256(), Counter[str](), 0
    for done in _runs(report.seed, first, count):
        traces.update(done.digest.encode())
        settings[done.start.setting.name] += 1
        steps += len(done.actions)
        if done.violation is not None:
            report.violations.append(_told(report.seed, done))
    seconds = max(time.process_time() - began, 0.001)
    report.random = {
        "from": first,
        "runs": count,
        "steps": steps,
        "settings": dict(sorted(settings.items())),
        "traces": traces.hexdigest(),
        "cpu_seconds": round(seconds, 1),
        "runs_per_cpu_second": round(count / seconds),
    }
    if not is_quiet:
        say(f"seed {report.seed}: {count:,} random runs, {steps:,} steps, {count / seconds:.0f} a CPU second")
        say(f"SHA-256 of their traces: {traces.hexdigest()}")


def _runs(seed: int, first: int, count: int) -> Iterator[Run]:
    for number in range(first, first + count):
        yield run(seed, number)


def _told(seed: int, found: Run) -> dict[str, object]:
    again = f'make simulate-session ARGS="--seed {seed} --number {found.number}"'
    return {"broken": str(found.violation), "again": again, "trace": shrink(found).trace}


def hunts(as_json: bool) -> int:
    """Find all planted bugs, and report how."""
    count = 0
    for name in BUGS:
        found = hunt(name, _SEEDS, _MOST_RUNS)
        count += found.is_found
        if as_json:
            say(json.dumps(found._asdict()))
        else:
            runs = "".join(f"{'-' if number is None else number:>8}" for number in found.runs.values())
            steps = "-" if found.steps is None else found.steps
            say(f"{name:<46}{steps:>8}{runs}  {found.promise}")
    if not as_json:
        say(f"{count} of {len(BUGS)} planted bugs found: after how many steps, in which run with seeds {_SEEDS}")
    return 0 if count == len(BUGS) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.session", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the random runs (default: drawn, and printed)")
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="random ones (default: 10,000)")
    parser.add_argument("--from", type=int, default=0, metavar="N", dest="first", help="number of the first run")
    parser.add_argument("--number", type=int, default=None, metavar="N", help="show the run of that number alone")
    parser.add_argument(
        "--strikes", type=int, default=2, metavar="N", help="of the attacker in each short script (default: 2)"
    )
    parser.add_argument("--planted", action="store_true", help="find bugs that are planted in the session")
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line; with --planted, one a bug")
    given = parser.parse_args()
    with copyable():
        if given.planted:
            return hunts(given.json)
        report = Report(secrets.randbelow(1 << 31) if given.seed is None else given.seed)
        if given.number is not None:
            done = run(report.seed, given.number)
            say("\n".join(done.trace))
            return 1 if done.violation else 0
        exhaustive(report, given.strikes, given.json)
        by_chance(report, given.first, given.runs, given.json)
    if given.json:
        say(json.dumps(vars(report)))
    else:
        for found in report.violations:
            say("\n".join(["BROKEN", *map(str, found["trace"]), str(found.get("again", ""))]))
        say(f"{len(report.violations)} broken promises")
    return 1 if report.violations else 0


if __name__ == "__main__":
    exit_with(main)
