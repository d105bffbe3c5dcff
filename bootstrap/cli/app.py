"""The command `jaccl-bootstrap`."""

from typing import Annotated, Final, cast

import typer

from bootstrap.cli import devices, doctor, host, identity, launch, pair, up
from bootstrap.cli.options import BackendOption, CaptureOption, JsonOption, KeyLogOption, RevisionOption, failures
from wireproto.cli.console import example, new_app
from wireproto.messages import MAX_SIZE, MIN_SIZE, Revision

app = new_app(
    "jaccl-bootstrap",
    "Form one MLX group out of processes on several hosts.\n\n"
    "`launch` starts every rank over ssh. `up` starts one: see `identity`, `pin`.",
    epilog=example("jaccl-bootstrap launch --hosts mac-a.local,mac-b.local"),
)


@app.command(epilog=example("jaccl-bootstrap demo --ranks 4 --json"))
def demo(
    context: typer.Context,
    ranks: Annotated[int, typer.Option(metavar="N", help=f"Number of ranks, {MIN_SIZE} to {MAX_SIZE}.")] = 2,
    backend: BackendOption = "auto",
    host: Annotated[str, typer.Option(metavar="IP", help="Loopback address of all ranks.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="MLX's TCP port; rank R uses PORT + R. Default: free ports.")
    ] = None,
    session_id: Annotated[str | None, typer.Option(metavar="ID", help="Session ID. Default: a new UUID.")] = None,
    revision: RevisionOption = Revision.V2,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Limit for the whole demo.")] = 60.0,
    capture: CaptureOption = None,
    keylog: KeyLogOption = None,
    as_json: JsonOption = False,
) -> int:
    """Form a group of real processes on this host. Check it with one all_sum.

    Exit codes: 0 formed and checked, 2 wrong usage, 3 could not run, 130 Ctrl-C, 143 SIGTERM.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.cli.demo import Demo, run_demo
    from bootstrap.cli.display import display_for
    from bootstrap.files import absolute
    from bootstrap.link.record import open_capture, open_key_log, set_key_log
    from bootstrap.plan import DEFAULT_PORT, BackendChoice, Plan, check_size, new_session_id

    with failures(context):
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
        set_key_log(keylog)
        wanted = Demo(plan, free_ports=port is None, capture=None if capture is None else absolute(capture))
        # A rank could not say why it cannot open them. Opening a pipe here would end its reader's input.
        with open_key_log(), open_capture(None if capture is not None and capture.is_fifo() else capture):
            pass
    with display_for(context.command_path, f"forming a group of {ranks}", as_json) as display:
        return run_demo(wanted, display)


_OWN_OPTIONS: Final = {"allow_interspersed_args": False}
"""Options after PROGRAM belong to it."""
app.add_typer(devices.devices, name="devices")
app.command(epilog=example("jaccl-bootstrap doctor --own-ip 169.254.1.1 --peer-ip 169.254.1.2"))(doctor.doctor)
app.command(hidden=True, epilog=example("jaccl-bootstrap launch --hosts mac-a.local,mac-b.local"))(host.host)
app.command(epilog=example("jaccl-bootstrap identity"))(identity.identity)
app.command(epilog=example("jaccl-bootstrap pin mac-b KEY --address 169.254.1.2"))(identity.pin)
app.command(
    context_settings=_OWN_OPTIONS,
    epilog=example("jaccl-bootstrap launch --hosts mac-a.local,mac-b.local"),
)(launch.launch)
app.command(epilog=example("jaccl-bootstrap pair mac-b.local"))(pair.pair)
app.command(
    cls=up.Command,
    context_settings=_OWN_OPTIONS,
    epilog=example("jaccl-bootstrap up --own-ip 169.254.1.1 --peer-ip 169.254.1.2", "-m mlx_lm.server --model DIR"),
)(up.up)
