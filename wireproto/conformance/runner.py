"""Runs cases one after the other, each against a fresh peer where there can be one, and makes verdicts of them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import replace

from wireproto.conformance.case import Case, rule
from wireproto.conformance.cases import CASES
from wireproto.conformance.peer import Peer, Settings
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import BAD, Failure, Missed, Record, Result, Undecided, Verdict
from wireproto.session import Role
from wireproto.testing.requirements import Level

NO_RESTART = "there is no --restart-command, and a rank 0 connects anew only after 10 s"
INSANE = "the sanity case did not pass: {}"


def planned(cases: Collection[Case], role: Role) -> list[Case]:
    """The cases as they are run: first the sanity case of the peer's role, whether it is among them or not."""
    sanity = next(each for each in CASES.values() if each.section == "sanity" and each.role is role)
    return [sanity, *(each for each in cases if each is not sanity)]


async def run(
    target: Target,
    settings: Settings,
    cases: Collection[Case],
    *,
    retries: int = 0,
    expected: Mapping[str, str] | None = None,
    rerun: Callable[[Case], str] = lambda _: "",
) -> AsyncGenerator[Result, None]:
    """The results, one by one, in the order of `planned`.

    `expected` says of cases by id why they fail. `rerun` makes the command that runs one case again.
    """
    expected = expected or {}
    insane = ""
    served = False
    try:
        for case in planned(cases, target.role):
            if settings.revision not in case.revisions:
                result = _skipped(case, f"it is not about revision {settings.revision:d}")
            elif insane:
                result = _skipped(case, INSANE.format(insane))
            elif served and not target.restarts and target.role is Role.INITIATOR:
                result = _skipped(case, NO_RESTART)
            else:
                result = await _judged(target, settings, case, retries)
                served = True
            if case.section == "sanity" and result.verdict is not Verdict.PASS:
                insane = result.reason
            yield replace(result, expected=expected.get(case.id, ""), rerun=rerun(case))
    finally:
        await target.stop()


async def _judged(target: Target, settings: Settings, case: Case, retries: int) -> Result:
    """The last result of up to 1 + `retries` attempts."""
    for attempt in range(1, retries + 2):
        result = replace(await attempt_at(target, settings, case), attempts=attempt)
        if result.verdict not in BAD:
            break
    return result


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
                await target.settle()
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
    seconds = time.monotonic() - started
    return _result(case, verdict, reason=reason, failure=failure, record=record, seconds=seconds)


def _missed(case: Case, missed: Missed) -> tuple[Verdict, Failure]:
    requirement = rule(missed.requirement or case.requirements[0])
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
