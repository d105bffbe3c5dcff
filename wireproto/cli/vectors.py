"""The command `wireproto vectors`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from wireproto.cli.console import EXIT_OK, example, say
from wireproto.errors import printable

_EXAMPLE: Final = example("wireproto vectors export vectors")


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="Export the test vectors.", epilog=_EXAMPLE, rich_markup_mode=None)
    group.command(epilog=_EXAMPLE)(export)
    group.callback()(_group)
    app.add_typer(group, name="vectors")


def _group() -> None:
    """Keep `export` a subcommand: typer would run a group's only command without its name."""


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Target directory; created if missing.")],
) -> int:
    """Copy the test vectors and their JSON Schema to a directory.

    Exit codes: 0 copied, 3 the directory cannot be written.
    """
    from wireproto.testing.vectors import DIRECTORY

    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(DIRECTORY.glob("*.json")):
        target = directory / source.name
        target.write_bytes(source.read_bytes())
        say(printable(str(target)))
    return EXIT_OK
