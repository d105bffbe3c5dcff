"""Writes captures: pcapng blocks around packets, TCP/IP headers around bytes."""

import struct
from collections.abc import Callable
from typing import Final, Protocol

from wireproto.inspection.tcp import ACK, FIN, PSH, SYN, Endpoint

MAX_SEGMENT: Final = 65_000
"""Bytes of the stream per packet: a packet's length has 16 bits."""
_RAW_IP: Final = 101
_WINDOW: Final = 65_535
_TCP: Final = 6


class Writer:
    """A pcapng file of IP packets, with times in microseconds. Calls `write` once for each block."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        interface = struct.pack("<HHI", _RAW_IP, 0, 0)
        write(_block(0x0A0D0D0A, section) + _block(1, interface))

    def packet(self, time: float, data: bytes) -> None:
        """One packet; `time` is in seconds since 1970."""
        high, low = divmod(round(time * 1e6), 1 << 32)
        head = struct.pack("<IIIII", 0, high, low, len(data), len(data))
        self._write(_block(6, head + data))


def _block(kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    size = struct.pack("<I", 12 + len(padded))
    return struct.pack("<I", kind) + size + padded + size


class PacketWriter(Protocol):
    """Anything that takes packets."""

    def packet(self, time: float, data: bytes) -> None: ...


class TcpWriter:
    """One TCP connection, written as synthetic packets. `ends` are its endpoints, the connecting one first."""

    def __init__(self, writer: PacketWriter, ends: tuple[Endpoint, Endpoint], time: float) -> None:
        self._writer = writer
        self._ends = ends
        self._next = [0, 0]  # sequence numbers
        self._segment(0, time, SYN)
        self._segment(1, time, SYN | ACK)
        self._segment(0, time, ACK)

    def data(self, side: int, time: float, data: bytes) -> None:
        """Write bytes from one side, 0 for the one that connects."""
        for at in range(0, len(data), MAX_SEGMENT):
            self._segment(side, time, PSH | ACK, data[at : at + MAX_SEGMENT])

    def lose(self, side: int, size: int) -> None:
        """Leave a gap for missing bytes from one side."""
        self._next[side] += size

    def close(self, side: int, time: float) -> None:
        """Write the end of one side's stream."""
        self._segment(side, time, FIN | ACK)

    def _segment(self, side: int, time: float, flags: int, data: bytes = b"") -> None:
        source, target = self._ends[side], self._ends[1 - side]
        acknowledged = self._next[1 - side] if flags & ACK else 0
        tcp = struct.pack(
            ">HHIIBBHHH",
            source.port,
            target.port,
            self._next[side] & 0xFFFF_FFFF,
            acknowledged & 0xFFFF_FFFF,
            5 << 4,
            flags,
            _WINDOW,
            0,
            0,
        )
        pseudo = source.ip + target.ip + struct.pack(">II", _TCP, len(tcp) + len(data))
        tcp = tcp[:16] + _checksum(pseudo + tcp + data) + tcp[18:]
        self._writer.packet(time, _ip_header(source.ip, target.ip, len(tcp) + len(data)) + tcp + data)
        self._next[side] += len(data) + bool(flags & (SYN | FIN))


def _ip_header(source: bytes, target: bytes, size: int) -> bytes:
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, size, _TCP, 64) + source + target
    header = struct.pack(">BBHIBBH", 0x45, 0, 20 + size, 0, 64, _TCP, 0) + source + target
    return header[:10] + _checksum(header) + header[12:]


def _checksum(data: bytes) -> bytes:
    """Return the checksum of RFC 1071: the ones' complement of the ones' complement sum of all 16-bit words."""
    total = int.from_bytes(data + bytes(len(data) % 2)) % 0xFFFF  # as 2^16 is 1 there
    return (0xFFFF - (total or 0xFFFF)).to_bytes(2)
