"""TCP segments from the packets of a capture, and counts of the other packets."""

import struct
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from wireproto.inspection.captures import Packet
from wireproto.inspection.fragments import Datagram, Fragments
from wireproto.inspection.link_layer import CUT, network_layer
from wireproto.inspection.tcp import FIN, RST, SYN, Endpoint, Segment

_IPV4: Final = struct.Struct(">BxHHHxBxx4s4s")
_TCP_HEADER: Final = struct.Struct(">IIIBB")
_TCP: Final = 6
_IN_IP: Final = (4, 41)
"""IPv4 and IPv6 inside IP."""
_MAX_NESTED: Final = 4
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_IPV6_EXTENSIONS: Final = (0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140)
_PROTOCOLS: Final = {1: "ICMP", 2: "IGMP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
_MALFORMED: Final = "malformed packet"
_STRAY: Final = "IP fragment without the first one"


class _Payload(msgspec.Struct, frozen=True, gc=False):
    """The payload of an IP packet."""

    source: bytes
    target: bytes
    protocol: int
    start: int
    end: int
    """Bytes on the wire, of which the capture may lack the last."""
    number: int = 0
    """The key of the datagram, if this is a fragment."""
    offset: int = 0
    """The fragment's offset in the datagram."""
    is_last: bool = True


class Segments:
    """Finds the TCP segment in each packet, after reassembling fragments."""

    def __init__(self) -> None:
        self.count = 0
        """All packets so far."""
        self.with_tcp = 0
        """Packets with a TCP segment, or a part of one."""
        self.others: Counter[str] = Counter()
        """The other packets, by kind."""
        self.cut = 0
        """Packets cut by the snapshot length of the capture."""
        self.longest_cut = 0
        """Bytes of the longest cut packet: the snapshot length."""
        self.fragments = Fragments()
        self.stray = 0
        """Bytes in fragments that are part of no readable segment."""

    def take(self, packet: Packet) -> Sequence[Segment]:
        """Return the segments that a packet completes."""
        data, size = packet.data, packet.size
        self.count += 1
        if len(data) < size:
            self.cut += 1
            self.longest_cut = max(self.longest_cut, len(data))
        at = network_layer(packet.link_type, data)
        found = at if isinstance(at, str) else _ip_payload(data, at, size)
        if isinstance(found, str):
            return self._other(found)
        if found.offset or not found.is_last:
            return self._fragment(packet.time, data, found)
        segment = _segment(packet.time, found.source, found.target, data, found.start, found.end)
        if isinstance(segment, str):
            return self._other(CUT if len(data) < size else segment)
        self.with_tcp += 1
        return (segment,)

    def end(self) -> Sequence[Segment]:
        """Return the segments in incomplete datagrams."""
        return [segment for datagram in self.fragments.give_up() for segment in self._reassembled(datagram)]

    def _other(self, what: str) -> Sequence[Segment]:
        self.others[what] += 1
        return ()

    def _fragment(self, time: float, data: bytes, found: _Payload) -> Sequence[Segment]:
        key = (found.source, found.target, found.number)
        part, size = data[found.start : found.end], found.end - found.start
        done = self.fragments.take(key, time, found.offset, part, size, found.is_last)
        return [segment for datagram in done for segment in self._reassembled(datagram)]

    def _reassembled(self, datagram: Datagram) -> list[Segment]:
        """Return the segment in a datagram, one part for each run of bytes."""
        source, target, _ = datagram.key
        (start, first), *rest = datagram.runs
        head = _segment(datagram.time, source, target, first, 0, len(first)) if start == 0 else _STRAY
        if isinstance(head, str):
            self.stray += sum(len(data) for _, data in datagram.runs)
            self.others[head] += datagram.fragments
            return []
        self.with_tcp += datagram.fragments
        header = len(first) - len(head.data)
        parts = [head]
        for offset, data in rest:
            sequence = (head.sequence + bool(head.flags & SYN) + offset - header) & 0xFFFF_FFFF
            parts.append(replace(head, sequence=sequence, data=data, flags=head.flags & ~SYN))
        parts[:-1] = [replace(part, flags=part.flags & ~(FIN | RST)) for part in parts[:-1]]
        last_offset, last = datagram.runs[-1]
        if datagram.size is None:
            parts[-1] = replace(parts[-1], flags=parts[-1].flags & ~FIN)
        elif datagram.size > last_offset + len(last):
            parts[-1] = replace(parts[-1], cut=datagram.size - last_offset - len(last))
        return parts


def _ip_payload(data: bytes, at: int, size: int) -> _Payload | str:
    """Return the place of the TCP segment, or part of one, in an IP packet; or the kind of another packet."""
    protocol = 0
    for _ in range(_MAX_NESTED):
        if at >= len(data):
            return CUT if len(data) < size else _MALFORMED
        try:
            version = data[at] >> 4
            found = _in_ipv4(data, at, size) if version == 4 else _in_ipv6(data, at, size) if version == 6 else "not IP"
        except (IndexError, struct.error):
            return CUT if len(data) < size else _MALFORMED
        if isinstance(found, str) or found.protocol == _TCP:
            return found
        protocol = found.protocol
        if protocol not in _IN_IP or found.offset or not found.is_last:
            break
        at, size = found.start, found.end
    return _PROTOCOLS.get(protocol, f"IP protocol {protocol}")


def _in_ipv4(data: bytes, at: int, size: int) -> _Payload | str:
    first, length, number, fragment, protocol, source, target = _IPV4.unpack_from(data, at)
    header = 4 * (first & 0x0F)
    # With segmentation offload, the network card fills in the length.
    end = min(at + length, size) if length else size
    if header < 20 or at + header > end:
        return _MALFORMED
    if fragment & 0x3FFF:
        offset, is_last = 8 * (fragment & 0x1FFF), not fragment & 0x2000
        return _Payload(source, target, protocol, at + header, end, number, offset, is_last)
    return _Payload(source, target, protocol, at + header, end)


def _in_ipv6(data: bytes, at: int, size: int) -> _Payload | str:
    length, following = struct.unpack_from(">HB", data, at + 4)
    source, target = data[at + 8 : at + 24], data[at + 24 : at + 40]
    end = min(at + 40 + length, size) if length else size
    start, number, offset, is_last = at + 40, 0, 0, True
    while following in _IPV6_EXTENSIONS and not offset:
        extension, start_of_next = following, start + 8
        if extension == _FRAGMENT:
            place, number = struct.unpack_from(">HI", data, start + 2)
            offset, is_last = place & 0xFFF8, not place & 1
        elif extension == _AUTHENTICATION:
            start_of_next = start + 4 * (data[start + 1] + 2)
        else:
            start_of_next = start + 8 + 8 * data[start + 1]
        following, start = data[start], start_of_next
    if start > end:
        return _MALFORMED
    return _Payload(source, target, following, start, end, number, offset, is_last)


def _segment(time: float, source: bytes, target: bytes, data: bytes, start: int, end: int) -> Segment | str:
    """Return the segment from `start` to `end`, past the end of `data` where it was cut; or why there is none."""
    if min(len(data), end) < start + _TCP_HEADER.size:
        return CUT if end > len(data) else _MALFORMED
    ports, sequence, acknowledged, words, flags = _TCP_HEADER.unpack_from(data, start)
    header = 4 * (words >> 4)
    if not 20 <= header <= end - start:
        return _MALFORMED
    payload = data[start + header : end]
    ends = _ends(source, target, ports)
    return Segment(time, *ends, sequence, acknowledged, flags, payload, end - start - header - len(payload))


@lru_cache(1024)
def _ends(source: bytes, target: bytes, ports: int) -> tuple[Endpoint, Endpoint]:
    return Endpoint(source, ports >> 16), Endpoint(target, ports & 0xFFFF)
