"""The suite within pytest: one test for each case.

    # conftest.py, or: pytest -p wireproto.conformance.plugin
    pytest_plugins = ["wireproto.conformance.plugin"]

    @pytest.mark.conformance("rank1.*", level="must")
    def test_my_peer(conformance_case):
        conformance_case.check(RankOneTarget("127.0.0.1", 7777, command_launcher("./peer")), Settings(identity=…))

The test's name ends in the case's id. A failing case fails the test, and shows the bytes in both directions. A case
that does not apply, or tests an optional feature that the peer lacks, skips the test. A missed SHOULD is a warning.
"""

import asyncio
import warnings
from dataclasses import dataclass

import pytest

from wireproto.conformance.case import Case, select
from wireproto.conformance.cases import CASES
from wireproto.conformance.peer import Settings
from wireproto.conformance.report import details
from wireproto.conformance.runner import attempt_at
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import BAD, Result, Verdict


class NonStrictWarning(UserWarning):
    """A peer does not meet a SHOULD."""


@dataclass(frozen=True)
class Check:
    """One case, to be tried on a target."""

    case: Case

    def check(self, target: Target, settings: Settings) -> None:
        """Run the case, with the peer started and stopped; its verdict is that of the test."""
        if settings.revision not in self.case.revisions:
            pytest.skip(f"it is not about revision {settings.revision:d}")
        result = asyncio.run(_run(target, settings, self.case))
        if result.verdict in BAD:
            pytest.fail("\n".join((result.reason, *details(result))), pytrace=False)
        if result.verdict in (Verdict.UNIMPLEMENTED, Verdict.SKIPPED):
            pytest.skip(result.reason)
        if result.verdict is Verdict.NON_STRICT:
            warnings.warn(f"{result.id}: {result.reason}", NonStrictWarning, stacklevel=2)


async def _run(target: Target, settings: Settings, case: Case) -> Result:
    try:
        return await attempt_at(target, settings, case)
    finally:
        await target.stop()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "conformance(*patterns, section=None, level=None): selects the cases for `conformance_case`"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case that the marker selects, by default all."""
    if "conformance_case" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("conformance") or pytest.mark.conformance.mark
        cases = _selected(*marker.args, **marker.kwargs)
        metafunc.parametrize("conformance_case", [Check(case) for case in cases], ids=[case.id for case in cases])


def _selected(*patterns: str, section: str | None = None, level: str | None = None) -> list[Case]:
    """Return the cases of a marker. Raise TypeError for an argument that it does not take."""
    if not all(isinstance(each, str | None) for each in (*patterns, section, level)):
        raise TypeError("the conformance marker takes patterns, a section and a level, each as one string")
    return select(CASES.values(), patterns, [section] if section else [], [level] if level else [])
