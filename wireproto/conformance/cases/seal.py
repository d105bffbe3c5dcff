"""Sealed boxes: the peer's boxes, and faults in ours."""

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from wireproto.conformance import byhand
from wireproto.conformance.case import RANK_1, V2, case
from wireproto.conformance.frames import PING
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed
from wireproto.session import Role

NONCE = 12


@case("seal", "nonce-random", "SEAL-NONCE", revisions=V2)
async def nonce_random(peer: Peer) -> None:
    """A nonce looks random: unlike a counter, it has no run of zero bytes."""
    link = await peer.session()
    if peer.role is Role.RESPONDER:
        await link.ping()
    link.step("check the nonce")
    nonce = link.bodies[0][:NONCE]
    if bytes(6) in nonce or nonce == nonce[:1] * NONCE:
        raise Missed("12 random bytes", nonce.hex())


@case("seal", "nonces-differ", "SEAL-NONCE", roles=RANK_1, revisions=V2)
async def nonces_differ(peer: Peer) -> None:
    """All nonces of a session differ, and none is slightly higher than the one before."""
    link = await peer.session()
    for _ in range(4):
        await link.ping()
    link.step("compare the nonces")
    nonces = [body[:NONCE] for body in link.bodies]
    if len(set(nonces)) < len(nonces):
        raise Missed("a different nonce in each box", ", ".join(nonce.hex() for nonce in nonces))
    orders: tuple[Literal["big", "little"], ...] = ("big", "little")
    for one, next_one in pairwise(nonces):
        for order in orders:
            if 0 < int.from_bytes(next_one, order) - int.from_bytes(one, order) < 2**32:
                raise Missed("random nonces", f"a counter: {one.hex()}, then {next_one.hex()}")


def _refused(name: str, what: str, change: Callable[[Link, bytes], bytes], *rules: str) -> None:
    """Define a case in which `change` makes a bad body from a good box."""

    @case("seal", name, *rules, revisions=V2, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send_body(what, change(link, link.body(peer.misplaced())))
        await link.expect_closed()


def _flip(box: bytes, at: int) -> bytes:
    changed = bytearray(box)
    changed[at] ^= 1
    return bytes(changed)


_refused(
    "tag-changed", "A box with one bit of its tag changed", lambda _, box: _flip(box, -1), "SESSION-BOX", "SEAL-LAYOUT"
)
_refused("tag-half", "A box with 12 bytes of its tag", lambda _, box: box[:-4], "SESSION-BOX", "SEAL-LAYOUT")
_refused(
    "ciphertext-changed",
    "A box with one bit of its ciphertext changed",
    lambda _, box: _flip(box, 14),
    "SESSION-BOX",
    "SEAL-LAYOUT",
)
_refused(
    "nonce-changed",
    "A box with one bit of its nonce changed",
    lambda _, box: _flip(box, 0),
    "SESSION-BOX",
    "SEAL-LAYOUT",
)
_refused("too-short", "A box of 27 bytes", lambda _, box: box[:27], "SESSION-BOX", "SEAL-LAYOUT")
_refused("one-byte", "A box of one byte", lambda _, box: box[:1], "SESSION-BOX", "SEAL-LAYOUT")
_refused(
    "associated-data",
    "A box sealed with associated data",
    lambda link, _: link.body(PING, associated=b"cluster"),
    "SESSION-BOX",
    "SEAL-LAYOUT",
)
_refused(
    "another-key",
    "A box sealed with another key",
    lambda _, box: byhand.sealed(bytes(32), PING),
    "SESSION-BOX",
    "HANDSHAKE-KEY",
)


@case("seal", "unsealed", "SEAL-FRAMES", "REV-EXPLICIT", revisions=V2)
async def unsealed(peer: Peer) -> None:
    """After the handshake, a valid but unsealed frame ends the connection."""
    link = await peer.session()
    await link.send_body("a frame without a box", peer.misplaced())
    await link.expect_closed()


@case("seal", "unsealed-ping", "SEAL-FRAMES", "REV-EXPLICIT", revisions=V2)
async def unsealed_ping(peer: Peer) -> None:
    """After the handshake, an unsealed ping of one byte ends the connection."""
    link = await peer.session()
    await link.send_body("a ping without a box", PING)
    await link.expect_closed()


@case("seal", "replay", "SEAL-REPLAY", revisions=V2)
async def replay(peer: Peer) -> None:
    """A repeated box is refused."""
    link = await peer.session()
    box = link.body(peer.misplaced())
    await link.send_body("a box", box)
    await link.send_body("the same box again", box)
    await link.expect_closed()


@case("seal", "replay-later", "SEAL-REPLAY", roles=RANK_1, revisions=V2)
async def replay_later(peer: Peer) -> None:
    """A repeated box is refused, even after others."""
    link = await peer.session()
    box = link.body(PING)
    await link.send_body("a ping", box)
    await link.expect_pong()
    for _ in range(40):
        await link.ping()
    await link.send_body("the first ping's box again", box)
    await link.expect_closed()


@case("seal", "reflection", "SEAL-REFLECTION", revisions=V2)
async def reflection(peer: Peer) -> None:
    """The peer's own box, sent back to it, is refused."""
    link = await peer.session()
    if peer.role is Role.RESPONDER:
        await link.ping()
    await link.send_body("the peer's own box", link.bodies[0])
    await link.expect_closed()


@case("seal", "nonce-any", "SEAL-LAYOUT", revisions=V2)
async def nonce_any(peer: Peer) -> None:
    """Nonces are accepted in any order, including one of zeros."""
    link = await peer.session()
    for nonce in (b"\xff" * NONCE, bytes(NONCE), os.urandom(NONCE)):
        await link.send_body(f"a box with the nonce {nonce.hex()}", link.body(peer.misplaced(), nonce=nonce))
    await link.expect_alive("that the boxes are accepted")
