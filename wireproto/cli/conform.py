"""The commands `wireproto conform peer` and `wireproto conform codec`."""

import shlex
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from wireproto.cli.console import EXIT_OK, say
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.conformance.case import Selectable, SelectableT
    from wireproto.conformance.report import Sum
    from wireproto.conformance.verdicts import Result

SectionOption = Annotated[list[str] | None, typer.Option("--section", metavar="NAME", help="Only this section.")]
LevelOption = Annotated[list[str] | None, typer.Option("--level", metavar="must|should|may", help="Only this level.")]
ListOption = Annotated[bool, typer.Option("--list", help="List the cases without running them.")]
ExpectedOption = Annotated[
    Path | None, typer.Option("--expected-failures", metavar="FILE", help="One line per case: its id and why it fails.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
JunitOption = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML report.")]
RevisionOption = Annotated[
    int, typer.Option("--revision", min=min(Revision), max=max(Revision), help="Revision of the protocol.")
]
# How to reach a peer under test; `fuzz peer` uses these, too.
ListenOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Be rank 1: the peer connects here.")]
ConnectOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Be rank 0: the peer listens there.")]
IdentityOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Our identity key. Default: jaccl-bootstrap's.")
]
PeerKeyOption = Annotated[str | None, typer.Option(metavar="BASE64", help="The peer's identity key. Default: any.")]


_HELP: Final = """Test another implementation against the specification.

Example: wireproto conform codec -- wireproto codec
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help=_HELP, rich_markup_mode=None)
    group.command()(peer)
    group.command()(codec)
    app.add_typer(group, name="conform")


def peer(
    context: typer.Context,
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[CASE]...", help="Ids or patterns: 'rank1.seal.*'.")
    ] = None,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    restart_command: Annotated[str | None, typer.Option(metavar="CMD", help="Starts the peer for each case.")] = None,
    identity: IdentityOption = None,
    peer_key: PeerKeyOption = None,
    revision: RevisionOption = Revision.V2,
    section: SectionOption = None,
    level: LevelOption = None,
    show_list: ListOption = False,
    expected_failures: ExpectedOption = None,
    retries: Annotated[int, typer.Option(min=0, metavar="N", help="Run a failed case up to N more times.")] = 0,
    artifacts: Annotated[Path | None, typer.Option(metavar="DIR", help="Save captures and keys of failures.")] = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Test a live peer, case by case.

    Example: wireproto conform peer --connect 127.0.0.1:7777 --restart-command './peer listen'

    CMD finds the address in CONFORM_HOST and CONFORM_PORT. The peer must have pinned our key.

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
    only: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Ids or patterns: 'codec.json-*'.")] = None,
    revision: RevisionOption = Revision.V2,
    section: SectionOption = None,
    level: LevelOption = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON object that maps CMD's error names to codes of the spec.")
    ] = None,
    show_list: ListOption = False,
    expected_failures: ExpectedOption = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Test a codec. It is a program that reads frames in hex and answers each with a line of JSON.

    Example: wireproto conform codec -- wireproto codec

    `wireproto codec --help` describes the format. A different code or offset only counts as non-strict.

    Exit codes: 0 good, 1 a case failed, 2 wrong usage, 3 could not run.
    """
    from wireproto.conformance.codec import Program, run_codec, vector_cases

    cases = vector_cases(Revision(revision))
    expected = _expected(context, expected_failures, {each.id for each in cases})
    cases = _selected(context, cases, only or [], section or [], level or [])
    if show_list:
        return _show_list(cases)
    if not command:
        _wrong(context, "give the codec's command after --")
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
    """Show results as they arrive, write the reports, and return the exit code."""
    import asyncio

    from wireproto.conformance.junit import junit as as_junit
    from wireproto.conformance.page import page

    for report in (junit, html):
        if report is not None:
            report.touch()  # fail before the run if it cannot be written
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
    async with aclosing(results):  # stop the peer even if the reader of our output has exited
        if as_json:
            async for result in results:
                total.results.append(result)
                say(msgspec.json.encode(as_object(result)).decode())
            say(msgspec.json.encode(total.as_object()).decode())
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
        say(f"{each.id:<{width}}  {each.level.value:<6}  {', '.join(each.requirements)}  {each.about}")
    return EXIT_OK


def _expected(context: typer.Context, path: Path | None, known: Collection[str]) -> dict[str, str]:
    """Return the reasons of expected failures by id. A line is `ID REASON`, empty, or a comment that starts with #."""
    expected: dict[str, str] = {}
    for number, line in enumerate(_read(context, path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            case, _, reason = line.strip().partition(" ")
            if case not in known:
                _wrong(context, f"{path}, line {number}: no such case: {case!r}; --list shows all")
            if not reason.strip():
                _wrong(context, f"{path}, line {number}: add a reason after {case}")
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
        _wrong(context, f"{path} is not a JSON object of strings: {error}")
    for name, code in names.items():
        if code not in ERROR_CODES:
            _wrong(context, f"{path}: {name!r} is mapped to {code!r}, which is not a code of the spec")
    return names


def _read(context: typer.Context, path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _wrong(context, f"cannot read {path}: {error}")


def address(context: typer.Context, text: str) -> tuple[str, int]:
    """Split HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
        _wrong(context, f"{text!r} is not HOST:PORT")
    return host, int(port)


def _wrong(context: typer.Context, text: str) -> NoReturn:
    raise typer.BadParameter(text, ctx=context)
