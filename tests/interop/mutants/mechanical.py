"""Mechanical mutants of the JavaScript peer: one operator, constant, condition or call changed.

It can be anywhere but in what a peer tells only its own user: the codes and offsets of its errors, its log, its exit
status, and the options of its command. The codes and offsets of a codec are seen. What each peer may choose is left
out, too: the waits whose length no rule binds, and what a pong says of its host.
"""

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
    "call": re.compile(r"^ +[\w.#?]+\([^;{}]*\);(?= *$)", re.M),
    "arguments": re.compile(r"(?<=\()[\w.#]+, [\w.#]+(?=\))"),
}
_ARGUMENTS: Final = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"
_UNSEEN: Final = re.compile(
    rf"(?:(?<=new WireError\()|(?<=new Fault\()|(?<=new Error\()|(?<=this\.fail\()){_ARGUMENTS}"
    rf"|\bprint\({_ARGUMENTS}\)"
    r"|const (?:HANDSHAKE|FIRST_BOX|SEND) = \d+;|modelLoaded: true, inferenceInFlight: false"
    r"|process\.exitCode = \d;|static #count = \d|#count \+= \d"
    r"|^  constructor\(code, message\)"
    r"|^function (?:identityFile|peerKey|main)\b.*?^}",
    re.S | re.M,
)
_STRING: Final = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`"
_NO_CODE: Final = re.compile(rf"//[^\n]*|/\*.*?\*/|^import [^;]*;|{_STRING}", re.S | re.M)


def mutants(directory: Path, random: Random) -> Iterator[Mutant]:
    """Return all of the peer in a random order, determined by the seed."""
    return anywhere(directory, random, FILES, _UNSEEN)


def anywhere(
    directory: Path, random: Random, files: Sequence[str], but: re.Pattern[str] = _NO_CODE
) -> Iterator[Mutant]:
    """Return all of these files, except in what matches `but`."""
    found = [each for file in files for each in _of(file, (directory / file).read_text(), but)]
    random.shuffle(found)
    for kind, edit in found:
        choice = _changed(kind, edit.text, random)
        if choice is not None:
            name = f"mechanical-{edit.file.partition('.')[0]}-{edit.start}-{kind}-{random.randrange(1000)}"
            yield Mutant(name, (), (edit._replace(text=choice),))


def _of(file: str, text: str, but: re.Pattern[str]) -> Iterator[tuple[str, Edit]]:
    code = but.sub(_blank, _NO_CODE.sub(_blank, text))
    for kind, pattern in _PLACES.items():
        for match in pattern.finditer(code):
            yield kind, Edit(file, match.start(), match.end(), text[match.start() : match.end()])


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def touches(directory: Path, edit: Edit) -> str | None:
    """Return the requirement that the line of an edit names."""
    text = (directory / edit.file).read_text()
    line = text[text.rfind("\n", 0, edit.start) + 1 : text.index("\n", edit.start)]
    found = re.search(r"// .*\[([A-Z0-9-]+)\]$", line)
    return found[1] if found else None


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
