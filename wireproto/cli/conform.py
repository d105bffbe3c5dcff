"""The commands `wireproto conform peer` and `wireproto conform codec`."""

import shlex
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from wireproto.cli.console import example
from wireproto.cli.reports import address, error_names, expected_failures, report, selected, show_list, wrong
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.conformance.case import Case
    from wireproto.conformance.targets import Target
    from wireproto.conformance.verdicts import Result
    from wireproto.session import Role

SectionOption = Annotated[
    list[str] | None, typer.Option("--section", metavar="NAME", help="Run only this section. Repeatable.")
]
LevelOption = Annotated[
    list[str] | None, typer.Option("--level", metavar="must|should|may", help="Run only this level. Repeatable.")
]
ListOption = Annotated[bool, typer.Option("--list", help="List the cases; run none.")]
ExpectedOption = Annotated[
    Path | None,
    typer.Option("--expected-failures", metavar="FILE", help="Failures to expect: a line of id and reason each."),
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="Expect a known peer's failures: `reference`.")
]
ExtensionsOption = Annotated[
    Literal["auto", "none"], typer.Option("--extensions", help="auto: test those that it offers.")
]
FullOption = Annotated[bool, typer.Option("--full", help="Send all generated content, not a sample.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `summary`.")]
JunitOption = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML report.")]
RevisionOption = Annotated[
    int, typer.Option("--revision", min=min(Revision), max=max(Revision), metavar="N", help="Protocol revision.")
]
# How to reach a peer under test; `fuzz peer` uses these, too.
ListenOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Act as rank 1; the peer connects here.")]
ConnectOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Act as rank 0; the peer listens there.")]
IdentityOption = Annotated[Path | None, typer.Option(metavar="PATH", help="Own key. Default: as for jaccl-bootstrap.")]
RestartOption = Annotated[
    str | None, typer.Option("--restart-command", metavar="CMD", help="Command that starts the peer, once per case.")
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", min=1, metavar="N", help="Run N at a time, on N ports."),
]
PeerKeyOption = Annotated[str | None, typer.Option(metavar="BASE64", help="Require this identity key. Default: any.")]


_CODEC_EXAMPLE: Final = example("wireproto conform codec -- wireproto codec")
_PEER_EXAMPLE: Final = example("wireproto conform peer --connect 127.0.0.1:7777", "--restart-command './peer listen'")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        help="Test another implementation against the specification.", epilog=_CODEC_EXAMPLE, rich_markup_mode=None
    )
    group.command(epilog=_PEER_EXAMPLE)(peer)
    group.command(epilog=_CODEC_EXAMPLE)(codec)
    app.add_typer(group, name="conform")


