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

from bootstrap.cli.options import BackendOption, IdentityOption, JsonOption, failures
from bootstrap.errors import ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, EXIT_OK, say
from wireproto.errors import printable

if TYPE_CHECKING:
    from bootstrap.doctor.checks import Check
    from bootstrap.doctor.ladder import Patient
    from bootstrap.plan import BackendChoice
    from bootstrap.tools import Call
    from wireproto.jaccl.topology import DeviceEntry


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
    identity: IdentityOption = None,
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
    with failures(context):
        check_timeout(timeout)
        if hostfile is not None and peer_ip is not None:
            raise ConfigError("--hostfile already names the peers; leave --peer-ip out", code="bad-peers")
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

    show = _show_json if as_json else _writer()
    done: list[Check] = []
    with recorded() as calls:
        try:
            with _limit(timeout):
                for check in examine(patient):
                    done.append(check)
                    show(check)
        except _TimeIsUpError:
            after = f"; the last one to finish was {done[-1].name}" if done else ""
            evidence = f"the checks took more than {timeout:g} s{after}"
            check = Check("timeout", "red", evidence, "the next check hangs", "try a longer --timeout")
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
    """Write the report and say where it is. Return whether that worked."""
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
    message = f"report written to {printable(str(file))}; read it before you publish it"
    say(json.dumps({"event": "report", "path": str(file)}) if as_json else message)
    return True


def _of_hostfile(patient: "Patient", file: Path) -> tuple["Patient", tuple[str, ...]]:
    """Add what the hostfile says about this host and its peers. Return the host names too."""
    from bootstrap.hostfile import read_hostfile

    hosts = read_hostfile(file)
    rank = hosts.own_rank() if patient.rank is None else patient.rank
    if rank >= len(hosts.ips):
        text = f"--rank {rank} is wrong, {file} has {len(hosts.ips)} hosts; use 0 to {len(hosts.ips) - 1}"
        raise ConfigError(text, code="bad-rank")
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
    """Return a function that shows a check: with a mark and colours on a terminal, else in plain words."""
    from rich.console import Console

    from bootstrap.launch.table import check_lines

    console, is_terminal = Console(highlight=False), sys.stdout.isatty()

    def show(check: "Check") -> None:
        for line in check_lines(check, 16, terminal=is_terminal):
            if is_terminal:
                console.print(line, soft_wrap=True)
            else:
                say(line.plain)

    return show


class _TimeIsUpError(Exception):
    pass


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUpError in the block once the time is over."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _TimeIsUpError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, in case the first one cannot raise anything
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
