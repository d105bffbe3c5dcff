"""The headers before IP, by link type (https://www.tcpdump.org/linktypes.html)."""

from collections.abc import Callable
from typing import Final

from wireproto.inspection.formats import link_type_name

CUT: Final = "cut inside a header"
"""The reason if the capture lacks the end of a header."""


def network_layer(link_type: int, data: bytes) -> int | str:
    """Return the offset of IP in a packet, or the reason to skip the packet, by which it is counted."""
    reader = _READERS.get(link_type)
    if reader is None:
        return link_type_name(link_type)
    return reader(data, 0)


def _ethernet(data: bytes, at: int) -> int | str:
    if data[at + 12 : at + 14] in _IP:  # as in most packets: one call less
        return at + 14
    return _by_ether_type(data, at + 12, at + 14)


def _by_ether_type(data: bytes, type_at: int, at: int) -> int | str:
    """Find IP after an EtherType at `type_at`, whose payload starts at `at`."""
    kind = data[type_at : type_at + 2]
    while kind in _VLAN:
        kind = data[at + 2 : at + 4]
        at += 4
    if kind in _IP:
        return at
    if len(kind) < 2:
        return CUT
    if kind in _MPLS:
        while at + 4 <= len(data) and not data[at + 2] & 1:  # another label follows
            at += 4
        return at + 4
    if kind == _PPPOE:
        return _ppp(data, at + 6)
    number = int.from_bytes(kind)
    if number <= _MAX_LENGTH:  # IEEE 802.3: a length instead of a type
        if data[at : at + 6] == _SNAP:
            return _by_ether_type(data, at + 6, at + 8)
        return "IEEE 802.2"
    return _ETHER_TYPES.get(number, f"EtherType 0x{number:04x}")


def _raw(data: bytes, at: int) -> int | str:
    return at


def _family(data: bytes, at: int) -> int | str:
    """Find IP after BSD's address family, four bytes whose values differ between systems."""
    if data[at : at + 4].strip(b"\0") in (b"\2", b"\x0a", b"\x18", b"\x1c", b"\x1e"):  # IPv4; IPv6
        return at + 4
    return CUT if len(data) < at + 4 else "address family that is not IP"


def _ppp(data: bytes, at: int) -> int | str:
    if data[at : at + 2] == b"\xff\x03":  # address and control, often left out
        at += 2
    if data[at : at + 1] in (b"\x21", b"\x57"):  # the protocol's first byte is left out
        return at + 1
    kind = data[at : at + 2]
    if kind in (b"\0\x21", b"\0\x57"):
        return at + 2
    return CUT if len(kind) < 2 else f"PPP protocol 0x{int.from_bytes(kind):04x}"


def _ppp_with_direction(data: bytes, at: int) -> int | str:
    return _ppp(data, at + 1)


def _pppoe(data: bytes, at: int) -> int | str:
    return _ppp(data, at + 6)


def _cisco_hdlc(data: bytes, at: int) -> int | str:
    return _by_ether_type(data, at + 2, at + 4)


def _linux_cooked(data: bytes, at: int) -> int | str:
    return _by_ether_type(data, at + 14, at + 16)


def _linux_cooked_2(data: bytes, at: int) -> int | str:
    return _by_ether_type(data, at, at + 20)


def _apple_1394(data: bytes, at: int) -> int | str:
    return _by_ether_type(data, at + 16, at + 18)


def _pktap(data: bytes, at: int) -> int | str:
    """Find IP after Apple's PKTAP header, which has its own length and the link type that follows."""
    if len(data) < at + 12:
        return CUT
    length = int.from_bytes(data[at : at + 4], "little")
    link_type = int.from_bytes(data[at + 8 : at + 12], "little")
    reader = _READERS.get(link_type)
    if reader is None or reader is _pktap or length < 12:
        return f"{link_type_name(link_type)} in PKTAP"
    return CUT if at + length > len(data) else reader(data, at + length)


_READERS: Final[dict[int, Callable[[bytes, int], int | str]]] = {
    0: _family,
    1: _ethernet,
    9: _ppp,
    12: _raw,
    14: _raw,
    50: _ppp,
    51: _pppoe,
    101: _raw,
    104: _cisco_hdlc,
    108: _family,
    113: _linux_cooked,
    138: _apple_1394,
    149: _pktap,  # captures of older macOS
    204: _ppp_with_direction,
    228: _raw,
    229: _raw,
    258: _pktap,
    276: _linux_cooked_2,
}

_IP: Final = (b"\x08\x00", b"\x86\xdd")
_VLAN: Final = (b"\x81\x00", b"\x88\xa8", b"\x91\x00", b"\x92\x00", b"\x93\x00")
"""802.1Q, 802.1ad, and what switches wrote before that."""
_MPLS: Final = (b"\x88\x47", b"\x88\x48")
_PPPOE: Final = b"\x88\x64"
_SNAP: Final = b"\xaa\xaa\x03\0\0\0"
_MAX_LENGTH: Final = 1500
_ETHER_TYPES: Final = {0x0806: "ARP", 0x8863: "PPPoE discovery", 0x88CC: "LLDP", 0x88E5: "MACsec"}
