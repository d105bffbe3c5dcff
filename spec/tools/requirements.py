"""Generate spec/requirements.toml from the rules in spec/protocol.md."""

import re
import sys
from pathlib import Path
from typing import Final

from wireproto.testing.requirements import Level, Requirement

_ITEM: Final = re.compile(r"^## (.+)$|^- \[([A-Z][A-Z0-9]+(?:-[A-Z0-9]+)+)\] (.+(?:\n  .+)*)", re.M)
_KEYWORD: Final = re.compile(r"\b(MUST|SHOULD|MAY)\b")
_REVISION: Final = re.compile(r"Revision ([12]): ")


def stated(protocol: str) -> list[Requirement]:
    """Return the rules in the text of protocol.md: each is an item `- [ID] …` with keywords of one level.

    Raise ValueError for a rule with no level or with two.
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
    """Return the text of requirements.toml for these rules."""
    text = "# Generated from protocol.md by `make spec`. Edit the rules there.\n"
    for rule in rules:
        text += f"\n[{rule.id}]\n"
        text += f'level = "{rule.level.value}"\nsection = "{_escaped(rule.section)}"\n'
        text += f'revisions = {list(rule.revisions)}\ntext = "{_escaped(rule.text)}"\n'
    return text


def _requirement(name: str, section: str, text: str) -> Requirement:
    levels = set(_KEYWORD.findall(text))
    if len(levels) != 1:
        raise ValueError(f"{name} must have one level, not {sorted(levels)}")
    revision = _REVISION.match(text)
    revisions = (int(revision[1]),) if revision else (1, 2)
    return Requirement(name, Level(levels.pop()), section, revisions, text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.with_name("requirements.toml").write_text(registry(stated(path.read_text())))
