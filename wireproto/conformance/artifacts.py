"""Artifacts of a failed case: its connections as a capture and as a picture, and their keys."""

import io
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from wireproto.conformance.verdicts import BAD, Record, Result
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.reading import Reading
from wireproto.inspection.sequence import SequenceDiagram
from wireproto.inspection.source import Source
from wireproto.inspection.tcp import Endpoint
from wireproto.session import Role

_HOST = bytes((127, 0, 0, 1))
_PORTS = 40_000
_LINK_PORT = 7777


def save(result: Result, directory: Path, role: Role) -> Result:
    """Write `ID.pcapng`, `ID.keylog` and `ID.svg` of a bad result, and return it with the picture's path.

    `role` is the peer's.
    """
    if result.verdict not in BAD:
        return result
    captured, keys = io.BytesIO(), "".join(f"{line}\n" for line in result.record.key_log)
    capture(result.record, Writer(captured.write), role)
    (directory / f"{result.id}.pcapng").write_bytes(captured.getvalue())
    (directory / f"{result.id}.keylog").write_text(keys)
    picture = directory / f"{result.id}.svg"
    captured.seek(0)
    picture.write_text(drawn(captured, keys), encoding="utf-8")
    return replace(result, picture=str(picture))


def drawn(captured: io.BytesIO, keys: str) -> str:
    """Return a capture as a sequence diagram, in SVG."""
    diagram = SequenceDiagram()
    for entry in Reading(Source(captured), KeyLog(io.StringIO(keys))).entries():
        diagram.add(entry)
    return diagram.svg()


def capture(record: Record, writer: Writer, role: Role) -> None:
    """A case's connections, one after the other; rank 0's end is the one that connects."""
    ours = 0 if role is Role.RESPONDER else 1
    events = sorted((entry for entry in record.entries if entry.connection), key=lambda entry: entry.connection)
    for number, entries in groupby(events, key=lambda entry: entry.connection):
        connection: TcpWriter | None = None
        for entry in entries:
            at = record.began + entry.at
            if connection is None:
                ends = (Endpoint(_HOST, _PORTS + number), Endpoint(_HOST, _LINK_PORT))
                connection = TcpWriter(writer, ends, at)
            match entry.kind:
                case "sent":
                    connection.data(ours, at, entry.data)
                case "received":
                    connection.data(1 - ours, at, entry.data)
                case "end":
                    connection.close(1 - ours, at)
