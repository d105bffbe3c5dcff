"""Invariants of a launch."""

import math
import signal
from typing import TYPE_CHECKING, Any, Final

from bootstrap.control.run import EXIT_RUN_FAILED
from bootstrap.launch.run import END_SECONDS, LAST_LOOK_SECONDS
from bootstrap.launch.ssh import ASK_SECONDS, NAME_SECONDS
from bootstrap.restarts import LONGEST_SECONDS
from tests.simulation.exceptions import report
from tests.simulation.ssh import ASKED, name_of
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_OK

if TYPE_CHECKING:
    from tests.simulation.faults import Fault
    from tests.simulation.launching import Launch
    from tests.simulation.world import World

SLACK_SECONDS: Final = 20.0
CODES: Final[dict[str, str]] = {
    "ssh-unknown": "ssh-failed",
    "ssh-refused": "ssh-failed",
    "ssh-denied": "ssh-denied",
    "ssh-key": "host-key",
    "ssh-missing": "ssh-missing",
    "ssh-hang": "ssh-failed",
    "ssh-silent": "host-silent",
    "ssh-no-package": "package-missing",
    "ssh-cut": "ssh-lost",
    "ssh-banner": "host-answer",
    "ssh-version": "package-version",
    "ssh-killed": "rank-lost",
}
"""How a launch has to end after each fault of ssh."""
TEXTS: Final[dict[str, str]] = {
    "ssh-unknown": "Could not resolve",
    "ssh-refused": "refused",
    "ssh-denied": "Permission denied",
    "ssh-key": "Host key",
    "ssh-missing": "cannot start ssh",
    "ssh-hang": "timed out",
    "ssh-silent": "no answer",
    "ssh-no-package": "not installed",
    "ssh-cut": "closed by remote host",
    "ssh-banner": "startup files",
    "ssh-version": "has cluster-wireproto 9",
    "ssh-killed": "killed",
}
"""Part of the reason why a host was not checked, by fault."""


def check_deadline(world: "World", launch: "Launch") -> None:
    """Check that a launch whose group does not come up has ended."""
    run, plan = launch.run, world.scenario.plans[0]
    if run is None or run.is_met or launch.process.is_dead or world.stopped_at < math.inf:
        return
    attempts = (plan.restarts + 1) * plan.timeout + plan.restarts * LONGEST_SECONDS
    asks = sum(fault.seconds for fault in world.struck if fault.kind.startswith(ASKED)) + ASK_SECONDS
    limit = 2 * NAME_SECONDS + asks + (2 + plan.size) * ASK_SECONDS + attempts
    if world.loop.now > limit + plan.grace + END_SECONDS + LAST_LOOK_SECONDS + SLACK_SECONDS:
        report(world, "the launcher goes on without a group")


def check_launch(world: "World", launch: "Launch", code: int) -> None:
    """Check a launch at its end."""
    if runs := sum(ssh.get_returncode() is None for ssh in world.sshs):
        report(world, f"the launcher leaves {runs} processes of ssh")
    command = bool(world.scenario.plans[0].command)
    told = {event["status"] for each in world.controls for event in each.events if event["event"] == "command-ended"}
    stops = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    documented = {EXIT_OK, *stops} | ({EXIT_RUN_FAILED, *told} if command else {EXIT_COULD_NOT_RUN})
    if code not in documented:
        report(world, f"the launcher ends with {code}, which is not documented")
    error = launch.last("error")
    if error is not None and (error["code"] is None or not error["message"]):
        report(world, "the launcher gives no cause")
    if error is None and code not in (EXIT_OK, *stops, *told):
        report(world, f"the launcher ends with {code} and without an error")
    looked = sum(event["event"] == "looked" for event in launch.events)
    if world.controls and looked != len(world.machines):
        report(world, f"the launcher has looked at {looked} of {len(world.machines)} hosts")
    struck = [fault for fault in world.struck if fault in world.ssh_faults_met]
    if len(world.struck) == len({*struck}) == 1 and world.stopped_at == math.inf:
        _check_cause(world, launch, struck[0])


def _check_cause(world: "World", launch: "Launch", fault: "Fault") -> None:
    """Check that the only fault is named, with its host."""
    kind, _, stage = fault.kind.partition(":")
    error = launch.last("error")
    if stage == "look":
        looked = next(
            (each for each in launch.events if each["event"] == "looked" and each["rank"] == fault.rank), None
        )
        if kind in TEXTS and (looked is None or TEXTS[kind] not in str(looked["not_checked"])):
            report(world, f"the last look does not tell of {kind}: {looked}")
        return
    if stage == "config" or kind == "ssh-slow":
        return
    if kind in ASKED and world.has_terminal and stage == "survey" and fault.seconds:
        if error is not None and error["code"] == CODES[kind]:
            report(world, "the user's answer to ssh is not used")
        return
    if error is None:
        report(world, f"the launcher does not tell of {fault.kind}")
        return
    # The survey does not know yet in which order the hosts are ranks; afterwards a rank that reports is named by that.
    is_named = error["message"].startswith(name_of(fault.rank) + ": ")
    if error["code"] != CODES[kind] or not (is_named or (stage == "start" and error["rank"] == fault.rank)):
        report(world, f"the launcher blames rank {error['rank']} ({error['code']}: {error['message']}) for {fault}")


def check_looked(world: "World", event: dict[str, Any]) -> None:
    """Check what a launcher says of what is left on a host."""
    machine = world.machines[event["rank"]]
    there = [each for each in machine.processes.values() if each.mark and not each.is_dead]
    # What a slow ssh starts later finds its channel closed, and ends by itself.
    left = [each.arguments for each in there if each.begun <= machine.looked_at]
    if event["not_checked"] is None and not event["left"] and left and not machine.host.is_down:
        report(world, f"the launcher finds nothing on the host of rank {event['rank']}, where {left} are left")
