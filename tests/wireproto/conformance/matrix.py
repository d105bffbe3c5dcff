"""Every mutant against every case: `python -m tests.wireproto.conformance.matrix`, or `make mutants`.

Prints which cases catch which mutant, and is 1 where a mutant goes uncaught, a case catches nothing, or a reference
peer does not pass.
"""

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.trying import PATIENT, cases_of, results_of, role_of
from wireproto import Revision
from wireproto.conformance import Case, Result, Verdict
from wireproto.session import Role

AT_ONCE = 24
"""Suites that run beside each other in one process: most of them wait."""
FINE = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED, Verdict.INCONCLUSIVE)


class Row(NamedTuple):
    """A mutant, and the cases that it does not pass: the requirement that each names."""

    mutant: str
    caught_by: dict[str, str]

    @property
    def is_caught(self) -> bool:
        """By a case that names the right requirement."""
        return bool(self.right)

    @property
    def right(self) -> list[str]:
        rules = MUTANTS[self.mutant].rules
        return [case for case, rule in self.caught_by.items() if rule in rules]


def named(result: Result) -> str:
    """The requirement that a result names."""
    return result.requirements[0] if result.failure is None else result.failure.requirement


def written(role: Role) -> list[Case]:
    """The cases that were written one by one: each has to catch a mutant. Those that are generated catch others."""
    return [each for each in cases_of(role) if not each.is_generated]


async def rows_of(names: Iterable[str]) -> list[Row]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def row(name: str) -> Row:
        async with limit:
            mutant = MUTANTS[name]
            results = await results_of(mutant.make, mutant.revision, written(role_of(mutant.make)))
        return Row(name, {each.id: named(each) for each in results if each.verdict not in FINE})

    return list(await asyncio.gather(*map(row, names)))


def _in_process(names: list[str]) -> list[Row]:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # mutants that crash are meant to
    return asyncio.run(rows_of(names))


async def wrong_of_the_references() -> list[str]:
    """What is not passed by a peer without a bug."""
    runs = [(make, revision) for make in (RankOne, RankZero) for revision in Revision]
    found = await asyncio.gather(*(results_of(make, revision, patience=PATIENT) for make, revision in runs))
    return [
        f"{each.id}, revision {revision:d}: {each.reason}"
        for (_, revision), results in zip(runs, found, strict=True)
        for each in results
        if each.verdict not in FINE
    ]


def main() -> int:
    wrong = asyncio.run(wrong_of_the_references())
    workers = os.cpu_count() or 1
    names = list(MUTANTS)
    with ProcessPoolExecutor(workers) as pool:
        rows = [row for share in pool.map(_in_process, (names[at::workers] for at in range(workers))) for row in share]
    # Among so many suites at once a case that others need may have been too slow: then they were skipped.
    rows = [row if row.is_caught else _in_process([row.mutant])[0] for row in rows]
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.right)
        others = len(row.caught_by) - len(row.right)
        more = f" (and {others} cases that name another requirement)" if others else ""
        print(f"{row.mutant}: {', '.join(MUTANTS[row.mutant].rules)}\n    {' '.join(row.right) or 'NOT CAUGHT'}{more}")  # noqa: T201
        if not row.is_caught:
            print(f"    {row.caught_by}")  # noqa: T201
    missed = [row.mutant for row in rows if not row.is_caught]
    cases = [case.id for role in Role for case in written(role)]
    idle = [case for case in cases if not counts[case]]
    print(f"\n{len(rows)} mutants, {len(cases)} cases")  # noqa: T201
    for text, names in (("not caught", missed), ("cases that catch nothing", idle), ("references fail", wrong)):
        print(f"{text}: {', '.join(names) or 'none'}")  # noqa: T201
    return 1 if missed or idle or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
