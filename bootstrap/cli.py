"""The command `jaccl-bootstrap`."""

from typing import Annotated, cast

import typer

from bootstrap.errors import ConfigError
from bootstrap.plan import MAX_RANKS, MIN_RANKS, BackendChoice, new_session_id
from wireproto.console import EXIT_COULD_NOT_RUN, version_line

app = typer.Typer(
    name="jaccl-bootstrap",
    help="Form one MLX group out of several processes, set off by a jacclBootstrap frame.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_line("jaccl-bootstrap"))
        raise typer.Exit


@app.callback()
def jaccl_bootstrap(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    context: typer.Context,
    ranks: Annotated[int, typer.Option(help=f"Number of processes, {MIN_RANKS} to {MAX_RANKS}.")] = 2,
    backend: Annotated[
        str, typer.Option(metavar="auto|jaccl|ring", help="auto: jaccl where MLX has it, else ring.")
    ] = "auto",
    host: Annotated[
        str, typer.Option(metavar="IP", help="Loopback address of the link and of the ring.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Coordinator port; rank r takes port + r. Default: free ones.")
    ] = None,
    session_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Names the session. Default: a new UUID.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after this time.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, the last one `done`.")] = False,
) -> int:
    """Form a group of real processes on this host and check it with one all_sum.

    Example: jaccl-bootstrap demo --ranks 4 --json

    Exit codes: 0 formed and checked, 2 wrong usage, 3 could not run.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.display import display_for
    from bootstrap.supervisor import Demo, run_demo

    try:
        wanted = Demo(
            ranks=ranks,
            backend=cast(BackendChoice, backend),
            host=host,
            port=port,
            session_id=new_session_id() if session_id is None else session_id,
            timeout=timeout,
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    with display_for(context.command_path, ranks, as_json) as display:
        return 0 if run_demo(wanted, display) else EXIT_COULD_NOT_RUN
