"""A codec under test: a program that reads frames in hex, and answers each with a line of JSON, over all test vectors.

The contract is that of `wireproto codec`. A frame that is wrongly taken, or wrongly refused, is a failure; since codes
travel nowhere, another code or offset is no more than non-strict. Codes of the program's own are mapped first; a name
that the specification does not have counts as none.
"""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from wireproto.conformance.case import strictest
from wireproto.conformance.expected import Expected
from wireproto.conformance.frames import OFFER
from wireproto.conformance.launching import last_lines
from wireproto.conformance.verdicts import Failure, Missed, Record, Result, Verdict
from wireproto.errors import ERROR_CODES
from wireproto.messages import Revision
from wireproto.testing.requirements import Level
from wireproto.testing.vectors import ClusterFrameTest, load

ANSWER_SECONDS: Final = 10.0
"""For one line; the first one waits for the program to start, too."""
MAX_HUNG: Final = 3
"""Frames in a row without an answer in time, behind which no more are asked about."""
_LONGEST_LINE: Final = 64 * 1024 * 1024
_ENDING: Final = 2.0
"""Seconds for a program that has closed its output to end."""
BY_VERDICT: Final = "judged by verdict alone: the error has no name that the specification knows"
NO_EXTENSIONS: Final = "the codec has no extensions"


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
        return strictest(self.requirements).level

    @property
    def is_of_extensions(self) -> bool:
        """Whether it asks what only a codec with extensions has to know."""
        is_unknown_type = self.vector.error is not None and self.vector.error.code == "type-unknown"
        return any(each.startswith("EXT-") for each in self.requirements) and not is_unknown_type

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

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed


class CodecHangs(CodecFailed):
    """It does not answer in time."""


class Program:
    """The codec under test, started when it is first asked, and again after it has failed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        self._asked_at = 0

    async def ask(self, line: bytes) -> bytes:
        """The answer to one line. CodecFailed where there is none, OSError where the program cannot be started."""
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._errors,
                limit=_LONGEST_LINE,
            )
        self._asked_at = os.fstat(self._errors.fileno()).st_size
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
            await self.stop()
            raise CodecFailed(f"a line of more than {_LONGEST_LINE} bytes") from None
        except OSError:
            pass  # it does not read any more
        if not answer.endswith(b"\n"):
            raise await self._ended()
        return answer

    async def _ended(self) -> CodecFailed:
        """How a program has ended that answers no more."""
        assert self._process is not None  # noqa: S101 - it was asked
        try:
            async with asyncio.timeout(_ENDING):
                code = await self._process.wait()
        except TimeoutError:
            return CodecFailed("the end of its output")
        finally:
            await self.stop()
        if code == 0:
            return CodecFailed("the end of the program")
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return CodecFailed(f"the program has ended with {how}", crashed=True)

    def stderr(self) -> list[str]:
        """The last lines that it wrote on standard error since it was asked."""
        return last_lines(self._errors, self._asked_at)

    async def stop(self) -> None:
        """Ends the program."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Ends the program for good."""
        await self.stop()
        self._errors.close()


async def run_codec(
    program: Program,
    cases: Collection[VectorCase],
    *,
    codes: Mapping[str, str] | None = None,
    expected: Mapping[str, Expected] | None = None,
    rerun: Callable[[str], str] = lambda _: "",
    has_extensions: bool | None = None,
) -> AsyncGenerator[Result, None]:
    """The results, one by one. `codes` maps the program's own error names to those of the spec.

    `has_extensions` says whether the program decodes the names of extensions; None to ask it.
    """
    hung = 0
    try:
        if has_extensions is None:
            has_extensions = await _has_extensions(program)
        for case in cases:
            if hung == MAX_HUNG:
                result = _skipped(case)
            elif case.is_of_extensions and not has_extensions:
                result = _result(case, Verdict.UNIMPLEMENTED, NO_EXTENSIONS)
            else:
                started = time.monotonic()
                result, hangs = await _tried(program, case, codes or {})
                result = replace(result, seconds=time.monotonic() - started)
                hung = hung + 1 if hangs else 0
            known = (expected or {}).get(case.id, Expected())
            yield replace(result, expected=known.reason, expected_verdict=known.verdict, rerun=rerun(case.id))
    finally:
        await program.close()


async def _has_extensions(program: Program) -> bool:
    """Whether it has: all but one that takes a pong with an offer, and leaves the offer out."""
    try:
        answer = _read(await program.ask(OFFER.hex().encode()))
    except (CodecFailed, Missed):
        return True
    payload = answer.get("payload")
    return not (answer["ok"] and isinstance(payload, dict) and "extensions" not in payload)


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
        verdict, reason = _judge(vector, answer, codes)
    except CodecFailed as error:
        hangs = isinstance(error, CodecHangs)
        failure = _failure(case, Missed("an answer", str(error)))
        verdict = Verdict.CRASH if error.crashed else Verdict.FAIL
    except Missed as missed:
        failure = _failure(case, missed)
        verdict = Verdict.FAIL
    if failure is not None:
        reason = f"expected {failure.expected}; came {failure.came}"
    result = replace(_result(case, verdict, reason), failure=failure, record=record)
    return replace(result, stderr=() if failure is None else tuple(program.stderr())), hangs


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
    requirement = strictest(case.vector.requirements)
    return Failure(requirement.id, requirement.text, missed.expected, missed.came)


def _judge(vector: ClusterFrameTest, line: bytes, codes: Mapping[str, str]) -> tuple[Verdict, str]:
    """The verdict on an answer that is no failure, and its reason; Missed for a failure."""
    answer = _read(line)
    if vector.message is not None:
        if not answer["ok"]:
            raise Missed("the message", f"the error {answer.get('error')!r}")
        came, wanted = (answer.get("type"), answer.get("payload")), (vector.message.type, vector.message.payload)
        if _exactly(came) != _exactly(wanted):
            raise Missed(_short(wanted), _short(came))
        return Verdict.PASS, ""
    assert vector.error is not None  # noqa: S101 - a vector is a message or an error
    if answer["ok"]:
        raise Missed(f"the error {vector.error.code}", "a message")
    code = codes.get(str(answer.get("error")), answer.get("error"))
    if code not in ERROR_CODES:
        return Verdict.PASS, BY_VERDICT
    if code != vector.error.code:
        return Verdict.NON_STRICT, f"the error is {vector.error.code}, and was called {code!r}"
    if answer.get("offset") != vector.error.offset:
        offset = answer.get("offset")
        return Verdict.NON_STRICT, f"the offset is {vector.error.offset}, and was given as {offset!r}"
    return Verdict.PASS, ""


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
