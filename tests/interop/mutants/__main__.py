"""`make mutants-generated`: generated mutants of the JavaScript peer, and how many of them the suite finds.

    --seed N         the mutants are drawn from it (default: 1)
    --count N        of each generator that complete an ordinary session (default: 200)
    --only KIND      mechanical or rule
    --full           with `conform peer --full`
    --section NAME   only with this section's cases, `--without NAME` with all others
    --results FILE   notes each mutant; a run goes on where the last one ended (default: build/mutants-SEED.jsonl)

A mutant is done with the first case that it fails and the peer without a change passes.
"""

import argparse
import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Self

from tests.interop.mutants import by_rule, mechanical
from tests.interop.mutants.hosts import Host
from tests.interop.mutants.mechanical import Mutant, noted, touches, write
from tests.interop.mutants.outputs import COVERED, SCRIPTS, Outputs
from tests.wireproto.conformance.test_conform_cli import ROOT, new_key
from tests.wireproto.conformance.trying import HOST, cases_of, free_port
from wireproto import Revision
from wireproto.conformance import (
    CASES,
    SECTIONS,
    Case,
    RankOneTarget,
    RankZeroTarget,
    Settings,
    Verdict,
    run,
)
from wireproto.conformance.identity import load_identity, peer_key_of
from wireproto.session import Role
from wireproto.testing.requirements import Level, requirements

PEER = ROOT / "tests" / "interop"
GENERATORS = {"mechanical": mechanical.mutants, "rule": by_rule.mutants}
FINE = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED)
MODES = {Role.RESPONDER: "listen", Role.INITIATOR: "connect"}
ORDINARY = {
    Role.RESPONDER: ("rank1.session.pong-each", "rank1.bootstrap.taken", "rank1.session.end"),
    Role.INITIATOR: ("rank0.bootstrap.sent", "rank0.session.ping-at-once"),
}
"""Cases that a mutant must pass to count: one that cannot communicate is trivially found."""
ROLES = (Role.RESPONDER, Role.INITIATOR)
CASES_AT_ONCE = 8
MUTANTS_AT_ONCE = 6
_LEVELS = {each.id: each.level for each in requirements()}
_PATIENCE = 10
"""Times as long as otherwise may a case take: so many at once are slow."""
_QUICK = _PATIENCE * 20.0
"""Seconds that a case may take unless it says something else."""


_Round = tuple[Role, list[Case]]


