"""The suite within another project's tests."""

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne
from tests.wireproto.conformance.trying import settings, target

@pytest.mark.conformance("rank1.framing.length-zero*", "rank1.seal.replay", level="must")
def test_good(conformance_case):
    conformance_case.check(target(RankOne), settings())

@pytest.mark.conformance("rank1.framing.length-zero")
def test_bad(conformance_case):
    conformance_case.check(target(MUTANTS["rank1.length-zero-accepted"].make), settings())

@pytest.mark.conformance("rank1.session.newcomer")
def test_other_revision(conformance_case):
    conformance_case.check(target(RankOne), settings())

@pytest.mark.conformance("rank1.seal.replay")
def test_missed(conformance_case):
    conformance_case.check(target(MUTANTS["rank1.replay-accepted"].make), settings())
"""


def test_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-p", "wireproto.conformance.plugin", "-p", "no:cacheprovider", "-v", "-rs")
    done.assert_outcomes(passed=4, failed=1, skipped=1, warnings=1)
    done.stdout.fnmatch_lines_random(
        [
            "*test_good?rank1.framing.length-zero-at-first? PASSED*",
            "*test_bad?rank1.framing.length-zero? FAILED*",
            "*?LINK-LEN-MIN? A length of 0 is an error, and MUST end the connection.",
            "*it is not about revision 2*",
            "*NonStrictWarning: rank1.seal.replay: *",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('"rank1.*", levels="must"', "*unexpected keyword argument 'levels'*"),
        ('"rank1.*", level=["must", "should"]', "*takes patterns, a section and a level*"),
        ('["rank1.*"]', "*takes patterns, a section and a level*"),
    ],
)
def test_marker_that_selects_nothing_it_knows(arguments: str, message: str, pytester: pytest.Pytester) -> None:
    """A misspelled keyword was ignored, so that all cases ran."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.conformance({arguments})\ndef test_it(conformance_case): pass\n")
    done = pytester.runpytest_subprocess("-p", "wireproto.conformance.plugin", "-p", "no:cacheprovider")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([message])
