"""Fill in the tables of error codes in README.md and the manual from `bootstrap.advice`.

A table names its codes; that of spec/manual/pages/guides/troubleshooting.md has all of them.
"""

import re
import sys
from pathlib import Path
from typing import Final

from bootstrap.advice import ADVICE

ROW: Final = re.compile(r"^\| `([a-z0-9*-]+)` \|.*\n", re.M)
_ALL: Final = re.compile(rf"(?:{ROW.pattern})+", re.M)


def row(code: str) -> str:
    """Return the line of an error code. KeyError for a code that does not exist."""
    return f"| `{code}` | {ADVICE[code].cause} | {ADVICE[code].remedy} |\n"


def with_advice(text: str) -> str:
    """Return the text with the present cause and remedy of each code in its table."""
    return ROW.sub(lambda found: row(found[1]), text)


def with_all_advice(text: str) -> str:
    """Return the text with all codes in its table, in alphabetical order."""
    return _ALL.sub("".join(map(row, sorted(ADVICE))).replace("\\", r"\\"), text)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        fill = with_all_advice if path.name == "troubleshooting.md" else with_advice
        path.write_text(fill(path.read_text()))
