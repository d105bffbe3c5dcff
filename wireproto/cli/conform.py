"""The commands `wireproto conform peer` and `wireproto conform codec`."""

import shlex
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from wireproto.cli.console import EXIT_OK
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.conformance.case import Selectable, SelectableT
    from wireproto.conformance.report import Sum
    from wireproto.conformance.verdicts import Result

SectionOption = Annotated[list[str] | None, typer.Option("--section", metavar="NAME", help="Only this section.")]
LevelOption = Annotated[list[str] | None, typer.Option("--level", metavar="must|should|may", help="Only this level.")]
ListOption = Annotated[bool, typer.Option("--list", help="Show the cases and run none.")]
ExpectedOption = Annotated[
    Path | None, typer.Option("--expected-failures", metavar="FILE", help="A line a case: its id, and why it fails.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
JunitOption = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at.")]
RevisionOption = Annotated[
    int, typer.Option("--revision", min=min(Revision), max=max(Revision), help="Revision of the protocol.")
]
# How a peer under test is reached: for whatever tries one.
ListenOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Be rank 1: the peer connects here.")]
ConnectOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Be rank 0: the peer listens there.")]
IdentityOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Own identity key. Default: jaccl-bootstrap's.")
]
PeerKeyOption = Annotated[str | None, typer.Option(metavar="BASE64", help="The peer's identity key. Default: any.")]


_HELP: Final = """Find what is wrong with another implementation, by requirement.

Example: wireproto conform codec -- wireproto codec
"""


def register(app: typer.Typer) -> None:
    """Put the commands on `app`."""
    group = typer.Typer(help=_HELP, rich_markup_mode=None)
    group.command()(peer)
    group.command()(codec)
    app.add_typer(group, name="conform")


def peer(
    context: typer.Context,
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[CASE]...", help="Ids, or patterns: 'rank1.seal.*'.")
    ] = None,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    restart_command: Annotated[str | None, typer.Option(metavar="CMD", help="Starts the peer, for each case.")] = None,
    identity: IdentityOption = None,
    peer_key: PeerKeyOption = None,
    revision: RevisionOption = Revision.V2,
    section: SectionOption = None,
    level: LevelOption = None,
    show_list: ListOption = False,
    expected_failures: ExpectedOption = None,
    retries: Annotated[int, typer.Option(min=0, metavar="N", help="Run what fails again, N times.")] = 0,
    artifacts: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep captures and keys of failures.")] = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Try a live peer, case by case.

    Example: wireproto conform peer --connect 127.0.0.1:7777 --restart-command './peer listen'

    CONFORM_HOST and CONFORM_PORT tell CMD the address. The peer must have pinned our key.

    Exit codes: 0 good, 1 a case failed, 2 wrong usage, 3 could not run.
    """
    from wireproto.conformance import CASES, Case, RankOneTarget, RankZeroTarget, Settings, command_launcher, run
    from wireproto.conformance.artifacts import keep
    from wireproto.conformance.identity import IdentityFileError, load_identity, peer_key_of
    from wireproto.conformance.runner import planned
    from wireproto.session import Role

    if (listen is None) == (connect is None):
        _wrong(context, "give --listen or --connect")
    role = Role.INITIATOR if connect is None else Role.RESPONDER
    cases = _selected(
        context, [each for each in CASES.values() if each.role is role], patterns or [], section or [], level or []
    )
    expected = _expected(context, expected_failures, CASES)
    if show_list:
        return _show_list(cases)
    host, port = address(context, connect or listen or "")
    try:
        launcher = None if restart_command is None else command_launcher(restart_command)
    except ValueError as error:
        _wrong(context, f"--restart-command {restart_command!r}: {error}")
    target = (RankZeroTarget if connect is None else RankOneTarget)(host, port, launcher)
    try:
        own = load_identity(identity)
        key = None if peer_key is None else peer_key_of(peer_key)
    except IdentityFileError as error:
        _wrong(context, str(error))
    settings = Settings(identity=own, peer_key=key, revision=Revision(revision))
    again = ["--listen" if connect is None else "--connect", f"{host}:{port}", "--revision", f"{revision:d}"]
    for option, value in (("restart-command", restart_command), ("identity", identity), ("peer-key", peer_key)):
        if value is not None:
            again += [f"--{option}", str(value)]

    def rerun(case: Case) -> str:
        return shlex.join(["wireproto", "conform", "peer", *again, case.id])

    async def results() -> AsyncGenerator["Result", None]:
        async with aclosing(run(target, settings, cases, retries=retries, expected=expected, rerun=rerun)) as found:
            async for result in found:
                if artifacts is not None:
                    keep(result, artifacts, role)
                yield result

    if artifacts is not None:
        artifacts.mkdir(parents=True, exist_ok=True)
    title = f"a peer as {role.value}, revision {revision:d}"
    return _report(results(), title, len(planned(cases, role)), as_json, junit, html)


def codec(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD ARGS", help="The codec.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Ids, or patterns: 'codec.json-*'.")] = None,
    revision: RevisionOption = Revision.V2,
    section: SectionOption = None,
    level: LevelOption = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON object: CMD's names of errors to the spec's codes.")
    ] = None,
    show_list: ListOption = False,
    expected_failures: ExpectedOption = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Try a codec. It is a program that reads frames in hex, and answers each with a line of JSON.

    Example: wireproto conform codec -- wireproto codec

    `wireproto codec --help` has the contract. Another code or offset is but non-strict.

    Exit codes: 0 good, 1 a case failed, 2 wrong usage, 3 could not run.
    """
    from wireproto.conformance.codec import Program, run_codec, vector_cases

    cases = vector_cases(Revision(revision))
    expected = _expected(context, expected_failures, {each.id for each in cases})
    cases = _selected(context, cases, only or [], section or [], level or [])
    if show_list:
        return _show_list(cases)
    if not command:
        _wrong(context, "say behind -- which program the codec is")
    codes = _error_names(context, errors)
    again = ["--revision", f"{revision:d}", *(["--errors", str(errors)] if errors else [])]

    def rerun(case: str) -> str:
        return shlex.join(["wireproto", "conform", "codec", *again, "--only", case, "--", *command])

    results = run_codec(Program(command), cases, codes=codes, expected=expected, rerun=rerun)
    return _report(results, f"a codec, revision {revision:d}", len(cases), as_json, junit, html)


def _report(
    results: AsyncGenerator["Result", None],
    title: str,
    count: int,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
) -> int:
    """Show results as they come, write the reports, and make the exit code."""
    import asyncio

    from wireproto.conformance.junit import junit as as_junit
    from wireproto.conformance.page import page

    for report in (junit, html):
        if report is not None:
            report.touch()  # what cannot be written is to be known before the run
    total = asyncio.run(_shown(results, title, count, as_json))
    if junit is not None:
        junit.write_bytes(as_junit(total))
    if html is not None:
        html.write_text(page(total), encoding="utf-8")
    return total.exit_code


async def _shown(results: AsyncGenerator["Result", None], title: str, count: int, as_json: bool) -> "Sum":
    import msgspec
    from rich.console import Console

    from wireproto.conformance import live
    from wireproto.conformance.report import Sum, as_object

    total = Sum(title)
    async with aclosing(results):  # where the output has no reader left, the peer is stopped all the same
        if as_json:
            async for result in results:
                total.results.append(result)
                typer.echo(msgspec.json.encode(as_object(result)).decode())
            typer.echo(msgspec.json.encode(total.as_object()).decode())
        else:
            await live.show(results, total, count, Console())
    return total


def _selected(
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
        _wrong(context, str(error))


def _show_list(cases: Collection["Selectable"]) -> int:
    width = max((len(each.id) for each in cases), default=0)
    for each in cases:
        typer.echo(f"{each.id:<{width}}  {each.level.value:<6}  {', '.join(each.requirements)}  {each.about}")
    return EXIT_OK


def _expected(context: typer.Context, path: Path | None, known: Collection[str]) -> dict[str, str]:
    """Why cases are expected to fail, by id: `ID REASON` a line; lines that are empty or begin with # say nothing."""
    expected: dict[str, str] = {}
    for number, line in enumerate(_read(context, path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            case, _, reason = line.strip().partition(" ")
            if case not in known:
                _wrong(context, f"{path}, line {number}: there is no case {case!r}; --list shows them")
            if not reason.strip():
                _wrong(context, f"{path}, line {number}: say behind {case} why it fails")
            expected[case] = reason.strip()
    return expected


def _error_names(context: typer.Context, path: Path | None) -> dict[str, str]:
    import msgspec

    from wireproto.errors import ERROR_CODES

    if path is None:
        return {}
    try:
        names = msgspec.json.decode(_read(context, path), type=dict[str, str])
    except msgspec.MsgspecError as error:
        _wrong(context, f"{path} is no JSON object of strings: {error}")
    for name, code in names.items():
        if code not in ERROR_CODES:
            _wrong(context, f"{path}: {name!r} is mapped to {code!r}, which is no code of the spec")
    return names


def _read(context: typer.Context, path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _wrong(context, f"cannot read {path}: {error}")


def address(context: typer.Context, text: str) -> tuple[str, int]:
    """HOST:PORT, in two."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
        _wrong(context, f"{text!r} is no HOST:PORT")
    return host, int(port)


def _wrong(context: typer.Context, text: str) -> NoReturn:
    raise typer.BadParameter(text, ctx=context)
