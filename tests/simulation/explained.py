"""Differences between the campaign and the simulation that have a reason."""

from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from tests.campaign.play import Result


class Explanation(NamedTuple):
    """A real outcome that no simulated world has. Cell and ends are patterns of fnmatch."""

    cell: str
    """Shape, stage and fault."""
    ends: str
    """Code and exit status of each rank."""
    reason: str
    gap: float = 0.0
    """The least time between the starts of the ranks, in seconds."""


EXPLAINED: Final = (
    Explanation(
        "namespaces * [df]*",
        "deadline *, deadline *",
        "MLX's own connections lose the packets, too; in a simulated world they do not",
    ),
    Explanation(
        "*", "*", "the machine was so busy that one rank started shortly before the other's deadline", gap=10.0
    ),
)


def explanation(result: Result) -> Explanation | None:
    """Return why no simulated world ends as this case did, or None."""
    case = result.case
    cell = f"{case.shape} {case.stage} {case.fault}"
    ends = ", ".join(f"{end.code} {end.status}" for end in result.ends)
    for each in EXPLAINED:
        if fnmatchcase(cell, each.cell) and fnmatchcase(ends, each.ends) and abs(result.gap) >= each.gap:
            return each
    return None
