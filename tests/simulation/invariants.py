"""Invariants of every world."""

import base64
import math
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bootstrap.control.run import EXIT_RUN_FAILED
from bootstrap.link.outcome import CONSEQUENCES, SETTLE_SECONDS
from bootstrap.restarts import LONGEST_SECONDS
from tests.simulation.exceptions import report
from tests.simulation.launch_invariants import check_deadline
from tests.simulation.machine import TMP, Machine, SimulatedProcess
from tests.simulation.programs import LAST_PART
from tests.simulation.ssh import SSH_FAULTS
from wireproto.messages import Revision

if TYPE_CHECKING:
    from tests.simulation.faults import Fault
    from tests.simulation.world import Control, World

PATIENCE_SECONDS: Final = 9.0
"""Seconds for a group beyond the slowest start and import."""
REFERENCE_SECONDS: Final = 30.0
"""The same with a reference peer, whose timers are longer; it may be at its init much later still."""
HARMLESS: Final = {"again", "slow-import", "stray"}
"""Faults that end no group."""
DISRUPTIVE: Final = {
    "separate", "reset", "power", "kill", "kill-both", "kill-again", "freeze", "ctrl-z", "again", "slow-disk",
    "no-reader",
    "launcher-kill", "launcher-int", "launcher-term", "cut-off", "refuse", *SSH_FAULTS,
}  # fmt: skip
"""Faults after which the ranks may not learn of each other's causes."""
LOCAL: Final = {
    "kill-child",
    "segfault-child",
    "end-child",
    "crash",
    "exit",
    "disk-full",
    "disk-read-only",
    "program-fails",
}
"""Faults that end the worker or command of one rank."""
CERTAIN: Final = {"kill-child", "disk-full", "disk-read-only"}
"""Those whose codes cannot be those of a consequence."""
CRASHES: Final = {"crash", "exit", "segfault-child", "program-fails"}
"""Those that end a process, and with it those of other ranks a little later."""
QUICK_LATENCY: Final = 0.001
LATER_SECONDS: Final = 0.05
"""From a crash to its first consequence, if rank 0 is to hear of the crash first."""
LATE: Final = {
    "deadline", "finish-timeout", "link-closed", "link-refused", "link-reset", "mlx-hangs", "no-bootstrap",
    "session-ended", "side-channel-late",
}  # fmt: skip
"""The codes of a rank that waited too long for another one, which failed before their bootstrap, or joins no gather."""
_SILENCE: Final = {"power", "separate", "cut-off", "freeze", "ctrl-z", "slow-disk"}
INJECTED_THERE: Final = {
    "directory-failed": {"disk-full", "disk-read-only"},
    "write-failed": {"disk-full", "disk-read-only"},
    "mlx-crashed": {"crash", "exit", "end-child", "segfault-child"},
    "mlx-hangs": {"hang", "unkillable", "slow-import", "slow-disk", "ctrl-z", "freeze"},
    "worker-killed": {"kill-child"},
    "command-killed": {"kill-child", "hang", "unkillable", "freeze", "ctrl-z", "slow-disk"},  # or by its own alarm
    "command-crashed": {"crash", "segfault-child"},
}
"""The faults of the named rank that cause a code."""
INJECTED: Final = {
    "ring-unreachable": {"power", "separate", "cut-off"},
    "link-timeout": _SILENCE,
    "ping-timeout": _SILENCE,
    "versions-missing": _SILENCE,
    "link-replaced": {"again", "kill-again", "kill-both"},
    "link-taken": {"again", "kill-again", "kill-both", *_SILENCE},  # rank 0 is back before its old session is over
    "host-busy": {"again", "kill-again", "kill-both"},
    "package-version": {"ssh-version"},
    "launcher-silent": {"cut-off", "separate", "power"},
    "launcher-gone": {
        "launcher-kill",
        "launcher-int",
        "launcher-term",
        "refuse",
        "cut-off",
        "separate",
        "reset",
        "power",
        *SSH_FAULTS,
    },
}
"""The faults of any rank, or of the launcher, that cause a code. A launcher may be on a rank's host."""
OF_REFERENCE: Final = {"link-timeout", "ping-timeout"}
"""Codes that a reference peer causes without a fault: it is silent in its init."""
_USUAL: Final = {"host-busy"}
_REFERENCE: Final = {"ready": set[str](), "never": {"no-bootstrap"}, "unusable": {"bad-bootstrap"}}
"""How a rank may end beside a reference peer, by when that sends its jacclBootstrap."""
ROOT_SECONDS: Final = 6.0
"""So long native workers of JACCL wait for their root."""
LEFT_SECONDS: Final = 35.0
"""In which a rank ends whose launcher has gone: its silence, and all graces."""
SILENCE_SECONDS: Final = 22.0
"""In which rank 0 notices that a rank answers no more, or has ended for a session that was lost."""
SLACK_SECONDS: Final = 20.0
"""Seconds from a deadline to the end of all children, including the longest grace."""


