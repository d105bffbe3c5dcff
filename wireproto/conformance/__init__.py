"""A conformance suite for peers of the cluster link, whatever they are written in.

    target = RankOneTarget("127.0.0.1", 7777, launcher)
    async for result in run([target], Settings(identity=Identity()), CASES.values()):
        assert not result.spoils, result.reason

A case plays the other rank by hand, with what the strict session would not let it do. `wireproto.conformance.plugin` is
the same for pytest.
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
