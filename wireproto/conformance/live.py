"""A run as it goes on: a table that moves in a terminal, plain lines elsewhere."""

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

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.NON_STRICT: "yellow",
    Verdict.UNIMPLEMENTED: "cyan",
    Verdict.INCONCLUSIVE: "magenta",
    Verdict.SKIPPED: "dim",
}


async def show(results: AsyncIterator[Result], total: Sum, count: int, console: Console) -> None:
    """Print what is worth it as it comes, and the table at the end; `total` gets all results."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    task = progress.add_task(total.title, total=count)
    with Live(console=console, transient=True, auto_refresh=console.is_terminal) as live:
        async for result in results:
            total.results.append(result)
            if result.verdict not in (Verdict.PASS, Verdict.SKIPPED) or result.flaky or result.spoils:
                _print(result, console)
            progress.update(task, completed=len(total.results))
            live.update(Group(_table(total), progress))
    console.print(_table(total))
    spoilt = sum(result.spoils for result in total.results)
    verdict = Text(f"{spoilt} to fix", "bold red") if spoilt else Text("nothing to fix", "bold green")
    console.print(verdict)
    for id_ in total.unexpected_passes:
        console.print(Text(f"{id_} was expected to fail, and did not: take it off the list", "bold red"))
    _print_skipped(total, console)


def _print(result: Result, console: Console) -> None:
    console.print(Text(printable(headline(result)), _STYLES[result.verdict]), soft_wrap=True)
    if is_worth_details(result):
        for line in details(result):
            console.print(Text(printable(line), "dim"), soft_wrap=True)


def _print_skipped(total: Sum, console: Console) -> None:
    reasons = dict.fromkeys(result.reason for result in total.results if result.verdict is Verdict.SKIPPED)
    for reason in reasons:
        count = sum(result.reason == reason for result in total.results)
        console.print(Text(printable(f"{count} skipped: {reason}"), "dim"), soft_wrap=True)


def _table(total: Sum) -> Table:
    """A row a section, a column a verdict."""
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
