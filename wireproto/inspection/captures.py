"""Capture files, pcap and pcapng of every kind: bytes in, packets out.

pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng. libpcap refuses a pcapng with two link types, and needs
a library per platform.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from wireproto.inspection.source import Source

_UNDESCRIBED: Final = "interface that the file does not describe"
_MALFORMED: Final = "malformed packet block"
_MAX_PACKET: Final = 256 * 1024
"""Bytes in a packet; also libpcap's and Wireshark's limit. A longer snapshot length raises it, up to `_MAX_BLOCK`."""
_MAX_BLOCK: Final = 16 * 1024 * 1024
"""Bytes in a pcapng block; also libpcap's and Wireshark's limit."""


class CaptureError(Exception):
    """The file is not a readable capture, or is readable only in part."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One packet of a capture."""

    time: float
    """Seconds since 1970."""
    link_type: int
    data: bytes
    """The captured part."""
    size: int
    """Bytes on the wire, at least as many as `data` has."""


class CaptureFile:
    """Reads the packets of a capture."""

    def __init__(self, source: Source) -> None:
        self.unread: Counter[str] = Counter()
        """Packets that cannot be separated from the rest of the file, by reason."""
        self._source = source
        self._drops: dict[tuple[int, int], int] = {}

    @property
    def dropped(self) -> int:
        """Packets dropped by the recorder, as it reports."""
        return sum(self._drops.values())

    @staticmethod
    def is_capture(head: bytes) -> bool:
        """Return whether a file with these first four bytes is a readable capture."""
        return head in _PCAP or head == _SECTION

    def packets(self) -> Iterator[Packet]:
        """Yield each packet. Raise `CaptureError` if the file does not end after a packet."""
        while True:
            head = self._source.peek(4)
            if head in _PCAP:
                yield from self._pcap(*_PCAP[head])
            elif head == _SECTION:
                yield from self._pcapng()
            elif not head:
                return
            else:
                raise CaptureError(f"no packet starts at byte {self._source.offset}")

    # -- pcap ----------------------------------------------------------------------------------------------------------

    def _pcap(self, order: str, ticks: float, record: str) -> Iterator[Packet]:
        """Yield the packets after one file header; stop at the header of an appended file."""
        source = self._source
        header = source.take(_PCAP_HEADER)
        if len(header) < _PCAP_HEADER:
            raise self._ended("the header of the file")
        major, minor, snapshot, network = struct.unpack(f"{order}4xHH8xII", header)
        if major != 2:
            raise CaptureError(
                f"it is a pcap of version {major}.{minor}, which is not supported; record with tcpdump -w"
            )
        link_type = network & 0xFFFF  # the upper bits describe the frame check sequence
        longest = max(_MAX_PACKET, min(snapshot, _MAX_BLOCK))
        layout = self._layout(order, ticks, record, longest)
        size, unpack_record = layout.size, layout.unpack
        while head := source.peek(size):
            if head[:8] in _PCAP_STARTS:
                return
            if len(head) < size:
                source.take(size)
                raise self._ended("the header of a packet")
            seconds, fraction, captured, on_wire = unpack_record(head)
            if minor < 3 or (minor == 3 and captured > on_wire):  # old files have the two swapped
                captured, on_wire = on_wire, captured
            if captured > longest:
                if head[:4] == _SECTION:
                    return
                raise CaptureError(
                    f"the packet at byte {source.offset} has a length of {captured}: the rest cannot be read"
                )
            data = source.take(size + captured)[size:]
            yield Packet(seconds + fraction / ticks, link_type, data, max(on_wire, captured))
            if len(data) < captured:
                raise self._ended("a packet")
        if source.fault:
            raise CaptureError(source.fault)

    def _layout(self, order: str, ticks: float, record: str, longest: int) -> struct.Struct:
        """Return the layout of a packet's header.

        Some vendors added fields without changing the magic number. Their layout is chosen if packets follow one
        another by it, but not by the usual layout.
        """
        usual = struct.Struct(order + record)
        if self._source.is_live:
            return usual
        head = self._source.peek(_SAMPLE)
        layouts = [usual, *(struct.Struct(order + record + more) for more in _VENDORS)]
        return next((each for each in layouts if _is_chain(head, each, ticks, longest)), usual)

    def _ended(self, where: str) -> CaptureError:
        cause = self._source.fault or "the file is truncated"
        return CaptureError(f"{cause}, inside {where}, at byte {self._source.offset}")

    # -- pcapng --------------------------------------------------------------------------------------------------------

    def _pcapng(self) -> Iterator[Packet]:
        source = self._source
        order, section = "<", -1
        interfaces: list[_Interface] = []
        time = 0.0
        while head := source.peek(12):
            if head[:4] == _SECTION:
                order = _BYTE_ORDERS.get(head[8:12], "")
                if not order:
                    raise CaptureError(f"the section at byte {source.offset} has an unknown byte order")
                interfaces, section = [], section + 1
            if len(head) < 12:
                source.take(len(head))
                raise self._ended("a block")
            kind, size = _BLOCK_HEADS[order].unpack_from(head)
            if kind not in _BLOCKS and head[:8] in _PCAP_STARTS:
                return
            if size < 12 or size % 4:
                raise CaptureError(f"the block at byte {source.offset} has a length of {size}: the rest cannot be read")
            if kind not in _BLOCKS:
                if source.skip(size) < size:
                    raise self._ended("a block")
                continue
            if size > _MAX_BLOCK:
                raise CaptureError(f"the block at byte {source.offset} has a length of {size}: the rest cannot be read")
            block = source.take(size)
            if kind in (_ENHANCED, _OBSOLETE):
                packet = self._enhanced(order, kind, interfaces, block, size - 4)
                if packet is not None:
                    time = packet.time
                    yield packet
            elif kind == _SIMPLE:
                if packet := self._simple(order, interfaces, block[8 : size - 4], time):
                    yield packet
            elif len(block) == size:
                try:
                    self._described(order, kind, section, interfaces, block[8:-4])
                except struct.error:
                    raise CaptureError(f"the block at byte {source.offset - size} is malformed") from None
            if len(block) < size:
                raise self._ended("a block")
            if block[-4:] != block[4:8]:
                at = source.offset - size
                raise CaptureError(f"the block at byte {at} has two different lengths: the rest cannot be read")
        if source.fault:
            raise CaptureError(source.fault)

    def _enhanced(self, order: str, kind: int, interfaces: list["_Interface"], block: bytes, end: int) -> Packet | None:
        """Return the packet of a block, whose body ends at `end`; None if it cannot be read."""
        if len(block) < 28 or end < 28:
            self.unread[_MALFORMED] += 1
            return None
        number, high, low, captured, on_wire = _PACKET_HEADS[order].unpack_from(block)
        if kind == _OBSOLETE:
            (number,) = struct.unpack_from(order + "H", block, 8)
        if number >= len(interfaces):
            self.unread[_UNDESCRIBED] += 1
            return None
        interface = interfaces[number]
        data = block[28 : min(28 + captured, end)]
        time = (high << 32 | low) / interface.ticks + interface.offset
        return Packet(time, interface.link_type, data, max(on_wire, captured))

    def _simple(self, order: str, interfaces: list["_Interface"], body: bytes, time: float) -> Packet | None:
        if len(body) < 4 or not interfaces:
            self.unread[
                "interface that the file does not describe" if len(body) >= 4 else "malformed packet block"
            ] += 1
            return None
        (on_wire,) = struct.unpack_from(order + "I", body)
        captured = min(on_wire, interfaces[0].snapshot or on_wire)
        return Packet(time, interfaces[0].link_type, body[4 : 4 + captured], on_wire)

    def _described(self, order: str, kind: int, section: int, interfaces: list["_Interface"], body: bytes) -> None:
        """Read a block without a packet, which may describe an interface."""
        if kind == _INTERFACE:
            link_type, snapshot = struct.unpack_from(order + "HxxI", body)
            options = dict(_options(order, body[8:]))
            resolution = options.get(9, b"\6")[:1] or b"\6"
            base = 2 if resolution[0] & 0x80 else 10
            offset = struct.unpack(order + "q", options[14])[0] if 14 in options else 0
            interfaces.append(_Interface(link_type, snapshot, float(base ** (resolution[0] & 0x7F)), offset))
        elif kind == _STATISTICS:
            (number,) = struct.unpack_from(order + "I", body)
            options = dict(_options(order, body[12:]))
            counts = [struct.unpack(order + "Q", options[code])[0] for code in (5, 7) if code in options]
            if counts:
                self._drops[section, number] = sum(counts)