def check(world: "World") -> None:
    """Check what must hold at any time."""
    for zero in world.live(0):
        _check_losses(world, zero)
    if world.launcher is not None:
        check_deadline(world, world.launcher)
    if world.launcher is not None and world.launcher.ended_at is not None:
        for control in world.live():
            started = 0.0 if control.run is None else control.run.origin
            began = max(world.launcher.ended_at, started, control.process.resumed_at)
            if control.channel is not None and not control.process.is_stopped and world.loop.now > began + LEFT_SECONDS:
                report(world, f"the launcher has gone, and {control.name} goes on")
    for control in world.live():
        run = control.run
        if control.process.is_stopped or run is None or run.deadline is None or run.is_met:
            continue
        again = control.last("restarting")
        began = 0.0 if again is None else run.origin + again["t_ms"] / 1000 + LONGEST_SECONDS + control.plan.timeout
        late = world.loop.now - max(run.deadline, began) - SLACK_SECONDS
        if late > 0 and not control.plan.dry_run and not _was_stopped(world, control):
            report(world, f"{control.name} waits, {late:.0f} s after its deadline")


def check_suspended(world: "World", process: "SimulatedProcess") -> None:
    """Check that the children of a rank stand still while it does."""
    if running := [each for each in _children(process) if not each.is_stopped and not each.is_unkillable]:
        report(world, f"Ctrl-Z stopped a rank, and not its children: {running}")


def check_continued(world: "World", process: "SimulatedProcess") -> None:
    """Check that they go on with it."""
    is_running = not process.is_dead and not process.is_stopped and process.blocked_until <= world.loop.now
    if is_running and (stopped := [each for each in _children(process) if each.is_stopped]):
        report(world, f"a rank goes on, and not its children: {stopped}")


def _children(process: "SimulatedProcess") -> "list[SimulatedProcess]":
    """Return the live workers and commands of a rank."""
    others = process.machine.processes.values()
    return [each for each in others if each.parent is process and each.arguments != ("guard",) and not each.is_dead]


def _check_losses(world: "World", zero: "Control") -> None:
    """Check that rank 0 notices a rank that says nothing more, and fails with a session that its group needs."""
    now = world.loop.now
    if zero.process.is_stopped or now - zero.process.resumed_at < SILENCE_SECONDS or zero.run is None:
        return
    if _was_stopped(world, zero):
        return  # it ends its command, and its sessions after that
    restarting = zero.last("restarting")
    begun = -1.0 if restarting is None else restarting["t_ms"]
    limit = (now - SILENCE_SECONDS - zero.run.origin) * 1000
    sent = {each["peer"] for each in zero.events if each["event"] == "bootstrap-sent" and each["t_ms"] > begun}
    if sent != {*zero.plan.peers}:
        return  # it still waits for another rank, within its deadline
    agreed = max(each["t_ms"] for each in zero.events if each["event"] == "bootstrap-sent")
    is_ending = any(each["event"] == "link-lost" and each["t_ms"] > agreed for each in zero.events)
    for peer in zero.plan.peers:
        told = {"established": -1.0, "bootstrap-sent": -1.0}
        for event in zero.events:
            name = event["event"]
            if name in told and event["peer"] == peer:
                told[name] = event["t_ms"]
            elif name == "link-lost" and event["peer"] == peer:
                told["established"] = -1.0
                if begun < told["bootstrap-sent"] <= event["t_ms"] < limit:
                    report(world, f"{zero.name} goes on without rank {peer}")
        silent = [each.process for each in world.live(peer) if each.process.is_stopped]
        is_silent = any(now - process.stopped_at > SILENCE_SECONDS for process in silent)
        if is_silent and not is_ending and _agree(world) and 0.0 <= told["established"] < limit:
            report(world, f"{zero.name} does not miss rank {peer}")


