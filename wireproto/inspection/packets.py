"""Capture files, pcap and pcapng, read by libpcap; and the TCP segments that are in their packets."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import cypcap

from wireproto.inspection.tcp import Endpoint, Segment

_MAGICS: Final = frozenset(bytes.fromhex(text) for text in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "0a0d0d0a"))
"""How pcap starts, in both byte orders, with micro- and nanoseconds; and pcapng."""

_LINK_HEADERS: Final[dict[int, tuple[int, int | None]]] = {
    0: (4, None),  # BSD's loopback
    1: (14, 12),  # Ethernet
    12: (0, None),  # IP and nothing before it
    108: (4, None),  # OpenBSD's loopback
    113: (16, 14),  # Linux, all interfaces
    228: (0, None),  # IPv4
    229: (0, None),  # IPv6
    276: (20, 0),  # Linux, all interfaces, version 2
}
"""By link type: how many bytes stand before IP, and where among them the EtherType is."""

_IP: Final = (b"\x08\x00", b"\x86\xdd")
_VLAN: Final = (b"\x81\x00", b"\x88\xa8")
_TCP: Final = 6
_FRAGMENT: Final = 44
_IPV6_EXTENSIONS: Final = (0, 43, _FRAGMENT, 60)
_TCP_HEADER: Final = struct.Struct(">HHIIBB")


class CaptureError(Exception):
    """The file is no capture that can be read, or not to its end."""


class Packet(NamedTuple):
    """One packet of a capture."""

    size: int
    """Of its bytes in the file, more or less."""
    segment: Segment | None
    """None where it has none of TCP."""


def is_capture(path: Path) -> bool:
    """Whether to read it as a capture: by its first bytes, or because it is a pipe, whose bytes come only once."""
    if path.exists() and not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(4) in _MAGICS


def read_packets(path: Path) -> Iterator[Packet]:
    """The packets of a capture, as they come. Raises `CaptureError`, behind the packets before the fault."""
    try:
        with cypcap.open_offline(str(path)) as capture:
            link_type = int(capture.datalink())
            if link_type not in _LINK_HEADERS:
                raise CaptureError(f"packets of link type {link_type} cannot be read")
            for header, data in capture:
                yield Packet(16 + len(data), tcp_segment(header.ts, link_type, data))
    except cypcap.Error as error:
        raise CaptureError(str(error.args[-1])) from error


def tcp_segment(time: float, link_type: int, data: bytes) -> Segment | None:
    """The TCP segment in a packet; None where there is none, or only a later fragment of one."""
    try:
        ip = _ip_start(link_type, data)
        found = None if ip is None else (_in_ipv4 if data[ip] >> 4 == 4 else _in_ipv6)(data, ip)
        if found is None:
            return None
        source, target, start, end = found
        source_port, target_port, sequence, acknowledged, words, flags = _TCP_HEADER.unpack_from(data, start)
    except (IndexError, struct.error):
        return None
    payload = data[start + 4 * (words >> 4) : end]
    return Segment(
        time, Endpoint(source, source_port), Endpoint(target, target_port), sequence, acknowledged, flags, payload
    )


def _ip_start(link_type: int, data: bytes) -> int | None:
    start, ether_type = _LINK_HEADERS[link_type]
    if ether_type is not None:
        while data[ether_type : ether_type + 2] in _VLAN:
            ether_type += 4
            start += 4
        if data[ether_type : ether_type + 2] not in _IP:
            return None
    return start


_Found = tuple[bytes, bytes, int, int]
"""Both addresses; where TCP starts, and where it ends."""


def _in_ipv4(data: bytes, at: int) -> _Found | None:
    length, fragment = struct.unpack_from(">H2xH", data, at + 2)
    if data[at + 9] != _TCP or fragment & 0x1FFF:
        return None
    # A network card that cuts segments itself leaves the length to be filled in.
    end = at + length if length else len(data)
    return data[at + 12 : at + 16], data[at + 16 : at + 20], at + 4 * (data[at] & 0x0F), end


def _in_ipv6(data: bytes, at: int) -> _Found | None:
    (length,) = struct.unpack_from(">H", data, at + 4)
    following, start = data[at + 6], at + 40
    while following in _IPV6_EXTENSIONS:
        if following == _FRAGMENT and int.from_bytes(data[start + 2 : start + 4]) & 0xFFF8:
            return None
        following, start = data[start], start + (8 if following == _FRAGMENT else 8 + 8 * data[start + 1])
    if following != _TCP:
        return None
    end = at + 40 + length if length else len(data)
    return data[at + 8 : at + 24], data[at + 24 : at + 40], start, end
