"""The command `jaccl-bootstrap pair`."""

import json
from typing import Annotated

import typer

from bootstrap.cli.options import PythonOption, UvxOption, failures, way
from wireproto.cli.console import EXIT_OK, say


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

    with failures(context, as_json):
        own, peer = asyncio.run(pairing.pair(host, way(python, uvx)))
    if as_json:
        both = (("own", own), ("peer", peer))
        say(json.dumps({which: {"name": each.name, "address": each.address} for which, each in both}))
        return EXIT_OK
    for where, each in (("here", peer), (f"on {host}", own)):
        address = "" if each.address is None else f", at {each.address}"
        say(f"pinned {where}: {each.name} {fingerprint(each.key)}{address}")
    return EXIT_OK
