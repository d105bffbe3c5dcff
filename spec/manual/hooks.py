"""Hooks of mkdocs: the page of rules, links to it, and a check that no page loads anything from elsewhere."""

import re
from itertools import groupby
from typing import Any

from mkdocs.exceptions import PluginError

from wireproto.testing.requirements import requirements

RULES = {rule.id: rule for rule in requirements()}
PAGE = "rules.md"
_CITED = re.compile(r"\[([A-Z0-9]+(?:-[A-Z0-9]+)+(?:, [A-Z0-9]+(?:-[A-Z0-9]+)+)*)\]")
_FOREIGN = re.compile(r"""(?:\ssrc=|<link[^>]*\shref=)["']?(?:https?:)?//[^\s"'>]+""")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Append the rules to their page, by chapter."""
    if page.file.src_uri != PAGE:
        return markdown
    for section, rules in groupby(RULES.values(), lambda rule: rule.section):
        markdown += f"\n## {section}\n\n"
        for rule in rules:
            which = "" if len(rule.revisions) > 1 else f", revision {rule.revisions[0]}"
            markdown += f"`{rule.id}`{{ #{rule.id} }} {rule.level.value}{which}\n:   {rule.text}\n\n"
    return markdown


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Link each id in brackets to its rule."""
    where = "../" * page.url.count("/") + PAGE.replace(".md", ".html")

    def linked(rule: str) -> str:
        return f'<a href="{where}#{rule}">{rule}</a>' if rule in RULES else rule

    return _CITED.sub(lambda found: f"[{', '.join(map(linked, found[1].split(', ')))}]", html)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Fail for a page that would load something from another host."""
    if found := _FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads {found[0].strip()}")
    return output
