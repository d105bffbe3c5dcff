"""The process of a codec under test, started on first use and again after a failure."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from wireproto.conformance.launching import how_ended, last_lines

ANSWER_SECONDS: Final = 10.0
"""Seconds to wait for one line."""
START_SECONDS: Final = 120.0
"""Seconds to wait for the first line: `swift run` and `cargo run` compile first."""
_LONGEST_LINE: Final = 64 * 1024 * 1024
_LOOK: Final = 0.05
"""Seconds between checks that the process still runs."""
_ENDING: Final = 2.0
"""Seconds from closing the output to the exit, or from the exit to the end of the output."""


class CodecFailed(Exception):  # noqa: N818
    """The program gave no answer: it exited, or its output was unreadable."""

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed
        self.answers: list[bytes] = []
        """The answers to the lines before."""


class CodecHangs(CodecFailed):
    """The program did not answer in time."""


class Program:
    """The codec under test."""

    def __init__(self, command: Sequence[str]) -> None:
        self.has_answered = False
        """Whether the program has ever answered."""
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        self._asked_at = 0

    async def ask(self, line: bytes) -> bytes:
        """Return the answer to one line. Raise CodecFailed without one, OSError if the program cannot be started."""
        (answer,) = await self.ask_all([line])
        return answer

    async def ask_all(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return the answers to lines sent together; raise as `ask` does."""
        self._asked_at = os.fstat(self._errors.fileno()).st_size
        process, end = await self._started()
        answers: list[bytes] = []
        try:
            await self._exchange(process, end, lines, answers)
        except CodecFailed as error:
            await self.stop()
            error.answers = answers
            raise
        except OSError:
            pass  # it no longer reads
        if len(answers) < len(lines):
            ended = await self._ended(end)
            ended.answers = answers
            raise ended
        return answers

    async def _started(self) -> "tuple[asyncio.subprocess.Process, asyncio.Task[int]]":
        if self._process is None or self._end is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._errors,
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
            self._end = asyncio.create_task(_end_of(self._process))
        return self._process, self._end

    async def _exchange(
        self,
        process: asyncio.subprocess.Process,
        end: "asyncio.Task[int]",
        lines: Sequence[bytes],
        answers: list[bytes],
    ) -> None:
        """Send lines and fill `answers`, up to the end of the program.

        A child of the program, such as the one that `go run` starts, may keep the pipe open after that.
        """
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.write(b"".join(line + b"\n" for line in lines))
        reading = asyncio.create_task(self._read(process, len(lines), answers))
        try:
            await asyncio.wait((reading, end), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait((reading,), timeout=_ENDING)
            if reading.done():
                await reading
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read(self, process: asyncio.subprocess.Process, count: int, answers: list[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        seconds = 0.0
        try:
            for _ in range(count):
                seconds = ANSWER_SECONDS if self.has_answered else START_SECONDS
                async with asyncio.timeout(seconds):
                    await process.stdin.drain()
                    answer = await process.stdout.readline()
                if not answer.endswith(b"\n"):
                    return
                self.has_answered = True
                answers.append(answer)
        except TimeoutError:
            raise CodecHangs(f"no answer in {seconds:g} s") from None
        except ValueError:
            raise CodecFailed(f"a line of more than {_LONGEST_LINE} bytes") from None

    async def _ended(self, end: "asyncio.Task[int]") -> CodecFailed:
        """Return the failure of a program that stopped answering."""
        try:
            async with asyncio.timeout(_ENDING):
                code = await asyncio.shield(end)
        except TimeoutError:
            return CodecFailed("the end of its output")
        finally:
            await self.stop()
        if code == 0:
            return CodecFailed("the end of the program")
        return CodecFailed(f"the program exited with {how_ended(code, self.stderr())}", crashed=True)

    def stderr(self) -> list[str]:
        """Return the last lines of standard error since the last request."""
        return last_lines(self._errors, self._asked_at)

    async def stop(self) -> None:
        """End the program and its children."""
        process, self._process = self._process, None
        end, self._end = self._end, None
        if process is not None and end is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await end
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(_ENDING):
                    await process.stdout.read()  # to its end, which closes the transport
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End the program for good."""
        await self.stop()
        self._errors.close()


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Return the exit code. `Process.wait` would also wait for pipes held open by children."""
    while process.returncode is None:  # noqa: ASYNC110 - asyncio has no event for it
        await asyncio.sleep(_LOOK)
    return process.returncode
