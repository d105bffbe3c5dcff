"""A capture with its boxes opened: the same connections, times and faults, and the plaintext of each box."""

from typing import BinaryIO, Final

from wireproto.codec.link import encode_link_frame
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.tcp import Endpoint

_NOWHERE: Final = (Endpoint(b"\x7f\0\0\1", 49152), Endpoint(b"\x7f\0\0\1", 7777))
"""The ends of a stream that was not captured in packets."""


class OpenedCapture:
    """Writes entries as pcapng. The packets are new ones, because a plaintext is shorter than its box.

    A box that stays closed is written as it is. The new capture lacks what the old one lacks, and what is not kept.
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
        if entry.kind is Kind.CLOSED:
            connection.close(entry.sender, entry.time)
        elif entry.sealed and entry.frame:
            connection.data(entry.sender, entry.time, encode_link_frame(entry.frame))
        elif entry.kind is not Kind.LATE and entry.size:  # a broken length has its bytes in the entry after it
            connection.data(entry.sender, entry.time, entry.wire)
            connection.lose(entry.sender, entry.size - len(entry.wire))
