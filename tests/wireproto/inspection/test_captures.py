"""Capture files of every kind: formats, compression, the output of real tools, and other files."""

import bz2
import gzip
import lzma
import struct
import subprocess
import sys
from pathlib import Path
from random import Random
from shutil import which
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.inspection.captured import (
    HEADS,
    Read,
    block,
    enhanced,
    interface,
    many_interfaces,
    obsolete,
    option,
    read,
    section,
    simple,
)
from tests.wireproto.inspection.talks import a_talk, pcap
from wireproto import Revision, encode_link_frame
from wireproto.inspection.connections import entries_of_stream
from wireproto.inspection.sessions import Kind
from wireproto.inspection.timeline import as_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TALK = a_talk()
PACKETS = TALK.packets
NAMES = ["handshakeHello", "handshakeAck", "ping", "pong", "jacclBootstrap", "sessionEnd"]
PCAP = pcap(PACKETS)
PCAPNG = TALK.pcapng()


def is_whole(found: Read) -> bool:
    return (found.names, found.lost, found.fault) == (NAMES, 0, None)


def whole(data: bytes) -> Read:
    """Read a capture of `TALK`, which must be complete."""
    found = read(data, TALK.keys())
    assert is_whole(found), found
    return found


# -- pcap --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("magic", "unit", "more"),
    [
        (0xA1B2C3D4, 1e6, b""),
        (0xA1B23C4D, 1e9, b""),
        (0xA1B2CD34, 1e6, bytes(8)),  # Kuznetzov's
        (0xA1B2C3D4, 1e6, bytes(4)),  # Nokia's
        (0xA1B2C3D4, 1e6, bytes(8)),  # Red Hat 6.1
        (0xA1B2CD34, 1e6, bytes(12)),  # SuSE 6.3
    ],
)
def test_pcap_variants(order: str, magic: int, unit: float, more: bytes) -> None:
    out = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, 101)
    for time, data in PACKETS:
        out += struct.pack(f"{order}IIII", int(time), round(time % 1 * unit), len(data), len(data)) + more + data
    found = whole(out)
    assert found.entries[0].time == pytest.approx(1000.001, abs=2e-6)


def test_appended_files_are_read() -> None:
    """`cat one.pcap two.pcap`, of any kinds."""
    half = len(PACKETS) // 2
    for one in (pcap(PACKETS[:half]), pcap(PACKETS[:half], order=">", nano=True), a_talk_part(0, half)):
        for other in (pcap(PACKETS[half:]), pcap(PACKETS[half:], order=">"), a_talk_part(half, None)):
            whole(one + other)


def a_talk_part(start: int, stop: int | None) -> bytes:
    return many_interfaces(PACKETS[start:stop], "raw")


def test_the_upper_bits_of_a_link_type_are_not_of_it() -> None:
    whole(pcap(PACKETS, link_type=0x5400_0065))


def test_the_lengths_in_old_files_are_swapped() -> None:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 2, 0, 0, 262144, 101)
    for time, data in PACKETS:
        out += struct.pack("<IIII", int(time), 0, len(data) + 7, len(data)) + data
    found = read(out, TALK.keys())
    assert found.names == NAMES
    assert found.reading.cut[0] == len(PACKETS)


# -- pcapng ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "names",
    [
        ("raw", "linux-cooked"),
        ("null", "ethernet", "pktap"),
        ("pktap", "pktap-loopback", "pktap-raw", "vlan-9100-8100"),
        tuple(HEADS),
    ],
)
def test_several_link_types(names: tuple[str, ...], order: str) -> None:
    whole(many_interfaces(PACKETS, *names, order=order))


def test_concatenated_sections_of_both_byte_orders() -> None:
    third = len(PACKETS) // 3
    whole(
        many_interfaces(PACKETS[:third], "ethernet", "raw")
        + many_interfaces(PACKETS[third : 2 * third], "null", order=">")
        + many_interfaces(PACKETS[2 * third :], "linux-cooked-2", "ipv4")
    )


def test_an_interface_that_is_described_between_packets() -> None:
    out = section() + interface(101)
    out += b"".join(enhanced(0, 0, data) for _, data in PACKETS[:4]) + interface(0)
    out += b"".join(enhanced(1, 0, b"\2\0\0\0" + data) for _, data in PACKETS[4:])
    whole(out)


def test_other_blocks_are_passed_over() -> None:
    process = block(0x8000_0001, bytes(20))  # Apple's block about the sending process
    names = block(4, bytes(40))
    out = section() + process + interface(101, options=option(2, b"en5") + option(0, b"")) + names
    out += b"".join(enhanced(0, 0, data) + process for _, data in PACKETS)
    whole(out + block(0xBAD, bytes(1 << 20)))


