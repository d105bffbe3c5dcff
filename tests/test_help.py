"""The help of each command: it fits a screen, has an example, and is not cut."""

from collections.abc import Iterator

import click
import pytest
from typer.main import get_command

import bootstrap.cli.app
import wireproto.cli.app

LINES = 40
MORE = {"jaccl-bootstrap up": 55}
"""A launcher of ranks has an option for each of its users' needs."""


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")


COMMANDS = dict(
    pair
    for app, name in ((wireproto.cli.app.app, "wireproto"), (bootstrap.cli.app.app, "jaccl-bootstrap"))
    for pair in commands(get_command(app), name)
)


def test_all_are_found() -> None:
    assert {"wireproto fuzz corpus export", "jaccl-bootstrap up"} < set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_help(path: str) -> None:
    shown = COMMANDS[path].get_help(click.Context(COMMANDS[path], info_name=path, terminal_width=80))
    assert f"Example: {path.split()[0]} " in shown or "Example: echo" in shown
    lines = shown.splitlines()
    assert len(lines) <= MORE.get(path, LINES)
    _, _, listed = shown.partition("\nCommands:\n")
    assert not [line for line in listed.splitlines() if line.endswith("...")]
