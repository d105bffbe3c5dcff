"""Runs system tools with a time limit: some hang on a wedged port."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final, Literal, Protocol

MAX_OUTPUT: Final = 1 << 20
"""Bytes kept of each stream; the rest is dropped."""
_REAP_SECONDS: Final = 0.2  # a process that survives even KILL is left behind


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """`missing`: could not be started, `stderr` has the reason; `failed`: exit status not 0; `hung`: killed."""

    status: Literal["ok", "missing", "failed", "hung"]
    stdout: str = ""
    stderr: str = ""
    returncode: int | None = None


class RunTool(Protocol):
    """Runs a program without input in the C locale, for at most `seconds` until it and its output end."""

    def __call__(self, argv: Sequence[str], seconds: float) -> ToolResult: ...


def run_process(argv: Sequence[str], seconds: float) -> ToolResult:
    """Run a program as `RunTool` says, in its own process group, which is killed when the time is over."""
    deadline = time.monotonic() + seconds
    process: subprocess.Popen[bytes] | None = None
    ended = False
    # A signal during the start would leave a process behind.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGALRM})
    try:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            return ToolResult(status="missing", stderr=str(error.strerror))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert process.stdout is not None  # noqa: S101 - they are pipes
        assert process.stderr is not None  # noqa: S101
        kept = {process.stdout: bytearray(), process.stderr: bytearray()}
        ended = _read(kept, deadline) and _wait(process, deadline - time.monotonic())
    finally:
        if process is not None:
            if not ended:
                _kill(process)
            for stream in filter(None, (process.stdout, process.stderr)):
                stream.close()
    stdout, stderr = (bytes(data).decode(errors="replace") for data in kept.values())
    status: Literal["ok", "failed", "hung"] = "hung" if not ended else "failed" if process.returncode else "ok"
    return ToolResult(status=status, stdout=stdout, stderr=stderr, returncode=process.returncode)


def _read(kept: dict[IO[bytes], bytearray], deadline: float) -> bool:
    """Read until all streams end. Return False if the time is over first."""
    with selectors.DefaultSelector() as selector:
        for stream, data in kept.items():
            selector.register(stream, selectors.EVENT_READ, data)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk[: MAX_OUTPUT - len(key.data)])
    return True


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process group. Its number is not reused until its leader is reaped."""
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    _wait(process, _REAP_SECONDS)
