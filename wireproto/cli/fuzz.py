"""The commands `wireproto fuzz …`."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wireproto.cli.conform import ConnectOption, IdentityOption, ListenOption, PeerKeyOption, RevisionOption, address
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, EXIT_OK, say
from wireproto.errors import printable
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.fuzzing.harness import Harness
    from wireproto.fuzzing.watch import Finding

_FINDINGS: Final = Path("fuzz-findings")
_RANK_0_RETURNS: Final = 30.0
"""Seconds for rank 0 to connect. By the protocol it reconnects 10 s after a session."""
_HELP: Final = """Fuzz this package or another implementation.

Example: wireproto fuzz run frame --seconds 60

Findings are saved in fuzz-findings, and reported with the command that reproduces them.
"""

SecondsOption = Annotated[float, typer.Option("--seconds", min=0.0, help="Duration.")]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed gives the same inputs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `done`.")]
FindingsOption = Annotated[Path, typer.Option("--findings", metavar="DIR", help="Where to save findings.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help=_HELP, rich_markup_mode=None)
    for command in (run, replay, minimize, codec, peer):
        group.command()(command)
    group.command(name="dict")(dictionary)
    corpus = typer.Typer(help="Seed inputs.\n\nExample: wireproto fuzz corpus export corpus", rich_markup_mode=None)
    corpus.command()(export)
    corpus.callback()(_group)
    group.add_typer(corpus, name="corpus")
    app.add_typer(group, name="fuzz")


def _group() -> None:
    """Keep `export` a subcommand: typer would run a group's only command without its name."""


