"""Capture files and the TCP segments in them; and the captures that are written here, read by others."""

import struct
import subprocess
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.inspection.talks import ENDS, a_talk, entries, pcap
from wireproto.inspection.packets import CaptureError, is_capture, read_packets, tcp_segment
from wireproto.inspection.sessions import Kind
from wireproto.inspection.tcp import Endpoint, Segment

TALK = a_talk()
PACKET = TALK.packets[3][1]
V6 = (Endpoint(bytes(15) + b"\x01", 50001), Endpoint(bytes(15) + b"\x02", 49999))


def segments_of(path: Path) -> list[Segment]:
    return [packet.segment for packet in read_packets(path) if packet.segment is not None]


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "capture"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("order", "nano"), [("<", False), (">", False), ("<", True), (">", True)])
def test_pcap(order: str, nano: bool, tmp_path: Path) -> None:
    path = written(tmp_path, pcap(TALK.packets, order=order, nano=nano))
    assert is_capture(path)
    read = segments_of(path)
    assert [segment._replace(time=0.0) for segment in read] == [each._replace(time=0.0) for each in TALK.segments]
    assert [segment.time for segment in read] == pytest.approx([each.time for each in TALK.segments], abs=2e-6)


def test_pcapng(tmp_path: Path) -> None:
    path = written(tmp_path, TALK.pcapng())
    assert is_capture(path)
    assert segments_of(path) == [each._replace(time=round(each.time, 6)) for each in TALK.segments]


@pytest.mark.parametrize(
    ("link_type", "head"),
    [
        (0, b"\2\0\0\0"),
        (1, bytes(12) + b"\x08\x00"),
        (1, bytes(12) + b"\x81\x00\0\x07\x08\x00"),
        (1, bytes(12) + b"\x88\xa8\0\x07\x81\x00\0\x07\x08\x00"),
        (12, b""),
        (108, b"\0\0\0\2"),
        (113, bytes(14) + b"\x08\x00"),
        (228, b""),
        (276, b"\x08\x00" + bytes(18)),
    ],
)
def test_link_types(link_type: int, head: bytes) -> None:
    segment = tcp_segment(1.5, link_type, head + PACKET + b"padding of the frame")
    assert segment == TALK.segments[3]._replace(time=1.5)


def test_ipv6() -> None:
    talk = a_talk(ends=V6)
    assert entries(talk.segments, talk.keys())[-1].kind is Kind.CLOSED
    packet = talk.packets[3][1]
    options = b"\x2b\0" + bytes(6) + b"\x06\x01" + bytes(14)  # hop-by-hop, then routing
    length = struct.pack(">H", len(packet) - 40 + len(options))
    extended = packet[:4] + length + b"\0" + packet[7:40] + options + packet[40:]
    assert tcp_segment(talk.packets[3][0], 12, extended) == talk.segments[3]


@pytest.mark.parametrize(
    "packet",
    [
        PACKET[:9] + b"\x11" + PACKET[10:],  # UDP
        PACKET[:6] + b"\0\1" + PACKET[8:],  # a later fragment
        PACKET[:30],
        b"",
    ],
)
def test_packets_without_tcp(packet: bytes) -> None:
    assert tcp_segment(0.0, 12, packet) is None


def test_other_ethertypes_are_no_ip() -> None:
    assert tcp_segment(0.0, 1, bytes(12) + b"\x08\x06" + PACKET) is None


def test_a_packet_that_was_cut_short() -> None:
    segment = tcp_segment(0.0, 12, PACKET[:100])
    assert segment is not None
    assert segment.data == PACKET[40:100]


def test_a_length_that_the_network_card_fills_in() -> None:
    segment = tcp_segment(0.0, 12, PACKET[:2] + b"\0\0" + PACKET[4:])
    assert segment is not None
    assert segment.data == PACKET[40:]


@given(data=st.binary(max_size=120), link_type=st.sampled_from([0, 1, 12, 113, 276]), v6=st.booleans())
def test_any_packet_is_read_or_is_none_of_tcp(data: bytes, link_type: int, v6: bool) -> None:
    head = {
        0: bytes(4),
        1: bytes(12) + b"\x08\x00",
        12: b"",
        113: bytes(14) + b"\x08\x00",
        276: b"\x08\x00" + bytes(18),
    }
    for packet in (data, head[link_type] + bytes([0x60 if v6 else 0x45]) + data):
        assert isinstance(tcp_segment(0.0, link_type, packet), Segment | None)


# -- files that are none -----------------------------------------------------------------------------------------------


def test_a_file_that_ends_in_a_packet_gives_those_before(tmp_path: Path) -> None:
    path = written(tmp_path, pcap(TALK.packets)[:-3])
    packets = read_packets(path)
    for _ in TALK.packets[1:]:
        next(packets)
    with pytest.raises(CaptureError, match="truncated"):
        next(packets)


@pytest.mark.parametrize("link_type", [9, 127, 999])
def test_a_link_type_that_is_unknown(link_type: int, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=f"link type {link_type}"):
        next(read_packets(written(tmp_path, pcap([], link_type))))


@given(data=st.data())
def test_garbage_behind_a_good_start_is_a_capture_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = data.draw(st.sampled_from([TALK.pcapng(), pcap(TALK.packets), pcap(TALK.packets, order=">")]))
    damaged = bytearray(whole[: data.draw(st.integers(4, len(whole)))])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(4, len(whole)), st.integers(0, 255)), max_size=8)):
        if at < len(damaged):
            damaged[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        found = entries(segments_of(path), TALK.keys())
    except CaptureError:
        return
    assert all(entry.error is None or entry.kind is Kind.BROKEN for entry in found)


@given(changes=st.lists(st.tuples(st.integers(3, 10), st.integers(20, 400), st.integers(0, 255)), max_size=8))
def test_any_change_of_the_bytes_gives_entries(changes: list[tuple[int, int, int]]) -> None:
    packets = [bytearray(data) for _, data in TALK.packets]
    for number, at, byte in changes:
        if at < len(packets[number]):
            packets[number][at] = byte
    segments = [segment for data in packets if (segment := tcp_segment(0.0, 12, bytes(data)))]
    for entry in entries(segments, TALK.keys()):
        assert entry.error is None or entry.error.code


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
    path = written(tmp_path, a_talk(ends=ends).pcapng())
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(
        ["tshark", *checks, "-r", str(path), "-Y", "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b""
