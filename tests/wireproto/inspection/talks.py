"""Complete sessions as captures, made in memory, and effects of networks and recorders on them."""

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from wireproto import (
    EXTENSIONS,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    Revision,
    SessionEnd,
)
from wireproto.inspection.captures import Packet
from wireproto.inspection.connections import Capture
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.packets import Segments
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.sessions import Entry
from wireproto.inspection.tcp import Endpoint, Segment
from wireproto.session import Config, Role, Session
from wireproto.session.handshake import KeySigner

ENDS: Final = (Endpoint(b"\x7f\x00\x00\x01", 50001), Endpoint(b"\x7f\x00\x00\x02", 49999))
"""The endpoints of rank 0 and rank 1; the port is not the protocol's own."""
SIGNERS: Final = (KeySigner.from_scalar(bytes(31) + b"\x01"), KeySigner.from_scalar(bytes(31) + b"\x02"))
RAW_IP: Final = 12


@dataclass
class Talk:
    """Two sessions that talk to each other, and every packet between them."""

    revision: Revision = Revision.V2
    ends: tuple[Endpoint, Endpoint] = ENDS
    start: float = 1000.0
    packets: list[tuple[float, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key_log = io.StringIO()
        self.sides = tuple(
            Session(
                Config(
                    role=role,
                    signer=SIGNERS[side],
                    pin=SIGNERS[1 - side].public_key,
                    revision=self.revision,
                    key_log=log,
                    extensions=EXTENSIONS,
                )
            )
            for side, (role, log) in enumerate(((Role.INITIATOR, self.key_log), (Role.RESPONDER, None)))
        )
        self.time = self.start
        self.tcp = TcpWriter(self, self.ends, self.time)  # type: ignore[arg-type]
        self.flush(0)

    def packet(self, time: float, data: bytes) -> None:
        """Keep a packet, like `Writer.packet`."""
        self.packets.append((time, data))

    def send(self, side: int, data: bytes | memoryview) -> None:
        """Send bytes from one side to the other."""
        self.time += 0.001
        self.tcp.data(side, self.time, bytes(data))
        receiver = self.sides[1 - side]
        receiver.receive_data(data)
        while receiver.next_event() is not None:
            self.flush(1 - side)

    def flush(self, side: int) -> None:
        """Send the pending bytes of a side."""
        if data := b"".join(self.sides[side].data_to_send()):
            self.send(side, data)

    def say(self, side: int, *messages: Message) -> "Talk":
        for message in messages:
            self.sides[side].send(message)
            self.flush(side)
        return self

    def raw(self, side: int, data: bytes) -> "Talk":
        """Send bytes that the other side does not receive."""
        self.time += 0.001
        self.tcp.data(side, self.time, data)
        return self

    def close(self) -> "Talk":
        for side in (0, 1):
            self.tcp.close(side, self.time)
        return self

    @property
    def segments(self) -> list[Segment]:
        return segments_of(self.packets)

    def keys(self) -> KeyLog:
        return KeyLog(io.StringIO(self.key_log.getvalue()))

    def pcapng(self) -> bytes:
        file = io.BytesIO()
        writer = Writer(file.write)
        for time, data in self.packets:
            writer.packet(time, data)
        return file.getvalue()


BOOTSTRAP: Final = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF", EXTENSIONS)
PONG: Final = PongPayload(False, False, MemoryPressure.NORMAL, EXTENSIONS)


def a_talk(revision: Revision = Revision.V2, ends: tuple[Endpoint, Endpoint] = ENDS) -> Talk:
    """Handshake, ping, pong, bootstrap, end."""
    names = EXTENSIONS if revision is Revision.V2 else ()
    talk = Talk(revision, ends).say(0, Ping()).say(1, PongPayload(False, False, MemoryPressure.NORMAL, names))
    return talk.say(0, JacclBootstrapPayload(29400, "S-1", names), SessionEnd()).close()


def segments_of(packets: Iterable[tuple[float, bytes]], link_type: int = RAW_IP) -> list[Segment]:
    """The TCP segments in packets."""
    decoder = Segments()
    found = [segment for time, data in packets for segment in decoder.take(Packet(time, link_type, data, len(data)))]
    return found + list(decoder.end())


def entries(segments: Iterable[Segment], keys: KeyLog | None = None) -> list[Entry]:
    """Return the messages in entries."""
    capture = Capture(keys)
    found = [entry for segment in segments for entry in capture.take(segment)]
    return found + list(capture.end())


def with_data(segments: list[Segment], side: int) -> list[int]:
    """Return the indexes of a side's segments with data."""
    return [at for at, each in enumerate(segments) if each.data and each.source == ENDS[side]]


def pcap(
    packets: Iterable[tuple[float, bytes]], link_type: int = 101, order: str = "<", nano: bool = False, cut: int = 65536
) -> bytes:
    """Return the packets in the old format, each cut after some bytes."""
    magic, unit = (0xA1B23C4D, 1e9) if nano else (0xA1B2C3D4, 1e6)
    out = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    for time, data in packets:
        out += (
            struct.pack(f"{order}IIII", int(time), round(time % 1 * unit), min(cut, len(data)), len(data)) + data[:cut]
        )
    return out


def cut(segment: Segment, size: int) -> Iterable[Segment]:
    """Split a segment into several of `size` bytes each."""
    for at in range(0, len(segment.data), size):
        sequence = (segment.sequence + at) & 0xFFFF_FFFF
        yield replace(segment, sequence=sequence, data=segment.data[at : at + size])
