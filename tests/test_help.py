"""The help of each command: it fits a screen, is not cut, and ends with an example that the command accepts."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

import bootstrap.cli.app
import wireproto.cli.app

LINES = 40
MORE = {"jaccl-bootstrap up": 55}
"""A launcher of ranks has an option for each of its users' needs."""
WIDTH = 80


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")


ROOTS = {"wireproto": get_command(wireproto.cli.app.app), "jaccl-bootstrap": get_command(bootstrap.cli.app.app)}
COMMANDS = dict(pair for name, root in ROOTS.items() for pair in commands(root, name))


def help_of(path: str) -> str:
    command = COMMANDS[path]
    return str(command.get_help(command.context_class(command, info_name=path, terminal_width=WIDTH)))


def test_all_are_found() -> None:
    assert {"wireproto fuzz corpus export", "jaccl-bootstrap up"} < set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_help(path: str) -> None:
    shown = help_of(path)
    lines = shown.splitlines()
    assert len(lines) <= MORE.get(path, LINES)
    assert max(map(len, lines)) <= WIDTH
    _, _, listed = shown.partition("\nCommands:\n")
    assert not [line for line in listed.splitlines() if line.endswith("...")]


@pytest.mark.parametrize("path", COMMANDS)
def test_example(path: str) -> None:
    """The last paragraph is a command line of this program, and its options and arguments can be parsed."""
    *_, last = help_of(path).split("\n\n")
    label, _, example = last.strip().partition("Example: ")
    assert not label
    calls = [shlex.split(each) for each in example.replace("\\\n", "").split(" | ")]
    called = [_parse(each) for each in calls if each[0] in ROOTS]
    assert any(f"{each} ".startswith(f"{path} ") for each in called) or COMMANDS[path].hidden


def _parse(words: list[str]) -> str:
    """Parse a command line as the program does, and return the path of its command."""
    words = words[: words.index(">")] if ">" in words else words
    command, context = ROOTS[words[0]], None
    path, rest = words[0], words[1:]
    while True:
        context = command.make_context(path.rpartition(" ")[2], list(rest), parent=context)
        if not hasattr(command, "commands"):
            return path
        rest = context._protected_args + context.args
        path, command, rest = f"{path} {rest[0]}", command.commands[rest[0]], rest[1:]


@pytest.mark.parametrize("path", COMMANDS)
def test_options_say_what_they_do(path: str) -> None:
    for option in COMMANDS[path].params:
        if not getattr(option, "hidden", False):
            assert option.help, option.name
            assert option.help.endswith("."), option.help