def check_event(world: "World", control: "Control", event: dict[str, Any]) -> None:
    """Check an event at the time when it is shown."""
    if event["event"] in ("holding", "running"):
        groups = [each for each in world.live(control.plan.rank) if each.run is not None and each.run.is_met]
        if len(groups) > 1:
            report(world, f"two groups are up on the host of rank {control.plan.rank}")
    if event["event"] == "error" and event["code"] == "host-busy" and world.live(control.plan.rank) == [control]:
        report(world, f"{control.name} finds its host busy, and nobody else runs there")
    if (
        event["event"] == "restarting"
        and sum(each["event"] == "restarting" for each in control.events) > control.plan.restarts
    ):
        report(world, f"{control.name} begins again more often than it may")
    if event["event"] == "sum-checked" and not _makes_sum(world):
        report(world, f"{control.name} makes a sum, and another rank may make none")
    if event["event"] in ("group-ready", "holding", "running") and _agree(world):
        size = control.plan.size
        if not any(len(ranks) == size and control.plan.rank in ranks for ranks in world.mlx.groups.formed.values()):
            report(world, f"{control.name} is {event['event']} before all ranks have formed the group")


def check_end(world: "World", secrets: Sequence[bytes]) -> None:
    """Check the invariants at the end."""
    shown = "\n".join(world.trace)
    for secret in secrets:
        if any(form in shown for form in (secret.hex(), str(secret)[2:-1], base64.b64encode(secret).decode())):
            report(world, "an event shows a private key")
    for control in world.controls:
        if (error := control.process.error) is not None:
            report(world, f"{control.name} failed with {type(error).__name__}: {error}")
        _check_status(world, control)
        _check_output(world, control)
    for rank, machine in enumerate(world.machines):
        if machine.host.is_down or world.is_reference(rank):
            continue
        name = f"the host {machine.ip}"
        unkillable = {pid for pid, each in machine.processes.items() if each.is_unkillable}
        left = [pid for pid, each in machine.processes.items() if not each.is_dead and pid not in unkillable]
        for pid in left:
            if machine.processes[pid].arguments[:1] not in (("up",), ("stray",)):
                report(world, f"a process is left on {name}: {pid}", _why_left(world, machine, pid))
        for pid in unkillable:
            reported = any(
                f"process {pid} did not end" in str(event) for each in world.controls for event in each.events
            )
            parent = machine.processes[pid].parent
            if not reported and parent is not None and parent.status is not None:
                why = "parent killed" if parent.status < 0 else None
                report(world, f"the process {pid}, which cannot be killed, is not reported", why)
        ended = all(each.code is not None for each in world.controls if each.machine is machine)
        if not unkillable and ended:
            if files := sorted(str(path) for path in machine.files if path != TMP):
                report(world, f"files are left on {name}: {files}")
            if machine.udp:
                report(world, f"the lock of {name} is held")
        if machine.host.listeners and not world.live():
            why = "guard killed" if _has_no_guard(world, machine) else None
            report(world, f"listeners are left on {name}: {sorted(machine.host.listeners)}", why)
    _check_causes(world)


def check_left(world: "World", control: "Control") -> None:
    """Check that a run that has ended left nothing to its event loop."""
    if left := world.loop.left_by(control.process):
        report(world, f"{control.name} leaves {', '.join(left)}")


def _check_causes(world: "World") -> None:
    kinds = {_kind(fault) for fault in world.struck}
    is_stopped = world.stopped_at < math.inf
    errors = {
        control.name: error
        for control in world.controls
        if (error := control.last("error")) is not None and control.ended < world.stopped_at
    }
    failures = {name: (error["rank"], error["code"]) for name, error in errors.items()}
    for name, (rank, code) in failures.items():
        _check_injected(world, name, rank, code)
    if kinds <= HARMLESS:
        _check_harmless(world, failures)
        if is_stopped:
            _check_stop(world)
    elif not is_stopped:
        if len(world.struck) == 1 and kinds <= LOCAL:
            _check_blame(world, failures)
        sessions = {_session(control) for control in world.controls}
        if len(sessions) == 1 and None not in sessions and len({*failures.values()}) > 1:
            # All at the same time, or for a link that another rank closed just before.
            are_late = all(
                each["code"] == "deadline" or "; no group within" in each["message"] for each in errors.values()
            )
            why = _why_untold(world) or ("deadline" if are_late else None) or _why_swapped(world, failures)
            report(world, f"the ranks name different causes: {failures}", why)