class _Interface(NamedTuple):
    """The description of an interface in a pcapng file."""

    link_type: int
    snapshot: int
    """The snapshot length; 0 for no limit."""
    ticks: float
    """Ticks of the clock per second."""
    offset: int
    """Seconds to add to each time."""


def _is_chain(head: bytes, layout: struct.Struct, ticks: float, longest: int) -> bool:
    """Return whether packets follow one another from the start of `head`."""
    at = 0
    for _ in range(4):
        if at + layout.size > len(head):
            break
        _, fraction, captured, on_wire = layout.unpack_from(head, at)
        if fraction >= ticks or captured > min(longest, on_wire):
            return False
        at += layout.size + captured
    return True


def _options(order: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


_PCAP_HEADER: Final = 24
_PCAP: Final[dict[bytes, tuple[str, float, str]]] = {
    struct.pack(order + "I", magic): (order, ticks, record)
    for order in "<>"
    for magic, ticks, record in (
        (0xA1B2C3D4, 1e6, "IIII"),
        (0xA1B23C4D, 1e9, "IIII"),
        (0xA1B2CD34, 1e6, "IIII8x"),  # Kuznetzov's: also the interface, protocol and direction
    )
}
"""By magic number: byte order, ticks of the clock per second, and layout of a packet header."""

_VENDORS: Final = ("4x", "8x")
"""Bytes that the tcpdumps of Nokia, Red Hat 6.1 and SuSE 6.3 add to a packet header."""
_SAMPLE: Final = 64 * 1024

_PCAP_STARTS: Final = frozenset(magic + struct.pack(order + "HH", 2, 4) for magic, (order, *_) in _PCAP.items())
"""The first bytes of an appended file."""

_PACKET_HEADS: Final = {order: struct.Struct(order + "8x5I") for order in "<>"}
_BLOCK_HEADS: Final = {order: struct.Struct(order + "II") for order in "<>"}
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _OBSOLETE, _SIMPLE, _STATISTICS, _ENHANCED = 1, 2, 3, 5, 6
_BLOCKS: Final = (_INTERFACE, _OBSOLETE, _SIMPLE, _STATISTICS, _ENHANCED)
