"""Seed inputs from the test vectors: names and bytes for each layer."""

import gzip
import io
import struct
from collections.abc import Callable, Iterator
from typing import Final

from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint
from wireproto.messages import Revision
from wireproto.session import Role
from wireproto.testing.fixed_keys import KNOWN, box
from wireproto.testing.vectors import (
    ClusterFrameTest,
    DeviceFileTest,
    HandshakeTest,
    JacclRecordTest,
    LinkStreamTest,
    SealTest,
    SessionTest,
    TensorTest,
    load,
)

Seeds = Iterator[tuple[str, bytes]]

OWN_NONCE: Final = b"the own one."
"""The nonce of the box that the seal under test itself sealed."""
_ENDS: Final = (Endpoint(bytes([169, 254, 1, 1]), 50_000), Endpoint(bytes([169, 254, 1, 2]), 7777))


def link_stream(*bodies: bytes) -> bytes:
    """Return the bodies as link frames with correct lengths."""
    return b"".join(len(body).to_bytes(8, "little") + body for body in bodies)


def link() -> Seeds:
    """Link streams."""
    for group in load(LinkStreamTest).groups:
        yield from ((test.id, test.stream) for test in group.tests)


def frame() -> Seeds:
    """Cluster frames."""
    for group in load(ClusterFrameTest).groups:
        yield from ((test.id, test.frame) for test in group.tests)


def schema() -> Seeds:
    """Tensor plaintexts, JACCL's records, boxes."""
    for tensors in load(TensorTest).groups:
        yield from ((f"tensor-{test.id}", test.plaintext) for test in tensors.tests if test.plaintext is not None)
    for records in load(JacclRecordTest).groups:
        yield from ((f"record-{test.id}", test.data) for test in records.tests)
    for boxes in load(SealTest).groups:
        for test in boxes.tests:
            yield from ((f"box-{test.id}-{at}", step.box) for at, step in enumerate(test.steps))


def handshake() -> Seeds:
    """Hellos and acks, cluster frames."""
    for group in load(HandshakeTest).groups:
        for test in group.tests:
            taken = test.hello if test.role == Role.RESPONDER.value else test.ack
            yield test.id, taken or b""


def seal() -> Seeds:
    """Link streams of boxes under the key of `KNOWN`."""
    boxes = [box(KNOWN.key, bytes([number]) * 12, b"\x03" * number) for number in range(3)]
    own = box(KNOWN.key, OWN_NONCE, b"own")
    yield "replayed-cut-reflected", link_stream(*boxes, boxes[0], boxes[1][:-1], own)
    yield "refused-then-true", link_stream(boxes[1][:-1] + b"\0", boxes[1])
    for group in load(SealTest).groups:
        for test in group.tests:
            yield test.id, link_stream(*(step.box for step in test.steps if step.box))


def session() -> Seeds:
    """A byte of choices, then all bytes received over a connection with the keys of `KNOWN`."""
    for group in load(SessionTest).groups:
        for test in group.tests:
            received = (step.bytes or b"" for step in test.steps if step.do == "receive")
            yield test.id, choices(Role(test.role), Revision(test.revision), bool(test.extensions)) + b"".join(received)
    for role in Role:
        for revision in Revision:
            name = f"extensions-{role.name.lower()}-{revision:d}"
            yield name, choices(role, revision, True) + _conversation(role, revision)


def choices(role: Role, revision: Revision, extends: bool) -> bytes:
    """The first byte of a session's input."""
    return bytes([(role is Role.RESPONDER) | (revision is Revision.V1) << 1 | extends << 2])