class Bench:
    """The hosts of one mutant at a time."""

    def __init__(self, folder: Path, settings: Settings, keys: Sequence[str]) -> None:
        self._folder, self._settings, self._keys = folder, settings, keys
        self._hosts = [Host() for _ in range(CASES_AT_ONCE)]
        self._numbers = count(1)
        self.revision = Revision.V2

    def written(self, mutant: Mutant | None) -> Path:
        """A folder of its own with the peer's files, and the mutant's change in them."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(parents=True)
        write(PEER, folder, mutant)
        return folder

    async def failures(self, peer: Path, role: Role, cases: Collection[Case]) -> AsyncGenerator[tuple[str, str], None]:
        """The cases that the peer in a folder fails, and the rule that each names."""
        file, args = peer / "peer.mjs", [MODES[role], *self._keys, "--revision", f"{self.revision:d}"]
        settings = replace(self._settings, revision=self.revision)
        kind = RankOneTarget if role is Role.RESPONDER else RankZeroTarget
        targets = [kind(HOST, free_port(), partial(host.running, file, args)) for host in self._hosts[: len(cases)]]
        async with aclosing(run(targets, settings, cases)) as results:
            async for result in results:
                if result.verdict not in FINE:
                    yield result.id, result.failure.requirement if result.failure else result.requirements[0]

    async def fails(self, peer: Path, role: Role, case: str) -> bool:
        return bool([each async for each in self.failures(peer, role, [CASES[case]])])

    async def close(self) -> None:
        for host in self._hosts:
            await host.close()


class Trial:
    """Tries mutants against the peer without a change, several side by side."""

    def __init__(self, folder: Path, kept: Path, full: bool, fits: Callable[[Case], bool]) -> None:
        theirs, ours = new_key(folder / "theirs.pem"), new_key(folder / "ours.pem")
        identity = load_identity(folder / "ours.pem")
        settings = Settings(identity=identity, peer_key=peer_key_of(theirs), names_file=True, full=full)
        keys = ["--identity", str(folder / "theirs.pem"), "--peer-key", ours]
        self._all = [Bench(folder / f"bench-{number}", settings, keys) for number in range(MUTANTS_AT_ONCE)]
        self._free: asyncio.Queue[Bench] = asyncio.Queue()
        for bench in self._all:
            self._free.put_nowait(bench)
        self._plain = self._all[0].written(None)
        self._outputs = Outputs(self._plain, kept)
        self._rounds = _rounds(fits)
        self._finders: dict[str, Case] = {}
        """The quick cases that have found a mutant: they are tried first."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for bench in self._all:
            await bench.close()

    async def row(self, mutant: Mutant) -> dict[str, Any]:
        """The result of a mutant."""
        row: dict[str, Any] = {"name": mutant.name, "rules": mutant.rules}
        row["edits"] = [[edit.file, edit.start, edit.text] for edit in mutant.edits]
        bench = await self._free.get()
        try:
            return row | await self._found(bench, mutant)
        finally:
            self._free.put_nowait(bench)

    async def _found(self, bench: Bench, mutant: Mutant) -> dict[str, Any]:
        peer = bench.written(mutant)
        for role in Role:
            async with aclosing(bench.failures(peer, role, [CASES[name] for name in ORDINARY[role]])) as failures:
                async for _ in failures:
                    return {"counts": False}
        finders = [(role, [each for each in self._finders.values() if each.role is role]) for role in ROLES]
        quick, contents, others, model = self._rounds
        if found := await self._first_found(bench, peer, [*finders, *quick, *contents]):
            return found
        found = await self._first_found(bench, peer, others)
        if found is None:
            bench.revision = Revision.V1
            try:
                found = await self._first_found(bench, peer, [*quick, *contents, *others])
            finally:
                bench.revision = Revision.V2
        if found:
            return found
        is_covered = all(edit.file in COVERED for edit in mutant.edits)
        is_alike = is_covered and await self._outputs.first_difference(peer) is None
        should = None if mutant.rules else should_of(mutant)
        if should is not None or (is_alike and not mutant.rules):
            reason = f"it touches {should}, a SHOULD" if should else f"the same output over {SCRIPTS:,} scripts"
            return {"counts": True, "case": None, "equivalent": reason}
        if not is_alike:  # otherwise fewer scripts of the same grammar would not tell, either
            found = await self._first_found(bench, peer, model)
        return found or {"counts": True, "case": None}

    async def _first_found(self, bench: Bench, peer: Path, rounds: Sequence[_Round]) -> dict[str, Any] | None:
        for role, cases in rounds:
            if found := await self._failed(bench, peer, role, cases):
                case, rule = found
                if CASES[case].deadline <= _QUICK:
                    self._finders[case] = CASES[case]
                return {"counts": True, "case": case, "rule": rule}
        return None

    async def _failed(self, bench: Bench, peer: Path, role: Role, cases: Sequence[Case]) -> tuple[str, str] | None:
        """The first case that the mutant fails, and fails again, though the peer without a change passes it."""
        left = list(cases)
        while left:
            async with aclosing(bench.failures(peer, role, left)) as failures:
                found = await anext(failures, None)
            if found is None:
                return None
            # Again, and the other one right after it: on a busy machine something else may have been too late.
            if await bench.fails(peer, role, found[0]) and not await bench.fails(self._plain, role, found[0]):
                return found
            left = [each for each in left if each.id != found[0]]
        return None


def should_of(mutant: Mutant) -> str | None:
    """Return the SHOULD that a changed line implements and names."""
    named = (touches(PEER, edit) for edit in mutant.edits)
    return next((each for each in named if each is not None and _LEVELS[each] is Level.SHOULD), None)


