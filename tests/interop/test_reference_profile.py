"""The profile of the reference peer: measurements, spec/, and a peer with the same behaviour."""

import asyncio
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from fnmatch import filter as filter_names
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.interop.scenes import HERE
from tests.interop.test_reference_frames import STRICTER
from tests.wireproto.conformance.trying import HOST, OURS, THEIRS, cases_of, free_port
from wireproto import Revision
from wireproto.conformance import (
    CASES,
    Case,
    Patience,
    RankOneTarget,
    RankZeroTarget,
    Result,
    Settings,
    Verdict,
    command_launcher,
    run,
)
from wireproto.conformance.codec_cases import CodecCase, GrowthCase, codec_cases, right_answer
from wireproto.conformance.expected import Expected, load_profile, rules_of
from wireproto.session import Role
from wireproto.testing.requirements import DIRECTORY

pytestmark = pytest.mark.waits

MEASURED: Final = json.loads((HERE / "reference-verdicts.json").read_text())
PARTS: Final = ("codec", "rank1", "rank0")
PROFILE: Final = load_profile("reference")

_NEEDS_UNKNOWN_TYPE: Final = "it needs rank0.frame.type-unknown, which fails: it would only show that again"
CHANGED: Final = {
    "rank0.framing.coalesced": ("skipped", _NEEDS_UNKNOWN_TYPE),
    "rank0.frame.revision-not-guessed": ("skipped", _NEEDS_UNKNOWN_TYPE),
}
"""Cases whose verdict differs from the measurement, and the reason."""
_CRASH: Final = "a live case for what one vector of `conform codec` found"
NEW: Final = {
    "rank1.handshake.nesting-513-last": _CRASH,
    "rank1.payload.nesting-513-last": _CRASH,
    "rank0.handshake.nesting-513-last": _CRASH,
    "rank0.payload.nesting-513-last": _CRASH,
    "rank0.session.ping-at-once": "its first ping comes after 5 s; it was measured with a tenth of its times",
    "rank0.session.pings-unanswered-in-init": "its ping loop stalls; a case that was not there yet",
}
"""Cases in the profile that were not measured."""
GENERATED: Final = {case.id for case in CASES.values() if case.is_generated}
"""Cases added since; a peer that behaves like the reference peer fails them below."""


@cache
def of_codec(revision: int) -> dict[str, CodecCase | GrowthCase]:
    return {each.id: each for each in codec_cases(Revision(revision))}


def known(part: str, revision: int) -> dict[str, Expected]:
    return PROFILE.expected(part, revision, of_codec(revision) if part == "codec" else CASES)


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_each_measured_verdict_is_in_the_profile_or_its_change_explained(part: str, revision: int) -> None:
    expected = known(part, revision)
    for case, verdict in MEASURED[part][str(revision)].items():
        if case in CHANGED:
            assert CHANGED[case][0] != verdict
            assert case not in expected
        else:
            assert expected[case].verdict is Verdict(verdict), case


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_nothing_else_is_in_the_profile(part: str, revision: int) -> None:
    generated = GENERATED | {name for name, each in of_codec(revision).items() if each.section == "generated"}
    assert known(part, revision).keys() - NEW.keys() - generated <= MEASURED[part][str(revision)].keys()


def test_each_case_is_there_once_and_exists() -> None:
    names = {
        int(revision): {*of_codec(revision), *(case.id for case in CASES.values() if revision in case.revisions)}
        for revision in Revision
    }
    counts: Counter[tuple[str, int]] = Counter()
    for each in PROFILE.known:
        for pattern in each.cases:
            for revision in each.revisions:
                found = filter_names(names[revision], pattern)
                assert found, (pattern, revision)
                counts.update((name, revision) for name in found)
    assert [case for case, count in counts.items() if count > 1] == []


ALSO_REFUSED: Final = (
    "base64-other-alphabet",
    "base64-without-padding",
    "base64-with-something-between",
    "wrong-type",
    "item-of-wrong-type",
)
"""Dimensions of whose codes the reference peer takes others."""


@pytest.mark.parametrize("revision", [1, 2])
def test_each_generated_case_of_a_codec_is_in_the_profile_where_its_decoder_takes_what_it_asks(revision: int) -> None:
    """The codes of what it takes were measured with 5,001 frames."""
    expected = known("codec", revision)
    for name, case in of_codec(revision).items():
        if case.section != "generated" or not isinstance(case, CodecCase) or case.is_of_extensions:
            continue
        codes = {right_answer(each, Revision(revision), has_extensions=False).get("error") for each in case.questions}
        is_taken = bool(codes & STRICTER.keys()) and name.rpartition(".")[2] not in ALSO_REFUSED
        assert (name in expected) == is_taken or name.endswith(".nested-too-deep"), name


