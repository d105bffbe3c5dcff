"""The commands `spec` and `vectors` of `wireproto`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wireproto.cli.console import EXIT_NO, EXIT_OK

if TYPE_CHECKING:
    from wireproto.coverage import Coverage

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    """Put the commands on `app`."""
    for name, summary, command in (
        ("spec", "What the protocol's rules are tested by.\n\nExample: wireproto spec coverage", coverage),
        ("vectors", "The test vectors.\n\nExample: wireproto vectors export vectors", export),
    ):
        group = typer.Typer(help=summary, rich_markup_mode=None)
        group.command()(command)
        group.callback()(_group)
        app.add_typer(group, name=name)


def _group() -> None:
    """Keeps a group with one command a group."""


def coverage(as_json: JsonOption = False) -> int:
    """Show what tries each rule. That is: the tests, test vectors and conformance cases that name it.

    Example: wireproto spec coverage

    Exit codes: 0 every MUST is tested, 1 one is not.
    """
    from wireproto.coverage import matrix

    rows = matrix()
    if as_json:
        for row in rows:
            typer.echo(_as_json(row))
    else:
        for line in _table(rows):
            typer.echo(line)
    return EXIT_NO if any(row.is_open for row in rows) else EXIT_OK


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
) -> int:
    """Copy the test vectors and their JSON Schema to a directory.

    Example: wireproto vectors export /tmp/vectors

    Exit codes: 0 copied, 3 the directory cannot be written.
    """
    from wireproto.testing.vectors import DIRECTORY

    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(DIRECTORY.glob("*.json")):
        target = directory / source.name
        target.write_bytes(source.read_bytes())
        typer.echo(str(target))
    return EXIT_OK


def _as_json(row: "Coverage") -> str:
    import msgspec

    rule = row.requirement
    shown = {
        "id": rule.id,
        "level": rule.level,
        "section": rule.section,
        "revisions": rule.revisions,
        "tests": row.tests,
        "vectors": row.vectors,
        "cases": row.cases,
    }
    return msgspec.json.encode(shown).decode()


def _table(rows: list["Coverage"]) -> list[str]:
    width = max(len(row.requirement.id) for row in rows)
    lines = [f"{'requirement':<{width}}  level   tests  vectors  cases"]
    for row in rows:
        tests = "-" if row.tests is None else str(len(row.tests))
        level = row.requirement.level.value
        lines.append(f"{row.requirement.id:<{width}}  {level:<6}  {tests:>5}  {row.vectors:>7}  {row.cases:>5}")
    untested = [row.requirement.id for row in rows if row.is_open]
    if any(row.tests is None for row in rows):
        verdict = "the tests are not part of the installed package, so their column needs a checkout"
    elif untested:
        verdict = f"tested by nothing: {', '.join(untested)}"
    else:
        verdict = "each MUST is tested"
    lines.append(f"{len(rows)} rules; {verdict}")
    return lines
