"""The doctor's ladders of all hosts as one table: the first red check of each host with its remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from bootstrap.doctor.checks import MARKS, Check, Verdict

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Row:
    """A rank, its host, and the check that matters most: the red one, else the first yellow one, else none."""

    rank: int
    host: str
    check: Check | None

    @classmethod
    def of(cls, rank: int, host: str, checks: Sequence[Check]) -> "Row":
        by_verdict: dict[Verdict, Check] = {}
        for check in checks:
            by_verdict.setdefault(check.verdict, check)
        return cls(rank, host, by_verdict.get("red") or by_verdict.get("yellow"))

    @property
    def ok(self) -> bool:
        """Whether the rank can start."""
        return self.check is None or self.check.verdict != "red"

    def to_json(self) -> dict[str, Any]:
        """Return the row of the event `ladders`."""
        found = None if self.check is None else asdict(self.check)
        return {"rank": self.rank, "host": self.host, "ok": self.ok, "check": found}

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "Row":
        """Return the row that `to_json` gave."""
        return cls(row["rank"], row["host"], None if row["check"] is None else Check(**row["check"]))


def render(rows: Sequence[Row], *, terminal: bool) -> str:
    """Return the table, a line for each host and one for each cause and remedy: uncut, so that it can be copied.

    For a terminal it has marks and colours, else plain words.
    """
    from rich.console import Console  # here, since only people need it

    lines = [line for row in rows for line in _lines(row, _widths(rows), terminal)]
    if not terminal:
        return "".join(f"{line.plain.rstrip()}\n" for line in lines)
    console = Console(file=StringIO(), force_terminal=True, highlight=False, color_system="standard")
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    return captured.get()


def _widths(rows: Sequence[Row]) -> tuple[int, int, int]:
    return (
        max(len(str(row.rank)) for row in rows),
        max(len(row.host) for row in rows),
        max(len(row.check.name if row.check else "") for row in rows),
    )


def _lines(row: Row, widths: tuple[int, int, int], terminal: bool) -> "list[Text]":
    from rich.text import Text

    verdict: Verdict = "green" if row.check is None else row.check.verdict
    mark, colour = MARKS[verdict]
    shown = mark if terminal else f"{verdict:<6}"
    name, evidence = ("", "nothing is wrong") if row.check is None else (row.check.name, row.check.evidence)
    who = f"{row.rank:>{widths[0]}}  {row.host:<{widths[1]}}"
    first = Text.assemble((shown, f"bold {colour}"), "  ", who, "  ", (f"{name:<{widths[2]}}", "bold"), "  ", evidence)
    margin = " " * (len(shown) + 2 + len(who) + 2)
    more = [] if row.check is None else [("cause", row.check.cause), ("remedy", row.check.remedy)]
    return [
        first,
        *(Text.assemble(margin, (f"{label:<{widths[2]}}", "dim"), "  ", text) for label, text in more if text),
    ]
