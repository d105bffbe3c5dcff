"""Results as lines of JSON, as text, and as the totals of a run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from wireproto.conformance.verdicts import BAD, Entry, Result, Verdict

_SHOWN: Final = 96
"""Bytes of one piece shown in text."""


@dataclass
class Sum:
    """The totals of a run."""

    title: str
    results: list[Result] = field(default_factory=list)
    peer: str = ""
    """The command or address of the peer."""
    suite: str = ""
    """The version of the suite."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        """Add a result."""
        self.results.append(result)
        self.seconds = (datetime.now(UTC) - self.began).total_seconds()

    @property
    def header(self) -> str:
        """Return the peer, the version of the suite, the start and the duration."""
        parts = (self.peer, self.suite, f"{self.began:%Y-%m-%d %H:%M:%S} UTC", f"{self.seconds:.1f} s")
        return ", ".join(part for part in parts if part)

    @property
    def verdicts(self) -> dict[str, int]:
        """Return the number of results per verdict, including verdicts without results."""
        counts = Counter(result.verdict for result in self.results)
        return {verdict.value: counts[verdict] for verdict in Verdict}

    @property
    def flakes(self) -> list[str]:
        """Return the ids of cases that passed, but not at the first attempt."""
        return [result.id for result in self.results if result.flaky]

    @property
    def unexpected_passes(self) -> list[str]:
        """Return the ids of cases that did not fail as expected."""
        return [result.id for result in self.results if result.spoils and result.expected]

    @property
    def exit_code(self) -> int:
        """Return 3 if the sanity case could not reach the peer, 1 if a result spoils the run, otherwise 0."""
        for result in self.results:
            if result.section == "sanity" and result.verdict is Verdict.INCONCLUSIVE:
                return 3
        return int(any(result.spoils for result in self.results))

    def as_object(self) -> dict[str, Any]:
        """Return the last JSON object of a run."""
        return {
            "event": "summary",
            "title": self.title,
            "peer": self.peer,
            "suite": self.suite,
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "verdicts": self.verdicts,
            "flakes": self.flakes,
            "unexpected_passes": self.unexpected_passes,
            "exit_code": self.exit_code,
        }


def as_object(result: Result, *, most: int | None = None) -> dict[str, Any]:
    """Return the JSON object of one case, with steps and bytes unless it passed.

    With `most` they are always included, with at most that many bytes of one piece.
    """
    shown: dict[str, Any] = {
        "event": "case",
        "id": result.id,
        "verdict": result.verdict.value,
        "level": result.level,
        "requirements": list(result.requirements),
        "section": result.section,
        "about": result.about,
        "seconds": round(result.seconds, 3),
        "attempts": result.attempts,
    }
    for name in ("reason", "expected", "rerun", "picture"):
        if value := getattr(result, name):
            shown[name] = value
    if result.failure is not None:
        shown["failure"] = vars(result.failure)
    if result.stderr:
        shown["stderr"] = list(result.stderr)
    if result.verdict is not Verdict.PASS or most is not None:
        shown["log"] = [_entry(entry, most) for entry in result.record.entries]
    return shown


def _entry(entry: Entry, most: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"at": round(entry.at, 6), "kind": entry.kind, "connection": entry.connection}
    if entry.text:
        shown["text"] = entry.text
    if entry.data:
        shown["bytes"] = entry.data[:most].hex()
        if most is not None and len(entry.data) > most:
            shown["text"] = f"{len(entry.data)} bytes, the first {most} of them:"
    return shown


def headline(result: Result) -> str:
    """Return a result in one line."""
    notes = []
    if result.flaky:
        notes.append(f"a flake: attempt {result.attempts}")
    if result.spoils and result.expected:
        notes.append(f"expected to fail: {result.expected}")
    elif result.expected:
        notes.append(f"as expected: {result.expected}")
    if result.reason:
        notes.append(result.reason)
    return f"{result.verdict.value:<13} {result.id}" + "".join(f"; {note}" for note in notes)


def details(result: Result) -> Iterator[str]:
    """Yield the details of a failure: requirement, expectation, bytes, and the command that reruns it."""
    yield f"    {result.about}"
    if result.failure is not None:
        yield f"    [{result.failure.requirement}] {result.failure.text}"
        yield f"    expected {result.failure.expected}"
        yield f"    got      {result.failure.came}"
    yield from (f"    {line}" for line in log_lines(result.record.entries))
    yield from (f"    stderr   {line}" for line in result.stderr)
    if result.picture:
        yield f"    picture: {result.picture}"
    if result.rerun:
        yield f"    again: {result.rerun}"


def log_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield steps and bytes with their times; `>` is sent, `<` is received."""
    for entry in entries:
        sign = {"step": " ", "sent": ">", "received": "<", "end": "|"}[entry.kind]
        text = entry.text
        if entry.data:
            left_out = f" … ({len(entry.data)} bytes)" if len(entry.data) > _SHOWN else ""
            text = f"{entry.data[:_SHOWN].hex()}{left_out} {text}"
        yield f"{entry.at:9.4f} #{entry.connection} {sign} {text}".rstrip()


def is_worth_details(result: Result) -> bool:
    return result.verdict in (*BAD, Verdict.NON_STRICT) and not result.expected
