"""A conformance suite for peers of the cluster link, in whatever language they are written.

    target = RankOneTarget("127.0.0.1", 7777, command_launcher("./peer listen"))
    async for result in run([target], Settings(identity=Identity()), CASES.values()):
        assert not result.spoils, result.reason

Each case scripts the other rank, including faults that the strict session would refuse to send.
`wireproto.conformance.plugin` runs the cases under pytest.
"""

from wireproto.conformance.byhand import Identity
from wireproto.conformance.case import SECTIONS, Case, SelectionError, select
from wireproto.conformance.cases import CASES
from wireproto.conformance.launching import command_launcher
from wireproto.conformance.peer import Patience, Settings
from wireproto.conformance.runner import run
from wireproto.conformance.targets import Launcher, RankOneTarget, RankZeroTarget, Running, Target
from wireproto.conformance.verdicts import Result, Verdict

__all__ = [
    "CASES",
    "SECTIONS",
    "Case",
    "Identity",
    "Launcher",
    "Patience",
    "RankOneTarget",
    "RankZeroTarget",
    "Result",
    "Running",
    "SelectionError",
    "Settings",
    "Target",
    "Verdict",
    "command_launcher",
    "run",
    "select",
]
