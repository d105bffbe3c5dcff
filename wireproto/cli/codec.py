"""The command `wireproto codec`."""

import binascii
import sys

import typer

from wireproto.cli.answers import RevisionOption, as_json, decoded
from wireproto.cli.console import EXIT_OK
from wireproto.messages import Revision


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(codec)


def codec(revision: RevisionOption = Revision.V2) -> int:
    """Decode hex frames from standard input, one per line. Each answer is a line of JSON.

    {"ok": true, "type": 7, "payload": {…}}: keys as on the wire, bytes in base64, null if empty.
    {"ok": false, "error": "CODE", "offset": N}: a code of the error table, or `not-hex`.

    Example: echo 03 | wireproto codec

    Continues after a bad line. Does not know frames of extensions. Exit code: 0 at the end of input.
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
