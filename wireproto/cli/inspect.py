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
"""Files from this size on have a progress bar."""


def register(app: typer.Typer) -> None:
    """Put the command on `app`."""
    app.command(name="inspect")(inspect)


def inspect(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A capture, pcap or pcapng; a pipe with one, - for standard input; or the bytes of one direction.",
        ),
    ],
    keylog: Annotated[Path | None, typer.Option(metavar="FILE", help="Key log that opens sealed sessions.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME", help="Only messages of this type, 7 or 0x07 too. Repeatable."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, max=1, help="Only what this rank sent; 1: any but rank 0.")] = None,
    as_hex: Annotated[bool, typer.Option("--hex", help="Every byte, with its field.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, the last one `done`.")] = False,
    decrypt: Annotated[
        Path | None, typer.Option(metavar="OUT.pcapng", help="Write the capture with its seals opened.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="Draw the sequence diagram.")] = None,
) -> int:
    """Show what went over a link, and what of it is wrong.

    Example: wireproto inspect link.pcapng --keylog keys.txt --svg session.svg

    Live, with a named pipe: jaccl-bootstrap up … --capture PIPE, and here: wireproto inspect PIPE

    Exit codes: 0 all good, 1 a frame is broken, or the file, or it has no session, 2 wrong usage, 3 could not run.
    What the capture lacks, and what stays sealed for want of a key, is shown, and is no fault.
    """
    # Here, so that --help needs none of it.
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
            raise typer.BadParameter(f"{each} is the file that is read; write to another", ctx=context)
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
        typer.echo(f"{context.command_path}: {file}: no session of the protocol is in it", err=True)
    return EXIT_OK if tally.is_good and fault is None else EXIT_NO


def _captured(file: Path, keys: "KeyLog | None", tally: "Tally", advance: Callable[[int], None]) -> Iterator["Entry"]:
    """What the packets of a capture say, to the end of those that can be read. Raises `CaptureError` behind that."""
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
    """A new file that nobody else may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def _chunks(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            advance(len(chunk))
            yield chunk


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """A bar on standard error for a long file, where that is a terminal."""
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
            if held >= _LONG // 16:  # a bar costs more than a packet
                progress.advance(task, held)
                held = 0

        yield advance


def _type_byte(context: typer.Context, name: str) -> int:
    for value, spec in SPEC_BY_TYPE.items():
        if name in (spec.msg_type.wire_name, str(value)) or name.lower() == f"0x{value:02x}":
            return value
    known = ", ".join(spec.msg_type.wire_name for spec in SPEC_BY_TYPE.values())
    raise typer.BadParameter(f"{name!r} is no type; take one of {known}", ctx=context, param_hint="--type")


def _is_wanted(entry: "Entry", wanted: set[int]) -> bool:
    return not wanted or bool(entry.frame and entry.frame[0] in wanted)
