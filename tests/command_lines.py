"""Command lines of both programs, parsed as the programs parse them, without running them."""

import shlex
from typing import Any, Final

from typer.main import get_command

import bootstrap.cli.app
import wireproto.cli.app

ROOTS: Final[dict[str, Any]] = {
    "wireproto": get_command(wireproto.cli.app.app),
    "jaccl-bootstrap": get_command(bootstrap.cli.app.app),
}


def called(line: str) -> list[str]:
    """Return the paths of the commands in a line of shell, such as `wireproto fuzz run`; raise for a wrong option."""
    pipeline = [shlex.split(each, comments=True) for each in line.replace("\\\n", "").split(" | ")]
    return [_path(words) for words in pipeline if words and words[0] in ROOTS]


def _path(words: list[str]) -> str:
    words = words[: words.index(">")] if ">" in words else words
    path, *rest = words
    command, context = ROOTS[path], None
    while True:
        context = command.make_context(path.rpartition(" ")[2], rest, parent=context)
        if not hasattr(command, "commands"):
            return path
        name, *rest = context._protected_args + context.args
        path, command = f"{path} {name}", command.commands[name]
