"""Capture files made for tests byte by byte, and the result of reading them."""

import io
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from wireproto.inspection.captures import CaptureError
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.reading import Reading
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.source import Source
from wireproto.inspection.timeline import title

MAC: Final = bytes(12)

HEADS: Final[dict[str, tuple[int, bytes]]] = {
    "null": (0, b"\2\0\0\0"),
    "null-big-endian": (0, b"\0\0\0\2"),
    "ethernet": (1, MAC + b"\x08\x00"),
    "vlan-8100": (1, MAC + b"\x81\x00\0\x07\x08\x00"),
    "vlan-88a8-8100": (1, MAC + b"\x88\xa8\0\x07\x81\x00\0\x07\x08\x00"),
    "vlan-9100-8100": (1, MAC + b"\x91\x00\0\x07\x81\x00\0\x07\x08\x00"),
    "vlan-9200": (1, MAC + b"\x92\x00\0\x07\x08\x00"),
    "vlan-three": (1, MAC + b"\x93\x00\0\1\x88\xa8\0\2\x81\x00\0\3\x08\x00"),
    "mpls": (1, MAC + b"\x88\x47\0\1\0\x40\0\2\1\x40"),
    "snap": (1, MAC + b"\x01\0\xaa\xaa\3\0\0\0\x08\x00"),
    "pppoe": (1, MAC + b"\x88\x64\x11\0\0\1\0\x40\0\x21"),
    "pppoe-link": (51, b"\x11\0\0\1\0\x40\0\x21"),
    "ppp": (9, b"\0\x21"),
    "ppp-hdlc": (50, b"\xff\3\0\x21"),
    "ppp-short": (9, b"\x21"),
    "ppp-direction": (204, b"\1\xff\3\0\x21"),
    "raw": (101, b""),
    "raw-bsd": (12, b""),
    "raw-openbsd": (14, b""),
    "ipv4": (228, b""),
    "cisco-hdlc": (104, b"\x0f\0\x08\x00"),
    "loop": (108, b"\0\0\0\2"),
    "linux-cooked": (113, bytes(14) + b"\x08\x00"),
    "linux-cooked-vlan": (113, bytes(14) + b"\x81\x00\0\7\x08\x00"),
    "linux-cooked-2": (276, b"\x08\x00" + bytes(18)),
    "linux-cooked-2-vlan": (276, b"\x81\x00" + bytes(18) + b"\0\7\x08\x00"),
    "apple-1394": (138, bytes(16) + b"\x08\x00"),
    "pktap": (258, struct.pack("<III", 108, 1, 1) + bytes(96) + MAC + b"\x08\x00"),
    "pktap-loopback": (149, struct.pack("<III", 108, 1, 0) + bytes(96) + b"\2\0\0\0"),
    "pktap-raw": (258, struct.pack("<III", 156, 1, 12) + bytes(144)),
}
"""Link types, and their bytes before an IPv4 packet."""


class Read(NamedTuple):
    """The result of reading a file."""

    entries: list[Entry]
    reading: Reading
    fault: str | None

    @property
    def names(self) -> list[str]:
        return [title(entry) for entry in self.entries if entry.kind is Kind.MESSAGE]

    @property
    def lost(self) -> int:
        return sum(entry.lost for entry in self.entries)

    @property
    def shown(self) -> int:
        return sum(entry.size - entry.lost for entry in self.entries)


def read(data: bytes, keys: KeyLog | None = None) -> Read:
    """Read a file, and check that no byte of it is lost silently."""
    source = Source(io.BytesIO(data))
    reading = Reading(source, keys)
    entries, fault = [], None
    try:
        for entry in reading.entries():
            entries.append(entry)
    except CaptureError as error:
        fault = str(error)
    found = Read(entries, reading, fault)
    if reading.packets:
        assert found.shown + reading.repeated + reading.other_bytes == reading.payload
        assert reading.packets == reading.with_tcp + reading.others.total()
    return found


# -- pcapng ------------------------------------------------------------------------------------------------------------


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    padded = body + bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(padded) + 12)
    return struct.pack(order + "I", kind) + size + padded + size


def section(order: str = "<", size: int = -1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, size), order)


def option(code: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(data)) + data + bytes(-len(data) % 4)


def interface(link_type: int, order: str = "<", options: bytes = b"", snapshot: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snapshot) + options, order)


def enhanced(number: int, ticks: int, data: bytes, order: str = "<", size: int | None = None) -> bytes:
    high, low = divmod(ticks, 1 << 32)
    head = struct.pack(order + "5I", number, high, low, len(data), len(data) if size is None else size)
    return block(6, head + data, order)


def simple(data: bytes, order: str = "<", size: int | None = None) -> bytes:
    return block(3, struct.pack(order + "I", len(data) if size is None else size) + data, order)


def obsolete(number: int, data: bytes, order: str = "<") -> bytes:
    return block(2, struct.pack(order + "HHIIII", number, 0, 0, 0, len(data), len(data)) + data, order)


def many_interfaces(packets: Iterable[tuple[float, bytes]], *names: str, order: str = "<") -> bytes:
    """Return one section with an interface per link type, used in turn."""
    heads = [HEADS[name] for name in names]
    out = section(order) + b"".join(interface(link_type, order) for link_type, _ in heads)
    for at, (time, data) in enumerate(packets):
        number = at % len(heads)
        out += enhanced(number, round(time * 1e6), heads[number][1] + data, order)
    return out
