"""Peers in JavaScript, started again and again within one process of node."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from wireproto.conformance.launching import how_ended, last_lines
from wireproto.conformance.targets import Ended, Running

_SCRIPT = Path(__file__).with_name("host.mjs")
_COMMAND = 'ulimit -t 3600; exec node --expose-gc "$0"'
"""An hour of processor time, for one that computes without end when nobody is left to stop it."""
_STOPPING = 2.0
"""Seconds in which a peer that does not compute without end is stopped."""


class Host:
    """One process, with one peer at a time in it. It is started when it is needed, and again where a peer ended it."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the host
        self._process: asyncio.subprocess.Process | None = None
        self._status: int | None = None
        """That of a peer which has ended by itself."""
        self._stopped = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self, file: Path, args: Sequence[str], host: str, port: int) -> AsyncIterator[Running]:
        """A peer from its start to its stop."""
        if self._process is None or self._process.returncode is not None:
            await self._start()
        process = self._process
        assert process is not None
        self._status = None
        since = self._errors.seek(0, 2)
        self._say(process, {"file": str(file), "args": args, "host": host, "port": port})

        def ended() -> Ended | None:
            code = self._status if process.returncode is None else process.returncode
            if code is None:
                return None
            return Ended(f"the peer has ended with {how_ended(code, last_lines(self._errors, since))}", code)

        try:
            yield Running(ended, lambda: last_lines(self._errors, since))
        finally:
            await self._stop(process)

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._kill(self._process)
        self._errors.close()

    async def _start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            *("sh", "-c", _COMMAND, str(_SCRIPT)), stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
        )
        self._reader = asyncio.create_task(self._read(process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, _, status = line.decode().partition(" ")
            if word == "ended":
                self._status = int(status)
            else:
                self._stopped.set()

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        self._stopped.clear()
        self._say(process, "stop")
        gone, stopped = asyncio.create_task(process.wait()), asyncio.create_task(self._stopped.wait())
        await asyncio.wait((gone, stopped), timeout=_STOPPING, return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, stopped):
            task.cancel()
        if not self._stopped.is_set():
            await self._kill(process)

    @staticmethod
    def _say(process: asyncio.subprocess.Process, what: object) -> None:
        assert process.stdin is not None
        with suppress(OSError):  # it has ended
            process.stdin.write(f"{json.dumps(what)}\n".encode())

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._reader is not None:
            await self._reader
