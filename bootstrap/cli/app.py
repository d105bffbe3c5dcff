"""The command `jaccl-bootstrap`."""

from typing import Annotated, cast

import typer

from bootstrap.cli import devices as devices_cli
from bootstrap.cli import doctor as doctor_cli
from bootstrap.cli import host as host_cli
from bootstrap.cli import identity as identity_cli
from bootstrap.cli import launch as launch_cli
from bootstrap.cli import pair as pair_cli
from bootstrap.cli import up as up_cli
from bootstrap.cli.options import (
    BackendOption,
    CaptureOption,
    JsonOption,
    KeyLogOption,
    RevisionOption,
)
from bootstrap.errors import ConfigError
from wireproto.cli.console import example, new_app
from wireproto.messages import MAX_SIZE, MIN_SIZE, Revision

app = new_app(
    "jaccl-bootstrap",
    "Form one MLX group out of processes on several hosts.\n\n"
    "`launch` starts every rank over ssh. `up` starts one rank; `identity` and `pin` exchange keys for it.",
    epilog=example("jaccl-bootstrap launch --hosts mac-a.local,mac-b.local", "-m mlx_lm.server --model DIR"),
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
    from bootstrap.link.record import set_key_log
    from bootstrap.plan import DEFAULT_PORT, BackendChoice, Plan, check_size, new_session_id

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


devices_cli.register(app)
doctor_cli.register(app)
host_cli.register(app)
identity_cli.register(app)
launch_cli.register(app)
pair_cli.register(app)
up_cli.register(app)
