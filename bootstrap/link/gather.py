"""The worker's end of the side channel: it requests MLX's gathers from the control process over a socket pair.

A request is `u32 little-endian n ‖ n bytes`, the answer `u32 little-endian size × n ‖ size × n bytes`. If the gather
fails, the control process closes the socket. See `side_channel` for the other end.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from bootstrap.errors import BootstrapError

VARIABLE: Final = "CLUSTER_SIDE_CHANNEL_FD"
"""The environment variable with the descriptor of a worker's or command's end of the socket pair."""
GATHER_SECONDS: Final = 60.0
"""From the first part of a gather to the last: the ranks' programs may load at different speeds."""
SLACK_SECONDS: Final = 1.0
"""The others wait so much longer than rank 0, which knows who is late, and workers longer than control processes."""
HEADER: Final = struct.Struct("<I")

Gather = Callable[[bytes, int], bytes]


class SideChannelError(BootstrapError):
    """A gather failed, on every rank."""

    stage = "side-channel"


def side_channel_factory() -> Callable[[int, int], Gather] | None:
    """Return the `all_gather_factory` for `mx.distributed.init`; None if the ranks have not agreed on it."""
    descriptor = os.environ.get(VARIABLE)
    if descriptor is None:
        return None
    try:
        channel = socket.socket(fileno=os.dup(int(descriptor)))
    except (OSError, ValueError) as error:
        raise SideChannelError(f"{VARIABLE} names no socket of this process", code="side-channel-lost") from error
    channel.settimeout(GATHER_SECONDS + 2 * SLACK_SECONDS)

    def factory(rank: int, size: int) -> Gather:
        return lambda source, count: _ask(channel, bytes(source[:count]), count, size)

    return factory


def _ask(channel: socket.socket, part: bytes, count: int, size: int) -> bytes:
    if len(part) != count:
        raise SideChannelError(f"a part of {len(part)} bytes, not {count}", code="side-channel-size")
    try:
        channel.sendall(HEADER.pack(len(part)) + part)
        (length,) = HEADER.unpack(_exactly(channel, HEADER.size))
        whole = _exactly(channel, length)
    except (OSError, EOFError) as error:
        raise SideChannelError(f"the gather ended early: {error}", code="side-channel-lost") from error
    if length != size * len(part):
        raise SideChannelError(f"a gather of {size} × {len(part)} bytes gave {length}", code="side-channel-size")
    return whole


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = channel.recv(count - len(data))
        if not chunk:
            raise EOFError("the control process closed it")
        data += chunk
    return bytes(data)
