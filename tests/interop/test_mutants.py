"""The generators of mutants: deterministic, and valid JavaScript; the command runs a sample."""

import asyncio
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.interop.mutants import codec, codec_rules, mechanical
from tests.interop.mutants.__main__ import GENERATORS, PEER, should_of, summary
from tests.interop.mutants.by_rule import RULES
from tests.interop.mutants.hosts import Host
from tests.interop.mutants.outputs import Outputs
from tests.wireproto.conformance.test_conform_cli import ROOT, new_key
from tests.wireproto.conformance.trying import HOST, free_port
from wireproto.conformance import RankOneTarget
from wireproto.testing.requirements import requirements

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_seed_repeats_its_mutants(kind: str) -> None:
    one, again, other = (list(islice(GENERATORS[kind](PEER, Random(seed)), 40)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len({mutant.name for mutant in one}) == 40


def test_each_rule_is_one_of_the_specification() -> None:
    assert {rule for rules in RULES.values() for rule in rules} <= {each.id for each in requirements()}


def test_a_change_is_where_it_belongs(tmp_path: Path) -> None:
    """By rule, every kind once: the peer differs, and is still JavaScript."""
    good = {path.name: path.read_bytes() for path in PEER.glob("*.mjs")}
    for mutant in islice(GENERATORS["rule"](PEER, Random(3)), len(RULES)):
        mechanical.write(PEER, tmp_path, mutant)
        changed = [path for path in tmp_path.glob("*.mjs") if path.read_bytes() != good[path.name]]
        assert {path.name for path in changed} == {edit.file for edit in mutant.edits}
        done = subprocess.run(["node", "--check", *changed], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (mutant, done.stderr)


def test_what_a_run_comes_to() -> None:
    rows = [
        {"counts": False, "rules": ["A"]},
        {"counts": True, "rules": ["A"], "case": "x", "rule": "A"},
        {"counts": True, "rules": ["A"], "case": "x", "rule": "B"},
        {"counts": True, "rules": ["A"], "case": None},
    ]
    assert summary(rows) == "2 of 3 found, 1 by a rule that they break; 1 cannot talk at all"


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """Recorded results are not repeated; here all are recorded."""
    drawn = list(islice(GENERATORS["rule"](PEER, Random("5/rule")), 2))
    rows = [{"name": each.name, "rules": each.rules, "counts": True, "case": "x", "rule": "A"} for each in drawn]
    noted = tmp_path / "noted.jsonl"
    noted.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "tests.interop.mutants", "--seed", "5", "--count", "2", "--only", "rule"]
    done = subprocess.run(
        [*command, "--results", str(noted)], capture_output=True, text=True, timeout=100, check=False, cwd=ROOT
    )
    assert (
        done.stdout.splitlines()[-1] == "rule, seed 5: 2 of 2 found, 0 by a rule that they break; 0 cannot talk at all"
    )


def test_what_is_set_aside() -> None:
    rows = [
        {"counts": True, "rules": [], "case": "x", "rule": "A"},
        {"counts": True, "rules": [], "case": None, "equivalent": "the same output"},
    ]
    assert summary(rows) == "1 of 1 found; 1 of 2 are equivalent; 0 cannot talk at all"


# -- how they are run --------------------------------------------------------------------------------------------------


def ended(script: str, folder: Path) -> str:
    """How a peer ends by itself."""
    (folder / "peer.mjs").write_text(script)

    async def main() -> str:
        host = Host()
        try:
            async with asyncio.timeout(60), host.running(folder / "peer.mjs", ["listen"], HOST, 1) as running:
                while True:
                    await asyncio.sleep(0.01)
                    if how := running.ended():
                        return how.how
        finally:
            await host.close()

    return asyncio.run(main())


def test_a_peer_ends_as_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert ended("process.exitCode = 7;", tmp_path) == "the peer has ended with exit status 7"
    assert ended("setTimeout(() => nothing(), 1);", tmp_path).startswith("the peer has ended with exit status 1: Ref")


def test_one_peer_after_the_other_runs_in_a_host(tmp_path: Path) -> None:
    """One that computes without end is stopped, too, and the port is free for the next one."""
    (tmp_path / "endless.mjs").write_text("for (;;);")
    shutil.copytree(PEER, tmp_path / "peer", ignore=shutil.ignore_patterns("*.py", "*.gz"))
    ours = new_key(tmp_path / "ours.pem")
    args = ["listen", "--identity", str(tmp_path / "ours.pem"), "--peer-key", ours]
    port = free_port()

    async def main() -> None:
        host = Host()
        try:
            async with asyncio.timeout(60):
                async with host.running(tmp_path / "endless.mjs", [], HOST, port) as running:
                    assert running.ended() is None
                for _ in range(2):
                    async with host.running(tmp_path / "peer" / "peer.mjs", args, HOST, port):
                        target = RankOneTarget(HOST, port)
                        _, writer = await target.connect(30)
                        writer.close()
        finally:
            await host.close()

    asyncio.run(main())


def test_a_digit_in_a_string_was_taken_for_a_constant() -> None:
    """A quotation mark in single quotes moved all strings after it, and `0123456789` ended the generator."""
    changed = {(each.edits[0].file, each.edits[0].start) for each in mechanical.mutants(PEER, Random(1))}
    assert len(changed) > 450
    assert ("json.mjs", (PEER / "json.mjs").read_text().index("0123456789")) not in changed


def test_what_a_peer_tells_its_user_is_not_changed() -> None:
    changed = [each.edits[0] for each in mechanical.mutants(PEER, Random(1))]
    texts = {file: (PEER / file).read_text() for file in mechanical.FILES}
    for file, words in (("peer.mjs", "process.exitCode ="), ("peer.mjs", "const key = "), ("seal.mjs", '"seal-tag"')):
        line = range(texts[file].index(words), texts[file].index("\n", texts[file].index(words)))
        assert not [edit for edit in changed if edit.file == file and edit.start in line]
    everywhere = {each.edits[0] for each in mechanical.anywhere(PEER, Random(1), mechanical.FILES)}
    call = texts["json.mjs"].index('    this.fail("json-syntax"')
    assert call in {edit.start for edit in changed if edit.file == "json.mjs"}
    assert {edit.start for edit in changed} < {edit.start for edit in everywhere}


def test_a_should_is_named_by_the_line_that_implements_it() -> None:
    named = {rule for each in mechanical.mutants(PEER, Random(1)) if (rule := should_of(each)) is not None}
    assert named == {
        *("SESSION-CROWD", "SESSION-LEN-MAX", "SESSION-MISSED", "SESSION-NEWCOMER", "SESSION-PING", "SESSION-REPLACE"),
        "SESSION-TCP",
    }


def test_the_same_output_shows_what_cannot_be_told_apart(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("plain", "alike", "other")}
    for folder in folders.values():
        folder.mkdir()
        mechanical.write(PEER, folder, None)
    seal = (PEER / "seal.mjs").read_text()
    (folders["alike"] / "seal.mjs").write_text(seal.replace("2 ** 24", "2 ** 23"))
    (folders["other"] / "seal.mjs").write_text(seal.replace("this.#opened.add(nonce);", ""))
    outputs = Outputs(folders["plain"], tmp_path / "kept", count=150)
    assert asyncio.run(outputs.first_difference(folders["alike"])) is None
    again = Outputs(folders["plain"], tmp_path / "kept", count=150)  # with what the first one has kept
    assert asyncio.run(again.first_difference(folders["other"])) is not None


# -- of the codec ------------------------------------------------------------------------------------------------------


def test_the_codec_without_a_change_is_ordinary(tmp_path: Path) -> None:
    mechanical.write(PEER, tmp_path, None)
    assert codec.is_ordinary(tmp_path)


def test_a_change_of_the_codec_is_where_it_belongs(tmp_path: Path) -> None:
    """Every kind by rule, once: the codec differs, and is still JavaScript."""
    known = {each.id for each in requirements()}
    files = {}
    for mutant in islice(codec.GENERATORS["rule"](PEER, Random(3)), len(codec_rules.RULES)):
        assert {*mutant.rules} <= known
        mechanical.write(PEER, tmp_path, mutant)
        for edit in mutant.edits:
            assert edit.file in codec.FILES
            files[mutant.name] = text = (tmp_path / edit.file).read_text()
            assert text != (PEER / edit.file).read_text()
            (tmp_path / f"{mutant.name}.mjs").write_text(text)
    assert len(files) == len(codec_rules.RULES)
    script = "for (const file of process.argv.slice(1)) await import(file);"
    paths = [str(tmp_path / f"{name}.mjs") for name in files]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script, *paths], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_a_run_of_codecs_comes_to() -> None:
    rows = [
        {"counts": False},
        {"counts": True, "case": "x", "fuzz": None},
        {"counts": True, "case": None, "fuzz": "y"},
        {"counts": True, "case": None, "fuzz": None},
    ]
    told = "of 3, conform codec finds 1, fuzz codec 1, both together 2; 1 cannot decode at all"
    assert codec.summary(rows) == told
