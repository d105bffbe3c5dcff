"""The outcome of a case: its verdict, and the record of its steps."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

MAX_RECORDED: Final = 256 * 1024
"""Bytes kept in one record, so that a flooding peer cannot fill the memory."""


class Verdict(Enum):
    """The result of a case for the peer under test."""

    PASS = "pass"  # noqa: S105 - no password
    CRASH = "crash"
    """The peer's process crashed; overrides every other verdict."""
    FAIL = "fail"
    """A MUST is broken."""
    NON_STRICT = "non-strict"
    """A SHOULD is not met: tolerated, but reported."""
    UNIMPLEMENTED = "unimplemented"
    """The peer lacks an optional feature that the case tests."""
    INCONCLUSIVE = "inconclusive"
    """The case could not reach the point that it tests."""
    SKIPPED = "skipped"
    """Not run, for the given reason."""


BAD: Final = (Verdict.CRASH, Verdict.FAIL, Verdict.INCONCLUSIVE)
"""The verdicts that make a run fail."""


class Missed(Exception):  # noqa: N818 - what the peer did, not an error of this program
    """The peer did not meet a requirement."""

    def __init__(self, expected: str, came: str, requirement: str | None = None) -> None:
        super().__init__(f"expected {expected}; got {came}")
        self.expected = expected
        self.came = came
        self.requirement = requirement
        """The broken requirement, unless it is the strictest of the case."""


class Undecided(Exception):  # noqa: N818
    """The reason of a verdict other than pass and fail."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


@dataclass(frozen=True)
class Entry:
    """One step of a case, or bytes sent or received."""

    at: float
    """Seconds since the case began."""
    kind: Literal["step", "sent", "received", "end"]
    """`end` means that the peer ended the connection."""
    connection: int
    """The number of the connection in the case, from 1; 0 for none."""
    text: str = ""
    data: bytes = b""


@dataclass
class Record:
    """The record of one attempt at a case."""

    began: float = field(default_factory=time.time)
    """Seconds since 1970."""
    entries: list[Entry] = field(default_factory=list)
    key_log: list[str] = field(default_factory=list)
    """Key log lines, one per session."""
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
        """Delete all entries."""
        self.entries.clear()
        self.key_log.clear()
        self._size = 0

    @property
    def steps(self) -> list[str]:
        """The steps of the case."""
        return [entry.text for entry in self.entries if entry.kind == "step"]

    def _bytes(self, kind: Literal["sent", "received"], data: bytes, connection: int) -> None:
        kept = data[: max(MAX_RECORDED - self._size, 0)]
        self._size += len(kept)
        if kept:
            left_out = f"{len(data) - len(kept)} more bytes, not kept" if len(kept) < len(data) else ""
            self._add(Entry(self._now(), kind, connection, left_out, kept))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)

    def _now(self) -> float:
        return time.monotonic() - self._start


@dataclass(frozen=True)
class Failure:
    """The failure of a case."""

    requirement: str
    text: str
    """The text of the requirement."""
    expected: str
    came: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one case."""

    id: str
    section: str
    about: str
    level: str
    requirements: tuple[str, ...]
    verdict: Verdict
    reason: str = ""
    """The reason of a verdict other than pass, in one line."""
    failure: Failure | None = None
    record: Record = field(default_factory=Record)
    seconds: float = 0.0
    attempts: int = 1
    expected: str = ""
    """The reason why a failure was expected, if it was."""
    expected_verdict: Verdict | None = None
    """The expected verdict; None for any but a pass."""
    rerun: str = ""
    """The command that reruns this case."""
    stderr: tuple[str, ...] = ()
    """The last lines of the peer's standard error, unless the case passed."""
    picture: str = ""
    """The path of its sequence diagram, if one was written."""

    @property
    def flaky(self) -> bool:
        """Whether the case passed, but not at the first attempt."""
        return self.attempts > 1 and self.verdict not in BAD

    @property
    def spoils(self) -> bool:
        """Whether the result makes the run fail: an unexpected failure, or an expected one that did not happen."""
        if self.verdict is Verdict.SKIPPED:
            return False
        if not self.expected:
            return self.verdict in BAD
        if self.expected_verdict is not None:
            return self.verdict is not self.expected_verdict
        return self.verdict not in (*BAD, Verdict.NON_STRICT)
