"""Runs all cases against a codec: a program that reads frames in hex and answers each with a line of JSON.

The contract is that of `wireproto codec`. A frame wrongly accepted or refused is a failure. Error codes are not on the
wire, so a different code or offset is only non-strict. The program's own codes are mapped first; a name that the
specification does not define counts as no name.
"""

import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from wireproto.conformance.case import strictest
from wireproto.conformance.codec_cases import CodecCase, GrowthCase, Question, right_answer
from wireproto.conformance.contract import exactly, read
from wireproto.conformance.expected import Expected
from wireproto.conformance.frames import OFFER, decoded
from wireproto.conformance.growth import measuring
from wireproto.conformance.program import CodecFailed, CodecHangs, Program
from wireproto.conformance.verdicts import Failure, Missed, Record, Result, Verdict
from wireproto.errors import ERROR_CODES
from wireproto.messages import Revision
from wireproto.testing.long_frames import KINDS

MAX_HUNG: Final = 3
"""Unanswered frames in a row after which the run stops; one, if the program has never answered."""
_AT_ONCE: Final = 32
_LONG: Final = 1024
"""Bytes from which a frame is sent alone."""
BY_VERDICT: Final = "only the verdict was compared: the specification does not define the error name"
NO_EXTENSIONS: Final = "the codec has no extensions"


async def run_codec(
    program: Program,
    cases: Collection[CodecCase | GrowthCase],
    *,
    revision: Revision = Revision.V2,
    codes: Mapping[str, str] | None = None,
    expected: Mapping[str, Expected] | None = None,
    rerun: Callable[[str], str] = lambda _: "",
    has_extensions: bool | None = None,
) -> AsyncGenerator[Result, None]:
    """The results, one by one. `codes` maps the program's own error names to those of the spec.

    `has_extensions` says whether the program decodes the names of extensions; None to find out.
    """
    trial = _Trial(program, revision, codes or {}, has_extensions)
    try:
        if trial.has_extensions is None:
            trial.has_extensions = await _has_extensions(program)
        for case in cases:
            started = time.monotonic()
            result = await trial.result(case)
            known = (expected or {}).get(case.id, Expected())
            yield replace(
                result,
                seconds=time.monotonic() - started,
                expected=known.reason,
                expected_verdict=known.verdict,
                rerun=rerun(case.id),
            )
    finally:
        await program.close()


async def _has_extensions(program: Program) -> bool:
    """Return whether the codec has extensions: one without them accepts an offer but leaves it out of the answer."""
    try:
        answer = read(await program.ask(OFFER.hex().encode()))
    except CodecFailed:
        return True
    payload = answer.get("payload") if answer else None
    return not (isinstance(payload, dict) and "extensions" not in payload)


