"""Records this process's links as pcapng: to a file for a bug report, or to a pipe for a live view."""

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from bootstrap.errors import ConfigError
from bootstrap.files import open_private
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint

Address = tuple[str, int]

logger = logging.getLogger(__name__)


@contextmanager
def open_capture(path: Path | None) -> Iterator["Capture | None"]:
    """Record to a file that only its owner can read, or to a pipe that has a reader; None without a path."""
    if path is None:
        yield None
        return
    try:
        file = open_private(path)
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.ftruncate(file, 0)
    except OSError as error:
        raise ConfigError(f"cannot record to {path}: {error.strerror}", code="bad-capture") from error
    logger.warning("the link is recorded in %s: whoever has it and the key log can read the traffic", path)
    try:
        yield Capture(file, path)
    finally:
        os.close(file)


class Capture:
    """Writes the sessions' bytes as packets with TCP/IP headers.

    A link never waits for it, and never fails with it: when the disk is full, or the reader of a pipe is gone or too
    slow, the recording ends there.
    """

    def __init__(self, file: int, path: Path) -> None:
        self._file = file
        self._path = path
        self._is_over = False
        self._writer = Writer(self._write)

    def link(self, own: Address, peer: Address, *, connects: bool) -> "LinkCapture":
        """Record a new link; `connects` says which of its ends this is."""
        ends = (_endpoint(own), _endpoint(peer))
        connection = TcpWriter(self._writer, ends if connects else ends[::-1], time.time())
        return LinkCapture(connection, own_side=0 if connects else 1)

    def _write(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            if os.write(self._file, data) == len(data):
                return
            reason = "its reader is too slow"
        except BlockingIOError:
            reason = "its reader is too slow"
        except OSError as error:
            reason = error.strerror or str(error)
        self._is_over = True
        logger.warning("the recording in %s ends here: %s", self._path, reason)


class LinkCapture:
    """The recording of one link."""

    def __init__(self, connection: TcpWriter, own_side: int) -> None:
        self._connection = connection
        self._own_side = own_side

    def sent(self, data: bytes | memoryview) -> None:
        self._connection.data(self._own_side, time.time(), bytes(data))

    def received(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.data(1 - self._own_side, time.time(), bytes(data))

    def ended(self) -> None:
        for side in (self._own_side, 1 - self._own_side):
            self._connection.close(side, time.time())


def _endpoint(address: Address) -> Endpoint:
    return Endpoint(IPv4Address(address[0]).packed, address[1])
