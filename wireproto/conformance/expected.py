"""Expected failures, from a user's list and from a profile in spec/."""

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
    """The reason and kind of a case's failure."""

    reason: str = ""
    """The reason; empty for a case that should pass."""
    verdict: Verdict | None = None
    """The expected verdict; None for any but a pass."""


@dataclass(frozen=True)
class Known:
    """Failures with the same reason."""

    reason: str
    verdict: Verdict
    revisions: tuple[int, ...]
    cases: tuple[str, ...]
    """Ids, or patterns of ids."""


@dataclass(frozen=True)
class Profile:
    """The known failures of a peer."""

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
    """Return the requirements broken by a peer that fails these cases."""
    return {requirement for case in cases for requirement in CASES[case].requirements}


def load_profile(name: str) -> Profile:
    """Return a profile by its name in `PROFILES`."""
    text = (DIRECTORY / PROFILES[name]).read_text(encoding="utf-8")
    return Profile(tuple(map(_known, tomllib.loads(text)["known"])))


def _known(row: dict[str, Any]) -> Known:
    return Known(row["reason"], Verdict(row["verdict"]), tuple(row["revisions"]), tuple(row["cases"]))
