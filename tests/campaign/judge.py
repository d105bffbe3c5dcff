"""Requirements after every fault: documented ends that name the cause, and nothing left."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from bootstrap.advice import ADVICE
from bootstrap.link.outcome import CONSEQUENCES
from tests.campaign.plan import Case
from tests.campaign.process import Event, Running
from wireproto.errors import ERROR_CODES

UNDER_WAY: Final = ("link-*", "handshake-*", "seal-*", "truncated", "ping-timeout", "session-ended")
"""A rank's codes for a damaged link."""
LATE: Final = ("deadline", "ring-*", "versions-missing", "worker-died", "init-failed", "sum-failed")
"""A rank's end if the other never connects."""
ENDED: Final = ("link-lost", "session-ended", "interrupted", "deadline", "command-failed", "command-killed")
"""A rank's end if the other was stopped; with --restart it waits for the other to return."""

CAUSES: Final = {
    "kill": (*UNDER_WAY, "worker-killed", "command-failed", "command-killed", *LATE),
    "stop": (*UNDER_WAY, *LATE),
    "freeze": ("mlx-hangs", "peer-loading", *LATE),
    "close": (*UNDER_WAY, *LATE),
    "reset": (*UNDER_WAY, *LATE),
    "partition": (*UNDER_WAY, *LATE),
    "delay": (*UNDER_WAY, *LATE),
    "drop": (*UNDER_WAY, *LATE, "type-unknown"),  # without jacclBootstrap, frames of extensions are unknown
    "duplicate": (*UNDER_WAY, *LATE),
    "truncate": (*UNDER_WAY, *LATE),
    "flip": (*UNDER_WAY, *LATE, "type-unknown", "json-*", "field-*", "payload-*", "bad-bootstrap"),
    "flood": (*UNDER_WAY, *LATE),
    "clock": (),
    "disk": ("write-failed", "directory-failed", "lock-failed"),
    "permission": ("write-failed", "directory-failed", "lock-failed"),
    "descriptors": ("system-refused", "write-failed", "directory-failed", "lock-failed", *UNDER_WAY, *LATE),
    "reader": (),
    "terminal": ("output-failed", *ENDED),
    "keylog": (),
    "second": (),
}
"""The codes with which a rank may end, by fault. A rank may show the other's."""


AT_DEADLINE: Final = "no group within"
"""Part of every error message at the deadline."""
STOPPED = (0, 129, 130, 143)
"""The end of a run stopped by a user: by a signal, or on another rank."""


UNHEARD: Final = {"reader": STOPPED, "terminal": (*STOPPED, 3, 125)}
"""The end of a run that cannot report the reason."""


def is_documented(code: str) -> bool:
    return code in ERROR_CODES or any(fnmatchcase(code, name) for name in ADVICE)


def wrong_ends(case: Case, runs: dict[int, Running]) -> Iterator[str]:
    """Return the faults in how the ranks ended."""
    causes = (*CAUSES[case.fault], *(ENDED if case.stage == "stop" else ()))
    failures = {rank: run for rank, run in runs.items() if not _was_killed(case, run)}
    for rank, run in failures.items():
        yield from (f"rank {rank}: {text}" for text in _wrong_end(run, UNHEARD.get(case.fault, ())))
        if run.error is not None and not _fits(_code(run.error), (*causes, *CONSEQUENCES, "deadline")):
            # Only a rank that waits for the other may end by the deadline.
            yield f"rank {rank}: {run.error['code']} is no consequence of {case.fault}: {run.error['message']}"
        if case.fault == "freeze" and rank == case.rank and run.error is not None and _blames_the_other(run.error):
            yield f"rank {rank}: its own MLX hangs, and it blames the other: {run.error['message']}"
    told = {_code(run.error) for run in failures.values() if run.error is not None}
    seen = told.union(*(run.codes for run in runs.values()))
    if told and not any(_fits(code, causes) for code in seen):
        yield f"nobody names the cause: {sorted(seen)}"


def _code(error: Event) -> str:
    """Return the error's code; `deadline` if a deadline has the code of the link's last failure."""
    waited = _fits(error["code"], ("no-bootstrap", *UNDER_WAY)) and AT_DEADLINE in error["message"]
    return "deadline" if waited else str(error["code"])


def _blames_the_other(error: Event) -> bool:
    return error["code"] in ("no-bootstrap", "peer-loading") or "the worker after 'started'" in error["message"]


def _was_killed(case: Case, run: Running) -> bool:
    """By the fault itself, so it cannot have reported anything."""
    return case.fault == "kill" and case.rank == run.rank and run.process.returncode == -9


def _wrong_end(run: Running, unheard: tuple[int, ...]) -> Iterator[str]:
    status, error, stderr = run.process.returncode, run.error, "\n".join(run.stderr)
    done = run.events[-1] if run.events else {}
    if "Traceback" in stderr or "internal error" in stderr:
        yield f"it ends in a traceback: {stderr[-2000:]}"
    if run.is_unheard and done.get("event") != "done":
        if status not in unheard:
            yield f"it ends unheard with status {status}"
    elif done.get("event") != "done":
        yield f"its last word is not `done`, status {status}: {stderr[-500:]}"
    elif done["ok"]:
        if error is not None or status not in (done.get("status", 0), *(STOPPED if done.get("stopped") else ())):
            yield f"it says that all is well, and ends with status {status}"
    elif done.get("stopped") and done.get("code") == "interrupted" and error is None:
        if status not in STOPPED:
            yield f"its user has stopped it, and it ends with status {status}"
    elif error is None or done.get("code") != error["code"]:
        yield "it has failed, and does not say why"
    elif not is_documented(error["code"]):
        yield f"the code {error['code']} is documented nowhere"
    elif status not in (3, 125) and status not in [event.get("status") for event in run.events]:
        yield f"it has failed, and ends with status {status}"
    elif not (error["message"] and error["cause"] and error["remedy"]):
        yield f"there is no advice for {error['code']}"


def _fits(code: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(code, pattern) for pattern in patterns)