def _batches(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Group short frames; send long ones alone. Many frames are in order of length."""
    at = 0
    while at < len(questions):
        size = _AT_ONCE if len(questions[min(at + _AT_ONCE, len(questions)) - 1].frame) < _LONG else 1
        yield questions[at : at + size]
        at += size


@dataclass
class _Trial:
    """One run."""

    program: Program
    revision: Revision
    codes: Mapping[str, str]
    has_extensions: bool | None
    hung: int = 0
    """Unanswered frames in a row."""

    async def result(self, case: CodecCase | GrowthCase) -> Result:
        if self.hung and not self.program.has_answered:
            return _result(case, Verdict.SKIPPED, "the program never answered")
        if self.hung >= MAX_HUNG:
            return _result(case, Verdict.SKIPPED, f"the program did not answer {MAX_HUNG} frames in a row")
        if isinstance(case, GrowthCase):
            return await self._growth(case)
        if case.is_of_extensions and not self.has_extensions:
            return _result(case, Verdict.UNIMPLEMENTED, NO_EXTENSIONS)
        record = Record()
        found: list[_Found] = []
        for batch in _batches(case.questions):
            each = await self._ask(batch)
            found += [one for one in each if one.verdict is not Verdict.PASS or one.reason]
            if each[-1].stops:
                break
        if not found:
            return _result(case, Verdict.PASS)
        worst = min(found, key=lambda each: _WORST_FIRST.index(each.verdict))
        same = sum(each.verdict is worst.verdict for each in found)
        _log(record, worst)
        reason = worst.reason
        if len(case.questions) > 1 and worst.verdict is not Verdict.PASS:
            reason += f" ({worst.question.about}; {same} of {len(case.questions)} frames)"
        result = _result(case, worst.verdict, reason)
        return replace(result, failure=worst.failure, record=record, stderr=worst.stderr)

    async def _growth(self, case: GrowthCase) -> Result:
        measure = measuring(KINDS[case.kind])
        frames = next(measure)
        try:
            while True:
                started = time.monotonic()
                await self.program.ask_all([frame.hex().encode() for frame in frames])
                frames = measure.send(time.monotonic() - started)
        except StopIteration as end:
            return _result(case, Verdict.NON_STRICT if end.value else Verdict.PASS, end.value)
        except CodecFailed as error:
            found = self._unanswered(Question(case.kind, frames[0], case.requirements), error)
            return replace(_result(case, found.verdict, found.reason), failure=found.failure, stderr=found.stderr)

    async def _ask(self, batch: Sequence[Question]) -> "list[_Found]":
        """Return the outcome of each frame, up to and including the first unanswered one."""
        last = []
        try:
            answers = await self.program.ask_all([question.frame.hex().encode() for question in batch])
        except CodecFailed as error:
            answers = error.answers
            self.hung = 0 if answers else self.hung
            last = [self._unanswered(batch[len(answers)], error)]
        else:
            self.hung = 0
        return [*map(self._judged, batch[: len(answers)], answers), *last]

    def _judged(self, question: Question, answer: bytes) -> "_Found":
        right = right_answer(question, self.revision, self.has_extensions is not False)
        try:
            verdict, reason = _judge(right, answer, self.codes)
        except Missed as missed:
            return _failed(question, Verdict.FAIL, missed, tuple(self.program.stderr()), answer)
        return _Found(question, verdict, reason, answer=answer)

    def _unanswered(self, question: Question, error: CodecFailed) -> "_Found":
        self.hung = self.hung + 1 if isinstance(error, CodecHangs) else 0
        verdict = Verdict.CRASH if error.crashed else Verdict.FAIL
        return _failed(question, verdict, Missed("an answer", str(error)), tuple(self.program.stderr()), stops=True)


@dataclass(frozen=True)
class _Found:
    """The outcome of a frame."""

    question: Question
    verdict: Verdict
    reason: str
    failure: Failure | None = None
    answer: bytes | None = None
    stderr: tuple[str, ...] = ()
    stops: bool = False
    """Whether the program has exited: each further frame would start it again for the same result."""


def _failed(
    question: Question,
    verdict: Verdict,
    missed: Missed,
    stderr: tuple[str, ...],
    answer: bytes | None = None,
    *,
    stops: bool = False,
) -> _Found:
    requirement = strictest(question.rules)
    failure = Failure(requirement.id, requirement.text, missed.expected, missed.came)
    reason = f"expected {missed.expected}; got {missed.came}"
    return _Found(question, verdict, reason, failure, answer, stderr, stops)


_WORST_FIRST: Final = (Verdict.CRASH, Verdict.FAIL, Verdict.NON_STRICT, Verdict.PASS)


def _log(record: Record, found: _Found) -> None:
    """Record the frame in hex and decoded, and the answer."""
    line = found.question.frame.hex()
    record.step(f"ask about {line}" if len(line) <= 200 else f"ask about {line[:200]}…")
    record.step(f"which is {decoded(found.question.frame)}")
    if found.answer is not None:
        record.step(f"answer: {found.answer[:2000].decode(errors='replace').rstrip()}")


def _result(case: CodecCase | GrowthCase, verdict: Verdict, reason: str = "") -> Result:
    return Result(
        id=case.id,
        section=case.section,
        about=case.about,
        level=case.level.value,
        requirements=case.requirements,
        verdict=verdict,
        reason=reason,
    )


def _judge(right: dict[str, Any], line: bytes, codes: Mapping[str, str]) -> tuple[Verdict, str]:
    """Return the verdict on an answer and its reason. Raise Missed for a failure."""
    answer = read(line)
    if answer is None:
        raise Missed('a JSON object with "ok"', line[:200].decode(errors="replace").rstrip())
    if not right:
        return Verdict.PASS, ""
    if right["ok"]:
        if not answer["ok"]:
            raise Missed("the message", f"the error {answer.get('error')!r}")
        came, wanted = ((each.get("type"), each.get("payload")) for each in (answer, right))
        if exactly(came) != exactly(wanted):
            raise Missed(_short(wanted), _short(came))
        return Verdict.PASS, ""
    code, offset = right["error"], right["offset"]
    if answer["ok"]:
        raise Missed(f"the error {code}", "a message")
    name = str(answer.get("error"))
    named = codes.get(name, name)
    if named not in ERROR_CODES:
        return Verdict.PASS, BY_VERDICT
    if named != code:
        return Verdict.NON_STRICT, f"the error is {code}, not {named!r}"
    if answer.get("offset") != offset:
        return Verdict.NON_STRICT, f"the offset is {offset}, not {answer.get('offset')!r}"
    return Verdict.PASS, ""


def _short(value: object) -> str:
    text = json.dumps(value)  # ASCII: an answer may hold half of a surrogate pair
    return text if len(text) <= 200 else f"{text[:200]}…"
