"""One case from start to verdict: ranks up, the fault at its stage, their ends, leftovers, and another run."""

import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import psutil

from tests.campaign.judge import wrong_ends
from tests.campaign.plan import Case
from tests.campaign.process import Running
from tests.campaign.scene import START_SECONDS, TIDY_SECONDS, Lane, Scene
from tests.campaign.strikes import LONGEST, strike

SLACK = 30.0
"""Extra seconds after a deadline for a busy machine, and for pings to detect a loss."""


class End(NamedTuple):
    """The end of a rank."""

    code: str
    """Of its error; "-" for none, "?" if it could not report one."""
    blamed: int | None
    """The rank that the error names."""
    status: int
    """The exit status, or minus the signal that killed it."""


@dataclass
class Result:
    """The result of a case."""

    case: Case
    recovered: bool = False
    """Whether the ranks reached their goal in spite of the fault."""
    seconds: float = 0.0
    """Seconds from the fault to the end of both ranks, or to their recovery."""
    ends: tuple[End, ...] = ()
    """The ends of rank 0 and rank 1."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """The fault's own choices."""
    gap: float = 0.0
    """Seconds from the start of rank 1 to that of rank 0."""
    wrong: list[str] = field(default_factory=list)


def play(case: Case, lane: Lane, strike: Callable[[Scene], None] = strike) -> Result:
    """Play a case; the lane is empty afterwards in any case."""
    result = Result(case)
    scene = Scene(lane, case, strike)
    try:
        result.wrong += _play(scene, result)
    except Exception:
        result.wrong.append(f"the campaign itself: {traceback.format_exc()}")
    finally:
        scene.close()
    return result


def _play(scene: Scene, result: Result) -> Iterator[str]:
    if not _reach_stage(scene):
        yield f"the stage was never reached: {[run.events[-2:] for run in scene.runs.values()]}"
        return
    began = time.monotonic()
    pongs = _pongs(scene)
    limit = scene.case.timeout * (1 + scene.case.restarts) + LONGEST + SLACK

    def is_well() -> bool:
        return _is_well(scene, pongs)

    in_time = scene.news.until(lambda: scene.is_over or is_well(), limit)
    yield from _refused(scene)
    result.seconds = time.monotonic() - began
    if not in_time:
        yield f"a rank hangs: {[run.events[-3:] for run in scene.runs.values() if not run.is_over]}"
        return
    if not scene.is_over:
        yield from _more_open(scene)
        yield from _end(scene)
    yield from wrong_ends(scene.case, scene.runs)
    result.recovered = scene.both(_ended_well)
    result.ends = tuple(_end_of(run) for _, run in sorted(scene.runs.items()))
    result.chosen = scene.chosen
    result.gap = round(scene.runs[0].began - scene.runs[1].began, 3)
    scene.heal()
    yield from _keys(scene)
    yield from _left(scene)
    yield from _once_more(scene)


# -- to the stage ------------------------------------------------------------------------------------------------------


def _reach_stage(scene: Scene) -> bool:
    case = scene.case
    if case.stage == "listen":
        return _listen(scene)
    scene.start(1)
    if not scene.news.until(lambda: scene.runs[1].said("listening"), START_SECONDS):
        return False
    scene.start(0)
    awaited = {
        "files": lambda: scene.runs[case.rank].said("file-written"),
        # If rank 1's worker hangs, it never gets this far.
        "init": lambda: scene.runs[0 if case.hangs else case.rank].said("environment-set"),
        "ready": lambda: scene.both(_holds),
        "running": lambda: scene.both(_runs),
        "stop": lambda: scene.both(_holds if case.work == "group" else _runs),
    }
    if case.stage not in awaited:
        scene.news.until(lambda: scene.struck or scene.is_over, START_SECONDS)
        return scene.struck
    is_there = awaited[case.stage]
    scene.news.until(lambda: is_there() or scene.is_over, START_SECONDS)
    if not is_there():
        return False
    if case.stage == "stop":
        scene.chosen["stopped"] = scene.random.randrange(2)
        scene.signal(scene.chosen["stopped"], signal.SIGINT)
    scene.descriptors = _descriptors(scene)
    scene.strike()
    return True


def _listen(scene: Scene) -> bool:
    """The affected rank is alone so far; a fault of the host may precede it, too."""
    first = scene.case.rank
    if scene.case.fault in ("clock", "disk", "keylog", "permission") and scene.random.random() < 0.5:
        scene.chosen["early"] = True
        scene.strike()
    scene.start(first)
    word = "listening" if first == 1 else "link-lost"
    if not scene.news.until(lambda: scene.runs[first].said(word) or scene.runs[first].is_over, START_SECONDS):
        return False
    if not scene.struck:
        scene.strike()
    scene.start(1 - first)
    return True


# -- how it goes on ----------------------------------------------------------------------------------------------------


def _last(run: Running, *names: str) -> str:
    return next((event["event"] for event in reversed(run.events) if event["event"] in names), "")


def _holds(run: Running) -> bool:
    return _last(run, "holding", "restarting", "error", "done") == "holding"


def _runs(run: Running) -> bool:
    return _last(run, "output", "restarting", "error", "done") == "output"


def _pongs(scene: Scene) -> int:
    return sum(event["event"] == "pong" for event in scene.runs[0].events) if 0 in scene.runs else 0


