"""The command `jaccl-bootstrap`."""

from pathlib import Path
from typing import Annotated, cast

import typer

from bootstrap import identity_cli
from bootstrap.errors import ConfigError
from bootstrap.plan import MAX_RANKS, MIN_RANKS, BackendChoice, RankChoice, new_session_id
from wireproto.console import EXIT_COULD_NOT_RUN, EXIT_OK, new_app
from wireproto.messages import Revision

BackendOption = Annotated[str, typer.Option(metavar="auto|jaccl|ring", help="auto: jaccl where MLX has it, else ring.")]
RevisionOption = Annotated[
    int, typer.Option(min=min(Revision), max=max(Revision), help="Revision of the link protocol.")
]
TimeoutOption = Annotated[float, typer.Option(metavar="SECONDS", help="Give up after this time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, the last one `done`.")]

app = new_app("jaccl-bootstrap", "Form one MLX group out of several processes, set off by a jacclBootstrap frame.")


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
    as_json: JsonOption = False,
) -> int:
    """Form a group of real processes on this host and check it with one all_sum.

    Example: jaccl-bootstrap demo --ranks 4 --json

    Exit codes: 0 formed and checked, 2 wrong usage, 3 could not run.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.demo import Demo, run_demo
    from bootstrap.display import display_for

    try:
        wanted = Demo(
            ranks=ranks,
            backend=cast(BackendChoice, backend),
            host=host,
            port=port,
            session_id=new_session_id() if session_id is None else session_id,
            revision=Revision(revision),
            timeout=timeout,
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    with display_for(context.command_path, f"forming a group of {ranks}", as_json) as display:
        return 0 if run_demo(wanted, display) else EXIT_COULD_NOT_RUN


@app.command()
def up(
    context: typer.Context,
    own_ip: Annotated[str, typer.Option(metavar="IP", help="Own address on the link.")],
    peer_ip: Annotated[str, typer.Option(metavar="IP", help="The other rank's.")],
    rank: Annotated[str, typer.Option(metavar="0|1|auto", help="auto: the lower address is rank 0.")] = "auto",
    peer_key: Annotated[
        str | None, typer.Option(metavar="BASE64", help="The peer's identity key. Default: the pinned one.")
    ] = None,
    trust_first_use: Annotated[
        bool, typer.Option("--trust-first-use", help="Pin whatever key an unpinned peer shows.")
    ] = False,
    identity: Annotated[Path | None, typer.Option(metavar="PATH", help="Own identity key.")] = None,
    link_port: Annotated[int, typer.Option(help="Port on which rank 1 listens.")] = 7777,
    coordinator_port: Annotated[int, typer.Option(help="Port that rank 0 tells; ring takes the next, too.")] = 29400,
    revision: RevisionOption = Revision.V2,
    backend: BackendOption = "auto",
    timeout: TimeoutOption = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="All but the group: show what it would do.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Bring this rank of two up: link, handshake, bootstrap frame, group, one all_sum.

    Example: jaccl-bootstrap up --own-ip 169.254.1.1 --peer-ip 169.254.1.2 --dry-run

    Exit codes: 0 formed and checked, 2 wrong usage, 3 could not run.
    """
    from bootstrap.display import display_for
    from bootstrap.identity import IdentityError
    from bootstrap.keylog import open_key_log
    from bootstrap.up import Up, run_up, trust

    try:
        wanted = Up(
            own_ip=own_ip,
            peer_ip=peer_ip,
            rank=cast(RankChoice, rank),
            link_port=link_port,
            coordinator_port=coordinator_port,
            revision=Revision(revision),
            backend=cast(BackendChoice, backend),
            timeout=timeout,
            dry_run=dry_run,
        )
        trusted = trust(wanted, identity, peer_key, trust_first_use)
        with (
            open_key_log() as key_log,
            display_for(context.command_path, f"forming rank {wanted.own_rank} of 2", as_json) as display,
        ):
            return EXIT_OK if run_up(wanted, trusted, display, key_log) else EXIT_COULD_NOT_RUN
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except IdentityError as error:
        typer.echo(f"{context.command_path}: {error}", err=True)
        return EXIT_COULD_NOT_RUN


identity_cli.register(app)
