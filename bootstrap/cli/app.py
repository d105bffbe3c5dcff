"""The command `jaccl-bootstrap`."""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

import bootstrap
from bootstrap.cli import devices as devices_cli
from bootstrap.cli import doctor as doctor_cli
from bootstrap.cli import identity as identity_cli
from bootstrap.errors import ConfigError
from bootstrap.plan import DEFAULT_PORT, MAX_RANKS, MIN_RANKS, BackendChoice, Plan, check_size, new_session_id
from wireproto.cli.console import EXIT_COULD_NOT_RUN, new_app, say
from wireproto.messages import Revision

BackendOption = Annotated[str, typer.Option(metavar="auto|jaccl|ring", help="auto: jaccl where MLX has it.")]
RevisionOption = Annotated[int, typer.Option(min=min(Revision), max=max(Revision), help="Of the link protocol.")]
TimeoutOption = Annotated[float, typer.Option(metavar="SECONDS", help="Give up after this time.")]
CaptureOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Record this rank's links (pcapng).")]
KeyLogOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Log the session keys that open them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, the last one `done`.")]

app = new_app(
    "jaccl-bootstrap",
    "Form one MLX group out of several processes, set off by a jacclBootstrap frame.\n\n"
    "Example: jaccl-bootstrap demo\n\n"
    "`up` needs the other rank's key: see `identity` and `pin`. `doctor` says what is missing.",
)


