"""A decrypted capture: the same connections, times and faults, with the plaintext of each box."""

from typing import BinaryIO, Final

from wireproto.codec.link import encode_link_frame
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.tcp import Endpoint

_NOWHERE: Final = (Endpoint(b"\x7f\0\0\1", 49152), Endpoint(b"\x7f\0\0\1", 7777))
"""The endpoints given to a stream that was not captured in packets."""


class OpenedCapture:
    """Writes entries as pcapng, in new packets because a plaintext is shorter than its box.

    A box that cannot be opened is written unchanged. Bytes that were not captured or not kept are missing here too.
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
        elif entry.kind is not Kind.LATE and entry.size:  # the bytes of a broken length are in the next entry
            connection.data(entry.sender, entry.time, entry.wire)
            connection.lose(entry.sender, entry.size - len(entry.wire))