def run(
    context: typer.Context,
    layer: Annotated[
        str,
        typer.Argument(
            metavar="LAYER",
            help="link, frame, schema, handshake, seal, session, inspection or device_file; or MODULE:FUNCTION, "
            "a function that returns a harness, such as bootstrap.fuzzing:hostfile_harness.",
        ),
    ],
    seconds: SecondsOption = 60.0,
    corpus: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Start from DIR/LAYER, and save new inputs there.")
    ] = None,
    findings: FindingsOption = _FINDINGS,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Run the harness of one layer.

    Example: wireproto fuzz run frame --seconds 600

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage, 130 Ctrl-C before any finding.
    """
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.engine import Engine

    harness = _harness(context, layer)
    engine = Engine(harness, seed, store.inputs(corpus, layer) if corpus else ())
    with _interruptible() as interrupted, display.shown(not as_json) as show:
        for finding in engine.run(seconds, lambda progress: show(display.line(progress))):
            _tell_finding(finding, store.keep_finding(findings, layer, finding), as_json)
    if corpus:
        for data in engine.kept:
            store.keep(corpus, layer, data)
    progress = engine.progress
    if as_json:
        values = {name: getattr(progress, name) for name in progress.__dataclass_fields__}
        say(json.dumps({"done": True, "seed": seed, **values}))
    else:
        say(display.line(progress))
    return _code(progress.findings, interrupted)


def replay(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Each in a directory named after its layer.")],
) -> int:
    """Run inputs through their harness again.

    Example: wireproto fuzz replay fuzz-findings/frame/*

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage.
    """
    from wireproto.fuzzing.watch import watched

    bad = 0
    harnesses: dict[str, Harness] = {}
    for file in files:
        data = _read(context, file)
        layer = file.absolute().parent.name
        if layer not in harnesses:
            harnesses[layer] = _harness(context, layer)
        _, finding = watched(harnesses[layer], data)
        _say(f"{file}: {'good' if finding is None else f'{finding.oracle}: {finding.detail}'}")
        if finding is not None:
            bad += 1
            say("\n".join(map(printable, finding.trace.splitlines())), err=True)
    return EXIT_NO if bad else EXIT_OK


def minimize(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A finding, in a directory named after its layer.")],
) -> int:
    """Reduce a finding to its essential bytes.

    Example: wireproto fuzz minimize fuzz-findings/frame/the-schema-0123456789abcdef

    The result is saved next to the finding.

    Exit codes: 0 done, 1 the file is not a finding, 2 wrong usage.
    """
    from wireproto.fuzzing import store
    from wireproto.fuzzing.minimize import minimized
    from wireproto.fuzzing.watch import watched

    data = _read(context, file)
    layer = file.absolute().parent.name
    harness = _harness(context, layer)
    _, finding = watched(harness, data)
    if finding is None:
        say(printable(f"{context.command_path}: {file} is not a finding"), err=True)
        return EXIT_NO
    wanted = finding.key

    def is_same(smaller: bytes) -> bool:
        found = watched(harness, smaller)[1]
        return found is not None and found.key == wanted

    smaller = minimized(data, is_same)
    path = store.keep(file.absolute().parent.parent, layer, smaller, "smaller-")
    _say(f"{len(data)} bytes, now {len(smaller)}: {path}")
    return EXIT_OK


def codec(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD ARGS", help="The codec.")] = None,
    seconds: SecondsOption = 60.0,
    seed: SeedOption = 0,
    revision: RevisionOption = Revision.V2,
    replay_file: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Only send the frames of a saved disagreement.")
    ] = None,
    findings: FindingsOption = _FINDINGS,
    as_json: JsonOption = False,
) -> int:
    """Compare another codec with this one.

    Example: wireproto fuzz codec --seconds 60 -- wireproto codec

    A codec reads frames in hex and answers each with a line of JSON; `wireproto codec --help` describes the format. It
    may leave out codes and offsets.

    Exit codes: 0 they agree, 1 they disagree, 2 wrong usage, 3 could not run, 130 Ctrl-C.
    """
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.differential import Differential, Disagreement

    if not command:
        raise typer.BadParameter("give the codec's command after --", ctx=context)
    differential = Differential(command, seed, Revision(revision))

    def tell(found: Disagreement, path: Path) -> None:
        how = ["--replay", str(path)] if found.is_repeated else ["--seed", str(seed), "--seconds", f"{seconds:g}"]
        again = shlex.join(["wireproto", "fuzz", "codec", "--revision", str(revision), *how, "--", *command])
        if as_json:
            frame = found.frames[-1].hex()
            told = {"kind": found.kind, "frame": frame, "expected": found.expected, "answer": found.answer}
            say(json.dumps({**told, "replay": again}))
        else:
            _say(found.kind, f"  frame: {_short(found.frames[-1].hex())}", f"  expected: {_short(found.expected)}")
            _say(f"  answer: {_short(found.answer)}", f"  again: {again}")
        sys.stdout.flush()

    if replay_file is not None:
        disagreement = differential.replay(_frames(context, replay_file))
        if disagreement is not None:
            tell(disagreement, replay_file)
        return EXIT_OK if disagreement is None else EXIT_NO
    with _interruptible() as interrupted, display.shown(not as_json) as show:

        def progress(frames: int) -> None:
            show(f"{frames:,} frames, disagreements {len(differential.found)}")

        for found in differential.run(seconds, progress):
            tell(found, store.keep(findings, "codec", found.text))
    total = len(differential.found)
    if as_json:
        say(json.dumps({"done": True, "seed": seed, "frames": differential.frames, "disagreements": total}))
    else:
        say(f"{differential.frames:,} frames, disagreements {total}")
    return _code(total, interrupted)


def peer(
    context: typer.Context,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Allow a HOST other than this machine.")] = False,
    restart_command: Annotated[
        str | None, typer.Option(metavar="CMD", help="Starts the peer, again after it exits.")
    ] = None,
    identity: IdentityOption = None,
    peer_key: PeerKeyOption = None,
    revision: RevisionOption = Revision.V2,
    seconds: SecondsOption = 60.0,
    seed: SeedOption = 0,
    rate: Annotated[float, typer.Option(min=0.01, help="Maximum number of sessions per second.")] = 20.0,
    session: Annotated[int | None, typer.Option(metavar="N", help="Only session N of the seed.")] = None,
    replay_file: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Only the session of a saved finding.")
    ] = None,
    findings: FindingsOption = _FINDINGS,
    as_json: JsonOption = False,
) -> int:
    """Fuzz a live peer.

    Example: wireproto fuzz peer --connect 127.0.0.1:7777 --restart-command './peer listen'

    Each session starts with a real handshake and ends with a check that the peer still answers. The peer must have
    pinned our key. CMD finds the address in CONFORM_HOST and CONFORM_PORT. Rank 0 is started for each session, or has
    to reconnect by itself. No group is formed.

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage, 3 could not run, 130 Ctrl-C.
    """
    import msgspec

    from wireproto.conformance import Patience, RankOneTarget, RankZeroTarget, Settings, command_launcher
    from wireproto.conformance.identity import IdentityFileError, load_identity, peer_key_of
    from wireproto.conformance.verdicts import Missed, Undecided
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.peer import PeerFinding, PeerGoneError, PeerProgress, fuzz
    from wireproto.fuzzing.scripts import Script, drawn_script

    if (listen is None) == (connect is None):
        raise typer.BadParameter("give --listen or --connect", ctx=context)
    host, port = _address(context, connect or listen or "", anywhere)
    number = Revision(revision)
    if replay_file is not None:
        try:
            scripts = iter([msgspec.json.decode(_read(context, replay_file), type=Script)])
        except msgspec.MsgspecError as error:
            raise typer.BadParameter(f"{replay_file}: {error}", ctx=context) from None
    else:
        numbers = count() if session is None else iter([session])
        scripts = (drawn_script(seed, each, number) for each in numbers)
    try:
        key = None if peer_key is None else peer_key_of(peer_key)
        patience = Patience(start=10.0 if listen is None else _RANK_0_RETURNS)
        settings = Settings(identity=load_identity(identity), peer_key=key, revision=number, patience=patience)
        launcher = None if restart_command is None else command_launcher(restart_command)
    except (IdentityFileError, ValueError) as error:
        raise typer.BadParameter(str(error), ctx=context) from None
    target = (RankZeroTarget if connect is None else RankOneTarget)(host, port, launcher)
    options = ["--listen" if connect is None else "--connect", f"{host}:{port}", "--revision", str(revision)]
    for name, value in (("restart-command", restart_command), ("identity", identity), ("peer-key", peer_key)):
        options += [] if value is None else [f"--{name}", str(value)]

    def found(finding: PeerFinding) -> None:
        path = store.keep(findings, "peer", msgspec.json.format(msgspec.json.encode(finding.script)))
        again = shlex.join(["wireproto", "fuzz", "peer", *options, "--replay", str(path)])
        if as_json:
            script = {"seed": finding.script.seed, "session": finding.script.number}
            say(json.dumps({"kind": finding.kind, "came": finding.came, **script, "replay": again}))
        else:
            _say(finding.kind, f"  came: {finding.came}", f"  again: {again}")
        sys.stdout.flush()

    progress = PeerProgress()
    with _interruptible() as interrupted, display.shown(not as_json) as show:

        def told(now: PeerProgress) -> None:
            nonlocal progress
            progress = now
            show(f"{progress.sessions:,} sessions, findings {progress.findings}")

        try:
            fuzz(target, settings, scripts, seconds=seconds, rate=rate, found=found, tell=told)
        except (Missed, Undecided, PeerGoneError) as error:
            say(printable(f"{context.command_path}: {error}"), err=True)
            if not progress.findings:
                return EXIT_COULD_NOT_RUN
    if as_json:
        done = {"sessions": progress.sessions, "findings": progress.findings, "seconds": progress.seconds}
        say(json.dumps({"done": True, "seed": seed, **done}))
    else:
        say(f"{progress.sessions:,} sessions in {progress.seconds:.0f} s, findings {progress.findings}")
    return _code(progress.findings, interrupted)


def export(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Created if it does not exist.")]) -> int:
    """Write the test vectors as seeds.

    Example: wireproto fuzz corpus export corpus

    DIR/LAYER has one file per input, DIR/sequences the bytes sent to one side of a connection, for AFLNet.

    Exit codes: 0 written, 3 the directory cannot be written.
    """
    from wireproto.fuzzing.corpus import export as exported

    paths = list(exported(directory))
    _say(f"{len(paths)} files in {directory}")
    return EXIT_OK


def dictionary() -> int:
    """Write a dictionary for AFL and libFuzzer.

    Example: wireproto fuzz dict > cluster_link.dict

    Exit code: 0.
    """
    from wireproto.fuzzing.corpus import dictionary as lines

    for line in lines():
        say(line)
    return EXIT_OK


def _say(*lines: str) -> None:
    for line in lines:
        say(printable(line))


@contextmanager
def _interruptible() -> Iterator[list[None]]:
    """End the `with` block on Ctrl-C, and report that by a non-empty list."""
    interrupted: list[None] = []
    try:
        yield interrupted
    except KeyboardInterrupt:
        interrupted.append(None)


def _code(found: int, interrupted: list[None]) -> int:
    """Return the exit code of a run. Raise KeyboardInterrupt if it was interrupted without a finding."""
    if found:
        return EXIT_NO
    if interrupted:
        raise KeyboardInterrupt
    return EXIT_OK


def _address(context: typer.Context, text: str, anywhere: bool) -> tuple[str, int]:
    host, port = address(context, text)
    if not anywhere and not re.fullmatch(r"localhost|127(\.[0-9]{1,3}){3}", host):
        raise typer.BadParameter(f"{host} is not this machine; add --anywhere to allow it", ctx=context)
    return host, port


def _frames(context: typer.Context, file: Path) -> list[bytes]:
    try:
        frames = [bytes.fromhex(line) for line in _read(context, file).decode().split("\n")[:-1]]
    except ValueError:
        frames = []
    if not frames:
        raise typer.BadParameter(f"{file} does not have one frame in hex per line", ctx=context)
    return frames


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _harness(context: typer.Context, layer: str) -> "Harness":
    from wireproto.fuzzing.layers import harness_of

    try:
        return harness_of(layer)
    except ValueError as error:
        raise typer.BadParameter(str(error), ctx=context) from None


def _read(context: typer.Context, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", ctx=context) from None


def _tell_finding(finding: "Finding", path: Path, as_json: bool) -> None:
    again = f"wireproto fuzz replay {shlex.quote(str(path))}"
    if as_json:
        told = {"layer": finding.layer, "oracle": finding.oracle, "detail": finding.detail, "replay": again}
        say(json.dumps(told))
    else:
        _say(f"{finding.layer}: {finding.oracle}: {finding.detail}", f"  again: {again}")
    sys.stdout.flush()
