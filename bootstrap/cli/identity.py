"""The commands `identity` and `pin` of `jaccl-bootstrap`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bootstrap.errors import ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, EXIT_OK, say

if TYPE_CHECKING:
    from bootstrap.trust import IdentityError

_ANSWERS_NO: Final = ("pin-conflict", "not-pinned")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, for an error too.")]


def register(app: typer.Typer) -> None:
    """Put the commands on `app`."""
    app.command()(identity)
    app.command()(pin)


def identity(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Option("--identity", metavar="PATH", help="The key file. Default: in the user's own place.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show this host's public key, and make it if there is none. Its fingerprint and file stand beside it.

    Example: jaccl-bootstrap identity

    The default file is $XDG_CONFIG_HOME/cluster-wireproto/identity.pem, or below ~/.config.

    Exit codes: 0 shown, 2 wrong usage, 3 the key cannot be read or made.
    """
    # Here, so that --help and --version need none of it.
    from bootstrap.trust import IdentityError, encode_public_key, identity_path, load_identity
    from wireproto.session.handshake import fingerprint

    try:
        path = path or identity_path()
        key = load_identity(path).public_key
    except IdentityError as error:
        return _failed(context, error, as_json)
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
    ip: Annotated[str | None, typer.Argument(metavar="IP", help="The peer's IPv4 address.")] = None,
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The public key that `identity` prints on the peer.")
    ] = None,
    remove: Annotated[str | None, typer.Option(metavar="IP", help="Forget the key pinned for this peer.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Pin a peer's public key to its IP, or list the pins. They are listed without arguments.

    Example: jaccl-bootstrap pin 169.254.1.2 KEY

    A pinned key is never overwritten by another one: remove it first.

    Exit codes: 0 done, 1 another key is pinned or none to remove, 2 wrong usage, 3 could not run.
    """
    from bootstrap.trust import IdentityError, Pins, decode_public_key

    try:
        match ip, key, remove:
            case None, None, None:
                _list(Pins().list(), as_json)
            case None, None, str():
                _show("removed", remove, Pins().remove(remove), as_json)
            case str(), str(), None:
                pinned = decode_public_key(key)
                Pins().add(ip, pinned)
                _show("pinned", ip, pinned, as_json)
            case _:
                raise typer.BadParameter("use IP and KEY, or --remove IP, or nothing for a list", ctx=context)
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except IdentityError as error:
        return _failed(context, error, as_json)
    return EXIT_OK


def _list(pins: dict[str, bytes], as_json: bool) -> None:
    for ip, key in pins.items():
        _show("pinned", ip, key, as_json)
    if not pins and not as_json:
        say("no peer is pinned")


def _show(state: str, ip: str, key: bytes, as_json: bool) -> None:
    from bootstrap.trust import encode_public_key
    from wireproto.session.handshake import fingerprint

    if as_json:
        shown = {"state": state, "ip": ip, "public_key": encode_public_key(key), "fingerprint": fingerprint(key)}
        say(json.dumps(shown))
    else:
        say(f"{state} {ip:<15} {fingerprint(key)}")


def _failed(context: typer.Context, error: "IdentityError", as_json: bool) -> int:
    if as_json:
        say(json.dumps({"state": "error", "code": error.code, "stage": error.stage, "message": str(error)}))
    say(f"{context.command_path}: {error}", err=True)
    return EXIT_NO if error.code in _ANSWERS_NO else EXIT_COULD_NOT_RUN
