"""Records this process's links (pcapng) and session keys: to files for a bug report, or to pipes for a live view.

WIREPROTO_KEYLOGFILE names the file for the keys. [KEY-LOG]
"""

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from bootstrap.errors import ConfigError
from bootstrap.files import absolute, open_private
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint

Address = tuple[str, int]

VARIABLE: Final = "WIREPROTO_KEYLOGFILE"

logger = logging.getLogger(__name__)


class Record:
    """A private file, or a pipe with a reader.

    A link never waits for it or fails with it: if the disk is full, or a pipe's reader is gone or too slow, the record
    ends.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._is_over = False

    def put(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            return
        except BlockingIOError:
            reason = "its reader is too slow"
        except OSError as error:
            reason = error.strerror or str(error)
        self._is_over = True
        logger.warning("%s ends here: %s", self._name, reason)


class KeyLog(Record):
    """The key log, as a text file for a session."""

    def write(self, text: str) -> int:
        self.put(text.encode())
        return len(text)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""


class Capture(Record):
    """Writes the bytes of links as packets with TCP/IP headers."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, name)
        self._writer = Writer(self.put)

    def link(self, own: Address, peer: Address, *, connects: bool) -> "LinkCapture":
        """Record a new link; `connects` tells whether this end opened it."""
        ends = (_endpoint(own), _endpoint(peer))
        connection = TcpWriter(self._writer, ends if connects else ends[::-1], time.time())
        return LinkCapture(connection, own_side=0 if connects else 1)


@contextmanager
def open_capture(path: Path | None) -> Iterator[Capture | None]:
    """Open the recording, a new file or a pipe; None without a path. Raise ConfigError if it is unsafe."""
    if path is None:
        yield None
        return
    try:
        descriptor = open_private(path)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
    except OSError as error:
        raise ConfigError(f"cannot record to {path}: {error.strerror}", code="bad-capture") from error
    logger.warning("recording the link to %s: anyone with this file and the key log can read the traffic", path)
    try:
        yield Capture(descriptor, f"the recording in {path}")
    finally:
        os.close(descriptor)


@contextmanager
def open_key_log() -> Iterator[KeyLog | None]:
    """Open the key log to append, a new one with mode 0600; None without the variable. Raise ConfigError if unsafe."""
    path = os.environ.get(VARIABLE)
    if not path:
        yield None
        return
    try:
        descriptor = open_private(path, os.O_APPEND)
    except OSError as error:
        text = f"cannot open {path}, which {VARIABLE} names: {error.strerror}"
        raise ConfigError(text, code="bad-key-log") from error
    logger.warning("logging the keys of every session to %s: anyone with this file can read the traffic", path)
    try:
        yield KeyLog(descriptor, f"the key log {path}")
    finally:
        os.close(descriptor)


def set_key_log(path: Path | None) -> None:
    """Set the variable for this process and its children; None leaves it as it is."""
    if path is not None:
        os.environ[VARIABLE] = str(absolute(path))


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