@pytest.mark.parametrize("order", "<>")
def test_simple_and_obsolete_blocks(order: str) -> None:
    out = section(order) + interface(101, order)
    for at, (_, data) in enumerate(PACKETS):
        out += simple(data, order) if at % 2 else obsolete(0, data, order)
    whole(out)


def test_a_simple_block_is_cut_at_the_snapshot_length() -> None:
    out = section() + interface(101, snapshot=96)
    out += b"".join(simple(data[:96], size=len(data)) for _, data in PACKETS)
    found = read(out, TALK.keys())
    assert found.reading.cut == (sum(len(data) > 96 for _, data in PACKETS), 96)
    assert found.lost == sum(max(len(data) - 96, 0) for _, data in PACKETS)


@pytest.mark.parametrize(
    ("options", "ticks"),
    [
        (b"", 1e6),
        (option(9, b"\x09"), 1e9),
        (option(9, b"\x00"), 1),
        (option(9, b"\x94"), 2**20),
        (option(14, struct.pack("<q", 1000)) + option(9, b"\x03"), 1e3),
    ],
)
def test_clocks(options: bytes, ticks: float) -> None:
    offset = 1000 if b"\x0e\x00" in options else 0
    out = section() + interface(101, options=options)
    out += b"".join(enhanced(0, round((time - offset) * ticks), data) for time, data in PACKETS)
    assert whole(out).entries[0].time == pytest.approx(1000.001, abs=1.1 / ticks)


def test_packets_that_the_recorder_dropped_are_counted() -> None:
    counts = struct.pack("<III", 0, 0, 0) + option(4, struct.pack("<Q", 900)) + option(5, struct.pack("<Q", 12))
    early = struct.pack("<III", 0, 0, 0) + option(5, struct.pack("<Q", 7))
    other = struct.pack("<III", 1, 0, 0) + option(7, struct.pack("<Q", 3))
    out = section() + interface(101) + interface(1)
    out += b"".join(enhanced(0, 0, data) for _, data in PACKETS) + block(5, early) + block(5, counts) + block(5, other)
    assert whole(out).reading.dropped == 15


def test_packets_without_an_interface_are_counted() -> None:
    out = section() + interface(101) + b"".join(enhanced(0, 0, data) for _, data in PACKETS)
    out += enhanced(7, 0, b"abc") + block(6, b"short")
    assert whole(out).reading.others == {
        "interface that the file does not describe": 1,
        "malformed packet block": 1,
    }


# -- compression -------------------------------------------------------------------------------------------------------

COMPRESSED: dict[str, Any] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "gzip-members": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "zstd-frames": lambda data: zstd.compress(data[:100]) + zstd.compress(data[100:]),
}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("capture", [PCAP, PCAPNG], ids=["pcap", "pcapng"])
def test_compressed(name: str, capture: bytes) -> None:
    whole(COMPRESSED[name](capture))


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_a_compressed_stream(name: str) -> None:
    stream = b"".join(segment.data for segment in TALK.segments if segment.source == TALK.ends[0])
    found = read(COMPRESSED[name](stream), TALK.keys())
    assert found.names == ["handshakeHello", "ping", "jacclBootstrap", "sessionEnd"]
    assert found.fault is None


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_data_that_end_early(name: str) -> None:
    """All decompressible data is shown."""
    capture = pcap([*a_talk(Revision.V1).packets, *[(0.0, Random(at).randbytes(200)) for at in range(1000)]])
    found = read(COMPRESSED[name](capture)[:-20])
    assert f"the {name} data end early" in str(found.fault)
    if name in ("gzip", "zstd"):  # the others decompress only complete blocks
        assert found.names == NAMES


def test_compressed_data_that_are_damaged() -> None:
    data = bytearray(gzip.compress(PCAP))
    data[-5] ^= 1  # of the checksum
    found = read(bytes(data), TALK.keys())
    assert found.names == NAMES
    assert "the gzip data are damaged" in str(found.fault)


# -- files that are cut, or damaged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [PCAP, PCAPNG], ids=["pcap", "pcapng"])
@pytest.mark.parametrize("missing", [1, 3, 13, 40])
def test_a_file_that_ends_inside_a_packet_gives_what_is_there(capture: bytes, missing: int) -> None:
    found = read(capture[:-missing], TALK.keys())
    assert found.names == NAMES
    assert "the file is truncated, inside" in str(found.fault)


