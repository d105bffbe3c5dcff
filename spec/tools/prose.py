"""Checks the English of documents, docstrings, comments and messages: `python -m spec.tools.prose [FILE ...]`.

A finding is a phrase that this project avoids, or comes from proselint. Code is left out: backticks, fences and
indented blocks of documents, and strings without a space.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proselint.checks import __register__
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT: Final = Path(__file__).parents[2]

FILES: Final = (
    *("*.md", "Makefile", "pyproject.toml", ".ci/run", ".github/**/*.*", "spec/*.*", "spec/manual/**/*.md"),
    *("spec/tools/*.py", "wireproto/**/*.py", "wireproto/**/*.html", "bootstrap/**/*.py", "tests/**/*.py"),
    *("tests/**/*.mjs", "tests/**/*.toml", "tests/**/*.go"),
)

PHRASES: Final = {
    r"\b(in vain|to no avail)\b": "say that it fails",
    r"\banew\b": "again",
    r"\b(mend|cure|heal)(s|ed|ing)?\b": "fix",
    r"\bstrangers?\b": "an unauthenticated or unknown peer",
    r"\blast words\b|\bsh(ak(e|es|ing|en)|ook) hands\b": "no figures of speech",
    r"\bnobody's\b|\b(that|which|what) nobody\b|\bnobody (asked|gave|wants)\b": "unexpected, unused, discarded, no-op",
    r"\bserved for\b": "reached its limit",
    r"\b(there|here) twice\b": "repeated",
    r"\bto be (had|taken)\b": "unavailable; take it",
    r"\bfor want of\b": "without",
    r"\bthe next, too\b": "a whole sentence",
    r"\bWho \w+s? [\w ]*MUST\b": "The receiver of ... MUST",
    r"\bbe it\b": "whether ... or ...",
    r"\bthat which\b": "the one that",
    r"\b(?<!there\s)(is|are) no (address|box|frame|message|name|object|peer|point|ring|type|worker)\b": "is not a",
    r"\bat the (most|least)\b": "at most, at least",
    r"\bthe own\b": "its own, this side's",
    r"\b(bytes?|data|zeros?|frames?|texts?|it|that|what) ((is|are|stands?|comes?|follows?) )?behind\b": "after",
    r"\bbehind (the|a|an|its|their) (end|last|first|frame|box|text|payload|value|length|string|object)\b": "after",
    r"\b(re|mis)?spelt\b|\b(mis)?spellings?\b": "encoded; encoding",
    r"\bbelongs? (here|there|to)\b.{0,20}\bnot\b|\bnot belong\b": "unexpected, not allowed",
    r"\bmore to come\b": "left",
    r"\bas (many|much)( \w+)? as (it|they|there) (may|can)\b": "its limit",
    r"\btold from\b": "distinguished from",
    r"\bbinds? (a|the) peer\b": "a rule for peers",
}  # fmt: skip
"""Phrases that this project avoids, and their replacements."""

OPENING: Final = re.compile(r"(What|Who|Whoever|Where|That which) ")
"""The start of a docstring that is neither a verb nor a noun phrase."""

_LINT: Final = Config(max_errors=1000, checks=DEFAULT["checks"] | {"typography": False, "misc.but": False})
CheckRegistry().register_many(__register__)
_CODE: Final = re.compile(r"``[^`]+``|`[^`]+`|\"[^\s\"]+\"|\[[A-Z0-9*, -]+\]|https?://\S+")


def python_prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments, docstrings and strings with a space, each with the number of its first line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#!|# (noqa|type:|fmt:|pragma|-- )", token.string):
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def document_prose(text: str) -> str:
    """Return a Markdown document with its fences, indented blocks and rules blanked."""
    lines = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        lines.append("" if fenced or re.match(r"```|    |\|? ?-{3}", line) else line)
    return "\n".join(lines)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the faults in the prose of a file, with their lines."""
    source = path.read_text()
    parts, linted = [(1, source)], ""
    if path.suffix == ".md":
        linted = document_prose(source)
        parts = [(1, linted)]
    elif path.suffix == ".py":
        parts = list(python_prose(source))
        lines = [""] * len(source.splitlines())
        for number, text in docstrings(source):
            if OPENING.match(text):
                yield number, f"a docstring starts with {text.split()[0]!r}: use a verb or a noun phrase"
            for at, line in enumerate(text.splitlines(), number - 1):
                lines[at] = line
        linted = "\n".join(lines)
    for number, text in parts:
        prose = _CODE.sub("§", text)
        for pattern, better in PHRASES.items():
            for found in re.finditer(pattern.replace(" ", r"\s+"), prose):
                yield number + prose.count("\n", 0, found.start()), f"{' '.join(found[0].split())!r}: {better}"
    paragraphs = re.sub(r"(?m)^$", "¶", _CODE.sub("§", linted))
    for result in LintFile(str(path), paragraphs).lint(_LINT):
        yield result.pos[0], " ".join(f"{result.check_result.check_path}: {result.check_result.message}".split())


def main() -> int:
    quoting = {Path(__file__), ROOT / "tests/test_prose.py"}  # they contain the phrases as data
    found = {each for glob in FILES for each in ROOT.glob(glob)} - quoting
    paths = [Path(name) for name in sys.argv[1:]] or sorted(found)
    count = 0
    for path in paths:
        for number, text in findings(path):
            print(f"{path}:{number}: {text}")  # noqa: T201
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
