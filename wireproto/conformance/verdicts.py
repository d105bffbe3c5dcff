"""What comes of a case: verdicts, and the record of what happened on the way."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

MAX_RECORDED: Final = 256 * 1024
"""Bytes that one record keeps: a peer that floods must not fill the memory."""


class Verdict(Enum):
    """What a case says about the peer under test."""

    PASS = "pass"  # noqa: S105 - no password
    CRASH = "crash"
    """The peer's process has ended; above all others, whatever else the case found."""
    FAIL = "fail"
    """A MUST is broken."""
    NON_STRICT = "non-strict"
    """A SHOULD is missed: tolerated, and worth knowing."""
    UNIMPLEMENTED = "unimplemented"
    """The peer does not have what the case is about, and need not have it."""
    INCONCLUSIVE = "inconclusive"
    """The case did not get as far as what it is about."""
    SKIPPED = "skipped"
    """Not run; the reason says why."""


BAD: Final = (Verdict.CRASH, Verdict.FAIL, Verdict.INCONCLUSIVE)
"""The verdicts that make a run fail."""


class Missed(Exception):  # noqa: N818 - what the peer did, not an error of this program
    """The peer did something else than a requirement says."""

    def __init__(self, expected: str, came: str, requirement: str | None = None) -> None:
        super().__init__(f"expected {expected}; came {came}")
        self.expected = expected
        self.came = came
        self.requirement = requirement
        """Where it is not the strictest of the case's."""


class Undecided(Exception):  # noqa: N818
    """Why a case has a verdict other than pass and fail."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


@dataclass(frozen=True)
class Entry:
    """Something that happened in a case."""

    at: float
    """Seconds since the case began."""
    kind: Literal["step", "sent", "received", "end"]
    """`end` is the peer's, of the connection."""
    connection: int
    """Counts a case's connections from 1; 0 for what belongs to none."""
    text: str = ""
    data: bytes = b""


@dataclass
class Record:
    """What happened in one attempt at a case."""

    began: float = field(default_factory=time.time)
    """Seconds since 1970."""
    entries: list[Entry] = field(default_factory=list)
    key_log: list[str] = field(default_factory=list)
    """A line for each session."""
    _start: float = field(default_factory=time.monotonic)
    _size: int = 0

    def step(self, text: str, connection: int = 0) -> None:
        self._add(Entry(self._now(), "step", connection, text))

    def sent(self, data: bytes, connection: int) -> None:
        self._bytes("sent", data, connection)

    def received(self, data: bytes, connection: int) -> None:
        self._bytes("received", data, connection)

    def end(self, text: str, connection: int) -> None:
        self._add(Entry(self._now(), "end", connection, text))

    def clear(self) -> None:
        """Forget what has happened."""
        self.entries.clear()
        self.key_log.clear()
        self._size = 0

    @property
    def steps(self) -> list[str]:
        """The case as a script."""
        return [entry.text for entry in self.entries if entry.kind == "step"]

    def _bytes(self, kind: Literal["sent", "received"], data: bytes, connection: int) -> None:
        kept = data[: max(MAX_RECORDED - self._size, 0)]
        self._size += len(kept)
        if kept:
            left_out = f"{len(data) - len(kept)} bytes more, not kept" if len(kept) < len(data) else ""
            self._add(Entry(self._now(), kind, connection, left_out, kept))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)

    def _now(self) -> float:
        return time.monotonic() - self._start


@dataclass(frozen=True)
class Failure:
    """What was wrong."""

    requirement: str
    text: str
    """The requirement's own words."""
    expected: str
    came: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one case."""

    id: str
    section: str
    about: str
    level: str
    requirements: tuple[str, ...]
    verdict: Verdict
    reason: str = ""
    """Of a verdict other than pass; for a failure, in one line."""
    failure: Failure | None = None
    record: Record = field(default_factory=Record)
    seconds: float = 0.0
    attempts: int = 1
    expected: str = ""
    """Why it was expected to fail, where it was."""
    expected_verdict: Verdict | None = None
    """The verdict that was expected; None for any that is not a pass."""
    rerun: str = ""
    """The command that runs just this case again."""
    stderr: tuple[str, ...] = ()
    """The last lines that the peer wrote on standard error, unless it passed."""
    picture: str = ""
    """The path of its sequence diagram, where one was written."""

    @property
    def flaky(self) -> bool:
        """It passed, though not at once."""
        return self.attempts > 1 and self.verdict not in BAD

    @property
    def spoils(self) -> bool:
        """It makes the run fail: it is bad and was not expected to be, or the other way round."""
        if self.verdict is Verdict.SKIPPED:
            return False
        if not self.expected:
            return self.verdict in BAD
        if self.expected_verdict is not None:
            return self.verdict is not self.expected_verdict
        return self.verdict not in (*BAD, Verdict.NON_STRICT)
