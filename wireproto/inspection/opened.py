"""A capture with its seals opened: the same connections, times and faults, and of each box what it held."""

from typing import BinaryIO, Final

from wireproto.codec.link import encode_link_frame
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.tcp import Endpoint

_NOWHERE: Final = (Endpoint(b"\x7f\0\0\1", 49152), Endpoint(b"\x7f\0\0\1", 7777))
"""Where a stream comes from that was not captured in packets."""


class OpenedCapture:
    """Writes entries as pcapng. The packets are made anew, since what was in a box is shorter than the box.

    A box that stays closed is left as it is. Bytes that were passed over, or not kept, are missing there, too.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._writer = Writer(file.write)
        self._connections: dict[int, TcpWriter] = {}

    def add(self, entry: Entry) -> None:
        connection = self._connections.get(entry.connection)
        if connection is None:
            connection = TcpWriter(self._writer, entry.ends or _NOWHERE, entry.time)
            self._connections[entry.connection] = connection
        if entry.sender is None:
            return
        data = entry.wire
        if entry.sealed and entry.frame:
            data = encode_link_frame(entry.frame)
        connection.data(entry.sender, entry.time, data)
        match entry.kind:
            case Kind.LONG:
                connection.lose(entry.sender, entry.size - len(data))
            case Kind.LOST | Kind.SKIPPED:
                connection.lose(entry.sender, entry.size)
            case Kind.CLOSED:
                connection.close(entry.sender, entry.time)