def test_a_packet_that_the_end_of_the_file_cuts_is_shown() -> None:
    talk = a_talk(Revision.V1)
    pong = [data for _, data in talk.packets].index(next(d for _, d in talk.packets if b"modelLoaded" in d))
    for cut in (pcap(talk.packets[: pong + 1]), many_interfaces(talk.packets[: pong + 1], "raw")):
        found = read(cut[:-30])
        (lost,) = [entry for entry in found.entries if entry.kind is Kind.LOST]
        assert b"modelLoaded" in lost.wire
        assert found.lost in (24, 30)  # pcapng ends with a length, and here 2 bytes of padding


def test_a_length_that_cannot_be_leaves_bytes_that_are_counted() -> None:
    bad = struct.pack("<IIII", 0, 0, 0x7FFF_FFFF, 0x7FFF_FFFF) + bytes(500)
    found = read(PCAP + bad, TALK.keys())
    assert found.names == NAMES
    assert (
        found.fault == f"the packet at byte {len(PCAP)} has a length of 2147483647: the rest cannot be read: 516 bytes"
    )
    assert found.reading.unread_bytes == 516


@pytest.mark.parametrize("size", [0, 8, 13, 0xFFFF_FFFC])
def test_a_block_length_that_cannot_be(size: int) -> None:
    found = read(PCAPNG + struct.pack("<II", 6, size) + bytes(50), TALK.keys())
    assert found.names == NAMES
    assert f"the block at byte {len(PCAPNG)} has a length of {size}" in str(found.fault)


def test_a_block_with_two_lengths() -> None:
    bad = bytearray(enhanced(0, 0, PACKETS[0][1]))
    bad[-4] ^= 4
    found = read(PCAPNG + bytes(bad) + PCAPNG, TALK.keys())
    assert "has two different lengths" in str(found.fault)
    assert found.reading.unread_bytes == len(PCAPNG)


@given(data=st.data())
def test_a_damaged_capture_loses_nothing_silently(data: st.DataObject) -> None:
    made = [PCAPNG, PCAP, pcap(PACKETS, order=">"), many_interfaces(PACKETS, "pktap", "vlan-three", "null")]
    original = data.draw(st.sampled_from(made))
    damaged = bytearray(original[: data.draw(st.integers(4, len(original)))])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(4, len(original)), st.integers(0, 255)), max_size=8)):
        if at < len(damaged):
            damaged[at] = byte
    read(bytes(damaged), TALK.keys())


# -- files that are no captures ----------------------------------------------------------------------------------------

