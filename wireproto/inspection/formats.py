"""Names of unsupported capture formats and link types, for error messages."""

from typing import Final

CONVERT: Final = "convert it with: editcap -F pcapng FILE OUT.pcapng"
_UNPACK: Final = "unpack it first"

_FORMATS: Final[dict[bytes, tuple[str, str]]] = {
    b"snoop\0\0\0": ("a Solaris snoop capture", CONVERT),
    b"btsnoop\0": ("a Bluetooth (btsnoop) capture", CONVERT),
    b"RTSS": ("a Network Monitor 1 capture", CONVERT),
    b"GMBU": ("a Network Monitor 2 capture", CONVERT),
    b"TRSNIFF data    \x1a": ("a Sniffer capture", CONVERT),
    b"XCP\0": ("a NetXRay capture", CONVERT),
    b"ObserverPktBufferVersion": ("an Observer capture", CONVERT),
    b"\xaa\xaa\xaa\xaa": ("a 5View capture", CONVERT),
    b"\x05VNF": ("a Visual Networks capture", CONVERT),
    b"\x54\x52\x00\x64\x00": ("a nettl capture", CONVERT),
    b"\x00\x00\x02\x00\x12\x05\x00\x10": ("a Tektronix capture", CONVERT),
    b"\x01\x10\x4c\x00": ("a LANalyzer capture", CONVERT),
    b"+---------+---------------+": ("a Tektronix text capture", CONVERT),
    b"EyeSDN": ("an EyeSDN capture", CONVERT),
    b"LOGG": ("a Vector BLF log", CONVERT),
    b"\xa1\x2b\x3c\x4d": ("a Navtel capture", CONVERT),
    b"\x4d\x3c\x2b\xa1": ("a Navtel capture", CONVERT),
    b"\xa1\xb2\x34\xcd": ("a pcap of an old variant", CONVERT),
    b"\xcd\x34\xb2\xa1": ("a pcap of an old variant", CONVERT),
    b"\x1c\x00\x01\xac": ("an IXIA capture", CONVERT),
    b"\xac\x01\x00\x1c": ("an IXIA capture", CONVERT),
    b"\x1c\x00\x01\xab": ("an IXIA capture", CONVERT),
    b"\xab\x01\x00\x1c": ("an IXIA capture", CONVERT),
    b"\x1f\x8b": ("a gzip file with an unknown method", _UNPACK),
    b"\x1f\x9d": ("a file from compress (.Z)", _UNPACK),
    b"\x04\x22\x4d\x18": ("an lz4 file", _UNPACK),
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file inside another compression", _UNPACK),
    b"BZh": ("a bzip2 file inside another compression", _UNPACK),
    b"\xfd7zXZ\0": ("an xz file inside another compression", _UNPACK),
}

_LINK_TYPES: Final = {
    6: "token ring",
    105: "Wi-Fi in monitor mode",
    119: "Wi-Fi in monitor mode",
    127: "Wi-Fi in monitor mode",
    163: "Wi-Fi in monitor mode",
    189: "USB",
    220: "USB",
    239: "NFLOG",
    247: "InfiniBand",
    249: "USB",
    253: "netlink",
    266: "USB",
}


def unread_format(head: bytes) -> str | None:
    """Return the format of a file with these first bytes and what to do, or None if it is unknown."""
    for magic, (name, remedy) in _FORMATS.items():
        if head.startswith(magic):
            return f"it is {name}, which is not supported; {remedy}"
    return None


def link_type_name(link_type: int) -> str:
    """Return a name such as `link type 127 (Wi-Fi in monitor mode)`."""
    name = _LINK_TYPES.get(link_type)
    return f"link type {link_type}" + (f" ({name})" if name else "")
