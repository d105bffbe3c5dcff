"""The command `wireproto fuzz peer`."""

import json
import re
import shlex
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wireproto.cli.conform import (
    ConnectOption,
    ExpectedOption,
    ExtensionsOption,
    IdentityOption,
    JobsOption,
    ListenOption,
    PeerKeyOption,
    ProfileOption,
    RestartOption,
    RevisionOption,
    targets_of,
)
from wireproto.cli.console import EXIT_COULD_NOT_RUN, say
from wireproto.cli.fuzz_options import (
    FINDINGS,
    FindingsOption,
    JsonOption,
    SecondsOption,
    SeedOption,
    exit_code,
    interruptible,
    not_nan,
    say_lines,
)
from wireproto.cli.reports import address, expected_failures, read_bytes, wrong
from wireproto.errors import printable
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.fuzzing.peer import PeerFinding, PeerProgress

_RANK_0_RETURNS: Final = 30.0
"""Seconds for rank 0 to connect. By the protocol it reconnects 10 s after a session."""


def peer(
    context: typer.Context,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Allow a HOST that is not this machine.")] = False,
    restart_command: RestartOption = None,
    jobs: JobsOption = 1,
    identity: IdentityOption = None,
    peer_key: PeerKeyOption = None,
    revision: RevisionOption = Revision.V2,
    extensions: ExtensionsOption = "auto",
    expected: ExpectedOption = None,
    profile: ProfileOption = None,
    seconds: SecondsOption = 60.0,
    seed: SeedOption = 0,
    rate: Annotated[
        float, typer.Option(min=0.01, callback=not_nan, metavar="N", help="Run at most N sessions per second.")
    ] = 20.0,
    session: Annotated[int | None, typer.Option(metavar="N", help="Play only session N of the seed.")] = None,
    replay_file: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Play only the session of a saved finding.")
    ] = None,
    findings: FindingsOption = FINDINGS,
    as_json: JsonOption = False,
) -> int:
    """Fuzz a live peer.

    Each session starts with a real handshake and ends with a check that the peer still answers. No group is formed.
    The peer must have pinned our key. CMD gets the address in CONFORM_HOST and CONFORM_PORT; without CMD, a rank 0 must
    reconnect by itself. Sessions that break a rule of an expected failure are left out.

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage, 3 could not run, 130 Ctrl-C.
    """
    import msgspec

    from wireproto.conformance import CASES, Patience, Settings
    from wireproto.conformance.expected import rules_of
    from wireproto.conformance.identity import IdentityFileError, load_identity, peer_key_of
    from wireproto.conformance.model.drawing import drawn
    from wireproto.conformance.model.script import Script
    from wireproto.conformance.verdicts import Missed, Undecided
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.peer import PeerGoneError, PeerProgress, fuzz
    from wireproto.session import Role

    if (listen is None) == (connect is None):
        raise typer.BadParameter("give --listen or --connect", ctx=context)
    host, port = _address(context, connect or listen or "", anywhere)
    number = Revision(revision)
    role = Role.INITIATOR if connect is None else Role.RESPONDER
    if replay_file is not None:
        try:
            scripts = iter([msgspec.json.decode(read_bytes(context, replay_file), type=Script)])
        except msgspec.MsgspecError as error:
            raise typer.BadParameter(f"{replay_file}: {error}", ctx=context) from None
    else:
        numbers = count() if session is None else iter([session])
        scripts = (drawn(seed, each, role, number) for each in numbers)
    targets = targets_of(context, role, host, port, restart_command, jobs)
    part = role.value.replace(" ", "")
    known = rules_of(expected_failures(context, expected, profile, part, revision, CASES))
    try:
        key = None if peer_key is None else peer_key_of(peer_key)
        own = load_identity(identity)
    except IdentityFileError as error:
        wrong(context, str(error))
    settings = Settings(
        identity=own,
        peer_key=key,
        revision=number,
        patience=Patience(start=10.0 if listen is None else _RANK_0_RETURNS),
        has_extensions=None if extensions == "auto" else False,
    )
    options = ["--listen" if connect is None else "--connect", f"{host}:{port}", "--revision", str(revision)]
    for name, value in (("restart-command", restart_command), ("identity", identity), ("peer-key", peer_key)):
        options += [] if value is None else [f"--{name}", str(value)]
    options += ["--extensions", "none"] if extensions == "none" else []

    def found(finding: "PeerFinding") -> None:
        path = store.keep(findings, "peer", msgspec.json.format(msgspec.json.encode(finding.script)))
        again = shlex.join(["wireproto", "fuzz", "peer", *options, "--replay", str(path)])
        if as_json:
            script = {"seed": finding.script.seed, "session": finding.script.number}
            told = {
                "kind": finding.kind,
                "rule": finding.rule,
                "strict": finding.is_strict,
                "came": finding.came,
                **script,
            }
            say(json.dumps({**told, "replay": again}))
        else:
            mark = "" if finding.is_strict else "non-strict: "
            say_lines(f"{mark}{finding.kind} [{finding.rule}]", f"  got: {finding.came}", f"  again: {again}")
        sys.stdout.flush()

    progress, is_gone = PeerProgress(), False
    with interruptible() as interrupted, display.shown(not as_json) as show:

        def told(now: "PeerProgress") -> None:
            nonlocal progress
            progress = now
            show(f"{progress.sessions:,} sessions, findings {progress.findings}")

        try:
            progress = fuzz(
                targets, settings, scripts, seconds=seconds, rate=rate, found=found, tell=told, expected=known
            )
        except (Missed, Undecided, PeerGoneError) as error:
            say(printable(f"{context.command_path}: {error}"), err=True)
            is_gone = not progress.findings
    if as_json:
        done = {name: getattr(progress, name) for name in progress.__dataclass_fields__}
        say(json.dumps({"done": True, "seed": seed, **done}))
    elif not is_gone:
        rest = f", non-strict {progress.non_strict}" if progress.non_strict else ""
        rest += f", {progress.expected:,} as expected" if known else ""
        say(f"{progress.sessions:,} sessions in {progress.seconds:.0f} s, findings {progress.findings}{rest}")
    return EXIT_COULD_NOT_RUN if is_gone else exit_code(progress.findings, interrupted)


def _address(context: typer.Context, text: str, anywhere: bool) -> tuple[str, int]:
    host, port = address(context, text)
    if not anywhere and not re.fullmatch(r"localhost|127(\.[0-9]{1,3}){3}", host):
        raise typer.BadParameter(f"{host} is not this machine; add --anywhere to allow it", ctx=context)
    return host, port
