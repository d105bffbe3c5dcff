"""What goes over this process's links, recorded as pcapng: to a file for a bug report, or to a pipe to look in live."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from bootstrap.errors import ConfigError
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint

Address = tuple[str, int]

logger = logging.getLogger(__name__)


@contextmanager
def open_capture(path: Path | None) -> Iterator["Capture | None"]:
    """A recording to a new file, mode 0600, or to a pipe, whose reader is waited for; None without a path."""
    if path is None:
        yield None
        return
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot record to {path}: {error.strerror}", code="bad-capture") from error
    os.set_blocking(file, False)
    logger.warning("the link is recorded in %s: whoever has it and the key log can read what was said", path)
    try:
        yield Capture(file, path)
    finally:
        os.close(file)


class Capture:
    """Writes what the sessions see as packets, with headers as TCP/IP has them.

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
