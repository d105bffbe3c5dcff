"""Mechanical mutants of the JavaScript peer: one operator, constant, condition or call changed, anywhere in it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

FILES: Final = ("peer.mjs", "session.mjs", "seal.mjs", "link.mjs", "json.mjs", "frames.mjs", "handshake.mjs")


class Edit(NamedTuple):
    """A piece of a file and its replacement."""

    file: str
    start: int
    stop: int
    text: str


class Mutant(NamedTuple):
    """A peer with one change."""

    name: str
    rules: tuple[str, ...]
    """The rules that it breaks, if known."""
    edits: tuple[Edit, ...]


_OPERATORS: Final = {
    " === ": " !== ", " !== ": " === ", " < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ",
    " && ": " || ", " || ": " && ", " + ": " - ", " - ": " + ", " += ": " -= ",
}  # fmt: skip
_PLACES: Final = {
    "operator": re.compile("|".join(map(re.escape, sorted(_OPERATORS, key=len, reverse=True)))),
    "constant": re.compile(r"(?<![\w.\"])(?:0x[0-9a-f]+|\d+)(?![\w.])"),
    "flag": re.compile(r"\b(?:true|false)\b"),
    "condition": re.compile(r"\bif \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"),
    "call": re.compile(r"^ +[\w.#?]+\([^;{}]*\);$", re.M),
    "arguments": re.compile(r"(?<=\()[\w.#]+, [\w.#]+(?=\))"),
}
_NO_CODE: Final = re.compile(r"//[^\n]*|/\*.*?\*/|^import [^;]*;|\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`", re.S | re.M)


def mutants(directory: Path, random: Random, files: Sequence[str] = FILES) -> Iterator[Mutant]:
    """Return all of them in a random order, determined by the seed."""
    found = [each for file in files for each in _of(file, (directory / file).read_text())]
    random.shuffle(found)
    for kind, edit in found:
        choice = _changed(kind, edit.text, random)
        if choice is not None:
            name = f"mechanical-{edit.file.partition('.')[0]}-{edit.start}-{kind}-{random.randrange(1000)}"
            yield Mutant(name, (), (edit._replace(text=choice),))


def _of(file: str, text: str) -> Iterator[tuple[str, Edit]]:
    code = _NO_CODE.sub(lambda match: " " * len(match[0]), text)
    for kind, pattern in _PLACES.items():
        for match in pattern.finditer(code):
            yield kind, Edit(file, match.start(), match.end(), text[match.start() : match.end()])


def _changed(kind: str, text: str, random: Random) -> str | None:
    match kind:
        case "operator":
            return _OPERATORS[text]
        case "constant":
            value = int(text, 0)
            return str(max(value + random.choice((-1, 1)), 0)) if value else "1"
        case "flag":
            return "false" if text == "true" else "true"
        case "condition":
            return random.choice(("if (true)", "if (false)", f"if (!{text[3:]})"))
        case "arguments":
            one, _, other = text.partition(", ")
            return f"{other}, {one}"
        case _:
            return ""


def write(source: Path, folder: Path, mutant: Mutant | None) -> None:
    """Write the peer's files, with the mutant's change in them."""
    for path in source.glob("*.mjs"):
        text = path.read_text()
        for edit in sorted(mutant.edits if mutant else (), key=lambda each: -each.start):
            if edit.file == path.name:
                text = text[: edit.start] + edit.text + text[edit.stop :]
        (folder / path.name).write_text(text)


def noted(results: Path) -> list[dict[str, Any]]:
    """Return the results of earlier runs."""
    results.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
