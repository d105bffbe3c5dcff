"""The command `doctor` of `jaccl-bootstrap`."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from bootstrap.cli.options import BackendOption, JsonOption
from bootstrap.errors import ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, EXIT_OK, example, say

if TYPE_CHECKING:
    from bootstrap.doctor.checks import Check
    from bootstrap.doctor.ladder import Patient
    from bootstrap.plan import BackendChoice
    from bootstrap.tools import Call
    from wireproto.jaccl.topology import DeviceEntry


def register(app: typer.Typer) -> None:
    """Put the command on `app`."""
    app.command(epilog=example("jaccl-bootstrap doctor --own-ip 169.254.1.1 --peer-ip 169.254.1.2"))(doctor)


def doctor(
    context: typer.Context,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mlx.launch hostfile; its other hosts are the peers.")
    ] = None,
    peer_ip: Annotated[
        str | None, typer.Option(metavar="IP", help="The other rank's address on the link (two ranks).")
    ] = None,
    own_ip: Annotated[str | None, typer.Option(metavar="IP", help="Own address on the link.")] = None,
    rank: Annotated[int | None, typer.Option(metavar="R", help="Own rank. Default: by address.")] = None,
    link_port: Annotated[int, typer.Option(metavar="PORT", help="TCP port for links.")] = 7777,
    coordinator_port: Annotated[int, typer.Option(metavar="PORT", help="MLX's TCP port.")] = 29400,
    backend: BackendOption = "auto",
    identity: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Own key. Default: `identity` shows it.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Limit for all checks.")] = 30.0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a report for a bug tracker, without keys, host names and foreign addresses."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check what a group needs. Stop at the first failure, and say how to fix it.

    Changes nothing. Lists the checks that were skipped because an option is missing.

    Exit codes: 0 no failure, 1 a check failed, 2 wrong usage, 3 could not run.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.doctor.checks import Check
    from bootstrap.doctor.ladder import Patient, examine, unreached
    from bootstrap.plan import check_timeout
    from bootstrap.tools import recorded

    names: tuple[str, ...] = ()
    try:
        check_timeout(timeout)
        if hostfile is not None and peer_ip is not None:
            raise ConfigError("--hostfile names the peers, so leave --peer-ip out", code="bad-peers")
        patient = Patient(
            backend=cast("BackendChoice", backend),
            own_ip=own_ip,
            peer_ips=() if peer_ip is None else (peer_ip,),
            rank=rank,
            link_port=link_port,
            coordinator_port=coordinator_port,
            identity=identity,
        )
        if hostfile is not None:
            patient, names = _of_hostfile(patient, hostfile)
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error

    show = _show_json if as_json else _writer()
    done: list[Check] = []
    with recorded() as calls:
        try:
            with _limit(timeout):
                for check in examine(patient):
                    done.append(check)
                    show(check)
        except _TimeIsUpError:
            after = f", of which {done[-1].name} was the last that ended" if done else ""
            evidence = f"the checks take more than {timeout:g} s{after}"
            check = Check("timeout", "red", evidence, "the next one hangs", "a larger --timeout, if this one is short")
            done.append(check)
            show(check)
    ok = done[-1].verdict != "red"
    rest = list(unreached(patient, done))
    for check in rest if as_json else ():
        show(check)
    written = report is None or _write_report(context, report, patient, names, [*done, *rest], calls, as_json)
    if as_json:
        say(json.dumps({"event": "done", "ok": ok}))
    return EXIT_COULD_NOT_RUN if not written else EXIT_OK if ok else EXIT_NO


def _write_report(
    context: typer.Context,
    file: Path,
    patient: "Patient",
    names: tuple[str, ...],
    checks: "list[Check]",
    calls: "list[Call]",
    as_json: bool,
) -> bool:
    """Write the report, and say so; return whether that could be done."""
    from bootstrap.doctor.report import Redaction, write_report
    from bootstrap.errors import TopologyWriteError
    from bootstrap.files import write_file

    link = [ip for ip in (patient.own_ip, *patient.peer_ips) if ip is not None]
    options: dict[str, object] = {
        "backend": patient.backend,
        "rank": patient.own_rank,
        "own address": patient.own_ip,
        "peers": ", ".join(patient.peer_ips) or None,
        "link port": patient.link_port,
        "coordinator port": patient.coordinator_port,
        "devices": ", ".join(patient.devices) or None,
    }
    text = write_report(options, checks, calls, Redaction(link, names))
    try:
        write_file(file, text.encode())
    except TopologyWriteError as error:
        if as_json:
            say(json.dumps({"event": "error", "code": error.code, "message": str(error)}))
        say(f"{context.command_path}: {error}", err=True)
        return False
    message = f"report written to {file}; read it before you publish it"
    say(json.dumps({"event": "report", "path": str(file)}) if as_json else message)
    return True


def _of_hostfile(patient: "Patient", file: Path) -> tuple["Patient", tuple[str, ...]]:
    """Add what the hostfile says about this host and the others; return the names of hosts as well."""
    from bootstrap.hostfile import read_hostfile

    hosts = read_hostfile(file)
    rank = hosts.own_rank() if patient.rank is None else patient.rank
    if rank >= len(hosts.ips):
        raise ConfigError(f"rank {rank} is wrong, {file} has {len(hosts.ips)} hosts", code="bad-rank")
    row = () if hosts.devices is None else hosts.devices[rank]
    patient = replace(
        patient,
        rank=rank,
        own_ip=patient.own_ip or hosts.ips[rank],
        peer_ips=tuple(ip for other, ip in enumerate(hosts.ips) if other != rank),
        backend=hosts.backend_for(patient.backend),
        devices=tuple(name for entry in row for name in _names(entry)),
    )
    return patient, hosts.names


def _names(entry: "DeviceEntry") -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def _show_json(check: "Check") -> None:
    say(json.dumps({"event": "check", **asdict(check)}))


def _writer() -> Callable[["Check"], None]:
    """Return how to show a check to a person: with a mark and colours on a terminal, in plain words elsewhere."""
    if sys.stdout is None or not sys.stdout.isatty():
        return _show_plain
    from rich.console import Console
    from rich.text import Text

    from bootstrap.doctor.checks import MARKS

    console = Console(highlight=False)

    def show(check: "Check") -> None:
        mark, colour = MARKS[check.verdict]
        line = Text.assemble((mark, f"bold {colour}"), "  ", (f"{check.name:<16}", "bold"), "  ", check.evidence)
        console.print(line, soft_wrap=True)
        for label, text in _remedy(check):
            console.print(Text.assemble("   ", (f"{label:<16}", "dim"), "  ", text), soft_wrap=True)

    return show


def _show_plain(check: "Check") -> None:
    say(f"{check.verdict:<7}  {check.name:<16}  {check.evidence}")
    for label, text in _remedy(check):
        say(f"{'':<7}  {label:<16}  {text}")


def _remedy(check: "Check") -> list[tuple[str, str]]:
    return [
        (f"  {label}", text) for label, text in (("cause", check.cause), ("remedy", check.remedy)) if text is not None
    ]


class _TimeIsUpError(Exception):
    pass


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUpError in the block when the time is over."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _TimeIsUpError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, if the first one comes where nothing can be raised
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
