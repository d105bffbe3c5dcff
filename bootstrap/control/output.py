"""stdout and stderr, written by threads: a reader that stalls or exits never blocks the event loop.

The run's own messages are queued up to a limit, then dropped. A command's output waits while the queue is `full`, so a
stalled reader blocks only the command.
"""

import asyncio
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, TextIO

from bootstrap.events import EventDict

Stream = Literal["stdout", "stderr"]

ROOM: Final = 64 * 1024
"""A command's output waits while more bytes than this are queued."""
LIMIT: Final = 1024 * 1024
"""Lines are dropped while more bytes than this are queued."""
DRAIN_SECONDS: Final = 1.0
"""How long the reader may stall at the end before the remaining bytes are dropped."""
SPIN_SECONDS: Final = 0.1
LONGEST_LINE: Final = 64 * 1024
"""A longer line is passed on in pieces."""
_UNFINISHED: Final = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}|\r)\Z")
_CLEAR: Final = b"\r\x1b[2K"
_FRAMES: Final = b"-\\|/"


class Lines:
    """Turns a command's bytes into `output` events: one per line, or per part of a long or unfinished line."""

    def __init__(self, show: Callable[[EventDict], None]) -> None:
        self._show = show
        self._held: dict[tuple[int | None, str], bytes] = {}

    def take(self, rank: int | None, stream: str, data: bytes) -> None:
        """Take the next bytes; b"" ends the stream."""
        *lines, rest = (self._held.pop((rank, stream), b"") + data).split(b"\n")
        for line in lines:
            self._line(rank, stream, line.removesuffix(b"\r"))
        while len(rest) >= LONGEST_LINE:
            self._line(rank, stream, rest[:LONGEST_LINE], partial=True)
            rest = rest[LONGEST_LINE:]
        if rest and not data:
            self._line(rank, stream, rest)
        elif rest:
            self._held[rank, stream] = rest

    def quiet(self, rank: int | None, stream: str) -> None:
        """Show an unfinished line: a prompt or a progress bar."""
        key = rank, stream
        text, self._held[key] = whole_characters(self._held.pop(key, b""))
        if text:
            self._line(rank, stream, text, partial=True)

    def _line(self, rank: int | None, stream: str, line: bytes, *, partial: bool = False) -> None:
        text = line.decode(errors="backslashreplace")
        event: EventDict = {"event": "output", "rank": rank, "stream": stream, "line": text}
        self._show({**event, "partial": True} if partial else event)


def whole_characters(text: bytes) -> tuple[bytes, bytes]:
    """Split off an incomplete UTF-8 character or line end at the end."""
    unfinished = _UNFINISHED.search(text)
    at = len(text) if unfinished is None else unfinished.start()
    return text[:at], text[at:]