@app.command()
def demo(
    context: typer.Context,
    ranks: Annotated[int, typer.Option(help=f"Number of processes, {MIN_RANKS} to {MAX_RANKS}.")] = 2,
    backend: BackendOption = "auto",
    host: Annotated[
        str, typer.Option(metavar="IP", help="Loopback address of the link and of the ring.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Coordinator port; rank r takes port + r. Default: free ones.")
    ] = None,
    session_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Names the session. Default: a new UUID.")
    ] = None,
    revision: RevisionOption = Revision.V2,
    timeout: TimeoutOption = 60.0,
    capture: CaptureOption = None,
    keylog: KeyLogOption = None,
    as_json: JsonOption = False,
) -> int:
    """Form a group of real processes on this host. It is checked with one all_sum.

    Example: jaccl-bootstrap demo --ranks 4 --json

    Exit codes: 0 formed and checked, 2 wrong usage, 3 could not run, 130 Ctrl-C, 143 SIGTERM.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.cli.demo import Demo, run_demo
    from bootstrap.cli.display import display_for
    from bootstrap.link.record import set_key_log

    try:
        check_size(ranks)
        plan = Plan(
            rank=0,
            ips=(host,) * ranks,
            port=DEFAULT_PORT if port is None else port,
            link_ports=(),
            session_id=new_session_id() if session_id is None else session_id,
            backend=cast(BackendChoice, backend),
            revision=Revision(revision),
            timeout=timeout,
        )
        wanted = Demo(plan, free_ports=port is None, capture=capture)
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    set_key_log(keylog)
    with display_for(context.command_path, f"forming a group of {ranks}", as_json) as display:
        return run_demo(wanted, display)


@app.command()
def up(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD ARGS", help="Run this in the group. Default: hold the group.")
    ] = None,
    own_ip: Annotated[str | None, typer.Option(metavar="IP", help="Own address on the link, for two ranks.")] = None,
    peer_ip: Annotated[str | None, typer.Option(metavar="IP", help="The other rank's.")] = None,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mlx.launch's hostfile, for 2 to 8 ranks.")
    ] = None,
    rank: Annotated[str, typer.Option(metavar="R|auto", help="auto: by address, lower is 0.")] = "auto",
    peer_key: Annotated[
        str | None, typer.Option(metavar="BASE64", help="The peer's identity key. Default: the pinned one.")
    ] = None,
    trust_first_use: Annotated[
        bool, typer.Option("--trust-first-use", help="Pin whatever key an unpinned peer shows.")
    ] = False,
    identity: Annotated[Path | None, typer.Option(metavar="PATH", help="Own identity key.")] = None,
    link_port: Annotated[
        str, typer.Option(metavar="PORT[,PORT…]", help="All ranks but 0 listen on it; one for all, or one for each.")
    ] = "7777",
    coordinator_port: Annotated[int, typer.Option(help="Rank r uses the port r after it (ring).")] = 29400,
    revision: RevisionOption = Revision.V2,
    backend: BackendOption = "auto",
    timeout: TimeoutOption = 60.0,
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="From SIGTERM to SIGKILL for CMD.")] = 5.0,
    finish_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Limit for the others once CMD is done.")
    ] = None,
    restart: Annotated[int, typer.Option(metavar="N", help="Restart up to N times if the link drops.")] = 0,
    extensions: Annotated[str, typer.Option(metavar="on|off", help="See spec/protocol.md.")] = "on",
    session_id: Annotated[str | None, typer.Option(metavar="ID", help="Name the session.", hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="All but the group: show what it would do.")] = False,
    capture: CaptureOption = None,
    keylog: KeyLogOption = None,
    as_json: JsonOption = False,
) -> int:
    """Form the group from this rank; then run CMD, or hold it.

    Example: jaccl-bootstrap up --own-ip 169.254.1.1 --peer-ip 169.254.1.2 -- python serve.py

    Exit codes: 0 done, 2 wrong usage, 3 could not run, 130 Ctrl-C, 143 SIGTERM; with CMD, its own, and 125 for 3.
    """
    from bootstrap.cli.display import display_for
    from bootstrap.control.run import execute
    from bootstrap.hostfile import read_hostfile
    from bootstrap.link.record import open_capture, open_key_log, set_key_log
    from bootstrap.rank import run_for
    from bootstrap.trust import IdentityError, Trust

    try:
        if extensions not in ("on", "off"):
            raise ConfigError(f"extensions {extensions!r} is wrong, use on or off", code="bad-extensions")
        options: dict[str, Any] = {
            "link_ports": _ports(link_port),
            "port": coordinator_port,
            "session_id": session_id or new_session_id(),
            "backend": backend,
            "command": tuple(command or ()),
            "revision": Revision(revision),
            "extensions": extensions == "on",
            "timeout": timeout,
            "grace": grace,
            "finish_timeout": finish_timeout,
            "restarts": restart,
            "dry_run": dry_run,
        }
        if hostfile is not None and (own_ip, peer_ip) == (None, None):
            plan = read_hostfile(hostfile).plan(_rank(rank), **options)
        elif hostfile is None and own_ip is not None and peer_ip is not None:
            plan = Plan.of_pair(own_ip, peer_ip, _rank(rank), **options)
        else:
            raise ConfigError("give --own-ip and --peer-ip, or --hostfile", code="bad-ranks")
        trust = Trust.of(plan, identity, peer_key, trust_first_use)
        set_key_log(keylog)
        with (
            open_key_log() as key_log,
            open_capture(capture) as recorded,
            display_for(context.command_path, f"rank {plan.rank} of {plan.size}", as_json) as display,
        ):
            run = run_for(plan, display)

            async def main() -> None:
                async with bootstrap.rank(plan, trust, key_log=key_log, capture=recorded, run=run) as running:
                    await running.ended()

            summary = {"ranks": plan.size, "backend": plan.backend, "dry_run": plan.dry_run}
            return execute(run, main, has_command=bool(plan.command), **summary)
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except IdentityError as error:
        say(f"{context.command_path}: {error}", err=True)
        return EXIT_COULD_NOT_RUN


def _rank(text: str) -> int | Literal["auto"]:
    if text != "auto" and not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"rank {text!r} is wrong, use a number, or auto", code="bad-rank")
    return "auto" if text == "auto" else int(text)


def _ports(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(f"link port {text!r} is wrong, use a number, or one for each rank", code="bad-port") from None


devices_cli.register(app)
doctor_cli.register(app)
identity_cli.register(app)