def _why_swapped(world: "World", failures: dict[str, tuple[int, str]]) -> str | None:
    """Return why rank 0 may have taken a consequence for the cause."""
    is_slow = world.scenario.latency > SETTLE_SECONDS / 2
    return "slow network" if is_slow and CONSEQUENCES & {code for _, code in failures.values()} else None


def _check_injected(world: "World", name: str, rank: int, code: str) -> None:
    """Check that a fault has caused what is named."""
    kinds = INJECTED_THERE.get(code)
    if kinds is not None and not any(_kind(each) in kinds and each.rank == rank for each in world.struck):
        report(world, f"{name} ends with {code} of rank {rank}, where nothing has caused it")
    kinds = INJECTED.get(code)
    is_told = code not in OF_REFERENCE or world.scenario.reference is None
    if kinds is not None and is_told and not any(_kind(each) in kinds for each in world.struck):
        report(world, f"{name} ends with {code}, which nothing has caused", _why_uncaused(world, name, code))


def _why_uncaused(world: "World", name: str, code: str) -> str | None:
    """Return why a rank may end with a code that no fault causes."""
    if code == "link-replaced" and any(control.last("restarting") for control in world.controls):
        return "restarts"
    if code == "launcher-gone" and world.launcher is not None and world.launcher.ended_at is not None:
        (control,) = (each for each in world.controls if each.name == name)
        origin = 0.0 if control.run is None else control.run.origin
        return "not awaited" if origin + control.events[0]["t_ms"] / 1000 > world.launcher.ended_at else None
    return None


def _check_harmless(world: "World", failures: dict[str, tuple[int, str]]) -> None:
    """Check that no rank fails, but for what is usual."""
    usual = _USUAL if world.scenario.reference is None else _USUAL | _REFERENCE[world.scenario.reference.sends]
    if len(world.references) > 1:  # the second one gets the session or is refused, or both take it again and again
        usual = usual | {"link-taken", "link-replaced", "no-bootstrap"}
    is_told = _agree(world) or not world.scenario.plans[0].command  # otherwise a command may fail with another rank's
    for name, (_, code) in failures.items():
        if code not in usual and not name.endswith("'"):
            report(world, f"{name} ends with {code}, and nothing has happened", _why_late(world, is_told=is_told))


def _why_late(world: "World", *, is_told: bool) -> str | None:
    """Return why a group may fail although nothing has happened."""
    if _is_late(world):
        return "late"
    if any((control.last("done") or {}).get("code") == "finish-timeout" for control in world.controls):
        return "finish-timeout"
    return None if is_told else "no outcome/1"


def _why_untold(world: "World") -> str | None:
    """Return why ranks may not have told each other the cause of the end."""
    if not _agree(world):
        return "no outcome/1"
    if any(control.last("restarting") for control in world.controls):
        return "restarts"
    if any(_kind(fault) in DISRUPTIVE for fault in world.struck):
        return "disruption"
    return "late" if _is_late(world) else None


def _check_output(world: "World", control: "Control") -> None:
    """Check that what a program has written to its end is all there."""
    ended = [each for each in control.events if each["event"] == "command-ended" and each["status"] == 0]
    if control.code is not None and control.said.count(LAST_PART) < len(ended):
        why = "program ended" if any(fault.kind == "end-child" for fault in world.struck) else None
        report(world, f"{control.name} has not passed on all that its program has written: {control.said!r}", why)


def _check_status(world: "World", control: "Control") -> None:
    """Check that a command's own status is the exit code where its failure has ended the run."""
    told = [each for each in control.events if each["event"] in ("command-ended", "restarting", "error")]
    match told[-2:]:
        case [{"event": "command-ended", "status": status}, {"event": "error", "stage": "command", "rank": rank}]:
            if rank == control.plan.rank and control.code not in (None, status):
                report(world, f"{control.name} ends with {control.code}, and its command with {status}")


def _check_blame(world: "World", failures: dict[str, tuple[int, str]]) -> None:
    """Check that the one rank that a fault reached is the one that is blamed."""
    (fault,) = world.struck
    for name, (rank, code) in failures.items():
        if rank != fault.rank:
            why = _why_untold(world) or ("waiting" if code in LATE else None)
            if why is None and code in CONSEQUENCES and not _is_certain(world, fault):
                why = "consequence"
            report(world, f"{name} blames rank {rank} ({code}), and the fault reached rank {fault.rank}", why)


