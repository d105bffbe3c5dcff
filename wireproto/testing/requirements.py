"""The rules of the protocol, from spec/requirements.toml."""

import tomllib
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

_PACKAGE: Final = Path(__file__).parent.parent
_INSTALLED: Final = _PACKAGE / "spec"

DIRECTORY: Final = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "spec"
"""The directory `spec`: inside the package in a wheel, beside it in a checkout."""


class Level(Enum):
    """How strongly a rule binds, in the terms of RFC 2119. MUST NOT counts as MUST."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Requirement(NamedTuple):
    """One rule of the protocol."""

    id: str
    """Permanent, such as LINK-LEN-MAX."""
    level: Level
    section: str
    """Heading of its chapter in protocol.md."""
    revisions: tuple[int, ...]
    """Protocol revisions that the rule applies to."""
    text: str


def requirements() -> list[Requirement]:
    """Return all rules, in the order of protocol.md."""
    return parse_registry((DIRECTORY / "requirements.toml").read_text(encoding="utf-8"))


def parse_registry(toml: str) -> list[Requirement]:
    """Return the rules in the text of a requirements.toml."""
    return [
        Requirement(each, Level(row["level"]), row["section"], tuple(row["revisions"]), row["text"])
        for each, row in tomllib.loads(toml).items()
    ]
