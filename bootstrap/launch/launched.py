"""The rank's end of the launcher's channel: it stops the run, and passes input on to rank 0's program."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from bootstrap.capabilities import own_version
from bootstrap.control.run import Run
from bootstrap.errors import BootstrapError
from bootstrap.launch.channel import (
    MAX_LINE,
    SILENCE_SECONDS,
    WINDOW,
    ChannelError,
    Heartbeat,
    Input,
    InputEnd,
    Start,
    Stop,
    decode,
    gone,
    malformed,
    silent,
)
from bootstrap.plan import Plan
from bootstrap.trust import Trust, decode_public_key, load_identity

_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def trust_of(start: Start, plan: Plan) -> Trust:
    """Return the trust of the run: the keys that the launcher has asked every host for. BootstrapError."""
    if start.version != own_version():
        text = f"this host has version {own_version()}, and the launcher {start.version}; install the same on both"
        raise BootstrapError(text, code="package-version")
    keys = [decode_public_key(text) for text in start.keys]
    signer = load_identity()
    if len(keys) != plan.size or keys[plan.rank] != signer.public_key:
        text = "the identity key of this host is not the one that it told the launcher; launch again"
        raise BootstrapError(text, code="identity-changed")
    return Trust(signer, {rank: key for rank, key in enumerate(keys) if rank != plan.rank})


def take_standard_input(reads: bool) -> tuple[int, int | None]:
    """Put another file in the place of standard input: a pipe if the program `reads` it, else /dev/null.

    Return the descriptor that was standard input, the channel's, and the one that writes to the pipe.
    """
    channel = os.dup(0)
    reading, writing = os.pipe() if reads else (os.open(os.devnull, os.O_RDONLY), None)
    os.dup2(reading, 0)
    os.close(reading)
    if writing is not None:
        os.set_blocking(writing, False)
    return channel, writing


@asynccontextmanager
async def following(
    run: Run, channel: int, begun: bytes, writing: int | None, taken: Callable[[int], None]
) -> AsyncIterator[None]:
    """Follow the channel inside the block; `begun` are bytes of it that have been read. Closes both descriptors.

    `taken` is told how many bytes of input have been passed on so far.
    """
    loop = asyncio.get_running_loop()
    follower = Follower(run, None if writing is None else ProgramInput(writing, taken))
    transport, _ = await loop.connect_read_pipe(lambda: follower, os.fdopen(channel, "rb", buffering=0))
    if begun:
        follower.data_received(begun)
    try:
        yield
    finally:
        follower.close()
        transport.close()


class Follower(asyncio.Protocol):
    """Does what the lines of the channel say."""

    def __init__(self, run: Run, program: "ProgramInput | None") -> None:
        self._run, self._program = run, program
        self._held = bytearray()
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(SILENCE_SECONDS, self._check)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._heard = self._loop.time()
        self._held += data
        try:
            while not self._is_over and (end := self._held.find(b"\n")) >= 0:
                line = bytes(self._held[:end])
                del self._held[: end + 1]
                self._take(line)
            if len(self._held) > MAX_LINE:
                raise malformed("a line without an end")
        except ChannelError as error:
            self._end(error)

    def eof_received(self) -> None:
        self._end(gone())

    def connection_lost(self, error: Exception | None) -> None:
        self._end(gone())

    def close(self) -> None:
        self._is_over = True
        self._timer.cancel()
        if self._program is not None:
            self._program.close()

    def _end(self, error: ChannelError) -> None:
        if not self._is_over:
            self.close()
            self._run.stop(error)

    def _check(self) -> None:
        left = self._heard + SILENCE_SECONDS - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._end(silent())

    def _take(self, line: bytes) -> None:
        match decode(line):
            case Heartbeat():
                pass
            case Stop(number) if number in _SIGNALS:
                self._run.interrupt(number)
            case Stop(number):
                raise malformed(f"signal {number} is none that stops a rank")
            case Start():
                raise malformed("a second start")
            case Input() | InputEnd() if self._program is None:
                raise malformed("input for a rank whose program reads none")
            case Input(data) if self._program is not None:
                self._program.put(data)
            case InputEnd() if self._program is not None:
                self._program.end()


class ProgramInput:
    """Writes to the pipe that is the program's standard input, as fast as that reads."""

    def __init__(self, descriptor: int, taken: Callable[[int], None]) -> None:
        self._descriptor: int | None = descriptor
        self._taken = taken
        self._waiting: deque[bytes] = deque()
        self._size = self._passed = 0
        self._has_ended = False
        self._loop = asyncio.get_running_loop()

    def put(self, data: bytes) -> None:
        """Take more input. ChannelError for more than fits, or after the end."""
        if self._has_ended or not data:
            raise malformed("input after its end, or none")
        self._size += len(data)
        if self._size > WINDOW:
            raise malformed(f"more than {WINDOW} bytes of input that nobody has read yet")
        self._waiting.append(data)
        self._write()

    def end(self) -> None:
        """Close the program's input once all is passed on."""
        self._has_ended = True
        self._write()

    def close(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self) -> None:
        if self._descriptor is None:
            return
        before = self._passed
        while self._waiting:
            data = self._waiting[0]
            try:
                count = os.write(self._descriptor, data)
            except BlockingIOError:
                break
            self._waiting.popleft()
            if count < len(data):
                self._waiting.appendleft(data[count:])
            self._size -= count
            self._passed += count
        if self._passed > before:
            self._taken(self._passed)
        if self._waiting:
            self._loop.add_writer(self._descriptor, self._write)
            return
        with suppress(ValueError):
            self._loop.remove_writer(self._descriptor)
        if self._has_ended:
            self.close()
