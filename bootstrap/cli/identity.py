"""The commands `identity` and `pin` of `jaccl-bootstrap`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bootstrap.cli.options import failures
from wireproto.cli.console import EXIT_OK, say

if TYPE_CHECKING:
    from bootstrap.trust import PinnedPeer

_ANSWERS_NO: Final = ("pin-conflict", "not-pinned")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, also for an error.")]


def identity(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Option("--identity", metavar="PATH", help="Key file. Default: in the configuration directory."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show this host's public key, its fingerprint and its file. Create the key if there is none.

    Example: jaccl-bootstrap identity

    The default file is $XDG_CONFIG_HOME/cluster-wireproto/identity.pem, by default under ~/.config.

    Exit codes: 0 shown, 2 wrong usage, 3 cannot read or create the key.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.trust import encode_public_key, identity_path, load_identity
    from wireproto.session.handshake import fingerprint

    with failures(context, as_json):
        path = path or identity_path()
        key = load_identity(path).public_key
    file = os.fsencode(path.absolute()).decode(errors="backslashreplace")
    shown = {"public_key": encode_public_key(key), "fingerprint": fingerprint(key), "path": file}
    if as_json:
        say(json.dumps(shown))
    else:
        for name, value in shown.items():
            say(f"{name.replace('_', ' '):<12} {value}")
    return EXIT_OK


def pin(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The peer's name. An IPv4 address is also its --address.")
    ] = None,
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The peer's public key, as `identity` prints it there.")
    ] = None,
    address: Annotated[str | None, typer.Option(metavar="IP", help="The peer's current address.")] = None,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Forget this peer.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Pin a peer's public key; without arguments, list the pins.

    Example: jaccl-bootstrap pin mac-b KEY --address 169.254.1.2

    A pinned key is never overwritten: remove it first. A pin with the same address loses it to the new one.

    Exit codes: 0 done, 1 another key is pinned or no such pin, 2 wrong usage, 3 could not run.
    """
    from bootstrap.trust import Pins, decode_public_key

    with failures(context, as_json, _ANSWERS_NO):
        match name, key, address, remove:
            case None, None, None, None:
                _list(Pins().list(), as_json)
            case None, None, None, str():
                _show("removed", Pins().remove(remove), as_json)
            case str(), str(), _, None:
                _show("pinned", Pins().add(name, decode_public_key(key), address), as_json)
            case _:
                raise typer.BadParameter(
                    "give NAME and KEY, or --remove NAME, or nothing to list the pins", ctx=context
                )
    return EXIT_OK


def _list(pins: "list[PinnedPeer]", as_json: bool) -> None:
    for pin in pins:
        _show("pinned", pin, as_json)
    if not pins and not as_json:
        say("no peer is pinned")


def _show(state: str, pin: "PinnedPeer", as_json: bool) -> None:
    from bootstrap.trust import encode_public_key
    from wireproto.session.handshake import fingerprint

    if as_json:
        key = {"public_key": encode_public_key(pin.key), "fingerprint": fingerprint(pin.key)}
        say(json.dumps({"state": state, "name": pin.name, "address": pin.address, **key}))
    else:
        say(f"{state} {pin.name:<15} {pin.address or '-':<15} {fingerprint(pin.key)}")
