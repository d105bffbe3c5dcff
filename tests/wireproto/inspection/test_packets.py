"""TCP segments in packets: headers before IP, IPv4, IPv6, fragments; and packets written here."""

import struct
import subprocess
from pathlib import Path
from random import Random
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.wireproto.inspection.captured import HEADS, MAC, read
from tests.wireproto.inspection.talks import ENDS, RAW_IP, a_talk, entries, pcap
from wireproto.inspection.captures import Packet
from wireproto.inspection.packets import Segments
from wireproto.inspection.sessions import Kind
from wireproto.inspection.tcp import Endpoint, Segment

TALK = a_talk()
PACKET = TALK.packets[3][1]
SEGMENT = TALK.segments[3]
V6 = (Endpoint(bytes(15) + b"\x01", 50001), Endpoint(bytes(15) + b"\x02", 49999))
TALK_6 = a_talk(ends=V6)
PACKET_6 = TALK_6.packets[3][1]
SEGMENT_6 = TALK_6.segments[3]


def taken(link_type: int, *packets: bytes) -> tuple[list[Segment], dict[str, int]]:
    """The segments in packets, and the other packets, by name."""
    decoder = Segments()
    found = [segment for data in packets for segment in decoder.take(Packet(SEGMENT.time, link_type, data, len(data)))]
    found += decoder.end()
    assert decoder.count == decoder.with_tcp + decoder.others.total()
    return found, dict(decoder.others)


# -- before IP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_headers_before_ip(name: str) -> None:
    link_type, head = HEADS[name]
    assert taken(link_type, head + PACKET + b"padding of the frame") == ([SEGMENT], {})


@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_address_families_of_ipv6(family: int) -> None:
    assert taken(0, struct.pack("<I", family) + PACKET_6) == ([SEGMENT_6], {})


@pytest.mark.parametrize("name", [name for name in HEADS if HEADS[name][0] == 1])
def test_ethernet_with_ipv6(name: str) -> None:
    head = HEADS[name][1].replace(b"\x08\x00", b"\x86\xdd").replace(b"\0\x21", b"\0\x57")
    assert taken(1, head + PACKET_6) == ([SEGMENT_6], {})


@pytest.mark.parametrize(
    ("link_type", "packet", "name"),
    [
        (1, MAC + b"\x08\x06" + bytes(28), "ARP"),
        (1, MAC + b"\x88\xe5" + bytes(28), "MACsec"),
        (1, MAC + b"\x12\x34" + bytes(28), "EtherType 0x1234"),
        (1, MAC + b"\x81\0\0\7\x88\xcc" + bytes(28), "LLDP"),
        (1, MAC + b"\0\x26\x42\x42\3" + bytes(35), "IEEE 802.2"),
        (1, MAC, "cut inside a header"),
        (0, b"\x07\0\0\0" + PACKET, "address family that is not IP"),
        (9, b"\xc0\x21" + bytes(20), "PPP protocol 0xc021"),
        (105, PACKET, "link type 105 (Wi-Fi in monitor mode)"),
        (258, struct.pack("<III", 108, 1, 127) + bytes(96), "link type 127 (Wi-Fi in monitor mode) in PKTAP"),
        (258, struct.pack("<III", 108, 1, 258) + bytes(200), "link type 258 in PKTAP"),
        (RAW_IP, PACKET[:9] + b"\x11" + PACKET[10:], "UDP"),
        (RAW_IP, PACKET[:9] + b"\x2f" + PACKET[10:], "GRE"),
        (RAW_IP, PACKET[:9] + b"\x99" + PACKET[10:], "IP protocol 153"),
        (RAW_IP, b"\x55" + PACKET[1:], "not IP"),
        (RAW_IP, b"\x41" + PACKET[1:], "malformed packet"),
        (RAW_IP, PACKET[:32] + b"\x40" + PACKET[33:], "malformed packet"),
        (RAW_IP, PACKET[:32] + b"\xf0" + PACKET[33:60], "malformed packet"),
        (RAW_IP, PACKET[:30], "malformed packet"),
        (RAW_IP, b"", "malformed packet"),
    ],
    ids=lambda value: "packet" if isinstance(value, bytes) else str(value),  # a signature is random
)
def test_packets_without_tcp_are_counted_by_name(link_type: int, packet: bytes, name: str) -> None:
    assert taken(link_type, packet) == ([], {name: 1})


