"""The commands `wireproto fuzz …`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wireproto.cli.conform import ExtensionsOption, RevisionOption
from wireproto.cli.console import EXIT_NO, EXIT_OK, example, say
from wireproto.cli.fuzz_options import (
    FINDINGS,
    FindingsOption,
    JsonOption,
    SecondsOption,
    SeedOption,
    exit_code,
    interruptible,
    say_lines,
)
from wireproto.cli.fuzz_peer import peer
from wireproto.cli.reports import read_bytes
from wireproto.errors import printable
from wireproto.messages import Revision

if TYPE_CHECKING:
    from wireproto.fuzzing.harness import Harness
    from wireproto.fuzzing.watch import Finding

_HELP: Final = """Fuzz this package or another implementation.

Each finding is saved, and reported with the command that reproduces it.
"""
_EXPORT_EXAMPLE: Final = example("wireproto fuzz corpus export corpus")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help=_HELP, epilog=example("wireproto fuzz run frame --seconds 600"), rich_markup_mode=None)
    group.command(epilog=example("wireproto fuzz run frame --seconds 600"))(run)
    group.command(epilog=example("wireproto fuzz replay fuzz-findings/frame/*"))(replay)
    group.command(epilog=example("wireproto fuzz minimize", "fuzz-findings/frame/the-schema-0123456789abcdef"))(
        minimize
    )
    group.command(epilog=example("wireproto fuzz codec --seconds 60 -- wireproto codec"))(codec)
    group.command(epilog=example("wireproto fuzz peer --connect 127.0.0.1:7777", "--restart-command './peer listen'"))(
        peer
    )
    group.command(name="dict", epilog=example("wireproto fuzz dict > cluster_link.dict"))(dictionary)
    corpus = typer.Typer(help="Export seed inputs.", epilog=_EXPORT_EXAMPLE, rich_markup_mode=None)
    corpus.command(epilog=_EXPORT_EXAMPLE)(export)
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
            "where the function returns a harness, as bootstrap.fuzzing:hostfile_harness does.",
        ),
    ],
    seconds: SecondsOption = 60.0,
    corpus: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Start from DIR/LAYER; save new inputs there. Default: none.")
    ] = None,
    findings: FindingsOption = FINDINGS,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Run the harness of one layer.

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage, 130 Ctrl-C before any finding.
    """
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.engine import Engine
    from wireproto.fuzzing.harness import HarnessError

    harness = _harness(context, layer)
    try:
        engine = Engine(harness, seed, store.inputs(corpus, layer) if corpus else ())
        with interruptible() as interrupted, display.shown(not as_json) as show:
            for finding in engine.run(seconds, lambda progress: show(display.line(progress))):
                _tell_finding(finding, store.keep_finding(findings, layer, finding), as_json)
    except HarnessError as error:
        raise typer.BadParameter(str(error), ctx=context) from None
    if corpus:
        for data in engine.kept:
            store.keep(corpus, layer, data)
    progress = engine.progress
    if as_json:
        values = {name: getattr(progress, name) for name in progress.__dataclass_fields__}
        say(json.dumps({"done": True, "seed": seed, **values}))
    else:
        say(display.line(progress))
    return exit_code(progress.findings, interrupted)


def replay(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Findings, each in a directory named after its layer.")
    ],
) -> int:
    """Run saved findings through their harness again.

    Exit codes: 0 no finding, 1 a finding, 2 wrong usage.
    """
    from wireproto.fuzzing.watch import watched

    bad = 0
    harnesses: dict[str, Harness] = {}
    for file in files:
        data = read_bytes(context, file)
        layer = file.absolute().parent.name
        if layer not in harnesses:
            harnesses[layer] = _harness_of(context, file)
        _, finding = watched(harnesses[layer], data)
        say_lines(f"{file}: {'good' if finding is None else f'{finding.oracle}: {finding.detail}'}")
        if finding is not None:
            bad += 1
            say("\n".join(map(printable, finding.trace.splitlines())), err=True)
    return EXIT_NO if bad else EXIT_OK


def minimize(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Finding, in a directory named after its layer.")],
) -> int:
    """Reduce a finding to its essential bytes.

    Saves the result next to the finding.

    Exit codes: 0 done, 1 the file is not a finding, 2 wrong usage.
    """
    from wireproto.fuzzing import store
    from wireproto.fuzzing.minimize import minimized
    from wireproto.fuzzing.watch import watched

    data = read_bytes(context, file)
    layer = file.absolute().parent.name
    harness = _harness_of(context, file)
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
    say_lines(f"{len(data)} bytes, now {len(smaller)}: {path}")
    return EXIT_OK


