"""spec/: where it is, and its rules, as protocol.md has them and as requirements.toml registers them."""

import re
import sys
import tomllib
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

_INSTALLED: Final = Path(__file__).parent / "spec"

DIRECTORY: Final = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "spec"
"""In a wheel spec/ is a part of the package, in a checkout it stands beside it."""

_ITEM: Final = re.compile(r"^## (.+)$|^- \[([A-Z][A-Z0-9]+(?:-[A-Z0-9]+)+)\] (.+(?:\n  .+)*)", re.M)
_KEYWORD: Final = re.compile(r"\b(MUST|SHOULD|MAY)\b")
_REVISION: Final = re.compile(r"Revision ([12]): ")


class Level(Enum):
    """How strongly a rule binds, as RFC 2119 has it; MUST NOT is a MUST, too."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Requirement(NamedTuple):
    """One rule of the protocol."""

    id: str
    """Permanent, such as LINK-LEN-MAX."""
    level: Level
    section: str
    """The chapter of protocol.md in which it stands."""
    revisions: tuple[int, ...]
    """Those for which it holds."""
    text: str


def requirements() -> list[Requirement]:
    """The rules as spec/requirements.toml registers them, in the order of protocol.md."""
    return registered((DIRECTORY / "requirements.toml").read_text(encoding="utf-8"))


def registered(toml: str) -> list[Requirement]:
    """The rules of a registry's text."""
    return [
        Requirement(each, Level(row["level"]), row["section"], tuple(row["revisions"]), row["text"])
        for each, row in tomllib.loads(toml).items()
    ]


def stated(protocol: str) -> list[Requirement]:
    """The rules that stand in protocol.md's text: each an item `- [ID] …`, whose keywords are of one level.

    ValueError for one of no level, or of two.
    """
    rules = []
    section = ""
    for heading, name, text in _ITEM.findall(protocol):
        if heading:
            section = heading
        else:
            rules.append(_requirement(name, section, " ".join(text.split())))
    return rules


def registry(rules: list[Requirement]) -> str:
    """The text of spec/requirements.toml."""
    text = "# Made from protocol.md by `make spec`: a rule is changed there.\n"
    for rule in rules:
        text += f"\n[{rule.id}]\n"
        text += f'level = "{rule.level.value}"\nsection = "{_escaped(rule.section)}"\n'
        text += f'revisions = {list(rule.revisions)}\ntext = "{_escaped(rule.text)}"\n'
    return text


def _requirement(name: str, section: str, text: str) -> Requirement:
    levels = set(_KEYWORD.findall(text))
    if len(levels) != 1:
        raise ValueError(f"{name} has the levels {sorted(levels)}, and has to have one")
    revision = _REVISION.match(text)
    revisions = (int(revision[1]),) if revision else (1, 2)
    return Requirement(name, Level(levels.pop()), section, revisions, text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.with_name("requirements.toml").write_text(registry(stated(path.read_text())))
