"""Decisions about another attempt after a failure, and its time."""

import pytest

from bootstrap.control.child import CommandError
from bootstrap.errors import BootstrapError, GroupInitError, LinkError
from bootstrap.link.outcome import PeerError
from bootstrap.link.sessions import SessionLostError
from bootstrap.plan import Plan, RestartOn
from bootstrap.restarts import Restarts
from wireproto import Outcome, OutcomeState

IPS = ("127.0.0.1", "127.0.0.2")
LOST = SessionLostError(1, LinkError("gone", code="link-closed"))
EXIT, INIT = CommandError(7), GroupInitError("x", code="init-failed")
TOLD_LOST = PeerError(Outcome(1, OutcomeState.FAILED, "link", "link-lost", "gone"))
TOLD_EXIT = PeerError(Outcome(1, OutcomeState.FAILED, "command", "command-failed", "7"))


def restarts(limit: int, on: RestartOn, times: list[float]) -> Restarts:
    return Restarts(Plan(rank=0, ips=IPS, restarts=limit, restart_on=on), lambda: times[0])


@pytest.mark.parametrize(
    ("on", "errors"),
    [
        ("link", [LOST, TOLD_LOST]),
        ("exit", [EXIT, TOLD_EXIT]),
        ("any", [LOST, TOLD_LOST, EXIT, TOLD_EXIT, INIT]),
    ],
)
def test_what_it_follows(on: RestartOn, errors: list[BootstrapError]) -> None:
    every = [LOST, TOLD_LOST, EXIT, TOLD_EXIT, INIT]
    assert [error for error in every if restarts(1, on, [0.0]).may_follow(error)] == errors
    assert [error for error in every if restarts(0, on, [0.0]).may_follow(error)] == []


@pytest.mark.parametrize("code", ["deadline", "interrupted", "finish-timeout"])
def test_nothing_follows_the_end_of_another_ranks_run(code: str) -> None:
    """Its user or its deadline ended it, so no rank would answer; the same holds for this rank's own."""
    told = PeerError(Outcome(1, OutcomeState.FAILED, "run", code, "gone"))
    assert not restarts(1, "any", [0.0]).may_follow(told)
    assert not restarts(1, "any", [0.0]).may_follow(BootstrapError("gone", code=code))


def test_so_many_an_hour_and_later_each_time() -> None:
    now = [100.0]
    some = restarts(9, "link", now)
    assert [some.begin() for _ in range(9)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (some.left, some.may_follow(LOST)) == (0, False)
    now[0] += 3599.0
    assert not some.may_follow(LOST)
    now[0] += 1.0
    assert (some.left, some.may_follow(LOST), some.begin()) == (9, True, 0.0)
