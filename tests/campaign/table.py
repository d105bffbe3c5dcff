"""The results as a table: a row per fault, a column per stage, and one for all of them."""

from collections.abc import Iterable, Iterator

from tests.campaign.plan import CELLS, FAULTS, STAGES
from tests.campaign.play import Result

WIDTH = 10


def table(results: Iterable[Result]) -> Iterator[str]:
    """For each cell: runs, recovered and cleanly failed ones, and the worst time in seconds."""
    by_cell: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_cell.setdefault((result.case.stage, result.case.fault), []).append(result)
    possible = {(cell.stage, cell.fault) for cell in CELLS}
    yield " " * 12 + "".join(f"{stage:>{WIDTH}}" for stage in (*STAGES, "all"))
    for fault in FAULTS:
        cells = [by_cell.get((stage, fault), []) for stage in STAGES]
        cells.append([result for cell in cells for result in cell])
        blank = ["" if (stage, fault) in possible else "-" for stage in STAGES] + [""]
        yield f"{fault:<12}" + "".join(
            f"{_counts(cell) or none:>{WIDTH}}" for cell, none in zip(cells, blank, strict=True)
        )
        yield " " * 12 + "".join(f"{_worst(cell):>{WIDTH}}" for cell in cells)
    yield "runs=recovered+failed cleanly, !wrong; below, the worst time; -: makes no sense, see tests/campaign/plan.py"


def _counts(cell: list[Result]) -> str:
    if not cell:
        return ""
    wrong = sum(bool(result.wrong) for result in cell)
    recovered = sum(result.recovered and not result.wrong for result in cell)
    return f"{len(cell)}={recovered}+{len(cell) - recovered - wrong}" + (f"!{wrong}" if wrong else "")


def _worst(cell: list[Result]) -> str:
    return f"{max(result.seconds for result in cell):.1f} s" if cell else ""
