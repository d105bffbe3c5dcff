"""The command `jaccl-bootstrap pair`."""

import json
from typing import Annotated

import typer

from bootstrap.cli.options import PythonOption, UvxOption, way
from bootstrap.errors import BootstrapError, ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_OK, example, say


def register(app: typer.Typer) -> None:
    """Put the command on `app`."""
    app.command(epilog=example("jaccl-bootstrap pair mac-b.local"))(pair)


def pair(
    context: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="ssh name of the other host.")],
    python: PythonOption = None,
    uvx: UvxOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object, for an error too.")] = False,
) -> int:
    """Pin another host's key here, and this host's key there, over ssh.

    Afterwards `up` works on both without --peer. `launch` needs no pins.

    Exit codes: 0 done, 2 wrong usage, 3 could not run.
    """
    import asyncio

    from bootstrap.launch import pairing
    from wireproto.session.handshake import fingerprint

    try:
        own, peer = asyncio.run(pairing.pair(host, way(python, uvx)))
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except BootstrapError as error:
        if as_json:
            say(json.dumps({"state": "error", "code": error.code, "stage": error.stage, "message": str(error)}))
        say(f"{context.command_path}: {error}", err=True)
        return EXIT_COULD_NOT_RUN
    if as_json:
        say(
            json.dumps(
                {name: {"name": each.name, "address": each.address} for name, each in (("own", own), ("peer", peer))}
            )
        )
        return EXIT_OK
    for where, each in (("here", peer), (f"on {host}", own)):
        address = "" if each.address is None else f", at {each.address}"
        say(f"pinned {where}: {each.name} {fingerprint(each.key)}{address}")
    return EXIT_OK
