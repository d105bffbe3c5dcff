"""A codec under test: a program that reads frames in hex, and answers each with a line of JSON, over all test vectors.

The contract is that of `wireproto codec`. A frame that is wrongly taken, or wrongly refused, is a failure; since codes
travel nowhere, another code or offset is no more than non-strict. Codes of the program's own are mapped first.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from wireproto.conformance.case import rule
from wireproto.conformance.verdicts import Failure, Missed, Record, Result, Verdict
from wireproto.messages import Revision
from wireproto.testing.requirements import Level
from wireproto.testing.vectors import ClusterFrameTest, load

ANSWER_SECONDS: Final = 10.0
"""For one line; the first one waits for the program to start, too."""
MAX_HUNG: Final = 3
"""Frames in a row without an answer in time, behind which no more are asked about."""
_LONGEST_LINE: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class VectorCase:
    """One test vector as a case."""

    section: str
    vector: ClusterFrameTest

    @property
    def id(self) -> str:
        return f"codec.{self.vector.id}"

    @property
    def level(self) -> Level:
        return rule(self.requirements[0]).level

    @property
    def requirements(self) -> tuple[str, ...]:
        return self.vector.requirements

    @property
    def about(self) -> str:
        return self.vector.comment


def vector_cases(revision: Revision) -> list[VectorCase]:
    """Those of a revision, without extensions: a codec knows none."""
    return [
        VectorCase(group.name, test)
        for group in load(ClusterFrameTest).groups
        for test in group.tests
        if test.revision == revision and not test.extensions
    ]


class CodecFailed(Exception):  # noqa: N818
    """The program gave no answer: it has ended, or said what cannot be read."""


class CodecHangs(CodecFailed):
    """It does not answer in time."""


class Program:
    """The codec under test, started when it is first asked, and again after it has failed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, line: bytes) -> bytes:
        """The answer to one line. CodecFailed where there is none, OSError where the program cannot be started."""
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
            )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - both are pipes
        answer = b""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._process.stdin.write(line + b"\n")
                await self._process.stdin.drain()
                answer = await self._process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise CodecHangs(f"no answer in {ANSWER_SECONDS:g} s") from None
        except ValueError:
            why = f"a line of more than {_LONGEST_LINE} bytes"
        except OSError:
            why = "the end of the program"
        else:
            why = "the end of the program"
        if not answer.endswith(b"\n"):
            await self.stop()
            raise CodecFailed(why)
        return answer

    async def stop(self) -> None:
        """Ends the program."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def run_codec(
    program: Program,
    cases: Collection[VectorCase],
    *,
    codes: Mapping[str, str] | None = None,
    expected: Mapping[str, str] | None = None,
    rerun: Callable[[str], str] = lambda _: "",
) -> AsyncGenerator[Result, None]:
    """The results, one by one. `codes` maps the program's own error names to those of the spec."""
    expected = expected or {}
    hung = 0
    try:
        for case in cases:
            if hung == MAX_HUNG:
                result = _skipped(case)
            else:
                started = time.monotonic()
                result, hangs = await _tried(program, case, codes or {})
                result = replace(result, seconds=time.monotonic() - started)
                hung = hung + 1 if hangs else 0
            yield replace(result, expected=expected.get(case.id, ""), rerun=rerun(case.id))
    finally:
        await program.stop()


def _skipped(case: VectorCase) -> Result:
    return _result(case, Verdict.SKIPPED, f"the program left {MAX_HUNG} frames in a row without an answer")


async def _tried(program: Program, case: VectorCase, codes: Mapping[str, str]) -> tuple[Result, bool]:
    """The result of one case, and whether the program hangs."""
    vector = case.vector
    record = Record()
    hangs = False
    verdict, reason, failure = Verdict.PASS, "", None
    line = vector.frame.hex().encode()
    record.step(f"ask about {line.decode()}" if len(line) <= 200 else f"ask about {line[:200].decode()}…")
    try:
        answer = await program.ask(line)
        record.step(f"answer: {answer[:2000].decode(errors='replace').rstrip()}")
        remark = _judge(vector, answer, codes)
        if remark:
            verdict, reason = Verdict.NON_STRICT, remark
    except CodecFailed as error:
        hangs = isinstance(error, CodecHangs)
        failure = _failure(case, Missed("an answer", str(error)))
    except Missed as missed:
        failure = _failure(case, missed)
    if failure is not None:
        verdict, reason = Verdict.FAIL, f"expected {failure.expected}; came {failure.came}"
    return replace(_result(case, verdict, reason), failure=failure, record=record), hangs


def _result(case: VectorCase, verdict: Verdict, reason: str) -> Result:
    return Result(
        id=case.id,
        section=case.section,
        about=case.vector.comment,
        level=case.level.value,
        requirements=case.vector.requirements,
        verdict=verdict,
        reason=reason,
    )


def _failure(case: VectorCase, missed: Missed) -> Failure:
    requirement = rule(case.vector.requirements[0])
    return Failure(requirement.id, requirement.text, missed.expected, missed.came)


def _judge(vector: ClusterFrameTest, line: bytes, codes: Mapping[str, str]) -> str:
    """What is not as it should be, and yet no failure; Missed for a failure."""
    answer = _read(line)
    if vector.message is not None:
        if not answer["ok"]:
            raise Missed("the message", f"the error {answer.get('error')!r}")
        came, wanted = (answer.get("type"), answer.get("payload")), (vector.message.type, vector.message.payload)
        if _exactly(came) != _exactly(wanted):
            raise Missed(_short(wanted), _short(came))
        return ""
    assert vector.error is not None  # noqa: S101 - a vector is a message or an error
    if answer["ok"]:
        raise Missed(f"the error {vector.error.code}", "a message")
    code = codes.get(str(answer.get("error")), answer.get("error"))
    if code != vector.error.code:
        return f"the error is {vector.error.code}, and was called {code!r}"
    if answer.get("offset") != vector.error.offset:
        return f"the offset is {vector.error.offset}, and was given as {answer.get('offset')!r}"
    return ""


def _read(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise Missed('a JSON object with "ok"', line[:200].decode(errors="replace").rstrip())
    return answer


def _exactly(value: object) -> bytes:
    """Apart from what JSON holds for the same: 1 is not True and not 1.0."""
    return msgspec.json.encode(value, order="sorted")


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"
