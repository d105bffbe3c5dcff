"""Link frames: lengths, pieces, ends of the stream."""

import asyncio

from wireproto.conformance.case import RANK_1, case
from wireproto.conformance.frames import PING, link_frame
from wireproto.conformance.peer import Peer
from wireproto.messages import MAX_LINK_LENGTH

UNKNOWN = b"\x7e"
"""A cluster frame of a type that no revision has."""
BETWEEN_PIECES = 0.03


def _length(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _bad_length(name: str, value: int, rule: str, about: str) -> None:
    @case("framing", f"{name}-at-first", rule, about=f"{about} in place of the handshake ends the connection.")
    async def at_first(peer: Peer) -> None:
        link = await peer.connect()
        await link.send_bytes(f"a length of {value}", _length(value))
        await link.expect_closed(probe=False)

    @case("framing", name, rule, about=f"{about} in the open session ends the connection.")
    async def in_session(peer: Peer) -> None:
        link = await peer.session()
        await link.send_bytes(f"a length of {value}", _length(value))
        await link.expect_closed(probe=False)


_bad_length("length-zero", 0, "LINK-LEN-MIN", "A length of 0")
_bad_length("length-over-limit", MAX_LINK_LENGTH + 1, "LINK-LEN-MAX", "A length of 256 MiB + 1")
_bad_length("length-2-to-32", 2**32 + 1, "LINK-LEN-MAX", "A length whose low half is 1")
_bad_length("length-high-bit", 2**63 + 1, "LINK-LEN-MAX", "A length that is negative if read as signed")


@case("framing", "length-zero-with-more", "LINK-LEN-MIN")
async def length_zero_with_more(peer: Peer) -> None:
    """A length of 0 is an error, and a valid frame after it is not accepted."""
    link = await peer.connect()
    good = link_frame(link.introduction())
    await link.send_bytes("a length of 0, then a valid frame", _length(0) + good)
    await link.expect_closed(probe=False)


@case("framing", "long-before-handshake", "SESSION-LEN-MAX")
async def long_before_handshake(peer: Peer) -> None:
    """Before the handshake is done, a length of 1 MiB is refused."""
    link = await peer.connect()
    await link.send_bytes("a length of 1 MiB", _length(1024 * 1024))
    await link.expect_closed(probe=False)


@case("framing", "long-in-session", "LINK-LEN-MAX", "SESSION-IGNORE")
async def long_in_session(peer: Peer) -> None:
    """Once the handshake is done, a frame of 300 KiB is accepted: the limit is 256 MiB."""
    link = await peer.session()
    await link.send("an unexpected message of 300 KiB", peer.misplaced_opaque + bytes(300 * 1024))
    await link.expect_alive("that the frame is accepted")


@case("framing", "byte-by-byte", "LINK-CHUNKS")
async def byte_by_byte(peer: Peer) -> None:
    """A handshake that arrives byte by byte is accepted."""
    link = await peer.connect()
    link.step("send hello or ack byte by byte")
    now = asyncio.get_running_loop().time
    late = now() + peer.settings.patience.handshake / 2
    for byte in link_frame(link.introduction()):
        await link.wire.send(bytes([byte]), 1.0)
        if now() < late:  # on a busy host each turn of the loop takes time
            await asyncio.sleep(0)
    await link.establish()


@case("framing", "split-length", "LINK-CHUNKS")
async def split_length(peer: Peer) -> None:
    """A frame is accepted if its length arrives in two pieces."""
    await _split(peer, 3)


@case("framing", "split-body", "LINK-CHUNKS")
async def split_body(peer: Peer) -> None:
    """A frame is accepted if its body arrives in two pieces, the first with the length."""
    await _split(peer, 20)


async def _split(peer: Peer, at: int) -> None:
    link = await peer.connect()
    data = link_frame(link.introduction())
    await link.send_bytes(f"the first {at} bytes of hello or ack", data[:at])
    await asyncio.sleep(BETWEEN_PIECES)
    await link.send_bytes("the rest", data[at:])
    await link.establish()


@case("framing", "split-in-session", "LINK-CHUNKS")
async def split_in_session(peer: Peer) -> None:
    """A frame in the open session is accepted if its length arrives in two pieces."""
    link = await peer.session()
    data = link_frame(link.body(peer.misplaced()))
    await link.send_bytes("the first 5 bytes of an unexpected message", data[:5])
    await asyncio.sleep(BETWEEN_PIECES)
    await link.send_bytes("the rest", data[5:])
    await link.expect_alive("that the frame is accepted")


@case("framing", "coalesced", "LINK-CHUNKS", needs=("frame.type-unknown",))
async def coalesced(peer: Peer) -> None:
    """The second of two frames in one piece is read, too: here it ends the connection."""
    link = await peer.session()
    await link.send_bytes(
        "an unexpected message, and an unknown type, in one piece",
        link_frame(link.body(peer.misplaced())) + link_frame(link.body(UNKNOWN)),
    )
    await link.expect_closed()


@case("framing", "coalesced-pings", "LINK-CHUNKS", roles=RANK_1, needs=("session.pong-each",))
async def coalesced_pings(peer: Peer) -> None:
    """Three pings in one piece get three pongs."""
    link = await peer.session()
    await link.send_bytes("three pings in one piece", b"".join(link_frame(link.body(PING)) for _ in range(3)))
    for count in range(3):
        link.step(f"expect pong {count + 1}")
        await link.expect_pong()


@case("framing", "frame-and-a-half", "LINK-CHUNKS")
async def frame_and_a_half(peer: Peer) -> None:
    """A piece with a complete frame and the start of the next loses neither."""
    link = await peer.session()
    one, two = (link_frame(link.body(peer.misplaced())) for _ in range(2))
    await link.send_bytes("an unexpected message, and 11 bytes of another", one + two[:11])
    await asyncio.sleep(BETWEEN_PIECES)
    await link.send_bytes("the rest", two[11:])
    await link.expect_alive("that both frames are accepted")


@case("framing", "end-inside-a-frame", "LINK-EOF")
async def end_inside_a_frame(peer: Peer) -> None:
    """When the stream ends inside a frame, the peer closes instead of waiting for the rest."""
    link = await peer.session()
    await link.send_bytes("half a frame", link_frame(link.body(UNKNOWN))[:-1])
    link.wire.send_end()
    await link.expect_closed(probe=False)


@case("framing", "end-inside-the-handshake", "LINK-EOF")
async def end_inside_the_handshake(peer: Peer) -> None:
    """When the stream ends inside the hello or the ack, the peer closes."""
    link = await peer.connect()
    await link.send_bytes("hello or ack without its last byte", link_frame(link.introduction())[:-1])
    link.wire.send_end()
    await link.expect_closed(probe=False)
