"""A rank's `up` as a child process: all that it says, to whoever waits for something, and never for ever."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

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
"""Of `bootstrap.link.sessions.Times`: as short as they can be on a busy machine."""

Event = dict[str, Any]


class StoppedError(Exception):
    """Nobody wants to know any more."""


class News:
    """Wakes those who wait for what several processes say."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.is_stopped = False
        """Set from another thread: whoever waits, waits no longer."""

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; say whether it came true in time. Raises `StoppedError`."""
        end = time.monotonic() + seconds
        while not condition():
            if self.is_stopped:
                raise StoppedError
            with self._changed:
                # Also what changes without a word, such as a file or a process, is seen soon.
                self._changed.wait(min(0.05, max(end - time.monotonic(), 0)))
            if time.monotonic() > end:
                return condition()
        return True


class Running(CommandRun):
    """A rank that runs."""

    def __init__(
        self, own: Rank, other: Rank, arguments: list[str], tmp: Path, news: News, env: dict[str, str], **wanted: object
    ) -> None:
        self.rank = own.number
        self._news = news
        self._heard: list[Event] = []
        self._silent = False
        command = ["up", "--own-ip", own.ip, "--peer-ip", other.ip, "--identity", str(own.identity), "--json"]
        super().__init__(
            (*command, *arguments),
            tmp,
            str(PROGRAM),
            None,
            None,
            {"XDG_CONFIG_HOME": str(own.home), "CIRCUMSTANCES": json.dumps(wanted), **env},
        )

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._hear(json.loads(line))
            self._news.tell()
        self._silent = True
        self._news.tell()

    def _hear(self, event: Event) -> None:
        self._heard.append(event)

    @property
    def events(self) -> list[Event]:
        return list(self._heard)

    def said(self, name: str, count: int = 1) -> bool:
        return sum(event["event"] == name for event in self.events) >= count

    @property
    def is_over(self) -> bool:
        """Ended, and all it said is heard. A worker that is left may hold no pipe of its own."""
        return self.process.poll() is not None and self._silent

    @property
    def worker(self) -> int | None:
        """The process number of the worker, or command, that was started last."""
        pids = [event["pid"] for event in self.events if event["event"] == "started"]
        return pids[-1] if pids else None

    @property
    def guard(self) -> int | None:
        """That of the process that tidies up when the control process is killed."""
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
        """All that went wrong, by code: on a link, as a consequence, at the end."""
        return {str(event["code"]) for event in self.events if "code" in event}

    def close(self) -> None:
        """Kill what is left of it."""
        self.kill_all()
        for reader in self._readers:
            reader.join(10)
