"""The doctor's results of all hosts as one table: the first red check of each host, with its remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from bootstrap.doctor.checks import MARKS, Check

if TYPE_CHECKING:
    from rich.text import Text

GOOD: Final = Check("", "green", "nothing is wrong")


@dataclass(frozen=True)
class Row:
    """A rank, its host, and the check that matters most: the red one, else the first yellow one, else none."""

    rank: int
    host: str
    check: Check | None

    @classmethod
    def of(cls, rank: int, host: str, checks: Sequence[Check]) -> "Row":
        by_verdict = {check.verdict: check for check in reversed(checks)}
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
        """Return the row from what `to_json` returned."""
        return cls(row["rank"], row["host"], None if row["check"] is None else Check(**row["check"]))


def render(rows: Sequence[Row], *, terminal: bool) -> str:
    """Return the table: a line for each host, cause and remedy, uncut, so that they can be copied.

    For a terminal it has marks and colours, else plain words.
    """
    from rich.console import Console  # imported here: programs do not need it

    ranks, hosts = max(len(str(row.rank)) for row in rows), max(len(row.host) for row in rows)
    checks = [(f"{row.rank:>{ranks}}  {row.host:<{hosts}}  ", row.check or GOOD) for row in rows]
    names = max(8, *(len(check.name) for _, check in checks))
    lines = [line for who, check in checks for line in check_lines(check, names, who, terminal=terminal)]
    if not terminal:
        return "".join(f"{line.plain.rstrip()}\n" for line in lines)
    console = Console(file=StringIO(), force_terminal=True, highlight=False, color_system="standard")
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    return captured.get()


def check_lines(check: Check, width: int, who: str = "", *, terminal: bool) -> "list[Text]":
    """Return the lines of a check: its verdict, `who` it is about, its name padded to `width`; cause and remedy."""
    from rich.text import Text

    mark, colour = MARKS[check.verdict]
    shown = mark if terminal else f"{check.verdict:<7}"
    first = Text.assemble(
        (shown, f"bold {colour}"), "  ", who, (f"{check.name:<{width}}", "bold"), "  ", check.evidence
    )
    margin = " " * (len(shown) + 2 + len(who))
    more = [("  cause", check.cause), ("  remedy", check.remedy)]
    return [first, *(Text.assemble(margin, (f"{label:<{width}}", "dim"), "  ", text) for label, text in more if text)]
