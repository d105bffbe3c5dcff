"""The command `wireproto inspect`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from wireproto.cli.console import EXIT_NO, EXIT_OK
from wireproto.messages import SPEC_BY_TYPE

if TYPE_CHECKING:
    from wireproto.inspection.keys import KeyLog
    from wireproto.inspection.report import Tally
    from wireproto.inspection.sessions import Entry

_CHUNK: Final = 64 * 1024
_LONG: Final = 16 * 1024 * 1024
"""Show a progress bar for files of at least this size."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(name="inspect")(inspect)


def inspect(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A pcap or pcapng file, a pipe, - for standard input, or the raw bytes of one direction.",
        ),
    ],
    keylog: Annotated[Path | None, typer.Option(metavar="FILE", help="Key log, to open sealed sessions.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME", help="Only messages of this type; a number works, too. Repeatable."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, max=1, help="Only from this rank; 1: any but rank 0.")] = None,
    as_hex: Annotated[bool, typer.Option("--hex", help="Show every byte with its field.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `done`.")] = False,
    decrypt: Annotated[
        Path | None, typer.Option(metavar="OUT.pcapng", help="Write the capture with its boxes opened.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="Draw the sequence diagram.")] = None,
) -> int:
    """Show the messages in a capture of a link, and their errors.

    Example: wireproto inspect link.pcapng --keylog keys.txt --svg session.svg

    Live, with a named pipe: jaccl-bootstrap up … --capture PIPE, and here: wireproto inspect PIPE

    Exit codes: 0 all good, 1 a bad frame, a bad file or no session, 2 wrong usage, 3 could not run. Gaps in the capture
    and boxes without a key are shown, but are not errors.
    """
    # Imported here so that --help stays fast.
    from wireproto.inspection.connections import entries_of_stream
    from wireproto.inspection.keys import KeyLog
    from wireproto.inspection.opened import OpenedCapture
    from wireproto.inspection.packets import CaptureError, is_capture
    from wireproto.inspection.report import JsonReport, Tally, TextReport
    from wireproto.inspection.sequence import SequenceDiagram
    from wireproto.inspection.timeline import printable

    if as_hex and as_json:
        raise typer.BadParameter("give --hex or --json, not both", ctx=context)
    wanted = {_type_byte(context, name) for name in types or ()}
    file = Path("/dev/stdin") if str(file) == "-" else file
    for each in (decrypt, svg):
        if each is not None and each.exists() and file.exists() and each.samefile(file):
            raise typer.BadParameter(f"{each} is the input file; write to a different file", ctx=context)
    report = JsonReport() if as_json else TextReport(with_bytes=as_hex)
    tally, fault = Tally(), None
    diagram = None if svg is None else SequenceDiagram()
    is_live = not file.is_file()
    with ExitStack() as stack:
        try:
            captured = is_capture(file)
            keys = None if keylog is None else KeyLog(stack.enter_context(keylog.open(errors="replace")))
        except OSError as error:
            raise typer.BadParameter(f"{error.filename}: {error.strerror}", ctx=context) from None
        opened = None if decrypt is None else OpenedCapture(stack.enter_context(_private(decrypt)))
        advance = stack.enter_context(_progress(file))
        entries = _captured(file, keys, tally, advance) if captured else entries_of_stream(_chunks(file, advance), keys)
        try:
            for entry in entries:
                tally.add(entry)
                if opened is not None:
                    opened.add(entry)
                if entry.sender is None or (rank in (None, entry.sender) and _is_wanted(entry, wanted)):
                    report.entry(entry)
                    if diagram is not None:
                        diagram.add(entry)
                    if is_live:
                        sys.stdout.flush()
        except CaptureError as error:
            fault = printable(str(error))
    report.done(tally, fault)
    if svg is not None and diagram is not None:
        svg.write_text(diagram.svg(), encoding="utf-8")
    if fault is not None:
        typer.echo(f"{context.command_path}: {file}: {fault}", err=True)
    elif not tally.sessions:
        typer.echo(f"{context.command_path}: {file}: no session of the protocol found", err=True)
    return EXIT_OK if tally.is_good and fault is None else EXIT_NO


def _captured(file: Path, keys: "KeyLog | None", tally: "Tally", advance: Callable[[int], None]) -> Iterator["Entry"]:
    """Yield the entries of a capture. If it cannot be read to the end, raise `CaptureError` after the readable ones."""
    from wireproto.inspection.connections import Capture
    from wireproto.inspection.packets import CaptureError, read_packets

    capture = Capture(keys)
    fault = None
    try:
        for packet in read_packets(file):
            advance(packet.size)
            if packet.segment is not None:
                yield from capture.take(packet.segment)
    except CaptureError as error:
        fault = error
    yield from capture.end()
    tally.others = capture.others
    if fault is not None:
        raise fault


def _private(path: Path) -> BinaryIO:
    """Open a new file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def _chunks(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            advance(len(chunk))
            yield chunk


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error for a long file, if that is a terminal."""
    if not (file.is_file() and file.stat().st_size >= _LONG and sys.stderr.isatty()):
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=file.stat().st_size)
        held = 0

        def advance(size: int) -> None:
            nonlocal held
            held += size
            if held >= _LONG // 16:  # updating the bar takes longer than a packet
                progress.advance(task, held)
                held = 0

        yield advance


def _type_byte(context: typer.Context, name: str) -> int:
    for value, spec in SPEC_BY_TYPE.items():
        if name in (spec.msg_type.wire_name, str(value)) or name.lower() == f"0x{value:02x}":
            return value
    known = ", ".join(spec.msg_type.wire_name for spec in SPEC_BY_TYPE.values())
    raise typer.BadParameter(f"{name!r} is not a type; use one of {known}", ctx=context, param_hint="--type")


def _is_wanted(entry: "Entry", wanted: set[int]) -> bool:
    return not wanted or bool(entry.frame and entry.frame[0] in wanted)
