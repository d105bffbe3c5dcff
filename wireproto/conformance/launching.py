"""Starts a peer under test by a command, and keeps its standard error."""

import asyncio
import os
import re
import shlex
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO, Final

from wireproto.conformance.targets import Ended, Launcher, Running

STOP_SECONDS: Final = 2.0
KILL_SECONDS: Final = 10.0
"""Seconds to wait for an exit. A busy machine is slow, and giving up early would make asyncio warn."""
_LAST_LINES: Final = 20
_LAST_BYTES: Final = 16 * 1024
_NOISE: Final = re.compile(r"\s*$|Node\.js v\d|\s+at \S|\s+\^")
"""Lines that do not show the cause: empty ones, node's version and its stack frames."""


def command_launcher(command: str) -> Launcher:
    """Run a command, split as by a shell, with the address in CONFORM_HOST and CONFORM_PORT."""
    words = shlex.split(command)

    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        environment = {**os.environ, "CONFORM_HOST": host, "CONFORM_PORT": str(port)}
        with tempfile.TemporaryFile() as errors:
            process = await asyncio.create_subprocess_exec(
                *words,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            stopping = False

            def ended() -> Ended | None:
                code = process.returncode
                if stopping or code is None:
                    return None
                return Ended(f"the peer exited with {how_ended(code, last_lines(errors))}", code)

            try:
                yield Running(ended, lambda: last_lines(errors))
            finally:
                stopping = True
                await _stop(process)

    return launch


def last_lines(errors: IO[bytes], since: int = 0) -> list[str]:
    """Return the last lines of a file that a process may still write to, from byte `since`."""
    size = os.fstat(errors.fileno()).st_size
    # Leave the file's position unchanged: the peer writes there.
    text = os.pread(errors.fileno(), _LAST_BYTES, max(size - _LAST_BYTES, since))
    return text.decode(errors="replace").splitlines()[-_LAST_LINES:]


def how_ended(code: int, lines: Sequence[str]) -> str:
    """Return the signal or exit status of a process, and its last relevant line on standard error."""
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    last = next((line.strip() for line in reversed(lines) if not _NOISE.match(line)), "")
    return name + (f": {last}" if last else "")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Signal the whole process group, with a shell's children."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
                return
