"""The command `wireproto inspect`."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from wireproto.cli.console import EXIT_NO, EXIT_OK, example, say
from wireproto.cli.files import NamedFile, write
from wireproto.errors import printable
from wireproto.messages import SPEC_BY_TYPE

if TYPE_CHECKING:
    from wireproto.inspection.reading import Reading
    from wireproto.inspection.sessions import Entry

_LONG: Final = 16 * 1024 * 1024
"""Files of at least this size have a progress bar."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(name="inspect", epilog=example("wireproto inspect link.pcapng --keylog keys.txt --svg session.svg"))(
        inspect
    )


def inspect(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Capture (pcap or pcapng, also compressed), or the bytes of one direction; a pipe, or - for standard "
            "input.",
        ),
    ],
    keylog: Annotated[Path | None, typer.Option(metavar="FILE", help="Key log, to open sealed sessions.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME", help="Show only this message type: a name, 7 or 0x07. Repeatable."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, max=1, metavar="0|1", help="Show only what rank 0, or any other rank, sent.")
    ] = None,
    as_hex: Annotated[bool, typer.Option("--hex", help="Show every byte with its field.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `done`.")] = False,
    decrypt: Annotated[
        Path | None, typer.Option(metavar="OUT.pcapng", help="Write the capture with sealed boxes opened.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="Draw a sequence diagram.")] = None,
) -> int:
    """Show the messages in a capture of a link, and the errors in them.

    Live, through a named pipe: jaccl-bootstrap up … --capture PIPE, and here wireproto inspect PIPE.

    Missing bytes, and boxes without a key, are shown and counted; they are not errors.

    Exit codes: 0 all good, 1 a frame or the file is broken, or there is no session, 2 wrong usage, 3 could not run.
    """
    # Imported here, because --help does not need it.
    from wireproto.inspection.captures import CaptureError
    from wireproto.inspection.keys import KeyLog
    from wireproto.inspection.opened import OpenedCapture
    from wireproto.inspection.reading import NotACaptureError, Reading
    from wireproto.inspection.report import JsonReport, Tally, TextReport
    from wireproto.inspection.sequence import SequenceDiagram
    from wireproto.inspection.source import Source

    if as_hex and as_json:
        raise typer.BadParameter("give --hex or --json, not both", ctx=context)
    wanted = {_type_byte(context, name) for name in types or ()}
    file = Path("/dev/stdin") if str(file) == "-" else file
    for each in (decrypt, svg):
        if each is not None and each.exists() and file.exists() and each.samefile(file):
            raise typer.BadParameter(f"{each} is the input file; write to another", ctx=context)
    report = JsonReport() if as_json else TextReport(with_bytes=as_hex)
    tally, fault, is_nothing = Tally(), None, False
    diagram = None if svg is None else SequenceDiagram()
    with ExitStack() as stack:
        try:
            opened_file = stack.enter_context(NamedFile(file))
            keys = None if keylog is None else KeyLog(stack.enter_context(keylog.open(errors="replace")))
        except OSError as error:
            raise typer.BadParameter(f"{printable(str(error.filename))}: {error.strerror}", ctx=context) from None
        is_live = not stat.S_ISREG(os.fstat(opened_file.fileno()).st_mode)
        opened = None if decrypt is None else OpenedCapture(stack.enter_context(_private(decrypt)))
        reading = Reading(Source(opened_file, stack.enter_context(_progress(opened_file))), keys)
        try:
            for entry in reading.entries():
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
            is_nothing = isinstance(error, NotACaptureError)
    if as_json or not is_nothing:
        report.done(tally, reading, fault)
    if svg is not None and diagram is not None:
        write(svg, diagram.svg().encode())
    if fault is None and not tally.sessions:
        fault = "it contains no session of the protocol" + _unread(reading)
    if fault is not None:
        say(f"{context.command_path}: {printable(str(file))}: {fault}", err=True)
    return EXIT_OK if tally.is_good and fault is None else EXIT_NO


def _unread(reading: "Reading") -> str:
    """Return which packets cannot be read, and how to record readable ones."""
    unread = [name for name in reading.others if name.startswith("link type")]
    if not unread:
        return ""
    return (
        f"; packets of {', '.join(unread)} are not read; record the interface that has the IP address: tcpdump -i IFACE"
    )


def _private(path: Path) -> BinaryIO:
    """Open a file for writing that only its owner can read."""
    return BufferedWriter(NamedFile(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)))


@contextmanager
def _progress(file: FileIO) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error for a long file, if that is a terminal."""
    status = os.fstat(file.fileno())
    is_long = stat.S_ISREG(status.st_mode) and status.st_size >= _LONG
    if not (is_long and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=sys.stdout is not None and sys.stdout.isatty()
    ) as progress:
        task = progress.add_task("", total=status.st_size)
        yield lambda size: progress.advance(task, size)


def _type_byte(context: typer.Context, name: str) -> int:
    for value, spec in SPEC_BY_TYPE.items():
        if name in (spec.msg_type.wire_name, str(value)) or name.lower() == f"0x{value:02x}":
            return value
    known = ", ".join(spec.msg_type.wire_name for spec in SPEC_BY_TYPE.values())
    raise typer.BadParameter(f"{name!r} is not a message type; use one of {known}", ctx=context, param_hint="--type")


def _is_wanted(entry: "Entry", wanted: set[int]) -> bool:
    return not wanted or bool(entry.frame and entry.frame[0] in wanted)