@pytest.mark.parametrize("revision", [1, 2])
def test_it_dies_of_one_frame_of_those_that_are_nested_too_deep(revision: int) -> None:
    expected = known("codec", revision)
    for name, case in of_codec(revision).items():
        if name.endswith(".nested-too-deep") and isinstance(case, CodecCase) and not case.is_of_extensions:
            frames = [each.frame for each in case.questions]
            kills = any(sum(map(each.count, (b"[", b"{"))) == 513 and each.endswith((b"[", b"{")) for each in frames)
            assert kills == (name in expected), name
            assert not kills or expected[name].verdict is Verdict.CRASH


def test_each_reason_is_a_statement_of_the_specification() -> None:
    chapter = (DIRECTORY / "protocol.md").read_text().partition("## The reference peer")[2].partition("\n## ")[0]
    text = re.sub(r"\s+", " ", chapter)
    assert [each.reason for each in PROFILE.known if each.reason not in text] == []


# -- a peer that behaves so -------------------------------------------------------------------------------------------

SCALE: Final = 0.04
PATIENCE: Final = Patience(
    start=10.0,
    answer=6.0,
    close=3.0,
    quiet=0.15,
    ping_every=0.2,
    pong=0.12,
    handshake=0.4,
    reconnect=0.4,
    retry=0.4,
    slack=1.0,
)
IMPATIENT: Final = replace(PATIENCE, close=0.3)
"""Most of the cases that fail wait for an end that never comes."""
AT_ONCE: Final = 12
"""Peers, which mostly wait."""
_PARSER: Final = "Python's parser refuses that"
_FOUNDATION: Final = "only Foundation's parser dies of it"
NOT_SHOWN: Final = {
    "*.nesting-513-last": _FOUNDATION,
    "*.replay-after-20000": "only with --full",
    "*.payload.trailing-comma": _PARSER,
    "*.payload.leading-zero": _PARSER,
    "*.payload.bad-escape": _PARSER,
    "*.payload.not-utf-8": _PARSER,
    "*.payload.utf-8-overlong": _PARSER,
}
"""Cases in which this directory's peer follows the specification, unlike the reference peer."""


def is_as_expected(result: Result, expected: Expected | None) -> bool:
    if expected is None:
        return result.verdict in (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED)
    return result.verdict is expected.verdict or any(fnmatch(result.id, pattern) for pattern in NOT_SHOWN)


def tried(
    role: Role, revision: Revision, folder: Path, cases: Collection[Case], patience: Patience
) -> dict[str, Result]:
    (folder / "key.pem").write_bytes(THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    rank = "1" if role is Role.RESPONDER else "0"
    words = [sys.executable, str(HERE / "reference_peer.py"), rank, f"{HOST},{HOST}", "PORT"]
    words += [str(folder / "key.pem"), OURS.public.hex(), "--revision", str(int(revision)), "--folder", str(folder)]
    words += ["--no-init", "--scale", str(SCALE)]
    command = shlex.join(["sh", "-c", "exec " + shlex.join(words).replace("PORT", '"$CONFORM_PORT"')])
    kind = RankOneTarget if role is Role.RESPONDER else RankZeroTarget
    targets = [kind(HOST, free_port(), command_launcher(command), keep=True) for _ in range(AT_ONCE)]
    broken = frozenset(rules_of(known(role.value.replace(" ", ""), int(revision))))
    settings = Settings(identity=OURS, revision=revision, patience=patience, names_file=True, broken=broken)

    async def main() -> list[Result]:
        return [result async for result in run(targets, settings, cases)]

    return {result.id: result for result in asyncio.run(main())}


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("role", Role)
def test_a_peer_that_behaves_so_fails_nothing_else(role: Role, revision: Revision, tmp_path: Path) -> None:
    """A case that an impatient run sees otherwise is tried again, and those that need it."""
    cases, expected = cases_of(role), known(role.value.replace(" ", ""), int(revision))
    found = tried(role, revision, tmp_path, cases, IMPATIENT)
    assert expected.keys() <= found.keys()
    other = {name for name, each in found.items() if not is_as_expected(each, expected.get(name))}
    again = [case for case in cases if other & {case.id, *case.needs}]
    if again:
        found |= tried(role, revision, tmp_path, again, PATIENCE)
    left = {name: each for name, each in found.items() if not is_as_expected(each, expected.get(name))}
    assert {name: f"{each.verdict}: {each.reason}" for name, each in left.items()} == {}
