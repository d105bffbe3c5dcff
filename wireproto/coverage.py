"""Which rule is tested by what: requirement × (test, vector, conformance case)."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from wireproto import specification
from wireproto.conformance import CASES
from wireproto.specification import Level, Requirement
from wireproto.testing import vectors

_ID: Final = r"[A-Z][A-Z0-9]+(?:-(?:[A-Z0-9]+|\*))+"
_CITATION: Final = re.compile(rf"\[({_ID}(?:, {_ID})*)\]")
_TESTS: Final = specification.DIRECTORY.parent / "tests"


class Coverage(NamedTuple):
    """One row of the matrix."""

    requirement: Requirement
    tests: tuple[str, ...] | None
    """The test functions that cite it, `tests/….py::name`; None where there is no checkout, and so no tests."""
    vectors: int
    """How many test vectors name it."""
    cases: int
    """How many cases of `wireproto conform peer` ask for it: they try other peers, and prove nothing of this one."""

    @property
    def is_open(self) -> bool:
        """A MUST that nothing tests, as far as is known here."""
        return self.requirement.level is Level.MUST and self.tests == () and not self.vectors


def matrix() -> list[Coverage]:
    """Every requirement, in the order of protocol.md."""
    tests = _tests_by_id() if _TESTS.is_dir() else None
    named = _vectors_by_id()
    asked = Counter(each for case in CASES.values() for each in case.requirements)
    return [
        Coverage(each, None if tests is None else tuple(tests[each.id]), named[each.id], asked[each.id])
        for each in specification.requirements()
    ]


def cited(text: str) -> Iterator[str]:
    """The ids that a text cites as `[ID]` or `[ID, OTHER-ID]`; one may end in `*`."""
    for group in _CITATION.findall(text):
        yield from group.split(", ")


def _tests_by_id() -> dict[str, list[str]]:
    """A test function cites an id in its docstring, or in a comment or a decorator of its own."""
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
