"""The commands `identity` and `pin` of `jaccl-bootstrap`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bootstrap.cli.options import failures
from wireproto.cli.console import EXIT_OK, say
from wireproto.errors import printable

if TYPE_CHECKING:
    from bootstrap.trust import PinnedPeer

_ANSWERS_NO: Final = ("pin-conflict", "not-pinned")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, for an error too.")]


def identity(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Option("--identity", metavar="PATH", help="Key file. Default: see above.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show this host's public key, its fingerprint and its file. Create the key on first use.

    The default file is $XDG_CONFIG_HOME/cluster-wireproto/identity.pem. Without the variable, it is below ~/.config.

    Exit codes: 0 shown, 2 wrong usage, 3 the key cannot be read or created.
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
            say(f"{name.replace('_', ' '):<12} {printable(value)}")
    return EXIT_OK


def pin(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name for the peer. An IPv4 address is its --address too.")
    ] = None,
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The public key that `identity` prints on the peer.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="IP", help="The peer's IPv4 address. Default: keep the old one.")
    ] = None,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove the pin of this peer.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Pin a peer's public key. Without arguments, list the pins.

    A different key never replaces a pinned one: remove the old pin first. An address moves from the pin that had it.

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
