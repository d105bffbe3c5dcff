"""Shared by the commands of `wireproto conform`: selection of cases, expected failures, and reports."""

import re
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from wireproto.cli.console import EXIT_OK, say, version_line
from wireproto.cli.files import write

if TYPE_CHECKING:
    from wireproto.conformance.case import Selectable, SelectableT
    from wireproto.conformance.expected import Expected
    from wireproto.conformance.report import Sum
    from wireproto.conformance.verdicts import Result

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of a file that is read as a whole."""


def report(
    results: AsyncGenerator["Result", None],
    title: str,
    peer: str,
    count: int,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
) -> int:
    """Show results as they arrive, write the reports, and return the exit code."""
    import asyncio

    from wireproto.conformance.junit import junit as as_junit
    from wireproto.conformance.page import page

    for file in (junit, html):
        if file is not None:
            file.touch()  # fail before the run if it cannot be written
    total = asyncio.run(_shown(results, title, peer, count, as_json))
    if junit is not None:
        write(junit, as_junit(total))
    if html is not None:
        write(html, page(total, html.parent).encode())
    return total.exit_code


async def _shown(results: AsyncGenerator["Result", None], title: str, peer: str, count: int, as_json: bool) -> "Sum":
    import msgspec
    from rich.console import Console

    from wireproto.conformance import live
    from wireproto.conformance.report import Sum, as_object

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise

    total = Sum(title, peer=peer, suite=version_line("wireproto"))
    async with aclosing(results):  # stop the peer even if the reader of our output has exited
        if as_json:
            async for result in results:
                total.add(result)
                say(msgspec.json.encode(as_object(result)).decode())
            say(msgspec.json.encode(total.as_object()).decode())
        else:
            await live.show(results, total, count, Output())
    return total


def selected(
    context: typer.Context,
    cases: Collection["SelectableT"],
    patterns: list[str],
    sections: list[str],
    levels: list[str],
) -> list["SelectableT"]:
    from wireproto.conformance.case import SelectionError, select

    try:
        return select(cases, patterns, sections, levels)
    except SelectionError as error:
        wrong(context, str(error))


def show_list(cases: Collection["Selectable"]) -> int:
    width = max((len(each.id) for each in cases), default=0)
    for each in cases:
        say(f"{each.id:<{width}}  {each.level.value:<6}  {', '.join(each.requirements)}  {each.about}")
    return EXIT_OK


def expected_failures(
    context: typer.Context, path: Path | None, profile: str | None, part: str, revision: int, known: Collection[str]
) -> dict[str, "Expected"]:
    """Return the expected failures by case, from a profile and from a list.

    A line of the list is `ID REASON`, empty, or a comment that starts with #.
    """
    from wireproto.conformance.expected import PROFILES, Expected, load_profile

    expected: dict[str, Expected] = {}
    if profile is not None:
        if profile not in PROFILES:
            wrong(context, f"--profile {profile}: no such profile; use {', '.join(PROFILES)}")
        expected.update(load_profile(profile).expected(part, revision, known))
    for number, line in enumerate(_read(context, path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            case, _, reason = line.strip().partition(" ")
            if case not in known:
                wrong(context, f"{path}, line {number}: no such case: {case!r}; --list shows all")
            if not reason.strip():
                wrong(context, f"{path}, line {number}: add a reason after {case}")
            expected[case] = Expected(reason.strip())
    return expected


def error_names(context: typer.Context, path: Path | None) -> dict[str, str]:
    import msgspec

    from wireproto.errors import ERROR_CODES

    if path is None:
        return {}
    try:
        names = msgspec.json.decode(_read(context, path), type=dict[str, str])
    except msgspec.MsgspecError as error:
        wrong(context, f"{path} is not a JSON object of strings: {error}")
    for name, code in names.items():
        if code not in ERROR_CODES:
            wrong(context, f"{path}: {name!r} is mapped to {code!r}, which is not a code of the spec")
    return names


def read_bytes(context: typer.Context, path: Path) -> bytes:
    """Return the content of a file. Stop at a length that no finding, list or table has."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        wrong(context, f"cannot read {path}: {error.strerror}")
    if len(data) > MAX_FILE:
        wrong(context, f"cannot read {path}: it has more than {MAX_FILE} bytes")
    return data


def _read(context: typer.Context, path: Path | None) -> str:
    """Return the text of a file, without a byte-order mark."""
    try:
        return "" if path is None else read_bytes(context, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong(context, f"cannot read {path}: it is not UTF-8 at byte {error.start}")


def address(context: typer.Context, text: str) -> tuple[str, int]:
    """Split HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        wrong(context, f"{text[:80]!r} is not HOST:PORT")
    return host, int(port)


def wrong(context: typer.Context, text: str) -> NoReturn:
    raise typer.BadParameter(text, ctx=context)
