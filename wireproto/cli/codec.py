"""The command `wireproto codec`."""

import binascii
import sys

import typer

from wireproto.cli.answers import RevisionOption, as_json, decoded
from wireproto.cli.console import EXIT_OK, example
from wireproto.messages import Revision


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog=example("echo 03 | wireproto codec"))(codec)


def codec(revision: RevisionOption = Revision.V2) -> int:
    """Decode hex frames from standard input, one per line. Answer each with a line of JSON.

    \b
    {"ok": true, "type": 7, "payload": {…}}
      Keys as on the wire; bytes in base64; null for an empty payload.
    {"ok": false, "error": "CODE", "offset": N}
      A code from the specification's error table, or `not-hex`.

    Continues after a bad line. Rejects frames of extensions.

    Exit code: 0 at the end of input.
    """
    for line in sys.stdin.buffer:
        try:
            frame = binascii.unhexlify(line.rstrip(b"\r\n"))
        except binascii.Error:
            answer = '{"ok":false,"error":"not-hex","offset":0}'
        else:
            answer = as_json(decoded(frame, Revision(revision)))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    return EXIT_OK
