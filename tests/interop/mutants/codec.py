"""`make mutants-codec`: generated mutants of the JavaScript codec, and how many `conform codec` and `fuzz codec` find.

    --seed N         the mutants are drawn from it (default: 1)
    --count N        of each generator that decode an ordinary frame of each type (default: 15)
    --only KIND      mechanical or rule
    --seconds N      for `fuzz codec`, a mutant (default: 10)
    --results FILE   notes each mutant; a run goes on where the last one ended (default: build/codec-mutants-SEED.jsonl)

A mutant is found with the first answer that the codec without a change does not give.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.interop.mutants import by_rule, codec_rules, mechanical
from tests.interop.mutants.mechanical import Mutant, noted, write
from tests.wireproto.conformance.test_conform_cli import ROOT
from wireproto import encode_frame
from wireproto.codec.fields import payload_fields
from wireproto.conformance import Verdict
from wireproto.conformance.codec import run_codec
from wireproto.conformance.codec_cases import codec_cases
from wireproto.conformance.contract import expected_answer, wrong
from wireproto.conformance.program import Program
from wireproto.fuzzing.asked import Codec, CodecError
from wireproto.fuzzing.differential import Differential
from wireproto.messages import REGISTRY, Revision
from wireproto.testing.encodings import edge_values

PEER: Final = ROOT / "tests" / "interop"
FILES: Final = ("json.mjs", "frames.mjs")
FINE: Final = (Verdict.PASS, Verdict.UNIMPLEMENTED)
ORDINARY: Final = [
    encode_frame(
        each.payload(
            **{
                field.name: edge_values(field.type)[0]
                for field in payload_fields(each.payload).values()
                if field.required
            }
        )
    )
    for each in REGISTRY
    if not each.extension
]
GENERATORS: Final = {
    "mechanical": partial(mechanical.anywhere, files=FILES),
    "rule": partial(by_rule.mutants, rules=codec_rules.RULES),
}


def command(folder: Path) -> list[str]:
    return ["node", str(folder / "decode.mjs")]


def is_ordinary(folder: Path) -> bool:
    """Return whether a codec decodes a frame of each type; one that cannot is trivially found."""
    codec = Codec(command(folder))
    try:
        answers = codec.ask(ORDINARY)
    except CodecError:
        return False
    finally:
        codec.stop()
    return not any(map(wrong, map(partial(expected_answer, revision=Revision.V2), ORDINARY), answers))


async def conformed(folder: Path) -> tuple[str, str] | None:
    """Return the first failing case of `conform codec`, and the rule that it names."""
    async with aclosing(run_codec(Program(command(folder)), codec_cases(Revision.V2))) as results:
        async for result in results:
            if result.verdict not in FINE:
                return result.id, result.failure.requirement if result.failure else result.requirements[0]
    return None


def fuzzed(folder: Path, seconds: float) -> str | None:
    """Return the first finding of `fuzz codec`."""
    run = Differential(command(folder), 0).run(seconds)
    try:
        return next((found.kind for found in run), None)
    finally:
        run.close()


def row(mutant: Mutant, folder: Path, seconds: float) -> dict[str, Any]:
    """The result of a mutant."""
    write(PEER, folder, mutant)
    found: dict[str, Any] = {"name": mutant.name, "rules": mutant.rules}
    found["edits"] = [[edit.file, edit.start, edit.text] for edit in mutant.edits]
    if not is_ordinary(folder):
        return found | {"counts": False}
    case, rule = asyncio.run(conformed(folder)) or (None, None)
    return found | {"counts": True, "case": case, "rule": rule, "fuzz": fuzzed(folder, seconds)}


def campaign(kinds: list[str], seed: int, wanted: int, seconds: float, results: Path) -> Iterator[str]:
    """Try mutants until enough of each kind count; a line for each, and one for each kind."""
    done = {each["name"]: each for each in noted(results)}
    with TemporaryDirectory() as name:
        for kind in kinds:
            rows: list[dict[str, Any]] = []
            for mutant in GENERATORS[kind](PEER, Random(f"codec/{seed}/{kind}")):
                if sum(each["counts"] for each in rows) >= wanted:
                    break
                if mutant.name not in done:
                    done[mutant.name] = row(mutant, Path(name), seconds)
                    with results.open("a") as file:
                        file.write(json.dumps(done[mutant.name]) + "\n")
                rows.append(done[mutant.name])
                yield shown(rows[-1])
            yield f"{kind}, seed {seed}: {summary(rows)}"


def shown(row: dict[str, Any]) -> str:
    if not row["counts"]:
        return f"{row['name']} does not count"
    return (
        f"{row['name']}: conform: {row['case'] or 'NOT FOUND'} {row['rule'] or ''}; fuzz: {row['fuzz'] or 'NOT FOUND'}"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    counted = [row for row in rows if row["counts"]]
    conform = [row for row in counted if row["case"]]
    fuzz = [row for row in counted if row["fuzz"]]
    either = [row for row in counted if row["case"] or row["fuzz"]]
    return (
        f"of {len(counted)}, conform codec finds {len(conform)}, fuzz codec {len(fuzz)}, both together {len(either)}; "
        f"{len(rows) - len(counted)} cannot decode at all"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--only", choices=GENERATORS)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    results = options.results or Path(f"build/codec-mutants-{options.seed}.jsonl")
    kinds = [options.only] if options.only else list(GENERATORS)
    for line in campaign(kinds, options.seed, options.count, options.seconds, results):
        print(line, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