def _is_certain(world: "World", fault: "Fault") -> bool:
    """Whether the code of a failure cannot be that of a consequence, or no consequence can be heard of before it."""
    scenario = world.scenario
    is_first = scenario.latency <= QUICK_LATENCY and world.mlx.groups.soonest_abort >= LATER_SECONDS
    kind = _kind(fault)
    is_slow = scenario.latency > SETTLE_SECONDS / 2  # a consequence may be settled before the cause is heard of
    return (kind in CERTAIN and not is_slow) or (kind in CRASHES and is_first and scenario.plans[0].backend == "ring")


def _check_stop(world: "World") -> None:
    """Check the exit codes where a user has stopped a group that was there."""
    is_slow = bool(world.scenario.plans[0].command) and world.scenario.latency > SETTLE_SECONDS / 2
    first = world.controls[: len(world.scenario.plans)]
    if not all(control.run is not None and control.run.is_met for control in first):
        return
    for control in first:
        wanted = {0} if control.stopped_by is None else {128 + control.stopped_by, 0}
        if control.code not in wanted:
            why = _why_late(world, is_told=_agree(world))
            if why is None and is_slow and control.code in (128 + signal.SIGABRT, EXIT_RUN_FAILED):
                why = "slow network"
            report(world, f"{control.name} ends with {control.code} after an orderly stop, not {wanted}", why)


def _why_left(world: "World", machine: Machine, pid: int) -> str | None:
    """Return why a process may be left on a host."""
    process = machine.processes[pid]
    if process.arguments[:1] == ("helper with a session",) and _may_leave_helpers(world, machine):
        return "helper"
    if machine.guard_killed_at < math.inf and _is_orphaned_helper(process):
        return "helper"
    return "guard killed" if _has_no_guard(world, machine) else None


def _may_leave_helpers(world: "World", machine: Machine) -> bool:
    """Whether helpers with sessions of their own may be left: by a run that does not own its process, or was killed."""
    was_killed = any(control.code is None for control in world.controls if control.machine is machine)
    return was_killed or not world.scenario.owns_process


def _is_orphaned_helper(process: SimulatedProcess) -> bool:
    return tuple(process.arguments[:1]) == ("helper",) and process.parent is not None and process.parent.is_dead


def _has_no_guard(world: "World", machine: Machine) -> bool:
    """Return whether control process and guard were killed on a host, and no run of the rank has ended since."""
    ended = (each for each in world.controls if each.machine is machine and each.code is not None)
    return machine.guard_killed_at < math.inf and all(each.process.begun < machine.guard_killed_at for each in ended)


def _kind(fault: "Fault") -> str:
    return fault.kind.partition(":")[0]


def _session(control: "Control") -> str | None:
    """Return the name of the last bootstrap that a rank has taken part in."""
    told = [control.last("bootstrap-sent"), control.last("bootstrap-received")]
    return next((str(event["session_id"]) for event in told if event is not None), None)


def _is_late(world: "World") -> bool:
    """Return whether the ranks may miss their deadline, or are started inconsistently."""
    plans, starts = world.scenario.plans, world.scenario.starts
    slowest = max(habits.import_seconds for habits in world.habits)
    patience = PATIENCE_SECONDS if (peer := world.scenario.reference) is None else REFERENCE_SECONDS + peer.init_after
    late = max(starts) - min(starts) + slowest + patience > plans[0].timeout
    if peer is not None and peer.rank == 0 and plans[0].backend != "ring" and peer.init_after > ROOT_SECONDS:
        return True
    return late or len({plan.dry_run for plan in plans}) > 1


def _agree(world: "World") -> bool:
    """Whether all ranks know of each other's outcome."""
    return _makes_sum(world) and not any(plan.dry_run for plan in world.scenario.plans)


def _makes_sum(world: "World") -> bool:
    """Whether all ranks have outcome/1, and with that know that each of them checks the group."""
    plans = world.scenario.plans
    return world.scenario.reference is None and all(each.extensions and each.revision is Revision.V2 for each in plans)


def _was_stopped(world: "World", control: "Control") -> bool:
    return control.run is not None and control.run.stopped_by is not None