class Output:
    """Both standard streams. If they are the same file, one thread writes both, in order."""

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        streams = {"stdout": stdout or sys.stdout, "stderr": stderr or sys.stderr}
        self._writers: dict[str, _Writer | None] = {}
        self._encodings: dict[str, str] = {}
        files: dict[tuple[int, int], _Writer] = {}
        for name, stream in streams.items():
            self._writers[name], self._encodings[name] = None, "utf-8"
            if stream is None:  # the caller closed it
                continue
            with suppress(OSError, ValueError):
                stream.flush()
                status = os.fstat(stream.fileno())
                key = (status.st_dev, status.st_ino)
                files.setdefault(key, _Writer(stream.fileno()))
                self._writers[name], self._encodings[name] = files[key], stream.encoding

    @property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal that understands escape sequences."""
        writer = self._writers["stdout"]
        return writer is not None and os.isatty(writer.descriptor) and os.environ.get("TERM") != "dumb"

    def line(self, stream: Stream, text: str) -> None:
        """Write a line of the run. Characters that the stream cannot encode are escaped."""
        self.write(stream, (text + "\n").encode(self._encodings[stream], errors="backslashreplace"))

    def write(self, stream: Stream, data: bytes) -> None:
        if (writer := self._writers[stream]) is not None:
            writer.put(data)

    def same_file(self) -> bool:
        """Whether stdout and stderr are the same file, so that their lines can mix."""
        return self._writers["stdout"] is self._writers["stderr"]

    def spin(self, text: str | None) -> None:
        """Show a spinner with `text` below the lines on stdout; None removes it."""
        if (writer := self._writers["stdout"]) is not None:
            writer.spin(None if text is None else text.encode(self._encodings["stdout"], errors="backslashreplace"))

    def full(self, stream: Stream) -> bool:
        """Whether a command's output must wait for the reader of a stream."""
        writer = self._writers[stream]
        return writer is not None and writer.waiting > ROOM

    async def failed(self) -> OSError:
        """Wait until writing to stdout fails; return the reason."""
        writer = self._writers["stdout"]
        while writer is None:  # the caller closed it: nothing to fail
            await asyncio.Event().wait()
        return await writer.failed()

    @property
    def failure(self) -> OSError | None:
        return None if (writer := self._writers["stdout"]) is None else writer.failure

    def close(self) -> None:
        """Write the queued bytes, for as long as the reader takes them."""
        for writer in {writer for writer in self._writers.values() if writer is not None}:
            writer.drain()


class _Writer:
    """One file, its queue, and the thread that writes it."""

    def __init__(self, descriptor: int) -> None:
        self.failure: OSError | None = None
        self.waiting = 0
        self.descriptor = descriptor
        self._queue: deque[bytes] = deque()
        self._news = threading.Condition()
        self._spinner: bytes | None = None
        self._drawn = False
        self._thread: threading.Thread | None = None
        self._watcher: tuple[asyncio.AbstractEventLoop, asyncio.Future[OSError]] | None = None

    def put(self, data: bytes) -> None:
        with self._news:
            if self.failure is not None or self.waiting > LIMIT:
                return
            self._queue.append(data)
            self.waiting += len(data)
            self._start()

    def spin(self, text: bytes | None) -> None:
        with self._news:
            self._spinner = text
            if text is not None or self._thread is not None:
                self._start()

    async def failed(self) -> OSError:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[OSError] = loop.create_future()
        with self._news:
            if self.failure is not None:
                return self.failure
            self._watcher = (loop, future)
        return await future

    def drain(self) -> None:
        self.spin(None)
        limit, left = time.monotonic() + DRAIN_SECONDS, self.waiting
        while (self.waiting or self._drawn) and time.monotonic() < limit:
            time.sleep(0.002)
            if self.waiting < left:
                limit, left = time.monotonic() + DRAIN_SECONDS, self.waiting

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._news.notify()

    def _run(self) -> None:
        turn = 0
        try:
            while True:
                with self._news:
                    if not self._queue:
                        self._news.wait(None if self._spinner is None else SPIN_SECONDS)
                    data = self._queue.popleft() if self._queue else None
                    spinner = self._spinner
                if self._drawn and (data is not None or spinner is None):
                    self._write(_CLEAR)
                    self._drawn = False
                if data is not None:
                    self._write(data)
                    with self._news:
                        self.waiting -= len(data)
                elif spinner is not None:
                    turn += 1
                    self._write(_CLEAR + _FRAMES[turn % 4 : turn % 4 + 1] + b" " + spinner)
                    self._drawn = True
        except OSError as error:
            with self._news:
                self.failure = error
                self._queue.clear()
                self.waiting, self._drawn = 0, False
                if self._watcher is not None:
                    loop, future = self._watcher
                    with suppress(RuntimeError):  # the loop has ended
                        loop.call_soon_threadsafe(_settle, future, error)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:  # another process made the file non-blocking
                time.sleep(0.005)


def _settle(future: "asyncio.Future[OSError]", error: OSError) -> None:
    if not future.done():
        future.set_result(error)
