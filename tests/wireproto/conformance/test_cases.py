"""The registry of cases, and selectors."""

import re

import pytest

from wireproto.conformance import CASES, SECTIONS, Case, SelectionError, select
from wireproto.conformance.case import rule
from wireproto.session import Role
from wireproto.testing.requirements import Level


def test_a_case_says_what_it_is_about() -> None:
    for case in CASES.values():
        rank = case.role.value.replace(" ", "")
        assert re.fullmatch(rf"{rank}\.{case.section}\.[a-z0-9-]+", case.id)
        assert case.section in SECTIONS, case.id
        assert case.about.endswith("."), case.id
        assert case.requirements, case.id
        for each in case.requirements:
            assert set(case.revisions) <= set(rule(each).revisions), (case.id, each)


def test_there_are_enough() -> None:
    for role in Role:
        mine = [case for case in CASES.values() if case.role is role]
        assert len(mine) >= 60
        assert {case.section for case in mine} == set(SECTIONS)
        assert [case.section for case in mine].count("sanity") == 1


def test_levels_are_those_of_the_first_requirement() -> None:
    assert CASES["rank1.framing.length-zero"].level is Level.MUST
    assert CASES["rank1.seal.replay"].level is Level.SHOULD


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def test_select_nothing_in_particular() -> None:
    assert select(CASES.values(), [], [], []) == list(CASES.values())


def test_select_by_id_and_pattern() -> None:
    found = select(CASES.values(), ["rank1.seal.replay", "rank0.framing.*"], [], [])
    assert set(ids(found)) == {"rank1.seal.replay", *(each for each in CASES if each.startswith("rank0.framing."))}


def test_selectors_of_several_kinds_have_to_agree() -> None:
    found = select(CASES.values(), ["rank1.*"], ["seal", "session"], ["should"])
    assert {(case.role, case.level) for case in found} == {(Role.RESPONDER, Level.SHOULD)}
    assert {case.section for case in found} == {"seal", "session"}


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ((["rank2.*"], [], []), "no case matches the case 'rank2.*'"),
        ((["rank1.*", "rank1.seal"], [], []), "no case matches the case 'rank1.seal'"),
        (([], ["seals"], []), "no case matches the section 'seals'"),
        (([], [], ["most"]), "no case matches the level 'most'"),
        ((["rank1.seal.*"], ["framing"], []), "no case matches the section 'framing'"),
    ],
)
def test_a_selector_that_matches_nothing(selectors: tuple[list[str], list[str], list[str]], message: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(message)):
        select(CASES.values(), *selectors)
