"""Every mutant against every case: `python -m tests.wireproto.conformance.matrix`, or `make mutants`.

Prints which cases catch which mutant, and is 1 where a mutant goes uncaught, a case catches nothing, or a reference
peer or a harmless variant of it does not pass.

    --harmless N    only the harmless variants, N times each, with all cases
    --busy          with one core kept busy by something else
    --some          a third of the harmless variants, another one each day
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import NamedTuple

from tests.wireproto.conformance.foreign import busy_core
from tests.wireproto.conformance.peers.harmless import HARMLESS
from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.trying import PATIENT, cases_of, results_of, role_of
from wireproto import Revision
from wireproto.conformance import CASES, Case, Result, Verdict
from wireproto.session import Role

AT_ONCE = 24
"""Suites that run in parallel in one process: most of them wait."""
HARMLESS_AT_ONCE = 4
"""Fewer if timing matters."""
FINE = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED, Verdict.INCONCLUSIVE)


class Row(NamedTuple):
    """A mutant and its failed cases, with the requirement that each names."""

    mutant: str
    caught_by: dict[str, str]

    @property
    def is_caught(self) -> bool:
        """Whether a case that names the right requirement failed."""
        return bool(self.right)

    @property
    def right(self) -> list[str]:
        rules = MUTANTS[self.mutant].rules
        return [case for case, rule in self.caught_by.items() if rule in rules]


def named(result: Result) -> str:
    """The requirement that a result names."""
    return result.requirements[0] if result.failure is None else result.failure.requirement


def written(role: Role) -> list[Case]:
    """The individually written cases, each of which must catch a mutant. Generated ones catch others."""
    return [each for each in cases_of(role) if not each.is_generated]


async def rows_of(names: Iterable[str], all_cases: bool = False) -> list[Row]:
    """A row for each mutant, with the cases that ask for one of its rules, or with all."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def row(name: str) -> Row:
        async with limit:
            mutant = MUTANTS[name]
            cases = written(role_of(mutant.make))
            some = [each for each in cases if all_cases or {*each.requirements} & {*mutant.rules}]
            results = await results_of(mutant.make, mutant.revision, some)
        return Row(name, {each.id: named(each) for each in results if each.verdict not in FINE})

    return list(await asyncio.gather(*map(row, names)))


async def accusations_of(names: Iterable[str], all_cases: bool) -> dict[str, list[str]]:
    """Failures of harmless variants: none are allowed."""
    limit = asyncio.Semaphore(HARMLESS_AT_ONCE if all_cases else 2 * HARMLESS_AT_ONCE)

    async def accusations(name: str) -> list[str]:
        role = role_of(HARMLESS[name])
        async with limit:
            cases = cases_of(role) if all_cases else written(role)
            results = await results_of(HARMLESS[name], cases=cases, patience=PATIENT)
        return [f"{each.id}: {each.reason}" for each in results if each.spoils]

    names = list(names)
    return dict(zip(names, await asyncio.gather(*map(accusations, names)), strict=True))


def _in_process(names: list[str], all_cases: bool = False) -> list[Row]:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # some mutants crash on purpose
    return asyncio.run(rows_of(names, all_cases))


def _accusations_in_process(names: list[str], all_cases: bool = False) -> dict[str, list[str]]:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    found = asyncio.run(accusations_of(names, all_cases))
    return {name: accusations for name, accusations in found.items() if accusations}


def harmless(runs: int) -> int:
    """Run each harmless variant several times with all cases."""
    workers = os.cpu_count() or 1
    names, count = list(HARMLESS), 0
    with ProcessPoolExecutor(workers) as pool:
        for number in range(1, runs + 1):
            shares = [names[at::workers] for at in range(workers)]
            accused = [
                each for share in pool.map(_accusations_in_process, shares, [True] * workers) for each in share.items()
            ]
            for name, accusations in accused:
                print(f"run {number}, {name}: {'; '.join(accusations)}")  # noqa: T201
            print(f"run {number}: {len(accused)} accused", flush=True)  # noqa: T201
            count += len(accused)
    print(f"{len(names)} harmless variants, {runs} runs of each: {count} accused")  # noqa: T201
    return 1 if count else 0


