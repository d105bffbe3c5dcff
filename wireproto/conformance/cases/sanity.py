"""Basic communication with the peer: the other cases are not run if these fail.

A failure here shows little of its cause, so the likeliest causes are tried.
"""

from wireproto.conformance import byhand
from wireproto.conformance.case import RANK_0, RANK_1, case
from wireproto.conformance.frames import PING, link_frame, shown
from wireproto.conformance.peer import Peer
from wireproto.conformance.verdicts import Missed
from wireproto.messages import Revision


@case("sanity", "rank-1-answers", "SESSION-ROLES", "HANDSHAKE-KEY", "SESSION-PONG", roles=RANK_1)
async def rank_1_answers(peer: Peer) -> None:
    """A valid hello is answered by an ack, and a ping by a pong, with the right key."""
    link = await peer.connect()
    try:
        await link.shake_hands()
    except Missed as missed:
        await _try_other_lengths(peer)
        raise Missed(missed.expected, f"{missed.came} (has it pinned our key?)", missed.requirement) from None
    await link.send("a ping", PING)
    link.step("expect a pong")
    try:
        frame = await link.frame()
    except Missed as missed:
        if link.wire.ended and peer.settings.revision is Revision.V2:
            await _try_other_keys(peer)
        raise Missed("a pong", missed.came, missed.requirement or "SESSION-PONG") from None
    if frame[:1] != b"\x04":
        raise Missed("a pong", shown(frame), "SESSION-PONG")


async def _try_other_lengths(peer: Peer) -> None:
    for name, size, order in (("big-endian", 8, "big"), ("of 4 bytes", 4, "little")):
        link = await peer.connect()
        hello = link.introduction()
        length = len(hello).to_bytes(size, order)  # type: ignore[arg-type]
        await link.send_bytes(f"the hello with a length that is {name}", length + hello)
        if await link.anything_comes():
            raise Missed("that a length is u64 little-endian", f"it accepted one that is {name}", "LINK-LAYOUT")


async def _try_other_keys(peer: Peer) -> None:
    for name, derive in byhand.WRONG_KEYS.items():
        link = await peer.session()
        key = derive(link.secret(), link.salt)
        await link.send_bytes(f"a ping whose key is wrong: {name}", link_frame(byhand.sealed(key, PING)))
        if await link.anything_comes():
            raise Missed("a correctly derived key", name, "HANDSHAKE-KEY")


@case("sanity", "rank-0-asks", "SESSION-ROLES", "HANDSHAKE-KEY", "SESSION-PING", roles=RANK_0)
async def rank_0_asks(peer: Peer) -> None:
    """The peer sends a hello, accepts the ack, and sends a first frame with the right key."""
    await peer.session()
