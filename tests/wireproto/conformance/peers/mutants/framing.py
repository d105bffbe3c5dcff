"""Bugs in link frames."""

from collections.abc import Iterator

from tests.wireproto.conformance.peers.conversation import Conversation
from tests.wireproto.conformance.peers.mutant import mutant


@mutant("LINK-LAYOUT")
class LengthBigEndian(Conversation):
    """The length is read and written big-endian."""

    def length(self, header: bytes) -> int:
        return int.from_bytes(header, "big")

    def header(self, length: int) -> bytes:
        return length.to_bytes(8, "big")


@mutant("LINK-LEN-MIN")
class LengthZeroAccepted(Conversation):
    """A length of 0 is skipped."""

    def frames(self) -> Iterator[bytes]:
        while self.buffer[:8] == bytes(8):
            del self.buffer[:8]
        yield from super().frames()


@mutant("SESSION-LEN-MAX")
class NoLimitBeforeHandshake(Conversation):
    """A length before the handshake has no limit."""

    early_limit = Conversation.limit


@mutant("LINK-LEN-MAX")
class NoLimit(Conversation):
    """No length has a limit."""

    early_limit = limit = 2**64


@mutant("LINK-LEN-MAX")
class LimitOffByOne(Conversation):
    """The limit is one byte too high."""

    limit = Conversation.limit + 1


@mutant("LINK-LEN-MAX")
class LengthCutTo32Bits(Conversation):
    """The upper half of the length is lost."""

    def length(self, header: bytes) -> int:
        return int.from_bytes(header[:4], "little")


@mutant("LINK-LEN-MAX")
class EarlyLimitStays(Conversation):
    """The limit of the handshake is never lifted."""

    limit = Conversation.early_limit


@mutant("LINK-CHUNKS")
class CoalescedDropped(Conversation):
    """One frame per read: the rest of the read is lost."""

    def frames(self) -> Iterator[bytes]:
        for body in super().frames():
            self.buffer.clear()
            yield body
            return


@mutant("LINK-CHUNKS")
class SplitHeaderMishandled(Conversation):
    """A read that ends inside the length is thrown away."""

    def frames(self) -> Iterator[bytes]:
        if len(self.buffer) < 8:
            self.buffer.clear()
        yield from super().frames()


@mutant("LINK-CHUNKS")
class SplitBodyMishandled(Conversation):
    """A read that ends inside the body is thrown away."""

    def frames(self) -> Iterator[bytes]:
        yield from super().frames()
        self.buffer.clear()


@mutant("LINK-EOF")
class EofIgnored(Conversation):
    """The end of the stream is not noticed."""

    def eof_received(self) -> bool:
        return True
