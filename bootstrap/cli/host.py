"""The command `jaccl-bootstrap host`: a launcher runs it on each host, and it answers the launcher's requests."""

import os
import select
import sys
from typing import Final

from wireproto.cli.console import EXIT_OK

SILENCE_SECONDS: Final = 10.0
"""After so long without input between two requests, the launcher counts as gone."""


def host() -> int:
    """Answer the requests of `jaccl-bootstrap launch`: lines of JSON on standard input.

    Empty lines are heartbeats. Stops at the end of input, or after 10 s without any.
    """
    from bootstrap.launch.requests import MAX_LINE, replies

    held = b""
    while True:
        line, found, held = held.partition(b"\n")
        if not found:
            held = line
            readable = select.select([0], [], [], SILENCE_SECONDS)[0]
            data = os.read(0, MAX_LINE) if readable else b""
            if not data or len(held) > MAX_LINE:
                return EXIT_OK
            held += data
        elif line:
            for each in replies(line):
                sys.stdout.buffer.write(each)
                sys.stdout.buffer.flush()
