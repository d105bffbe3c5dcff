"""Show which tests, test vectors and conformance cases name each rule: `make spec-coverage`.

Exit code 1 if nothing tests some MUST.
"""

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from wireproto.conformance import CASES
from wireproto.testing import vectors
from wireproto.testing.requirements import Level, Requirement, requirements

_ID: Final = r"[A-Z][A-Z0-9]+(?:-(?:[A-Z0-9]+|\*))+"
_CITATION: Final = re.compile(rf"\[({_ID}(?:, {_ID})*)\]")
_TESTS: Final = Path(__file__).parents[2] / "tests"


class Coverage(NamedTuple):
    """One row of the matrix."""

    requirement: Requirement
    tests: tuple[str, ...]
    """Test functions that cite the rule, as `tests/….py::name`."""
    vectors: int
    """Number of test vectors that name it."""
    cases: int
    """Number of cases of `wireproto conform peer` that name it. They test other peers, so they do not count here."""

    @property
    def is_open(self) -> bool:
        """Whether this is a MUST without a test."""
        return self.requirement.level is Level.MUST and not self.tests and not self.vectors


def matrix() -> list[Coverage]:
    """Return one row for each requirement, in the order of protocol.md."""
    tests = _tests_by_id()
    named = _vectors_by_id()
    asked = Counter(each for case in CASES.values() for each in case.requirements)
    return [Coverage(each, tuple(tests[each.id]), named[each.id], asked[each.id]) for each in requirements()]


def cited(text: str) -> Iterator[str]:
    """Yield the ids that a text cites as `[ID]` or `[ID, OTHER-ID]`. An id may end in `*`."""
    for group in _CITATION.findall(text):
        yield from group.split(", ")


def table(rows: list[Coverage]) -> list[str]:
    """Return the lines of the matrix as text; the last line is the verdict."""
    width = max(len(row.requirement.id) for row in rows)
    lines = [f"{'requirement':<{width}}  level   tests  vectors  cases"]
    for row in rows:
        level = row.requirement.level.value
        lines.append(
            f"{row.requirement.id:<{width}}  {level:<6}  {len(row.tests):>5}  {row.vectors:>7}  {row.cases:>5}"
        )
    untested = ", ".join(row.requirement.id for row in rows if row.is_open)
    lines.append(f"{len(rows)} rules; " + (f"MUST without a test: {untested}" if untested else "every MUST is tested"))
    return lines


def _tests_by_id() -> dict[str, list[str]]:
    """Return the tests by the ids that they cite, in a docstring, a comment or a decorator."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(_TESTS.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                start = min(part.lineno for part in (node, *node.decorator_list))
                text = "\n".join(lines[start - 1 : node.end_lineno])
                for each in dict.fromkeys(cited(text)):
                    found[each].append(f"{path.relative_to(_TESTS.parent)}::{node.name}")
    return found


def _vectors_by_id() -> Counter[str]:
    return Counter(
        each
        for kind in vectors.FILES
        for group in vectors.load(kind).groups
        for test in group.tests
        for each in test.requirements
    )


def main() -> int:
    rows = matrix()
    sys.stdout.write("\n".join(table(rows)) + "\n")
    return int(any(row.is_open for row in rows))


if __name__ == "__main__":
    sys.exit(main())