# -- IP ----------------------------------------------------------------------------------------------------------------


def test_ipv6() -> None:
    assert entries(TALK_6.segments, TALK_6.keys())[-1].kind is Kind.CLOSED


EXTENSIONS = {
    "hop-by-hop": (0, b"%c\0" + bytes(6)),
    "routing": (43, b"%c\1" + bytes(14)),
    "destination": (60, b"%c\0" + bytes(6)),
    "authentication": (51, b"%c\4" + bytes(22)),
    "atomic-fragment": (44, b"%c\0\0\0\0\0\0\7"),
}


def with_extensions(packet: bytes, *names: str) -> bytes:
    """An IPv6 packet with extension headers after its header."""
    kinds = [EXTENSIONS[name][0] for name in names]
    added = b"".join(EXTENSIONS[name][1] % after for name, after in zip(names, [*kinds[1:], packet[6]], strict=True))
    length = struct.pack(">H", len(packet) - 40 + len(added))
    return packet[:4] + length + bytes([kinds[0]]) + packet[7:40] + added + packet[40:]


@pytest.mark.parametrize(
    "names",
    [*((name,) for name in EXTENSIONS), ("hop-by-hop", "routing"), ("hop-by-hop", "destination", "authentication")],
)
def test_ipv6_extension_headers(names: tuple[str, ...]) -> None:
    assert taken(RAW_IP, with_extensions(PACKET_6, *names)) == ([SEGMENT_6], {})