def _conversation(role: Role, revision: Revision) -> bytes:
    """A handshake, and messages of every extension."""
    if role is Role.INITIATOR:
        first, part = KNOWN.ack, b"\x40\0\0\0\0a"
        start = [_PONG[:-1] + b',"extensions":["outcome/1"]}']
    else:
        first, part = KNOWN.hello, b"\x41\0\0\0\0aa"
        start = [b"\x03", b'\x07{"port":1,"sessionID":"a","extensions":["outcome/1","side-channel/1"]}']
    frames = [
        *start,
        b'\x42{"rank":0,"state":"ready","stage":"","code":"","message":""}',
        b'\x43{"package":"","mlx":"","backend":"","devices":"","program":"hold"}',
        part,
        b"\xff",
    ]
    if revision is Revision.V2:
        frames = [box(KNOWN.key, bytes([at]) * 12, frame) for at, frame in enumerate(frames)]
    return link_stream(first, *frames)


_PONG: Final = b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'


PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
"""The first bytes of such a file."""


def inspection() -> Seeds:
    """Captures of sessions, and streams of one direction."""
    yield from link()
    for group in load(SessionTest).groups:
        for at, test in enumerate(group.tests):
            packets = _packets(test)
            yield f"{test.id}-capture", _pcapng(packets)
            yield f"{test.id}-fragments", _pcapng([part for packet in packets for part in _fragments(packet)])
            if at < len(_LINK_HEADERS):
                link_type, head = _LINK_HEADERS[at]
                yield f"{test.id}-link-type-{link_type}", _pcap(link_type, [head + packet for packet in packets])
                yield f"{test.id}-gzip", gzip.compress(_pcapng(packets), mtime=0)
            yield test.id, b"".join(step.bytes or b"" for step in test.steps if step.do == "receive")


_LINK_HEADERS: Final = (
    (0, b"\2\0\0\0"),
    (1, bytes(12) + b"\x91\0\0\5\x81\0\0\7\x08\0"),
    (9, b"\xff\3\0\x21"),
    (101, b""),
    (113, bytes(14) + b"\x08\0"),
    (258, struct.pack("<III", 16, 1, 1) + bytes(4) + bytes(12) + b"\x08\0"),
    (276, b"\x08\0" + bytes(18)),
)
"""Link types, and their bytes before IP."""


def _pcap(link_type: int, packets: list[bytes]) -> bytes:
    head = struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, link_type)
    return head + b"".join(struct.pack(">IIII", 0, 0, len(each), len(each)) + each for each in packets)


def _pcapng(packets: list[bytes]) -> bytes:
    out = io.BytesIO()
    writer = Writer(out.write)
    for packet in packets:
        writer.packet(0.0, packet)
    return out.getvalue()


def _fragments(packet: bytes) -> Iterator[bytes]:
    """Cut an IPv4 packet into fragments of 128 bytes."""
    payload = packet[20:]
    for at in range(0, len(payload), 128):
        more = 0x2000 if at + 128 < len(payload) else 0
        part = payload[at : at + 128]
        yield packet[:2] + struct.pack(">HHH", 20 + len(part), 7, more | at // 8) + packet[8:20] + part


class _Packets:
    """A `Writer` that keeps the packets."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def packet(self, time: float, data: bytes) -> None:
        self.packets.append(data)


def _packets(test: SessionTest) -> list[bytes]:
    out = _Packets()
    tcp = TcpWriter(out, _ENDS, 0.0)
    own = 0 if test.role == Role.INITIATOR.value else 1
    for step in test.steps:
        tcp.data(own if step.do in ("start", "send") else 1 - own, 0.0, step.bytes or b"")
        if step.events and step.events[0].reply:
            tcp.data(own, 0.0, step.events[0].reply)
    tcp.close(0, 0.0)
    return out.packets


def device_file() -> Seeds:
    """Device matrices, rank entries and ring hostfiles."""
    for group in load(DeviceFileTest).groups:
        yield from ((test.id, test.file) for test in group.tests)


SEEDS: Final[dict[str, Callable[[], Seeds]]] = {
    each.__name__: each for each in (link, frame, schema, handshake, seal, session, inspection, device_file)
}
"""Seeds by name of the layer."""
