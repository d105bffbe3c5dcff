"""Destinations, the fixed-size records of JACCL's group init. Integers are little-endian. [JACCL-DESTINATION]"""

from ipaddress import IPv4Address
from struct import Struct
from typing import Final

import msgspec

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import MalformedError, TruncatedError

OWN_ID: Final = -1
"""The `local_id` of a rank's own entry."""

SEQUENCE_NUMBER: Final = 7
"""The `packet_sequence_number` of every Destination."""

DESTINATION_SIZE: Final = 32
"""Bytes of a Destination."""

I32: Final = Struct("<i")
_I32_MAX: Final = 2**31 - 1
_LAYOUT: Final = Struct("<iii4x16s")
_FIELDS: Final = (
    (0, "local_id", "jaccl-local-id", OWN_ID, _I32_MAX),
    (4, "queue_pair_number", "jaccl-queue-pair", 0, _I32_MAX),
    (8, "packet_sequence_number", "jaccl-sequence-number", SEQUENCE_NUMBER, SEQUENCE_NUMBER),
)


class Destination(msgspec.Struct, frozen=True):
    """The address of a queue pair, 32 bytes on the wire, integers little-endian. [JACCL-DESTINATION]

    A `local_id` of −1 marks a rank's own entry; its other fields have no meaning.
    """

    local_id: int
    """i32."""
    queue_pair_number: int = 0
    """i32, not negative."""
    packet_sequence_number: int = SEQUENCE_NUMBER
    """i32, always 7."""
    gid: bytes = bytes(16)
    """16 bytes in network order."""


OWN_ENTRY: Final = Destination(OWN_ID)
"""The entry of a mesh list for the rank itself."""


def mapped_gid(ip: str | IPv4Address) -> bytes:
    """Return the GID, 16 bytes, of an interface with this IPv4 address: ten zero bytes, `ff ff`, the address.

    Raise ValueError for text that is not an IPv4 address.
    """
    return bytes(10) + b"\xff\xff" + IPv4Address(ip).packed


def encode_destination(destination: Destination) -> bytes:
    """Return the 32 bytes of a Destination, with zeros in fields without a meaning. Raise `MalformedError`."""
    for _, name, code, low, high in _FIELDS:
        value = getattr(destination, name)
        if type(value) is not int:
            raise MalformedError("field-type", f"expected int, not {type(value).__name__}", path=name)
        if not low <= value <= high:
            raise MalformedError(code, f"{value} is not from {low} to {high}", path=name)
        if value == OWN_ID:
            return I32.pack(OWN_ID).ljust(DESTINATION_SIZE, b"\0")
    gid = destination.gid
    if type(gid) is not bytes:
        raise MalformedError("field-type", f"expected bytes, not {type(gid).__name__}", path="gid")
    if len(gid) != 16:
        raise MalformedError("field-length", f"expected 16 bytes, not {len(gid)}", path="gid")
    return _LAYOUT.pack(destination.local_id, destination.queue_pair_number, destination.packet_sequence_number, gid)


def decode_destination(data: BytesLike) -> Destination:
    """Return the Destination in `data`, any bytes-like object of 32 bytes; `OWN_ENTRY` for every own entry.

    Raise `TruncatedError` or `MalformedError`. Agrees with `schema.JacclDestination` on every byte string.
    """
    with byte_view(data) as view:
        return _decode_destination(view)


def _decode_destination(data: memoryview) -> Destination:
    own = False
    for at, name, code, low, high in _FIELDS[: min(3, len(data) // 4)]:
        (value,) = I32.unpack_from(data, at)
        if not low <= value <= high:
            raise MalformedError(code, f"{value} is not from {low} to {high}", offset=at, path=name)
        if own := value == OWN_ID:
            break
    if len(data) < DESTINATION_SIZE:
        raise TruncatedError("truncated", f"a Destination has {DESTINATION_SIZE} bytes", offset=len(data))
    if len(data) > DESTINATION_SIZE:
        raise MalformedError("trailing-data", "bytes follow the Destination", offset=DESTINATION_SIZE)
    return OWN_ENTRY if own else Destination(*_LAYOUT.unpack(data))
