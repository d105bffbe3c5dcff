"""Whether and when another attempt follows a failed one."""

from collections.abc import Callable
from typing import Final

from bootstrap.errors import BootstrapError, LinkError
from bootstrap.link.outcome import PeerError
from bootstrap.link.sessions import SessionLostError
from bootstrap.plan import Plan

HOUR_SECONDS: Final = 3600.0
LONGEST_SECONDS: Final = 60.0
"""The longest wait before an attempt."""


FINAL: Final = frozenset({"deadline", "finish-timeout", "interrupted", "output-closed", "output-failed"})
"""Codes after which a rank's run ends in any case."""


class EndedEarlyError(LinkError):
    """Rank 0 ended its session without a jacclBootstrap: another rank 0 may still send one."""


class Restarts:
    """Allows the plan's number of restarts per hour, for the failures that its `restart_on` selects.

    The first restart is immediate; the waits before the next ones are 1, 2, 4, … seconds, up to a minute.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float]) -> None:
        self._plan, self._clock = plan, clock
        self._begun: list[float] = []

    @property
    def left(self) -> int:
        """How many more are allowed now."""
        oldest = self._clock() - HOUR_SECONDS
        self._begun = [time for time in self._begun if time > oldest]
        return self._plan.restarts - len(self._begun)

    def may_follow(self, error: BootstrapError) -> bool:
        """Whether another attempt follows this failure."""
        if self.left <= 0 or error.code in FINAL:
            return False
        match self._plan.restart_on:
            case "any":
                return True
            case "exit":
                return error.stage == "command"
            case _:
                return is_lost_session(error)

    def begin(self) -> float:
        """Count a restart; return the seconds to wait before it."""
        earlier = self._plan.restarts - self.left
        self._begun.append(self._clock())
        return 0.0 if not earlier else min(2.0 ** (earlier - 1), LONGEST_SECONDS)


def is_lost_session(error: BootstrapError) -> bool:
    """Whether this rank lost a session, or rank 0 reports that it lost one."""
    told = isinstance(error, PeerError) and error.stage == LinkError.stage and error.code != "session-ended"
    return told or isinstance(error, SessionLostError | EndedEarlyError)
