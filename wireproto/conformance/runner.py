"""Runs cases, each against a fresh peer if possible, in parallel if there are several targets."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from wireproto.conformance.case import Case, rule, strictest
from wireproto.conformance.cases import CASES
from wireproto.conformance.expected import Expected
from wireproto.conformance.peer import Peer, Settings
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import BAD, Failure, Missed, Record, Result, Undecided, Verdict
from wireproto.session import Role
from wireproto.testing.requirements import Level

NO_RESTART = "there is no --restart-command, and a rank 0 reconnects only after 10 s"
INSANE = "the sanity case did not pass: {}"
NO_EXTENSIONS = "the peer has no extensions"


def planned(cases: Collection[Case], role: Role) -> list[Case]:
    """Return the cases in order of start: the sanity case, those that others need, then the longest first."""
    sanity = next(each for each in CASES.values() if each.section == "sanity" and each.role is role)
    needs = [CASES[need] for each in cases for need in each.needs]
    rest = sorted(cases, key=lambda each: -each.deadline)
    return list(dict.fromkeys([sanity, *needs, *rest]))


async def run(
    targets: Sequence[Target],
    settings: Settings,
    cases: Collection[Case],
    *,
    retries: int = 0,
    expected: Mapping[str, Expected] | None = None,
    rerun: Callable[[Case], str] = lambda _: "",
) -> AsyncGenerator[Result, None]:
    """Yield results as they arrive; run one case per target at a time. All targets have the same role.

    `expected` has the expected failures by case id. `rerun` returns the command that reruns a case.
    """
    plan = planned(cases, targets[0].role)
    work = _Work(settings, retries, deque(plan))
    loop = asyncio.get_running_loop()
    work.verdicts = {case.id: loop.create_future() for case in plan}
    done: asyncio.Queue[Result | None] = asyncio.Queue()

    async def worker(target: Target) -> None:
        served = False
        while work.left:
            case = work.left.popleft()
            result, served = await work.judged(target, case, served=served)
            work.verdicts[case.id].set_result(result.verdict)
            known = (expected or {}).get(case.id, Expected())
            done.put_nowait(replace(result, expected=known.reason, expected_verdict=known.verdict, rerun=rerun(case)))

    async def workers() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for target in targets:
                    group.create_task(worker(target))
        finally:
            for target in targets:
                await target.stop()
            done.put_nowait(None)

    running = asyncio.create_task(workers())
    try:
        while (result := await done.get()) is not None:
            yield result
        await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@dataclass
class _Work:
    settings: Settings
    retries: int
    left: deque[Case]
    verdicts: dict[str, asyncio.Future[Verdict]] = field(default_factory=dict)
    """The verdict of each case that has ended. A case starts after those it waits for."""
    insane: str = ""

    async def judged(self, target: Target, case: Case, *, served: bool) -> tuple[Result, bool]:
        """Return the result of a case, and whether the target's peer had a session."""
        if case.section != "sanity":
            await self.verdicts[next(iter(self.verdicts))]
        if self.settings.revision not in case.revisions:
            return _skipped(case, f"it is not about revision {self.settings.revision:d}"), served
        if case.section == "extensions" and self.settings.has_extensions is False:
            return _result(case, Verdict.UNIMPLEMENTED, reason=NO_EXTENSIONS), served
        if self.insane:
            return _skipped(case, INSANE.format(self.insane)), served
        for need in case.needs:
            if await self.verdicts[need] is not Verdict.PASS:
                return _skipped(case, f"it needs {need}, which did not pass"), served
        if served and not target.restarts and not target.returns and target.role is Role.INITIATOR:
            return _skipped(case, NO_RESTART), served
        for attempt in range(1, self.retries + 2):
            result = replace(await attempt_at(target, self.settings, case), attempts=attempt)
            if result.verdict not in BAD:
                break
        if case.section == "sanity" and result.verdict is not Verdict.PASS:
            self.insane = result.reason
        return result, True


async def attempt_at(target: Target, settings: Settings, case: Case) -> Result:
    """One attempt at one case."""
    record = Record()
    peer = Peer(target, settings, record)
    started = time.monotonic()
    verdict, reason, failure = Verdict.PASS, "", None
    try:
        async with asyncio.timeout(case.deadline):
            await target.fresh()
            try:
                await case.script(peer)
            finally:
                await peer.close()
    except Missed as missed:
        verdict, failure = _missed(case, missed)
        reason = str(missed)
    except Undecided as undecided:
        verdict, reason = undecided.verdict, str(undecided)
    except TimeoutError:
        endless = Missed("an end of the case", f"none in {case.deadline:g} s")
        verdict, failure = _missed(case, endless)
        reason = str(endless)
    except OSError as error:
        verdict, reason = Verdict.INCONCLUSIVE, f"the peer cannot be started: {error}"
    if peer.is_met and (crash := await target.crash(was_closed=peer.was_closed)):
        verdict, failure = _missed(case, Missed("a peer that lives on", crash))
        verdict, reason = Verdict.CRASH, crash
    seconds = time.monotonic() - started
    result = _result(case, verdict, reason=reason, failure=failure, record=record, seconds=seconds)
    return result if verdict is Verdict.PASS else replace(result, stderr=tuple(target.stderr()))


def _missed(case: Case, missed: Missed) -> tuple[Verdict, Failure]:
    requirement = rule(missed.requirement) if missed.requirement else strictest(case.requirements)
    verdict = Verdict.FAIL if requirement.level is Level.MUST else Verdict.NON_STRICT
    return verdict, Failure(requirement.id, requirement.text, missed.expected, missed.came)


def _skipped(case: Case, reason: str) -> Result:
    return _result(case, Verdict.SKIPPED, reason=reason)


def _result(
    case: Case,
    verdict: Verdict,
    *,
    reason: str = "",
    failure: Failure | None = None,
    record: Record | None = None,
    seconds: float = 0.0,
) -> Result:
    return Result(
        id=case.id,
        section=case.section,
        about=case.about,
        level=case.level.value,
        requirements=case.requirements,
        verdict=verdict,
        reason=reason,
        failure=failure,
        record=record or Record(),
        seconds=seconds,
    )