@pytest.mark.parametrize("inner", [PACKET, PACKET_6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("outer", [PACKET, PACKET_6], ids=["ipv4", "ipv6"])
def test_ip_in_ip(outer: bytes, inner: bytes) -> None:
    protocol = bytes([4 if inner[0] >> 4 == 4 else 41])
    if outer[0] >> 4 == 4:
        head = outer[:2] + struct.pack(">H", 20 + len(inner)) + outer[4:9] + protocol + outer[10:20]
    else:
        head = outer[:4] + struct.pack(">H", len(inner)) + protocol + outer[7:40]
    assert taken(RAW_IP, head + inner)[0] == [SEGMENT if inner == PACKET else SEGMENT_6]


def test_a_packet_that_was_cut_short() -> None:
    decoder = Segments()
    (segment,) = decoder.take(Packet(SEGMENT.time, RAW_IP, PACKET[:100], len(PACKET)))
    assert segment == replace(SEGMENT, data=PACKET[40:100], cut=len(PACKET) - 100)
    assert (decoder.cut, decoder.longest_cut) == (1, 100)


@pytest.mark.parametrize("length", [10, 19, 20, 30, 39])
def test_a_packet_that_was_cut_inside_a_header(length: int) -> None:
    decoder = Segments()
    found = decoder.take(Packet(0.0, RAW_IP, PACKET[:length], len(PACKET)))
    if length < 34:
        assert decoder.others == {"cut inside a header": 1}
    else:  # the needed part is there
        (segment,) = found
        assert (segment.data, segment.cut) == (b"", len(PACKET) - 40)


@pytest.mark.parametrize("captured", [100, None])
def test_a_length_that_the_network_card_fills_in(captured: int | None) -> None:
    packet = PACKET[:2] + b"\0\0" + PACKET[4:]
    (segment,) = Segments().take(Packet(0.0, RAW_IP, packet[:captured], len(packet)))
    assert segment.data == PACKET[40:captured]
    assert len(segment.data) + segment.cut == len(SEGMENT.data)


@given(data=st.binary(max_size=120), link_type=st.sampled_from(sorted(HEADS)), v6=st.booleans())
def test_any_packet_has_a_segment_or_a_name(data: bytes, link_type: str, v6: bool) -> None:
    number, head = HEADS[link_type]
    for packet in (data, head + bytes([0x60 if v6 else 0x45]) + data):
        found, others = taken(number, packet)
        assert len(found) == 1 - sum(others.values())


@given(changes=st.lists(st.tuples(st.integers(3, 10), st.integers(20, 400), st.integers(0, 255)), max_size=8))
def test_any_change_of_the_bytes_gives_entries(changes: list[tuple[int, int, int]]) -> None:
    packets = [(time, bytearray(data)) for time, data in TALK.packets]
    for number, at, byte in changes:
        if at < len(packets[number][1]):
            packets[number][1][at] = byte
    for entry in read(pcap((time, bytes(data)) for time, data in packets), TALK.keys()).entries:
        assert entry.error is None or entry.error.code


# -- fragments ---------------------------------------------------------------------------------------------------------


def fragments(packet: bytes, size: int, number: int = 7) -> list[bytes]:
    """An IPv4 or IPv6 packet in fragments, `size` bytes of its payload in each but the last."""
    is_4 = packet[0] >> 4 == 4
    header, payload = (packet[:20], packet[20:]) if is_4 else (packet[:40], packet[40:])
    parts = []
    for at in range(0, len(payload), size):
        part, more = payload[at : at + size], at + size < len(payload)
        if is_4:
            field = struct.pack(">HHH", 20 + len(part), number, more << 13 | at // 8)
            parts.append(header[:2] + field + header[8:] + part)
        else:
            extension = struct.pack(">BxHI", header[6], at | more, number)
            parts.append(header[:4] + struct.pack(">HB", 8 + len(part), 44) + header[7:] + extension + part)
    return parts


FRAGMENTED = pytest.mark.parametrize(("packet", "segment"), [(PACKET, SEGMENT), (PACKET_6, SEGMENT_6)], ids=["4", "6"])


@FRAGMENTED
@pytest.mark.parametrize("size", [8, 24, 128, 360])
def test_fragments_in_any_order(packet: bytes, segment: Segment, size: int) -> None:
    parts = fragments(packet, size)
    for order in (parts, parts[::-1], Random(1).sample(parts, len(parts))):
        assert taken(RAW_IP, *order) == ([segment], {})


@FRAGMENTED
def test_fragments_that_come_twice(packet: bytes, segment: Segment) -> None:
    first, *rest = fragments(packet, 64)
    assert taken(RAW_IP, first, first, rest[0], *rest) == ([segment], {})


@FRAGMENTED
def test_fragments_of_two_datagrams_mixed(packet: bytes, segment: Segment) -> None:
    pairs = zip(fragments(packet, 64, 1), fragments(packet, 64, 2), strict=True)
    assert taken(RAW_IP, *(part for pair in pairs for part in pair)) == ([segment, segment], {})


@FRAGMENTED
def test_a_fragment_that_is_missing_leaves_a_hole(packet: bytes, segment: Segment) -> None:
    parts = fragments(packet, 64)
    found, others = taken(RAW_IP, *parts[:2], *parts[3:])
    head, tail = found
    header = 20
    assert head.data == segment.data[: 128 - header]
    assert (tail.data, tail.sequence) == (segment.data[192 - header :], segment.sequence + 192 - header)
    assert others == {}


@FRAGMENTED
def test_a_last_fragment_that_is_missing(packet: bytes, segment: Segment) -> None:
    ((head,), others) = taken(RAW_IP, *fragments(packet, 64)[:-1])
    assert segment.data.startswith(head.data)
    assert others == {}


@FRAGMENTED
def test_fragments_without_the_first_are_counted(packet: bytes, segment: Segment) -> None:
    parts = fragments(packet, 64)[1:]
    assert taken(RAW_IP, *parts) == ([], {"IP fragment without the first one": len(parts)})


def test_fragments_of_another_protocol_are_not_held() -> None:
    udp = PACKET[:9] + b"\x11" + PACKET[10:]
    parts = fragments(udp, 64)
    assert taken(RAW_IP, *parts) == ([], {"UDP": len(parts)})


def test_fragments_that_were_cut() -> None:
    decoder = Segments()
    parts = fragments(PACKET, 128)
    found = [each for part in parts for each in decoder.take(Packet(0.0, RAW_IP, part[:100], len(part)))]
    assert [len(segment.data) for segment in found] == [60, 80, 80 if len(parts[2]) > 100 else len(parts[2]) - 20]
    assert decoder.cut == sum(len(part) > 100 for part in parts)


def test_many_fragments_that_stay_incomplete_hold_little_memory() -> None:
    decoder = Segments()
    for number in range(5000):
        for part in fragments(PACKET, 128, number)[:2]:
            decoder.take(Packet(0.0, RAW_IP, part, len(part)))
    assert decoder.fragments._size <= 1024 * 1024
    assert len(decoder.fragments._held) <= 1024


def test_a_number_that_is_used_again_later_is_another_datagram() -> None:
    parts = fragments(PACKET, 128)
    decoder = Segments()
    decoder.take(Packet(0.0, RAW_IP, parts[0], len(parts[0])))
    found = [each for part in parts for each in decoder.take(Packet(60.0, RAW_IP, part, len(part)))]
    assert [segment.data for segment in found] == [SEGMENT.data[:108], SEGMENT.data]


@pytest.mark.parametrize("size", [16, 40, 200])
@pytest.mark.parametrize("talk", [TALK, TALK_6], ids=["4", "6"])
def test_a_session_in_fragments(talk: object, size: int) -> None:
    whole = TALK if talk is TALK else TALK_6
    packets = [
        (time, part)
        for number, (time, data) in enumerate(whole.packets)
        for part in (fragments(data, size, number) if len(data) > 100 else [data])
    ]
    found = read(pcap(packets), whole.keys())
    assert len(found.names) == 6
    assert found.lost == 0


@given(data=st.data())
def test_no_byte_of_a_fragment_is_lost_silently(data: st.DataObject) -> None:
    parts = fragments(PACKET, data.draw(st.sampled_from([8, 16, 64])))
    chosen = data.draw(st.lists(st.sampled_from(parts), max_size=60))
    decoder = Segments()
    found: list[Segment] = []
    for part in chosen:
        found += decoder.take(Packet(0.0, RAW_IP, part, len(part)))
    found += decoder.end()
    heads = [segment for segment in found if segment.sequence == SEGMENT.sequence]
    told = sum(len(segment.data) for segment in found) + 20 * len(heads)
    assert decoder.fragments.taken == told + decoder.fragments.repeated + decoder.stray
    assert decoder.fragments.taken == sum(len(part) - 20 for part in chosen)


# -- what is written here ----------------------------------------------------------------------------------------------


def ones_complement_sum(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("ends", [ENDS, V6])
def test_checksums(ends: tuple[Endpoint, Endpoint]) -> None:
    for _, packet in a_talk(ends=ends).packets:
        size = 40 if len(ends[0].ip) == 16 else 20
        if size == 20:
            assert ones_complement_sum(packet[:20]) == 0xFFFF
        addresses = packet[8:40] if size == 40 else packet[12:20]
        pseudo = addresses + struct.pack(">II", len(packet) - size, 6)
        assert ones_complement_sum(pseudo + packet[size:]) == 0xFFFF


@pytest.mark.skipif(which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("ends", [ENDS, V6])
def test_tshark_finds_no_fault(ends: tuple[Endpoint, Endpoint], tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(a_talk(ends=ends).pcapng())
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(
        ["tshark", *checks, "-r", str(path), "-Y", "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b""