def codec(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD ARGS", help="Command that starts the codec.")
    ] = None,
    seconds: SecondsOption = 60.0,
    seed: SeedOption = 0,
    revision: RevisionOption = Revision.V2,
    extensions: ExtensionsOption = "auto",
    replay_file: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Send only the frames of a saved disagreement.")
    ] = None,
    findings: FindingsOption = FINDINGS,
    as_json: JsonOption = False,
) -> int:
    """Compare another codec with this one.

    A codec reads frames in hex and answers each with a line of JSON; `wireproto codec --help` describes the format.
    Codes and offsets are optional. Unknown error names are ignored.

    Exit codes: 0 they agree, 1 they disagree, 2 wrong usage, 3 could not run, 130 Ctrl-C.
    """
    from wireproto.conformance.frames import decoded
    from wireproto.fuzzing import display, store
    from wireproto.fuzzing.differential import Differential, Disagreement

    if not command:
        raise typer.BadParameter("give the codec's command after --", ctx=context)
    differential = Differential(command, seed, Revision(revision), None if extensions == "auto" else False)

    def tell(found: Disagreement, path: Path) -> None:
        how = ["--replay", str(path)] if found.is_repeated else ["--seed", str(seed), "--seconds", f"{seconds:g}"]
        how += ["--extensions", "none"] if extensions == "none" else []
        again = shlex.join(["wireproto", "fuzz", "codec", "--revision", str(revision), *how, "--", *command])
        if as_json:
            frame = found.frames[-1].hex()
            told = {"kind": found.kind, "frame": frame, "decoded": decoded(found.frames[-1])}
            told |= {"expected": found.expected, "answer": found.answer}
            say(json.dumps({**told, "crash": found.is_crash, "stderr": found.stderr, "replay": again}))
        else:
            say_lines(
                found.kind,
                f"  frame: {_short(found.frames[-1].hex())}",
                f"  which is: {decoded(found.frames[-1])}",
                f"  expected: {_short(found.expected)}",
                f"  answer: {_short(found.answer)}",
                *(f"  stderr: {line}" for line in found.stderr),
                f"  again: {again}",
            )
        sys.stdout.flush()

    if replay_file is not None:
        disagreement = differential.replay(_frames(context, replay_file))
        if disagreement is not None:
            tell(disagreement, replay_file)
        if as_json:
            say(json.dumps({"done": True, "disagreements": int(disagreement is not None)}))
        return EXIT_OK if disagreement is None else EXIT_NO

    def so_far() -> str:
        crashes = sum(each.is_crash for each in differential.found)
        total = len(differential.found)
        return f"{differential.frames:,} frames, " + f"crashes {crashes}, " * (crashes > 0) + f"disagreements {total}"

    with interruptible() as interrupted, display.shown(not as_json) as show:

        def progress(frames: int) -> None:
            show(so_far())

        for found in differential.run(seconds, progress):
            tell(found, store.keep(findings, "codec", found.text))
    total = len(differential.found)
    if as_json:
        counts = {"frames": differential.frames, "disagreements": total, "by_verdict": differential.by_verdict}
        say(json.dumps({"done": True, "seed": seed, **counts}))
    else:
        say(so_far())
        if differential.by_verdict:
            say("only verdicts are compared where an error name is not in the specification")
    return exit_code(total, interrupted)


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Target directory; created if missing.")],
) -> int:
    """Write the test vectors as seeds.

    DIR/LAYER gets one file per input. DIR/sequences gets the bytes sent to one side of a connection, for AFLNet.

    Exit codes: 0 written, 3 the directory cannot be written.
    """
    from wireproto.fuzzing.corpus import export as exported

    paths = list(exported(directory))
    say_lines(f"{len(paths)} files in {directory}")
    return EXIT_OK


def dictionary() -> int:
    """Write a dictionary for AFL and libFuzzer to standard output.

    Exit code: 0.
    """
    from wireproto.fuzzing.corpus import dictionary as lines

    for line in lines():
        say(line)
    return EXIT_OK


def _frames(context: typer.Context, file: Path) -> list[bytes]:
    try:
        frames = [bytes.fromhex(line) for line in read_bytes(context, file).decode().split("\n")[:-1]]
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


def _harness_of(context: typer.Context, file: Path) -> "Harness":
    """Return the harness of a finding."""
    from wireproto.fuzzing.layers import harness_of

    try:
        return harness_of(file.absolute().parent.name)
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not in a directory named after its layer: {error}", ctx=context) from None


def _tell_finding(finding: "Finding", path: Path, as_json: bool) -> None:
    again = f"wireproto fuzz replay {shlex.quote(str(path))}"
    if as_json:
        told = {"layer": finding.layer, "oracle": finding.oracle, "detail": finding.detail, "replay": again}
        say(json.dumps(told))
    else:
        say_lines(f"{finding.layer}: {finding.oracle}: {finding.detail}", f"  again: {again}")
    sys.stdout.flush()
