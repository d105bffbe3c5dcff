"""JACCL's side channel without I/O: its records, its two ends, and the gathers that form a group.

The side channel runs over TCP on the coordinator port. Rank 0 is the root; the other ranks are workers. [JACCL-*]
"""

from wireproto.jaccl.group_init import MAX_WIRES, Destinations, InitGathers, RingDestinations, mesh_init, ring_init
from wireproto.jaccl.records import (
    DESTINATION_SIZE,
    OWN_ENTRY,
    OWN_ID,
    SEQUENCE_NUMBER,
    Destination,
    decode_destination,
    encode_destination,
    mapped_gid,
)
from wireproto.jaccl.side_channel import MAX_GATHER, MAX_MESH, Connection, Root, Worker
from wireproto.messages import MAX_SIZE, MIN_SIZE

__all__ = [
    "DESTINATION_SIZE",
    "MAX_GATHER",
    "MAX_MESH",
    "MAX_SIZE",
    "MAX_WIRES",
    "MIN_SIZE",
    "OWN_ENTRY",
    "OWN_ID",
    "SEQUENCE_NUMBER",
    "Connection",
    "Destination",
    "Destinations",
    "InitGathers",
    "RingDestinations",
    "Root",
    "Worker",
    "decode_destination",
    "encode_destination",
    "mapped_gid",
    "mesh_init",
    "ring_init",
]