def _rounds(fits: Callable[[Case], bool]) -> list[list[_Round]]:
    """Cases in the order in which they are worth trying: quick ones, contents, those that wait, and the model's."""

    def cost(case: Case) -> int:
        if case.section == "model":
            return 3
        if case.script.__module__.endswith(("vectors", "contents")):
            return 1
        return 2 if case.deadline > _QUICK else 0  # most wait for a timer, or send much

    return [
        [(role, [each for each in cases_of(role) if fits(each) and cost(each) == number]) for role in ROLES]
        for number in range(4)
    ]


async def campaign(
    kinds: list[str], seed: int, wanted: int, full: bool, results: Path, fits: Callable[[Case], bool]
) -> list[str]:
    """Try mutants until enough of each kind count; return a line for each kind."""
    done = {row["name"]: row for row in noted(results)}
    with TemporaryDirectory() as folder:
        async with Trial(Path(folder), results.parent / "outputs", full, fits) as trial:

            async def row(mutant: Mutant) -> dict[str, Any]:
                if mutant.name not in done:
                    done[mutant.name] = await trial.row(mutant)
                    with results.open("a") as file:
                        file.write(json.dumps(done[mutant.name]) + "\n")
                return done[mutant.name]

            async def of_kind(kind: str) -> str:
                rows = [each async for each in _in_order(GENERATORS[kind](PEER, Random(f"{seed}/{kind}")), wanted, row)]
                return f"{kind}, seed {seed}: {summary(rows)}"

            return await asyncio.gather(*map(of_kind, kinds))


async def _in_order(
    drawn: Iterator[Mutant], wanted: int, row: Callable[[Mutant], Awaitable[dict[str, Any]]]
) -> AsyncIterator[dict[str, Any]]:
    """The rows of mutants, until so many count; a few are under way at a time."""
    under_way: deque[asyncio.Task[dict[str, Any]]] = deque()
    async with asyncio.TaskGroup() as group:
        while wanted:
            room = min(wanted, 2 * MUTANTS_AT_ONCE) - len(under_way)
            under_way.extend(group.create_task(row(mutant)) for mutant in islice(drawn, room))
            if not under_way:
                return
            found = await under_way.popleft()
            wanted -= found["counts"]
            print(shown(found), flush=True)  # noqa: T201
            yield found


def shown(row: dict[str, Any]) -> str:
    if not row["counts"]:
        return f"{row['name']} does not count"
    if row["case"] is None:
        return f"{row['name']} {row.get('equivalent', 'NOT FOUND')}"
    return f"{row['name']} {row['case']} {row['rule']}"


def summary(rows: list[dict[str, Any]]) -> str:
    able = [row for row in rows if row["counts"]]
    counted = [row for row in able if "equivalent" not in row]
    caught = [row for row in counted if row["case"] is not None]
    right = [row for row in caught if row["rule"] in row["rules"]]
    named = f", {len(right)} by a rule that they break" if any(row["rules"] for row in rows) else ""
    aside = f"; {len(able) - len(counted)} of {len(able)} are equivalent" if len(able) > len(counted) else ""
    return f"{len(caught)} of {len(counted)} found{named}{aside}; {len(rows) - len(able)} cannot talk at all"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", choices=GENERATORS)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--without", choices=SECTIONS)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    part = f"-{options.section}" if options.section else f"-without-{options.without}" if options.without else ""
    results = options.results or Path(f"build/mutants-{options.seed}{'-full' * options.full}{part}.jsonl")
    results.parent.mkdir(exist_ok=True)

    for name, case in CASES.items():
        CASES[name] = replace(case, deadline=_PATIENCE * case.deadline)

    def fits(case: Case) -> bool:
        return options.section in (None, case.section) and case.section != options.without

    kinds = [options.only] if options.only else list(GENERATORS)
    for line in asyncio.run(campaign(kinds, options.seed, options.count, options.full, results, fits)):
        print(line)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
