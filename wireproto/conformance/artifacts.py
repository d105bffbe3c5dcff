"""What is kept of a failed case: its connections as a capture, and their keys."""

from itertools import groupby
from pathlib import Path

from wireproto.conformance.verdicts import BAD, Record, Result
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint
from wireproto.session import Role

_HOST = bytes((127, 0, 0, 1))
_PORTS = 40_000
_LINK_PORT = 7777


def save(result: Result, directory: Path, role: Role) -> None:
    """Writes `ID.pcapng` and `ID.keylog` of a result that is bad. `role` is the peer's."""
    if result.verdict in BAD:
        with (directory / f"{result.id}.pcapng").open("wb") as file:
            capture(result.record, Writer(file.write), role)
        (directory / f"{result.id}.keylog").write_text("".join(f"{line}\n" for line in result.record.key_log))


def capture(record: Record, writer: Writer, role: Role) -> None:
    """A case's connections, one behind the other; rank 0's end is the one that connects."""
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
