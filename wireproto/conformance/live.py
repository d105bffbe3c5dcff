"""Progress of a run: a live table in a terminal, otherwise plain lines."""

import time
from collections import Counter
from collections.abc import AsyncIterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from wireproto.conformance.report import Sum, details, headline, is_worth_details
from wireproto.conformance.verdicts import Result, Verdict
from wireproto.errors import printable

_EVERY = 5.0
"""Seconds between two lines of progress without a terminal."""
_STYLES = {
    Verdict.PASS: "green",
    Verdict.CRASH: "bold white on red",
    Verdict.FAIL: "bold red",
    Verdict.NON_STRICT: "yellow",
    Verdict.UNIMPLEMENTED: "cyan",
    Verdict.INCONCLUSIVE: "magenta",
    Verdict.SKIPPED: "dim",
}


_QUIET = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNIMPLEMENTED)


async def show(results: AsyncIterator[Result], total: Sum, count: int, console: Console) -> None:
    """Print notable results as they arrive, and the table at the end; add all results to `total`."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    task = progress.add_task(total.title, total=count)
    told = time.monotonic()
    with Live(console=console, transient=True, auto_refresh=console.is_terminal) as live:
        async for result in results:
            total.add(result)
            if result.verdict not in _QUIET or result.flaky or result.spoils:
                _print(result, console)
            progress.update(task, completed=len(total.results))
            live.update(Group(_table(total), progress))
            if not console.is_terminal and time.monotonic() - told > _EVERY:
                told = time.monotonic()
                console.print(f"{len(total.results)} of {count} cases")
    console.print(_table(total))
    console.print(Text(printable(total.header), "dim"), soft_wrap=True)
    spoilt = sum(result.spoils for result in total.results)
    failures = f"{spoilt} failure{'s' * (spoilt > 1)}"
    console.print(Text(failures, "bold red") if spoilt else Text("no failure", "bold green"))
    for id_ in total.unexpected_passes:
        console.print(Text(f"{id_} did not fail as expected: remove it from the list", "bold red"))
    _print_reasons(total, console)


def _print(result: Result, console: Console) -> None:
    console.print(Text(printable(headline(result)), _STYLES[result.verdict]), soft_wrap=True)
    if is_worth_details(result):
        for line in details(result):
            console.print(Text(printable(line), "dim"), soft_wrap=True)


def _print_reasons(total: Sum, console: Console) -> None:
    """Return a line for each reason why cases were skipped, or passed with a remark."""
    counts = Counter((each.verdict, each.reason) for each in total.results if each.verdict in _QUIET and each.reason)
    for (verdict, reason), count in counts.items():
        what = "passed" if verdict is Verdict.PASS else verdict.value
        console.print(Text(printable(f"{count} {what}: {reason}"), "dim"), soft_wrap=True)


def _table(total: Sum) -> Table:
    """Return a table with a row per section and a column per verdict."""
    table = Table(title=total.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("section")
    for verdict in Verdict:
        table.add_column(verdict.value, justify="right")
    for section in dict.fromkeys(result.section for result in total.results):
        table.add_row(section, *_counts([result for result in total.results if result.section == section]))
    table.add_section()
    table.add_row("all", *_counts(total.results))
    return table


def _counts(results: list[Result]) -> list[Text]:
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return [Text(str(count or ""), _STYLES[verdict]) for verdict, count in counts.items()]
