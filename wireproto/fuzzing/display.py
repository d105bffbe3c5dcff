"""The progress of a long run: one changing line on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from wireproto.fuzzing.engine import Progress

_EVERY: Final = 10.0
"""Seconds between two lines without a terminal."""


def line(progress: Progress) -> str:
    """Return the progress of a run in one line."""
    lines = "unknown"
    if progress.all_lines:
        lines = f"{progress.lines}/{progress.all_lines} lines ({progress.lines / progress.all_lines:.0%})"
    return (
        f"{progress.layer}: {progress.executions:,} runs, {progress.rate:,.0f}/s, coverage {lines}, "
        f"corpus {progress.corpus}, findings {progress.findings}"
    )


@contextmanager
def shown(wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """Return a function that replaces the last line or, without a terminal, prints one now and then."""
    if not wanted:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        told = time.monotonic()

        def tell(text: str) -> None:
            nonlocal told
            if time.monotonic() - told > _EVERY:
                told = time.monotonic()
                print(text, file=sys.stderr, flush=True)  # noqa: T201

        yield tell
        return
    from rich.console import Console
    from rich.status import Status

    with Status("", console=Console(stderr=True)) as status:
        yield status.update
