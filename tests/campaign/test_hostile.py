"""Some thousand bad inputs for live ranks, and detection of a rank that fails on them."""

from pathlib import Path

import pytest

from tests.campaign import process
from tests.campaign.hostile import Attack, Count, row
from wireproto import Revision
from wireproto.session import Role


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("role", Role)
def test_a_live_rank_bears_it(role: Role, revision: Revision, tmp_path: Path) -> None:
    count = Count(role, revision)
    Attack(tmp_path, count, seed=1).run(1000)
    assert count.wrong == []
    assert count.inputs >= 1000
    assert count.sessions > 20
    assert count.codes["type-unknown"] > 0
    assert row(count).startswith(f"{role.value}, revision {revision:d}: {count.inputs} inputs in ")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("weakness", "found"),
    [("dies", "the rank has ended: "), ("swells", "the rank grows: "), ("leaks", "the rank grows: ")],
)
def test_a_rank_that_does_not_bear_it_is_noticed(
    weakness: str, found: str, role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PROGRAM", process.PROGRAM.with_name("weak.py"))
    monkeypatch.setenv("WEAKNESS", weakness)
    count = Count(role, Revision.V2)
    Attack(tmp_path, count, seed=1).run(2000)
    assert any(found in text for text in count.wrong), count.wrong
