"""A decoder in a process of its own, asked over a pipe: frames in hex go in, a line for each has to come out."""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import IO, Final

from wireproto.conformance.launching import how_ended, last_lines

ANSWER_TIME: Final = 10.0
"""Seconds for the next answer to come."""
START_TIME: Final = 120.0
"""Seconds for the first answer of all: `swift run` and `cargo run` compile first."""
_ENDING: Final = 10.0
"""Seconds for a process to end."""
_LOOK: Final = 0.2
"""Seconds between two looks whether the process is still there: a child of it may keep the pipe open."""
SLOW: Final = 2.0
"""Seconds for one answer that are too many, when a fresh process takes so long, too."""
TOO_SLOW: Final = f"more than {SLOW:g} s for one answer"


class CodecError(Exception):
    """The decoder does not answer: `kind` says how."""

    def __init__(
        self, kind: str, answers: Sequence[bytes] = (), stderr: Sequence[str] = (), *, crashed: bool = False
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.answers = answers
        """Those that came before."""
        self.stderr = tuple(stderr)
        """The last lines on standard error."""
        self.crashed = crashed


class TimeIsUp(Exception):  # noqa: N818
    """The run is over; that there is no answer yet says nothing."""


class Codec:
    """The decoder."""

    def __init__(self, command: Sequence[str], end: float = inf) -> None:
        """`end`, by `time.monotonic`, is that of the run."""
        self.end = end
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        """Standard error of the process, of which only the last lines are looked at."""
        self._rest = b""
        self._has_answered = False

    def ask(self, frames: Sequence[bytes]) -> list[bytes]:
        """An answer for each frame. Raises `CodecError`; then the next question goes to a fresh process."""
        is_fresh = self._process is None
        process = self._started()
        answers: list[bytes] = []
        last = time.monotonic()
        try:
            for answer in self._answers(process, lines(frames)):
                before, last = last, time.monotonic()
                if last - before > SLOW and not (is_fresh and not answers):  # the first answer has the start in it
                    raise self._stopped(TOO_SLOW, answers)
                answers.append(answer)
                self._has_answered = True
                if len(answers) == len(frames):
                    return answers
        except TimeoutError:
            is_over = time.monotonic() >= self.end
            if is_over and (time.monotonic() - last < SLOW or (is_fresh and not answers)):
                raise TimeIsUp from None
            kind = "no answer by the end of the run" if is_over else f"no answer within {self._patience:g} s"
            raise self._stopped(kind, answers) from None
        except OSError:
            pass  # it does not read any more
        raise self._ended(process, answers)

    @property
    def _patience(self) -> float:
        return ANSWER_TIME if self._has_answered else START_TIME

    def _ended(self, process: "subprocess.Popen[bytes]", answers: Sequence[bytes]) -> CodecError:
        """How a process that answers no more has ended."""
        try:
            code = process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            return self._stopped("it closes its output", answers)
        return self._stopped(f"{'crash' if code else 'end'}: {how_ended(code, ())}", answers, crashed=code != 0)

    def _stopped(self, kind: str, answers: Sequence[bytes], *, crashed: bool = False) -> CodecError:
        """Stop a process with which something is wrong."""
        stderr = last_lines(self._errors) if self._errors else ()
        self.stop()
        return CodecError(kind, answers, stderr, crashed=crashed)

    def peak(self) -> int:
        """Bytes of memory that the process has had at most; now, where that is not known; 0 where nothing is."""
        if self._process is None:
            return 0
        status = Path(f"/proc/{self._process.pid}/status")
        try:
            if status.exists():
                return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
            command = ["/bin/ps", "-o", "rss=", "-p", str(self._process.pid)]
            return int(subprocess.run(command, capture_output=True, timeout=10, check=True).stdout) * 1024
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return 0

    def stop(self) -> None:
        """End the process, and its children."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate(timeout=_ENDING)
            self._process = None
            self._rest = b""
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `stop`
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError:
                errors.close()
                raise
            self._errors = errors
            for pipe in (self._process.stdin, self._process.stdout):
                os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        return self._process

    def _answers(self, process: "subprocess.Popen[bytes]", data: bytes) -> Iterator[bytes]:
        """The lines that come while `data` goes in, to the end of the stream or of the process. Raises TimeoutError."""
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # noqa: PT018, S101 - both are pipes
        deadline = min(time.monotonic() + self._patience, self.end)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while True:
                ended = process.poll() is not None
                left = deadline - time.monotonic()
                ready = {key.fileobj for key, _ in selector.select(max(min(left, _LOOK), 0))}
                if not ready or (ended and stdout not in ready):
                    if ended:
                        return
                    if left <= 0:
                        raise TimeoutError
                    continue
                if stdin in ready:
                    data = data[os.write(stdin.fileno(), data[: 64 * 1024]) :]
                    if not data:
                        selector.unregister(stdin)
                if stdout in ready:
                    read = os.read(stdout.fileno(), 1024 * 1024)
                    if not read:
                        return
                    *found, self._rest = (self._rest + read).split(b"\n")
                    if found:
                        deadline = min(time.monotonic() + ANSWER_TIME, self.end)
                    yield from found


def lines(frames: Sequence[bytes]) -> bytes:
    """Frames as a decoder reads them."""
    return b"".join(frame.hex().encode() + b"\n" for frame in frames)
