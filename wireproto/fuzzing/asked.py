"""A decoder in another process, queried over a pipe: frames in hex in, one line for each out."""

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
"""Seconds to wait for an answer."""
START_TIME: Final = 120.0
"""Seconds to wait for the first answer: `swift run` and `cargo run` compile first."""
_ENDING: Final = 10.0
"""Seconds to wait for a process to exit."""
_LOOK: Final = 0.2
"""Seconds between checks that the process still runs: a child of it may keep the pipe open."""
SLOW: Final = 2.0
"""Seconds that make an answer too slow, if a fresh process is as slow."""
TOO_SLOW: Final = f"more than {SLOW:g} s for one answer"


class CodecError(Exception):
    """The decoder does not answer, with the reason in `kind`."""

    def __init__(
        self, kind: str, answers: Sequence[bytes] = (), stderr: Sequence[str] = (), *, crashed: bool = False
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.answers = answers
        """The answers before that."""
        self.stderr = tuple(stderr)
        """The last lines on standard error."""
        self.crashed = crashed


class TimeIsUp(Exception):  # noqa: N818
    """The run is over; a missing answer means nothing."""


class Codec:
    """The decoder."""

    def __init__(self, command: Sequence[str], end: float = inf) -> None:
        """`end` is the end of the run, by `time.monotonic`."""
        self.end = end
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        """Standard error of the process; only its last lines are used."""
        self._rest = b""
        self._has_answered = False

    def ask(self, frames: Sequence[bytes]) -> list[bytes]:
        """Return an answer for each frame. Raises `CodecError`; the next call starts a fresh process."""
        is_fresh = self._process is None
        process = self._started()
        answers: list[bytes] = []
        last = time.monotonic()
        try:
            for answer in self._answers(process, lines(frames)):
                before, last = last, time.monotonic()
                if last - before > SLOW and not (is_fresh and not answers):  # the first answer includes the start
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
            pass  # it no longer reads
        raise self._ended(process, answers)

    @property
    def _patience(self) -> float:
        return ANSWER_TIME if self._has_answered else START_TIME

    def _ended(self, process: "subprocess.Popen[bytes]", answers: Sequence[bytes]) -> CodecError:
        """Return how a process that stopped answering has ended."""
        try:
            code = process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            return self._stopped("it closes its output", answers)
        return self._stopped(f"{'crash' if code else 'end'}: {how_ended(code, ())}", answers, crashed=code != 0)

    def _stopped(self, kind: str, answers: Sequence[bytes], *, crashed: bool = False) -> CodecError:
        """Stop a faulty process."""
        stderr = last_lines(self._errors) if self._errors else ()
        self.stop()
        return CodecError(kind, answers, stderr, crashed=crashed)

    def peak(self) -> int:
        """Return the peak memory of the process in bytes, its current memory if that is unknown, or else 0."""
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
        """End the process and its children."""
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
        """Yield output lines while writing `data`, to the end of the stream or process. Raises TimeoutError."""
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
    """Return frames in the format that a decoder reads."""
    return b"".join(frame.hex().encode() + b"\n" for frame in frames)
