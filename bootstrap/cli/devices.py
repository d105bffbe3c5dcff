"""The command `devices` of `jaccl-bootstrap`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bootstrap.cli.options import JsonOption
from bootstrap.files import read_file
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, EXIT_OK, example, say
from wireproto.errors import printable
from wireproto.messages import MAX_SIZE

if TYPE_CHECKING:
    from wireproto.jaccl.topology import DeviceVerdict

_FORMS: Final = {(True, True): "mesh and ring", (True, False): "mesh", (False, True): "ring"}

devices = typer.Typer(
    help="Work with files that name the RDMA devices of each rank.",
    epilog=example("jaccl-bootstrap devices check devices.json"),
    rich_markup_mode=None,
)


@devices.callback()
def root() -> None:
    pass  # keeps `check` a subcommand


@devices.command(epilog=example("jaccl-bootstrap devices check devices.json --rank 0"))
def check(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Device file (JSON); - is standard input.")],
    rank: Annotated[
        int | None, typer.Option(min=0, max=MAX_SIZE - 1, metavar="R", help="Show the devices that this rank uses.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check a device file, which JACCL reads from MLX_IBV_DEVICES.

    Exit codes: 0 valid, 1 not valid, 2 wrong usage, 3 the file cannot be read.
    """
    from wireproto.jaccl.topology import check_device_file

    try:
        data = _read(file)
    except OSError as error:
        message = printable(f"cannot read {file}: {error.strerror}")
        if as_json:
            say(json.dumps({"event": "error", "code": "unreadable", "message": message}))
            say(json.dumps({"event": "done", "ok": False}))
        say(f"{context.command_path}: {message}", err=True)
        return EXIT_COULD_NOT_RUN
    verdict = check_device_file(data, rank=rank)
    (_show_json if as_json else _show)(verdict, rank)
    return EXIT_NO if verdict.faults else EXIT_OK


def _read(file: str) -> bytes:
    """Return the content, up to one byte over the limit of a device file."""
    from wireproto.jaccl.topology import MAX_FILE

    if file == "-":
        return b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_FILE + 1)
    return read_file(file, MAX_FILE)


def _show(verdict: "DeviceVerdict", rank: int | None) -> None:
    from wireproto.jaccl.topology import devices_of

    if verdict.matrix is None:
        say(typer.style("not usable", fg="red", bold=True))
        for fault in verdict.faults:
            say(str(fault))
        return
    form = _FORMS[verdict.mesh, verdict.ring]
    say(typer.style(f"valid {form}", fg="green", bold=True) + f", {len(verdict.matrix)} ranks")
    if rank is not None:
        for peer, names in devices_of(verdict.matrix, rank).items():
            say(f"rank {rank} uses {', '.join(names)} towards rank {peer}")


def _show_json(verdict: "DeviceVerdict", rank: int | None) -> None:
    from wireproto.jaccl.topology import devices_of

    for fault in verdict.faults:
        where = {"path": fault.path, "offset": fault.offset}
        say(json.dumps({"event": "fault", "code": fault.code, **where, "message": fault.detail}))
    matrix = verdict.matrix
    answer: dict[str, object] = {
        "event": "done",
        "ok": not verdict.faults,
        "mesh": verdict.mesh,
        "ring": verdict.ring,
        "size": None if matrix is None else len(matrix),
    }
    if rank is not None and matrix is not None:
        answer["devices"] = devices_of(matrix, rank)
    say(json.dumps(answer))
