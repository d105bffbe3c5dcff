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
    from bootstrap.errors import ConfigError
    from bootstrap.launch.requests import MAX_LINE, Failed, Over, answer, decode_request, encode

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
            try:
                for each in answer(decode_request(line)):
                    _write(encode(each))
            except ConfigError as error:
                _write(encode(Failed(code=error.code, message=str(error))))
            _write(encode(Over()))


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
