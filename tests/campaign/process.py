"""A rank's `up` as a child process: its output, and waits with deadlines."""

import json
import math
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from bootstrap.control.output import DRAIN_SECONDS
from tests.bootstrap.conftest import CommandRun
from tests.bootstrap.ranks import Rank

PROGRAM = Path(__file__).parent / "scripts" / "rank.py"
CLOCK = PROGRAM.with_name("clock")
BRISK: Final = {
    "connect": 2.0,
    "handshake": 2.0,
    "confirm": 3.0,
    "ping_every": 0.5,
    "pong": 1.0,
    "reconnect": 0.3,
    "retry": 0.1,
    "send": 2.0,
}
"""Fields of `bootstrap.link.sessions.Times`, as short as possible on a busy machine."""

PULSE: Final = 0.1
"""Seconds between checks whether the output may be read."""
TAIL_SECONDS: Final = 2 * DRAIN_SECONDS + 1
"""Seconds before its end when a rank gives up unread output on both streams."""

Event = dict[str, Any]


class StoppedError(Exception):
    """The result is no longer wanted."""


class News:
    """Wakes threads that wait for the output of several processes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.is_stopped = False
        """Set from another thread to end all waits."""

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; return whether it became true in time. Raises `StoppedError`."""
        end = time.monotonic() + seconds
        while not condition():
            if self.is_stopped:
                raise StoppedError
            with self._changed:
                # This also detects silent changes, such as files and processes.
                self._changed.wait(min(0.05, max(end - time.monotonic(), 0)))
            if time.monotonic() > end:
                return condition()
        return True


class Running(CommandRun):
    """A running rank, with its own terminal for the streams in `terminal`."""

    def __init__(
        self,
        own: Rank,
        other: Rank,
        arguments: list[str],
        tmp: Path,
        news: News,
        env: dict[str, str],
        terminal: tuple[int, ...] = (),
        **wanted: object,
    ) -> None:
        self.rank = own.number
        self.is_lost = False
        """Whether its output ended: its terminal is closed, or it is not read."""
        self._news = news
        self._heard: list[Event] = []
        self.began = time.monotonic()
        """When it started; corrected by its first event."""
        self._reads, self._hung_up = threading.Event(), threading.Event()
        self._reads.set()
        self._waiting: set[int] = set()
        self._read_again, self._ended = -math.inf, math.inf
        self._terminal: tuple[int, ...] = os.openpty() if terminal else ()
        if terminal:
            wanted["terminal"] = (os.ttyname(self._terminal[1]), *terminal)
        command = ["up", "--own-ip", own.ip, "--peer-ip", other.ip, "--identity", str(own.identity), "--json"]
        super().__init__(
            (*command, *arguments),
            tmp,
            str(PROGRAM),
            None,
            None,
            {"XDG_CONFIG_HOME": str(own.home), "CIRCUMSTANCES": json.dumps(wanted), **env},
            fresh=True,
        )

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        if self._terminal:
            self._read(self._terminal[0], self._take_either)
            for each in self._terminal:
                os.close(each)
        else:
            self._read(self.process.stdout.fileno(), self._take)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self._read(self.process.stderr.fileno(), lambda line: self._stderr.append(line.decode()))

    def _read(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        """Read lines until their end, its exit, or a hangup; pause while reading is disabled."""
        rest = b""
        while descriptor not in self._terminal or not self._hung_up.is_set():
            has_ended = self.process.poll() is not None
            if not has_ended and not self._reads.wait(PULSE):
                self._waiting.add(descriptor)
                continue
            if select.select([descriptor], [], [], PULSE)[0]:
                data = b""
                with suppress(OSError):  # no process has the terminal open
                    data = os.read(descriptor, 65536)
                *lines, rest = (rest + data).split(b"\n")
                for line in filter(None, lines):
                    take(line)
                self._news.tell()
                if not data:
                    break
            elif has_ended:
                break
        self._ended = time.monotonic()
        self._news.tell()

    def _take(self, line: bytes) -> None:
        self._hear(json.loads(line))

    def _take_either(self, line: bytes) -> None:
        if line.startswith(b"{"):
            self._take(line)
        else:
            self._stderr.append(line.decode())

    # -- what is done to its output ------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Stop reading its output, for now or until its end, and fill the remaining room."""
        self._reads.clear()
        self._news.until(lambda: len(self._waiting) == len(self._readers) or self.process.poll() is not None, math.inf)
        for stream in (1, 2):
            with suppress(OSError):  # it has ended
                pipe = os.open(f"/proc/{self.process.pid}/fd/{stream}", os.O_WRONLY | os.O_NONBLOCK)
                with os.fdopen(pipe, "wb", buffering=0) as file:
                    for some in (b"\n" * 4096, b"\n"):
                        while file.write(some):
                            pass

    def read_again(self) -> None:
        self._read_again = time.monotonic()
        self._reads.set()

    def hang_up(self) -> None:
        """Close its terminal."""
        self.is_lost = True
        self._hung_up.set()

    @property
    def is_unheard(self) -> bool:
        """Whether output may have been lost."""
        return self.is_lost or not self._reads.is_set() or self._ended - self._read_again < TAIL_SECONDS

    def _hear(self, event: Event) -> None:
        if not self._heard:
            self.began = time.monotonic() - event["t_ms"] / 1000
        self._heard.append(event)

    @property
    def events(self) -> list[Event]:
        return list(self._heard)

    def said(self, name: str, count: int = 1) -> bool:
        return sum(event["event"] == name for event in self.events) >= count

    @property
    def is_over(self) -> bool:
        """Whether it exited, and all output was read. A remaining worker may not hold a pipe of its own."""
        return self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)

    @property
    def worker(self) -> int | None:
        """The process id of the worker or command that was started last."""
        pids = [event["pid"] for event in self.events if event["event"] == "started"]
        return pids[-1] if pids else None

    @property
    def guard(self) -> int | None:
        """The process id of the guard, which cleans up after a killed control process."""
        try:
            children = psutil.Process(self.process.pid).children()
            return next((child.pid for child in children if "guard.py" in str(child.cmdline())), None)
        except psutil.Error:
            return None

    @property
    def error(self) -> Event | None:
        return next((event for event in self.events if event["event"] == "error"), None)

    @property
    def codes(self) -> set[str]:
        """All failures by code: on a link, as a consequence, at the end."""
        return {str(event["code"]) for event in self.events if "code" in event}