def _is_well(scene: Scene, pongs: int) -> bool:
    """The ranks are at their stage, and the link is alive as before the fault."""
    case = scene.case
    if case.work == "command" and case.stage not in ("running", "stop"):
        return False  # it ends by itself
    if case.fault == "terminal" and not (case.nohup and case.rank == 1 and case.stage in ("ready", "running")):
        return False  # SIGHUP ends that rank, or the next line that it writes does
    is_there = _holds if case.work == "group" else _runs
    is_alive = scene.runs[0].is_lost or _pongs(scene) >= pongs + 2
    is_refused = scene.second is None or scene.second.is_over
    return is_alive and is_refused and scene.both(lambda run: run.is_lost or is_there(run))


def _end(scene: Scene) -> Iterator[str]:
    """Stop the ranks cleanly, now that they work."""
    scene.go.touch()
    if scene.case.work == "group" or scene.is_frozen:
        scene.signal(0, signal.SIGINT)
    if not scene.news.until(lambda: scene.is_over, scene.case.timeout + SLACK):
        yield f"a rank that is well does not end: {[run.events[-3:] for run in scene.runs.values()]}"
    elif scene.case.fault != "terminal" and not scene.both(lambda run: run.is_lost or _ended_well(run)):
        # Without its terminal a rank fails when it reports its end: `wrong_ends` checks that.
        yield f"ranks that are well end badly: {[run.events[-2:] for run in scene.runs.values()]}"


def _ended_well(run: Running) -> bool:
    """It succeeded, or its user stopped it with Ctrl-C."""
    return run.error is None and run.process.returncode in (0, 128 + signal.SIGINT)


def _end_of(run: Running) -> End:
    status, error = run.process.returncode, run.error
    if error is not None:
        return End(error["code"], error["rank"], status)
    return End("?" if run.is_unheard and not run.said("done") else "-", None, status)


def _refused(scene: Scene) -> Iterator[str]:
    """Return the faults in the end of the rank that was started beside the first."""
    run = scene.second
    if run is None:
        return
    if not scene.news.until(lambda: run.is_over, START_SECONDS):
        yield f"the second one on the host hangs: {run.events[-3:]}"
    elif run.error is None or run.error["code"] != "host-busy" or run.process.returncode not in (3, 125):
        yield f"the second one on the host is not refused, status {run.process.returncode}: {run.events[-3:]}"


def _descriptors(scene: Scene) -> dict[int, int]:
    """Return the open descriptors of each control process that holds its group, or runs its command."""
    if scene.case.stage not in ("ready", "running"):
        return {}
    counts = {}
    for rank, run in scene.runs.items():
        try:
            counts[rank] = psutil.Process(run.process.pid).num_fds()
        except psutil.Error:
            return {}
    return counts


def _more_open(scene: Scene) -> Iterator[str]:
    """A connection of the fault may still be closing."""
    before = scene.descriptors
    if before and not scene.news.until(
        lambda: all(_descriptors(scene).get(rank, 0) <= most for rank, most in before.items()), 20
    ):
        yield f"descriptors are left open: {before} before, {_descriptors(scene)} after"


# -- what is left ------------------------------------------------------------------------------------------------------


def _left(scene: Scene) -> Iterator[str]:
    """A killed run is cleaned up by its guard, which takes a moment, or by the next run."""
    killed = scene.case.fault == "kill"
    seconds = TIDY_SECONDS if killed else 1.0
    if not scene.news.until(lambda: not scene.processes(), seconds) and not scene.unguarded:
        yield f"processes are left: {[process.cmdline() for process in scene.processes()]}"
    if not scene.news.until(lambda: not scene.files(), seconds) and not scene.unguarded and not _stays(scene):
        yield f"files are left: {scene.files()}"
    if not scene.news.until(lambda: not scene.lane.listeners(), seconds) and not scene.unguarded:
        yield f"listeners are left: {scene.lane.listeners()}"


def _keys(scene: Scene) -> Iterator[str]:
    """Return the faults of a key log on a full disk: the rank must report a missing key."""
    if scene.case.fault != "keylog":
        return
    run = scene.runs[scene.case.rank]
    *lines, _ = scene.key_log.read_text().split("\n")
    keys = [line for line in lines if re.fullmatch(r"CLUSTER_SESSION_KEY [0-9a-f]{64} [0-9a-f]{64}", line)]
    is_told = any(line.endswith("ends here: No space left on device") for line in run.stderr)
    if run.said("established", len(keys) + 1) and not is_told:
        yield f"the key log lacks a key, and the rank does not say so: {run.stderr}"


def _stays(scene: Scene) -> bool:
    """Nothing could be removed from a read-only directory: the next run does it."""
    return scene.case.fault == "permission"


def _once_more(scene: Scene) -> Iterator[str]:
    """Run the next bootstrap on the same addresses and directories; it must leave nothing."""
    case = replace(scene.case, stage="", fault="", work="command", revision=2, extensions="on", restarts=0, brisk=False)
    scene.cable.close()
    again = Scene(scene.lane, case, lambda _: None)
    try:
        again.start(1)
        again.news.until(lambda: again.runs[1].said("listening") or again.runs[1].is_over, START_SECONDS)
        again.start(0)
        if not again.news.until(lambda: again.is_over, START_SECONDS):
            yield f"the next bootstrap hangs: {[run.events[-2:] for run in again.runs.values()]}"
        elif not again.both(lambda run: run.process.returncode == 0):
            yield f"the next bootstrap fails: {[run.events[-2:] for run in again.runs.values()]}"
        yield from (f"after the next bootstrap, {text}" for text in _left(again))
    finally:
        again.close()
