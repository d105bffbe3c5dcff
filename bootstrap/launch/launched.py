"""The rank's end of the launcher's channel: it stops the run, and passes input to rank 0's program."""

import asyncio
import os
import signal
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
    Message,
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
    """Return the trust of the run, with the keys that the launcher collected. Raise BootstrapError."""
    if start.version != own_version():
        text = f"this host has version {own_version()}, and the launcher {start.version}; install the same version"
        raise BootstrapError(text, code="package-version")
    keys = [decode_public_key(text) for text in start.keys]
    signer = load_identity()
    if len(keys) != plan.size or keys[plan.rank] != signer.public_key:
        text = "the identity key of this host has changed since the launcher asked for it; launch again"
        raise BootstrapError(text, code="identity-changed")
    return Trust(signer, {rank: key for rank, key in enumerate(keys) if rank != plan.rank})


def take_standard_input(reads: bool) -> tuple[int, int | None]:
    """Replace standard input with a pipe if the program `reads` it, else with /dev/null.

    Return the descriptor of the former standard input, which is the channel, and the pipe's writing end.
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
    """Follow the channel inside the block, starting with the bytes `begun`. Close both descriptors at the end.

    Call `taken` with the number of input bytes passed to the program so far.
    """
    reader = asyncio.StreamReader(MAX_LINE)
    reader.feed_data(begun)  # before the channel brings more
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(channel, "rb", buffering=0)
    )
    program = None if writing is None else ProgramInput(writing, taken)
    task = asyncio.create_task(follow(run, reader, program))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        transport.close()
        if program is not None:
            program.close()


async def follow(run: Run, reader: asyncio.StreamReader, program: "ProgramInput | None") -> None:
    """Act on the lines of the channel until it ends or breaks the rules, which stops the run."""
    try:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    line = await reader.readuntil(b"\n")
            except TimeoutError:
                raise silent() from None
            except asyncio.LimitOverrunError:
                raise malformed("a line without an end") from None
            except (EOFError, OSError):
                raise gone() from None
            _obey(decode(line), run, program)
    except ChannelError as error:
        run.stop(error)


def _obey(message: Message, run: Run, program: "ProgramInput | None") -> None:
    match message:
        case Heartbeat():
            pass
        case Stop(number) if number in _SIGNALS:
            run.interrupt(number)
        case Stop(number):
            raise malformed(f"signal {number} does not stop a rank")
        case Start():
            raise malformed("a second start")
        case Input(data) if program is not None:
            program.put(data)
        case InputEnd() if program is not None:
            program.end()
        case _:
            raise malformed("input for a rank whose program reads none")


class ProgramInput:
    """Writes to the pipe of the program's standard input, as fast as the program reads."""

    def __init__(self, descriptor: int, taken: Callable[[int], None]) -> None:
        self._descriptor: int | None = descriptor
        self._taken = taken
        self._waiting = bytearray()
        self._passed = 0
        self._has_ended = False
        self._loop = asyncio.get_running_loop()

    def put(self, data: bytes) -> None:
        """Take more input. Raise ChannelError if it exceeds the window or follows the end."""
        if self._has_ended or not data:
            raise malformed("input after its end, or none")
        self._waiting += data
        if len(self._waiting) > WINDOW:
            raise malformed(f"more than {WINDOW} bytes of unread input")
        self._write()

    def end(self) -> None:
        """Close the program's input once everything is written."""
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
        if self._waiting:
            with suppress(BlockingIOError):
                count = os.write(self._descriptor, self._waiting)
                del self._waiting[:count]
                self._passed += count
                self._taken(self._passed)
        if self._waiting:
            self._loop.add_writer(self._descriptor, self._write)
        elif self._has_ended:
            self.close()
        else:
            self._loop.remove_writer(self._descriptor)
