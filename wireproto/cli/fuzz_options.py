"""Shared by the commands of `wireproto fuzz`: options, and the end of a run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from wireproto.cli.console import EXIT_NO, EXIT_OK, say
from wireproto.errors import printable

FINDINGS: Final = Path("fuzz-findings")


def not_nan(value: float) -> float:
    """Refuse NaN, which every range takes."""
    if math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value


SecondsOption = Annotated[
    float,
    typer.Option("--seconds", min=0.0, callback=not_nan, metavar="SECONDS", help="Stop after this time."),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the inputs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `done`.")]
FindingsOption = Annotated[Path, typer.Option("--findings", metavar="DIR", help="Save findings here.")]


@contextmanager
def interruptible() -> Iterator[list[None]]:
    """End the `with` block on Ctrl-C, and add to the list in that case."""
    interrupted: list[None] = []
    try:
        yield interrupted
    except KeyboardInterrupt:
        interrupted.append(None)


def exit_code(found: int, interrupted: list[None]) -> int:
    """Return the exit code of a run. Raise KeyboardInterrupt if it was interrupted without a finding."""
    if found:
        return EXIT_NO
    if interrupted:
        raise KeyboardInterrupt
    return EXIT_OK


def say_lines(*lines: str) -> None:
    """Write lines at once, so that Ctrl-C cannot come between them."""
    say("\n".join(map(printable, lines)))