def peer(
    context: typer.Context,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CASE]...", help="Case ids or patterns, such as 'rank1.seal.*'. Default: all."),
    ] = None,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    restart_command: RestartOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Start the peer again only after it exits.")] = False,
    jobs: JobsOption = 1,
    identity: IdentityOption = None,
    peer_key: PeerKeyOption = None,
    revision: RevisionOption = Revision.V2,
    extensions: ExtensionsOption = "auto",
    session_id_file: Annotated[
        bool, typer.Option("--session-id-file", help="The peer takes the session ID as a file name.")
    ] = False,
    full: FullOption = False,
    section: SectionOption = None,
    level: LevelOption = None,
    list_cases: ListOption = False,
    expected: ExpectedOption = None,
    profile: ProfileOption = None,
    retries: Annotated[int, typer.Option(min=0, metavar="N", help="Rerun a failed case up to N times.")] = 0,
    artifacts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save captures, keys and pictures of failures here.")
    ] = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Test a live peer, case by case.

    The peer must have pinned our key. CMD gets the address in CONFORM_HOST and CONFORM_PORT, in both roles.

    Exit codes: 0 good, 1 a case failed, 2 wrong usage, 3 could not run.
    """
    from wireproto.conformance import CASES, Settings, run
    from wireproto.conformance.artifacts import save
    from wireproto.conformance.expected import rules_of
    from wireproto.conformance.identity import IdentityFileError, load_identity, peer_key_of
    from wireproto.conformance.runner import planned
    from wireproto.session import Role

    if (listen is None) == (connect is None):
        wrong(context, "give --listen or --connect")
    role = Role.INITIATOR if connect is None else Role.RESPONDER
    cases = selected(
        context, [each for each in CASES.values() if each.role is role], patterns or [], section or [], level or []
    )
    part = role.value.replace(" ", "")
    known = expected_failures(context, expected, profile, part, revision, CASES)
    if list_cases:
        return show_list(cases)
    host, port = address(context, connect or listen or "")
    targets = targets_of(context, role, host, port, restart_command, jobs, keep=keep)
    try:
        own = load_identity(identity)
        key = None if peer_key is None else peer_key_of(peer_key)
    except IdentityFileError as error:
        wrong(context, str(error))
    settings = Settings(
        identity=own,
        peer_key=key,
        revision=Revision(revision),
        has_extensions=None if extensions == "auto" else False,
        names_file=session_id_file,
        broken=frozenset(rules_of(known)),
        full=full,
    )
    again = ["--listen" if connect is None else "--connect", f"{host}:{port}", "--revision", f"{revision:d}"]
    for option, value in (("restart-command", restart_command), ("identity", identity), ("peer-key", peer_key)):
        if value is not None:
            again += [f"--{option}", str(value)]
    again += ["--extensions", "none"] if extensions == "none" else []
    again += ["--session-id-file"] if session_id_file else []
    again += ["--full"] if full else []

    def rerun(case: "Case") -> str:
        return shlex.join(["wireproto", "conform", "peer", *again, case.id])

    async def results() -> AsyncGenerator["Result", None]:
        async with aclosing(run(targets, settings, cases, retries=retries, expected=known, rerun=rerun)) as found:
            async for result in found:
                yield result if artifacts is None else save(result, artifacts, role)

    if artifacts is not None:
        artifacts.mkdir(parents=True, exist_ok=True)
    title = f"a peer as {role.value}, revision {revision:d}, {'all' if full else 'standard'} content"
    where = restart_command or f"{host}:{port}"
    return report(results(), title, where, len(planned(cases, role)), as_json, junit, html)


def codec(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD ARGS", help="Command that starts the codec.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CASE", help="Run only these ids or patterns: 'codec.json-*'.")
    ] = None,
    revision: RevisionOption = Revision.V2,
    extensions: ExtensionsOption = "auto",
    full: FullOption = False,
    section: SectionOption = None,
    level: LevelOption = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON object that maps CMD's error names to codes.")
    ] = None,
    list_cases: ListOption = False,
    expected: ExpectedOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> int:
    """Test a codec. A codec is a program that reads frames in hex and answers each with a line of JSON.

    `wireproto codec --help` describes the format. A wrong code or offset is a non-strict pass. Unknown error names are
    ignored.

    Exit codes: 0 good, 1 a case failed, 2 wrong usage, 3 could not run.
    """
    from wireproto.conformance.codec import run_codec
    from wireproto.conformance.codec_cases import codec_cases
    from wireproto.conformance.program import Program

    if not (command or list_cases):
        wrong(context, "give the codec's command after --")
    codes = error_names(context, errors)
    cases = codec_cases(Revision(revision), full=full)
    known = expected_failures(context, expected, profile, "codec", revision, {each.id for each in cases})
    cases = selected(context, cases, only or [], section or [], level or [])
    if list_cases:
        return show_list(cases)
    command = command or []
    again = [
        "--revision",
        f"{revision:d}",
        *(["--errors", str(errors)] if errors else []),
        *(["--full"] if full else []),
    ]

    def rerun(case: str) -> str:
        return shlex.join(["wireproto", "conform", "codec", *again, "--only", case, "--", *command])

    has_extensions = None if extensions == "auto" else False
    results = run_codec(
        Program(command),
        cases,
        revision=Revision(revision),
        codes=codes,
        expected=known,
        rerun=rerun,
        has_extensions=has_extensions,
    )
    title = f"a codec, revision {revision:d}, {'all' if full else 'standard'} content"
    return report(results, title, shlex.join(command), len(cases), as_json, junit, html)


def targets_of(
    context: typer.Context,
    role: "Role",
    host: str,
    port: int,
    restart_command: str | None,
    jobs: int,
    *,
    keep: bool = False,
) -> "list[Target]":
    """Return the peers to test in parallel, each at its own port."""
    from wireproto.conformance import RankOneTarget, RankZeroTarget, command_launcher
    from wireproto.conformance.targets import free_ports
    from wireproto.session import Role

    try:
        launcher = None if restart_command is None else command_launcher(restart_command)
    except ValueError as error:
        wrong(context, f"--restart-command {restart_command!r}: {error}")
    if launcher is None and (jobs > 1 or keep):
        wrong(context, f"add --restart-command to {'--jobs' if jobs > 1 else '--keep'}")
    kind = RankOneTarget if role is Role.RESPONDER else RankZeroTarget
    ports = [port, *islice(free_ports(host, port + 1), jobs - 1)]
    if len(ports) < jobs:
        wrong(context, f"--jobs {jobs}: not enough free ports after {port}")
    return [kind(host, each, launcher, keep=keep) for each in ports]
