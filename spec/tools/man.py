"""Manual pages of both programs, made from the help of their commands: `python -m spec.tools.man DIRECTORY`.

Each command has a page of its own, such as `wireproto-fuzz-run(1)`; the page of a group lists its commands.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

import bootstrap.cli.app
import wireproto.cli.app

PACKAGE: Final = "cluster-wireproto"
APPS: Final = {"wireproto": wireproto.cli.app.app, "jaccl-bootstrap": bootstrap.cli.app.app}


def pages() -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of each page."""
    for name, app in APPS.items():
        yield from _pages(get_command(app), [name])


def _pages(command: Any, path: list[str]) -> Iterator[tuple[str, str]]:
    yield f"{'-'.join(path)}.1", _page(command, path)
    for name, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield from _pages(each, [*path, name])


def _page(command: Any, path: list[str]) -> str:
    """Return a page in man(7)."""
    context = command.context_class(command, info_name=" ".join(path))
    commands = [(name, each) for name, each in getattr(command, "commands", {}).items() if not each.hidden]
    summary, paragraphs, status = _help(command)
    arguments, options = _parameters(command, context)
    lines = [
        f'.TH {_word("-".join(path).upper())} 1 "" {_word(f"{PACKAGE} {metadata.version(PACKAGE)}")}',
        ".SH NAME",
        f"{_text('-'.join(path))} \\- {_text(summary[:1].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_text(' '.join(path))}",
        _text(" ".join(command.collect_usage_pieces(context)).replace("{", "").replace("}", "")),
        ".SH DESCRIPTION",
        _text(summary),
        *(line for each in paragraphs for line in (".PP", *each)),
    ]
    for title, rows in (("ARGUMENTS", arguments), ("OPTIONS", options)):
        if rows:
            lines += [f".SH {title}", *(line for row in rows for line in _row(*row))]
    if commands:
        lines.append(".SH COMMANDS")
        for name, each in commands:
            lines += _row(f"{'-'.join([*path, name])}(1)", _help(each)[0])
    if status:
        lines += [".SH EXIT STATUS", *_status(status)]
    label, _, example = (command.epilog or "").removeprefix("\b\n").partition("Example: ")
    assert not label  # noqa: S101 - `example` in the console module made it
    lines += [".SH EXAMPLES", ".nf", *map(_text, example.split("\n")), ".fi"]
    if len(path) > 1:
        lines += [".SH SEE ALSO", f".BR {_text('-'.join(path[:-1]))} (1)"]
    return "\n".join(lines) + "\n"


def _help(command: Any) -> tuple[str, list[list[str]], str]:
    """Return the summary of a help text, its other paragraphs in man(7), and the one on exit codes."""
    first, *rest = re.split(r"\n\s*\n", command.help.strip())
    summary, _, more = " ".join(first.split()).partition(". ")
    paragraphs, status = [[_text(more)]] if more else [], ""
    for each in rest:
        text = " ".join(each.split())
        if text.startswith("Exit code"):
            status = text
        elif each.startswith("\b"):
            paragraphs.append([".nf", *map(_text, each.strip("\b\n").split("\n")), ".fi"])
        else:
            paragraphs.append([_text(text)])
    return summary.rstrip(".") + ".", paragraphs, status


def _status(text: str) -> list[str]:
    """Return a row for each exit code in `Exit codes: 0 done, 1 a case failed. More.`"""
    codes, _, more = text.partition(": ")[2].rstrip(".").partition(". ")
    lines = [line for each in re.split(", (?=[0-9])", codes) for line in _row(*each.partition(" ")[::2])]
    return [*lines, ".PP", _text(f"{more}.")] if more else lines


def _parameters(command: Any, context: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the arguments and the options, each with its help."""
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for each in command.get_params(context):
        if (record := each.get_help_record(context)) is not None:
            (arguments if each.param_type_name == "argument" else options).append(record)
    return arguments, options


def _row(term: str, text: str) -> list[str]:
    return [".TP", f".B {_text(term)}", _text(re.sub(r"\s+", " ", text))]


def _text(text: str) -> str:
    """Escape a line: backslashes, hyphens that are to be copied, and a first character that would be a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _word(text: str) -> str:
    return f'"{_text(text)}"'


def main(directory: Path) -> None:
    """Write the pages to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