NOTHING = {
    "json": b'{"frames": [{"index": {"_index": "packets-2026", "_type": "doc", "_score": null}}]}' * 9,
    "html": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
    "log": b"2026-11-26 23:46:01 bootstrap rank 0: link ready\n" * 40,
    "utf-16": "a text of Windows\r\n".encode("utf-16") * 40,
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 10,
    "elf": b"\x7fELF\2\1\1" + bytes(9) + b"\3\0\x3e\0\1\0\0\0" + bytes(4000),
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "one-byte": b"\x03",
    "length-only": b"\x09" + bytes(7),
    "mach-o": bytes.fromhex("cffaedfe0c000001000000000200000011000000"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_file_that_is_no_capture_and_no_stream(name: str) -> None:
    found = read(NOTHING[name])
    assert found.entries == []
    assert str(found.fault).startswith("it is neither a capture (pcap, pcapng) nor a stream of the protocol")


def test_an_empty_file() -> None:
    assert read(b"").fault == "it is empty"
    assert read(gzip.compress(b"")).fault == "it is empty"


FOREIGN = {
    b"snoop\0\0\0\0\0\0\2\0\0\0\4": "snoop",
    b"GMBU\0\2\1\0": "Network Monitor 2",
    b"btsnoop\0\0\0\0\1": "btsnoop",
    b"XCP\x00002.00\0": "NetXRay",
    b"\x04\x22\x4d\x18\x64\x40": "lz4",
    b"PK\x03\x04\x14\0\0\0": "zip",
}


@pytest.mark.parametrize("head", FOREIGN)
def test_a_format_that_is_not_read_is_named(head: bytes) -> None:
    found = read(head + bytes(200))
    assert found.entries == []
    assert FOREIGN[head] in str(found.fault)
    assert "editcap -F pcapng" in str(found.fault) or "unpack it first" in str(found.fault)


@pytest.mark.parametrize("link_type", [127, 220, 999])
def test_a_link_type_that_is_not_read_is_counted(link_type: int) -> None:
    found = read(pcap(PACKETS, link_type))
    ((name, count),) = found.reading.others.items()
    assert name.startswith(f"link type {link_type}")
    assert count == len(PACKETS)


def test_packets_of_a_link_type_that_is_not_read_among_others() -> None:
    out = section() + interface(127) + interface(101)
    out += b"".join(enhanced(1, 0, data) + enhanced(0, 0, b"beacon") for _, data in PACKETS)
    assert whole(out).reading.others == {"link type 127 (Wi-Fi in monitor mode)": len(PACKETS)}


# -- streams without packets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 8, 28])
def test_chunks_of_a_stream_do_not_matter(kept: int) -> None:
    """Empty pieces, which once stopped the detection of the format, work, too."""
    stream = encode_link_frame(b"\x41" + bytes(7)) + encode_link_frame(b"\x03") * 3
    data = stream[: len(stream) - kept]
    pieces = [b"", data[:3], b"", *(data[at : at + 1] for at in range(3, len(data)))]
    shown = [[as_json(entry) for entry in entries_of_stream(chunks, None)] for chunks in ([data], pieces)]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("cut", [1, 8, 60, 353])
def test_a_stream_without_its_first_bytes_is_found(cut: int) -> None:
    talk = a_talk(Revision.V1)
    stream = b"".join(segment.data for segment in talk.segments if segment.source == talk.ends[0])
    found = read(stream[cut:])
    assert found.names == ["ping", "jacclBootstrap", "sessionEnd"]
    assert found.shown == len(stream) - cut


# -- what real tools write ---------------------------------------------------------------------------------------------

needs_wireshark = pytest.mark.skipif(which("mergecap") is None, reason="mergecap is not installed")


def made_by(tool: str, *arguments: object) -> None:
    subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, timeout=60)


def on_disk(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@needs_wireshark
@pytest.mark.parametrize(
    "names",
    [("ethernet", "null"), ("raw", "linux-cooked", "vlan-88a8-8100"), ("ppp", "loop", "linux-cooked-2", "snap")],
)
def test_what_mergecap_writes(names: tuple[str, ...], tmp_path: Path) -> None:
    """Each interface has its own file, and its own link type."""
    sources = []
    for at, name in enumerate(names):
        link_type, head = HEADS[name]
        packets = [(time, head + data) for time, data in PACKETS[at :: len(names)]]
        sources.append(on_disk(tmp_path / f"{at}.pcap", pcap(packets, link_type)))
    made_by("mergecap", "-w", tmp_path / "out.pcapng", *sources)
    whole((tmp_path / "out.pcapng").read_bytes())
    made_by("mergecap", "-a", "-w", tmp_path / "appended.pcapng", *sources)
    found = read((tmp_path / "appended.pcapng").read_bytes(), TALK.keys())
    assert found.lost == 0
    assert found.reading.payload == sum(len(segment.data) for segment in TALK.segments)


@needs_wireshark
@pytest.mark.parametrize("kind", ["pcap", "pcapng", "modpcap", "nsecpcap", "nokiapcap", "rh6_1pcap", "suse6_3pcap"])
def test_formats_that_editcap_writes(kind: str, tmp_path: Path) -> None:
    source = on_disk(tmp_path / "in.pcap", pcap([(time, MAC_HEAD + data) for time, data in PACKETS], 1))
    made_by("editcap", "-F", kind, source, tmp_path / "out")
    whole((tmp_path / "out").read_bytes())


@needs_wireshark
@pytest.mark.parametrize("kind", ["snoop", "netmon2", "ngsniffer", "visual", "lanalyzer", "5views"])
def test_formats_of_editcap_that_are_not_read(kind: str, tmp_path: Path) -> None:
    source = on_disk(tmp_path / "in.pcap", pcap([(time, MAC_HEAD + data) for time, data in PACKETS], 1))
    made_by("editcap", "-F", kind, source, tmp_path / "out")
    found = read((tmp_path / "out").read_bytes())
    assert found.entries == []
    assert "which is not supported; convert it with: editcap" in str(found.fault)
    made_by("editcap", "-F", "pcapng", tmp_path / "out", tmp_path / "converted")
    whole((tmp_path / "converted").read_bytes())


@needs_wireshark
@pytest.mark.parametrize("length", [40, 54, 60, 128, 300])
def test_snapshot_lengths_that_editcap_cuts(length: int, tmp_path: Path) -> None:
    source = on_disk(tmp_path / "in.pcap", pcap([(time, MAC_HEAD + data) for time, data in PACKETS], 1))
    made_by("editcap", "-s", length, source, tmp_path / "out")
    found = read((tmp_path / "out").read_bytes(), TALK.keys())
    count, longest = found.reading.cut
    cut = [data for _, data in PACKETS if len(data) + 14 > length]
    assert (count, longest) == (len(cut), length)
    if length > 54 + 9:  # a hello is recognised by its length and type
        assert found.lost == sum(len(data) + 14 - length for data in cut)
        assert found.entries[0].kind is Kind.OPENED


MAC_HEAD = HEADS["ethernet"][1]
