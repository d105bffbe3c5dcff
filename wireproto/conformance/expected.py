"""Failures that are expected: those that a list of the user's names, and those of a profile in spec/."""

import fnmatch
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from wireproto.conformance.cases import CASES
from wireproto.conformance.verdicts import Verdict
from wireproto.testing.requirements import DIRECTORY

PROFILES: Final = {"reference": "reference-peer.toml"}
"""Files in spec/, by the name of the profile."""


class Expected(NamedTuple):
    """Why a case fails, and how."""

    reason: str = ""
    """Empty for a case that is not expected to fail."""
    verdict: Verdict | None = None
    """None for any that is not a pass."""


@dataclass(frozen=True)
class Known:
    """Failures that have one reason."""

    reason: str
    verdict: Verdict
    revisions: tuple[int, ...]
    cases: tuple[str, ...]
    """Ids, or patterns of ids."""


@dataclass(frozen=True)
class Profile:
    """What is known of a peer."""

    known: tuple[Known, ...]

    def expected(self, part: str, revision: int, cases: Collection[str]) -> dict[str, Expected]:
        """The expected failures of `codec`, `rank0` or `rank1`, by case; `cases` are all ids of the revision."""
        return {
            case: Expected(each.reason, each.verdict)
            for each in self.known
            if revision in each.revisions
            for pattern in each.cases
            if pattern.startswith(f"{part}.")
            for case in fnmatch.filter(cases, pattern)
        }


def rules_of(cases: Collection[str]) -> set[str]:
    """The requirements that a peer is known to break which fails these cases."""
    return {requirement for case in cases for requirement in CASES[case].requirements}


def load_profile(name: str) -> Profile:
    """Return the profile of a name in `PROFILES`."""
    text = (DIRECTORY / PROFILES[name]).read_text(encoding="utf-8")
    return Profile(tuple(map(_known, tomllib.loads(text)["known"])))


def _known(row: dict[str, Any]) -> Known:
    return Known(row["reason"], Verdict(row["verdict"]), tuple(row["revisions"]), tuple(row["cases"]))
