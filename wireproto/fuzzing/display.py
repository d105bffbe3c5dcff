"""How a long run is shown: one line that changes, on a terminal; nothing where standard error is none."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wireproto.fuzzing.engine import Progress


def line(progress: Progress) -> str:
    """How far a run is, in one line."""
    lines = "unknown"
    if progress.all_lines:
        lines = f"{progress.lines}/{progress.all_lines} lines ({progress.lines / progress.all_lines:.0%})"
    return (
        f"{progress.layer}: {progress.executions:,} runs, {progress.rate:,.0f}/s, coverage {lines}, "
        f"corpus {progress.corpus}, findings {progress.findings}"
    )


@contextmanager
def shown(wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """What shows a line instead of the last one."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda text: None
        return
    from rich.console import Console
    from rich.status import Status

    with Status("", console=Console(stderr=True)) as status:
        yield status.update
