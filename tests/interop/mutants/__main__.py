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
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.interop.mutants import by_rule, mechanical
from tests.interop.mutants.mechanical import Mutant, noted, write
from tests.wireproto.conformance.test_conform_cli import ROOT, new_key
from tests.wireproto.conformance.trying import HOST, cases_of, free_port
from wireproto.conformance import (
    CASES,
    SECTIONS,
    Case,
    RankOneTarget,
    RankZeroTarget,
    Settings,
    Target,
    Verdict,
    command_launcher,
    run,
)
from wireproto.conformance.identity import load_identity, peer_key_of
from wireproto.session import Role

PEER = ROOT / "tests" / "interop"
GENERATORS = {"mechanical": mechanical.mutants, "rule": by_rule.mutants}
FINE = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED)
MODES = {Role.RESPONDER: "listen", Role.INITIATOR: "connect"}
ORDINARY = {
    Role.RESPONDER: ("rank1.session.pong-each", "rank1.bootstrap.taken", "rank1.session.end"),
    Role.INITIATOR: ("rank0.bootstrap.sent", "rank0.session.ping-at-once"),
}
"""Cases that a mutant must pass to count: one that cannot communicate is trivially found."""
AT_ONCE = 8


class Peers:
    """The JavaScript peer, with a mutant's change, and the keys of both sides."""

    def __init__(self, folder: Path, full: bool) -> None:
        folder.mkdir()
        self._folder = folder
        self._theirs, self._ours = new_key(folder / "theirs.pem"), new_key(folder / "ours.pem")
        key = peer_key_of(self._theirs)
        self._settings = Settings(identity=load_identity(folder / "ours.pem"), peer_key=key, names_file=True, full=full)
        self.change(None)

    def change(self, mutant: Mutant | None) -> None:
        """Write the peer's files, with the mutant's change in them."""
        write(PEER, self._folder, mutant)

    def _targets(self, role: Role) -> list[Target]:
        words = ["node", str(self._folder / "peer.mjs"), MODES[role]]
        words += ["--identity", str(self._folder / "theirs.pem"), "--peer-key", self._ours]
        kind = RankOneTarget if role is Role.RESPONDER else RankZeroTarget
        return [kind(HOST, free_port(), command_launcher(shlex.join(words))) for _ in range(AT_ONCE)]

    async def failures(self, role: Role, cases: Collection[Case]) -> AsyncIterator[tuple[str, str]]:
        """Return the failing cases and the rule that each names."""
        async with aclosing(run(self._targets(role), self._settings, cases)) as results:
            async for result in results:
                if result.verdict not in FINE:
                    yield result.id, result.failure.requirement if result.failure else result.requirements[0]


class Trial:
    """Compares mutants with the unchanged peer."""

    def __init__(self, folder: Path, full: bool, fits: Callable[[Case], bool]) -> None:
        self._mutated, self._plain = Peers(folder / "mutated", full), Peers(folder / "plain", full)
        self._cases = {role: [each for each in cases_of(role) if fits(each)] for role in Role}
        self._passes: dict[str, bool] = {}

    async def row(self, mutant: Mutant) -> dict[str, Any]:
        """The result of a mutant."""
        row: dict[str, Any] = {"name": mutant.name, "rules": mutant.rules}
        row["edits"] = [[edit.file, edit.start, edit.text] for edit in mutant.edits]
        self._mutated.change(mutant)
        for role in Role:
            async with aclosing(self._mutated.failures(role, [CASES[name] for name in ORDINARY[role]])) as failures:
                async for _ in failures:
                    return row | {"counts": False}
        for role in (Role.RESPONDER, Role.INITIATOR):
            async with aclosing(self._mutated.failures(role, self._cases[role])) as failures:
                async for case, rule in failures:
                    if await self._plain_passes(role, case):
                        return row | {"counts": True, "case": case, "rule": rule}
        return row | {"counts": True, "case": None}

    async def _plain_passes(self, role: Role, case: str) -> bool:
        if case not in self._passes:
            self._passes[case] = not [failure async for failure in self._plain.failures(role, [CASES[case]])]
        return self._passes[case]


async def campaign(
    kinds: list[str], seed: int, wanted: int, full: bool, results: Path, fits: Callable[[Case], bool]
) -> list[str]:
    """Try mutants until enough of each kind count; return a line for each kind."""
    done = {row["name"]: row for row in noted(results)}
    lines = []
    with TemporaryDirectory() as folder:
        trial = Trial(Path(folder), full, fits)
        for kind in kinds:
            rows: list[dict[str, Any]] = []
            drawn = GENERATORS[kind](PEER, Random(f"{seed}/{kind}"))
            for number in count():
                if sum(row["counts"] for row in rows) >= wanted or (mutant := next(drawn, None)) is None:
                    break
                if mutant.name not in done:
                    done[mutant.name] = await trial.row(mutant)
                    with results.open("a") as file:
                        file.write(json.dumps(done[mutant.name]) + "\n")
                rows.append(done[mutant.name])
                print(f"{number + 1}: {shown(rows[-1])}", flush=True)  # noqa: T201
            lines.append(f"{kind}, seed {seed}: {summary(rows)}")
    return lines


def shown(row: dict[str, Any]) -> str:
    if not row["counts"]:
        return f"{row['name']} does not count"
    return f"{row['name']} {'NOT FOUND' if row['case'] is None else row['case'] + ' ' + row['rule']}"


def summary(rows: list[dict[str, Any]]) -> str:
    counted = [row for row in rows if row["counts"]]
    caught = [row for row in counted if row["case"] is not None]
    right = [row for row in caught if row["rule"] in row["rules"]]
    named = f", {len(right)} by a rule that they break" if any(row["rules"] for row in rows) else ""
    return f"{len(caught)} of {len(counted)} found{named}; {len(rows) - len(counted)} cannot talk at all"


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

    def fits(case: Case) -> bool:
        return options.section in (None, case.section) and case.section != options.without

    kinds = [options.only] if options.only else list(GENERATORS)
    for line in asyncio.run(campaign(kinds, options.seed, options.count, options.full, results, fits)):
        print(line)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
