"""The help of each command: it fits a screen, is not cut, and ends with an example that the command accepts."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.command_lines import ROOTS, called

LINES = 40
MORE = {"jaccl-bootstrap up": 55}
"""A launcher of ranks has an option for each of its users' needs."""
WIDTH = 80


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")


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
    assert any(f"{each} ".startswith(f"{path} ") for each in called(example)) or COMMANDS[path].hidden


@pytest.mark.parametrize("path", COMMANDS)
def test_options_say_what_they_do(path: str) -> None:
    for option in COMMANDS[path].params:
        if not getattr(option, "hidden", False):
            assert option.help, option.name
            assert option.help.endswith("."), option.help