def wrong_of_the_references() -> list[str]:
    """Return the failures of a peer without a bug."""
    return asyncio.run(_wrong_of_the_references())


async def _wrong_of_the_references() -> list[str]:
    runs = [(make, revision) for make in (RankOne, RankZero) for revision in Revision]
    found = await asyncio.gather(*(results_of(make, revision, patience=PATIENT) for make, revision in runs))
    return [
        f"{each.id}, revision {revision:d}: {each.reason}"
        for (_, revision), results in zip(runs, found, strict=True)
        for each in results
        if each.verdict not in FINE
    ]


def _idle(rows: Iterable[Row]) -> list[str]:
    """The cases that catch nothing."""
    busy = {case for row in rows for case in row.right}
    return [case.id for role in Role for case in written(role) if case.id not in busy]


def _again(rows: list[Row]) -> list[Row]:
    """Try again what is not as it should be, with all cases, and then a mutant at a time.

    Another case may be the one that catches it, or something was too slow among so many at once.
    """
    for all_cases in (True, False):
        rules = {rule for case in _idle(rows) for rule in CASES[case].requirements}
        doubtful = [row.mutant for row in rows if not row.is_caught or rules.intersection(MUTANTS[row.mutant].rules)]
        groups = [doubtful] if all_cases else [[name] for name in doubtful]
        found = {row.mutant: row.caught_by for group in groups for row in _in_process(group, all_cases)}
        rows = [Row(row.mutant, row.caught_by | found.get(row.mutant, {})) for row in rows]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harmless", type=int, metavar="N")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--some", action="store_true")
    options = parser.parse_args()
    with busy_core() if options.busy else nullcontext():
        return harmless(options.harmless) if options.harmless else matrix(some=options.some)


def matrix(*, some: bool) -> int:
    """Run each mutant with the individually written cases, and each harmless variant, or a third of them per day."""
    workers = os.cpu_count() or 1
    names, variants = list(MUTANTS), list(HARMLESS)
    if some:
        variants = variants[datetime.now(UTC).toordinal() % 3 :: 3]
    with ProcessPoolExecutor(workers) as pool:
        # First those that take longest, then those that may not be held up: the mutants' suites are short.
        references = pool.submit(wrong_of_the_references)
        suspects = pool.map(_accusations_in_process, [variants[at::workers] for at in range(workers)])
        shares = pool.map(_in_process, [names[at::workers] for at in range(workers)])
        wrong = references.result()
        rows = [row for share in shares for row in share]
        accused = [name for share in suspects for name in share]
    accused = list(_accusations_in_process(accused))
    rows = _again(rows)
    for row in rows:
        others = len(row.caught_by) - len(row.right)
        more = f" (and {others} cases that name another requirement)" if others else ""
        print(f"{row.mutant}: {', '.join(MUTANTS[row.mutant].rules)}\n    {' '.join(row.right) or 'NOT CAUGHT'}{more}")  # noqa: T201
        if not row.is_caught:
            print(f"    {row.caught_by}")  # noqa: T201
    missed, idle = [row.mutant for row in rows if not row.is_caught], _idle(rows)
    cases = [case.id for role in Role for case in written(role)]
    print(f"\n{len(rows)} mutants, {len(variants)} harmless variants, {len(cases)} cases")  # noqa: T201
    bad = {
        "not caught": missed,
        "cases that catch nothing": idle,
        "harmless variants accused": accused,
        "references fail": wrong,
    }
    for text, names in bad.items():
        print(f"{text}: {', '.join(names) or 'none'}")  # noqa: T201
    return 1 if any(bad.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
