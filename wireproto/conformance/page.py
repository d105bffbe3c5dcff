"""The HTML report of a run: one self-contained page."""

import html
import importlib.resources
import json
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wireproto.conformance.case import rule
from wireproto.conformance.report import Sum, as_object

MOST_BYTES: Final = 2048
"""Bytes shown of one piece that was sent or received."""


def page(total: Sum, directory: Path) -> str:
    """Return the page, with the results as JSON in it, and links relative to its directory."""
    template = importlib.resources.files("wireproto.conformance").joinpath("page.html").read_text(encoding="utf-8")
    cases = [as_object(result, most=MOST_BYTES) for result in total.results]
    for case in cases:
        if "picture" in case:
            case["picture"] = quote(os.path.relpath(case["picture"], directory))
    named = {name for result in total.results for name in result.requirements}
    named |= {result.failure.requirement for result in total.results if result.failure}
    data = {"summary": total.as_object(), "cases": cases, "requirements": {name: rule(name).text for name in named}}
    # The peer's data must not end the script element.
    text = json.dumps(data).replace("<", "\\u003c")
    for place, shown in (("title", total.title), ("header", total.header)):
        template = template.replace(f"<!-- {place} -->", html.escape(shown))
    return template.replace("/* data */ null", text)
