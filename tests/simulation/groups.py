"""The groups of all hosts: who takes part, who has formed one, and what must not happen to them."""

import math
import signal
from contextvars import Context

from tests.simulation.machine import SimulatedProcess

ABORT_PART = 0.7
"""How often native code notices that a peer has gone."""


class Groups:
    def __init__(self) -> None:
        self.broken: list[str] = []
        """Violations that happened."""
        self.formed: dict[str, set[int]] = {}
        """The ranks whose init is over, by session."""
        self.must_be_relayed = False
        """Whether no native side channel may use the network."""
        self.may_misname = False
        """Whether ranks may have different names for one session."""
        self.soonest_abort = math.inf
        """Seconds from the end of a process to the first abort for it."""
        self._members: dict[str, list[SimulatedProcess]] = {}

    def join(self, process: SimulatedProcess, session: str) -> None:
        """Have the native code of a process fail, now and then, once another one of its group has ended."""
        members = self._members.setdefault(session, [])
        members.append(process)

        def tell() -> None:
            members.remove(process)
            loop, random = process.machine.loop, process.machine.random
            for other in members:
                if process.status and random.random() < ABORT_PART:
                    seconds = random.choice((0.001, 0.05, 0.4))
                    self.soonest_abort = min(self.soonest_abort, seconds)
                    loop.call_later(seconds, _abort, other, context=Context())

        process.at_end.append(tell)


def _abort(process: SimulatedProcess) -> None:
    """Native code aborts where a peer has gone, if it is waiting for one."""
    if process.is_native and not process.is_dead and not process.is_unkillable:
        process.end(-signal.SIGABRT)
