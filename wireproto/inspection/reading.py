"""An input file of `wireproto inspect`: its kind, its entries, and counts of missing data."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

from wireproto.inspection.captures import CaptureError, CaptureFile
from wireproto.inspection.connections import Capture, NotAStreamError, entries_of_stream
from wireproto.inspection.formats import unread_format
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.packets import Segments
from wireproto.inspection.sessions import Entry
from wireproto.inspection.source import Source

_NOTHING: Final = (
    "it is neither a capture (pcap, pcapng) nor a stream of the protocol; "
    "to convert other captures that Wireshark reads: editcap -F pcapng FILE OUT.pcapng"
)


class NotACaptureError(CaptureError):
    """The file is neither a capture nor a stream of the protocol."""


class Reading:
    """Reads a file once: a capture, or the bytes of one direction.

    No byte is dropped silently. Each packet is counted in `with_tcp` or `others`. Each byte in TCP segments (`payload`)
    is in an entry, in `repeated` or in `other_bytes`. `unread_bytes` counts the bytes of the file after a fault.
    """

    def __init__(self, source: Source, keys: KeyLog | None) -> None:
        self._source = source
        self._keys = keys
        self._file = CaptureFile(source)
        self._segments = Segments()
        self._capture = Capture(keys)
        self.unread_bytes = 0
        """Bytes after a fault of the file."""

    def entries(self) -> Iterator[Entry]:
        """Yield the entries as they are found. Raise `CaptureError` if the file cannot be read to its end."""
        source = self._source
        head = source.peek(4)
        if not head:
            raise NotACaptureError(source.fault or "it is empty")
        if CaptureFile.is_capture(head):
            yield from self._captured()
            return
        if name := unread_format(source.peek(32)):
            raise NotACaptureError(name)
        chunks = iter(source.take_some, b"")
        try:
            yield from entries_of_stream(chunks, self._keys)
        except NotAStreamError:
            raise NotACaptureError(_NOTHING) from None
        if source.fault:
            raise CaptureError(source.fault)

    def _captured(self) -> Iterator[Entry]:
        fault = None
        segments, capture = self._segments, self._capture
        try:
            for packet in self._file.packets():
                for segment in segments.take(packet):
                    yield from capture.take(segment)
        except CaptureError as error:
            fault = error
        for segment in segments.end():
            yield from capture.take(segment)
        yield from capture.end()
        if fault is None:
            return
        if not self._source.is_live:
            self.unread_bytes = self._source.skip(sys.maxsize)
        if self.unread_bytes:
            raise CaptureError(f"{fault}: {self.unread_bytes:,} bytes")
        raise fault

    @property
    def packets(self) -> int:
        """Packets in the file."""
        return self._segments.count + self._file.unread.total()

    @property
    def with_tcp(self) -> int:
        """Packets with a TCP segment, or a fragment of one."""
        return self._segments.with_tcp

    @property
    def others(self) -> Counter[str]:
        """The other packets, by kind."""
        return self._segments.others + self._file.unread

    @property
    def dropped(self) -> int:
        """Packets dropped by the recorder, as it reports."""
        return self._file.dropped

    @property
    def cut(self) -> tuple[int, int]:
        """Packets cut by the snapshot length, and the bytes of the longest one."""
        return self._segments.cut, self._segments.longest_cut

    @property
    def payload(self) -> int:
        """Bytes in TCP segments."""
        return self._capture.payload

    @property
    def repeated(self) -> int:
        """Repeated bytes of sessions."""
        return self._capture.repeated

    @property
    def other_connections(self) -> int:
        """TCP connections of other protocols."""
        return self._capture.others

    @property
    def other_bytes(self) -> int:
        """Bytes of those connections."""
        return self._capture.other_bytes
