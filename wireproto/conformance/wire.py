"""One TCP connection with the peer under test: records every byte, and sets a deadline for every wait."""

import asyncio
import socket
import struct
from typing import Final

from wireproto.conformance.verdicts import Missed, Record

MAX_FRAME: Final = 8 * 1024 * 1024
"""The longest link frame that a peer has a reason to send here."""


class Silence(Exception):  # noqa: N818 - what the peer did
    """Nothing arrived in time."""


class Wire:
    """Bytes and link frames in both directions. `number` counts the connections of a case."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: Record, number: int) -> None:
        self._reader = reader
        self._writer = writer
        self._record = record
        self._buffer = bytearray()
        self.number = number
        self.ended = ""
        """How the peer ended the connection, if it did."""

    async def send(self, data: bytes, seconds: float) -> None:
        """Send bytes. If the peer has closed, the next read finds it."""
        self._record.sent(data, self.number)
        if self._writer.is_closing():
            return
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise Missed("that the peer reads what is sent", f"it read nothing for {seconds:g} s") from None
        except OSError:
            pass

    def send_end(self) -> None:
        """End our stream; the peer can still send."""
        self._record.step("send the end of the stream", self.number)
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def frame(self, seconds: float) -> bytes | None:
        """Return the body of the next link frame, or None once the peer has closed. Raise Silence on a timeout."""
        try:
            async with asyncio.timeout(seconds):
                while (body := self._take()) is None:
                    if self.ended or not await self._fill():
                        return None
        except TimeoutError:
            raise Silence from None
        return body

    async def is_gone(self, seconds: float) -> bool:
        """Return whether what is sent from now on meets no socket: the peer's system resets the connection."""
        end = asyncio.get_running_loop().time() + seconds
        while not self._writer.is_closing() and asyncio.get_running_loop().time() < end:
            self._writer.write(b"\0")
            await asyncio.sleep(seconds / 50)
        return self._writer.is_closing()

    async def reset(self) -> None:
        """Reset the connection."""
        if not self._writer.is_closing():
            own = self._writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection without sending anything."""
        self._writer.transport.abort()

    def _take(self) -> bytes | None:
        if len(self._buffer) < 8:
            return None
        length = int.from_bytes(self._buffer[:8], "little")
        if not 1 <= length <= MAX_FRAME:
            shown = bytes(self._buffer[:8]).hex()
            raise Missed("a link frame: its length, u64 little-endian", f"the length {length} ({shown})", "LINK-LAYOUT")
        if len(self._buffer) < 8 + length:
            return None
        body = bytes(self._buffer[8 : 8 + length])
        del self._buffer[: 8 + length]
        return body

    async def _fill(self) -> bool:
        try:
            data = await self._reader.read(64 * 1024)
        except OSError as error:
            data, self.ended = b"", f"the peer reset the connection ({error.strerror})"
        if data:
            self._record.received(data, self.number)
            self._buffer += data
            return True
        self.ended = self.ended or "the peer closed the connection"
        self._record.end(self.ended, self.number)
        return False
