"""Cluster frames: types and their payloads."""

import base64

from wireproto.conformance import byhand
from wireproto.conformance.case import RANK_0, RANK_1, V1, V2, case
from wireproto.conformance.frames import ACK, BOOTSTRAP, HELLO, PING, PONG, SESSION_END
from wireproto.conformance.peer import Peer
from wireproto.messages import Revision
from wireproto.session import Role

_BOX = base64.b64encode(bytes(28))


def _refused(
    name: str, what: str, frame: bytes, *rules: str, **options: tuple[Role, ...] | tuple[Revision, ...]
) -> None:
    @case("frame", name, *rules, about=f"{what} ends the connection.", **options)  # type: ignore[arg-type]
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send(what, frame)
        await link.expect_closed()


def _ignored(
    name: str, what: str, frame: bytes, *rules: str, **options: tuple[Role, ...] | tuple[Revision, ...]
) -> None:
    about = f"{what} is unexpected and ignored."

    @case("frame", name, *rules, "SESSION-IGNORE", about=about, **options)  # type: ignore[arg-type]
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send(what, frame)
        await link.expect_alive("that the frame is ignored")


_refused("type-unknown", "A type that no revision has", b"\x7e", "SESSION-BOX", "FRAME-TYPE", "SESSION-SILENT")
_refused("type-zero", "The type 0x00", b"\x00", "SESSION-BOX", "FRAME-TYPE")
_refused("type-0e", "The type 0x0E, one after the last", b"\x0e{}", "SESSION-BOX", "FRAME-TYPE")
_refused("type-fe", "The type 0xFE, one before sessionEnd", b"\xfe", "SESSION-BOX", "FRAME-TYPE")
_refused("empty", "A box without a type byte", b"", "FRAME-TYPE", "SESSION-BOX", revisions=V2)
_refused(
    "type-of-revision-2",
    "A type that only revision 2 has",
    b'\x0a{"uid":"a"}',
    "FRAME-TYPE",
    "REV-EXPLICIT",
    revisions=V1,
)
_refused("ping-with-payload", "A ping with a payload", PING + b"{}", "PAYLOAD-EMPTY")
_refused(
    "session-end-with-payload", "A sessionEnd with a payload", SESSION_END + b"\x00", "PAYLOAD-EMPTY", roles=RANK_0
)
_refused("misplaced-and-malformed", "A pong without fields", b"\x04{}", "SESSION-BOX", "SESSION-IGNORE", roles=RANK_1)
_refused(
    "misplaced-and-malformed",
    "A jacclBootstrap without fields",
    b"\x07{}",
    "SESSION-BOX",
    "SESSION-IGNORE",
    roles=RANK_0,
)

_ignored("misplaced-pong", "A pong to rank 1", PONG, roles=RANK_1)
_ignored("misplaced-token", "An inferenceToken to rank 1", b"\x06" + bytes(28), roles=RANK_1)
_ignored(
    "misplaced-pp-token",
    "A ppToken to rank 1",
    b'\x0c{"uid":"a","sealedToken":"' + _BOX + b'"}',
    roles=RANK_1,
    revisions=V2,
)
_ignored("misplaced-ping", "A ping to rank 0", PING, roles=RANK_0)
_ignored("misplaced-step", "An inferenceStep to rank 0", b"\x05" + bytes(28), roles=RANK_0)
_ignored("misplaced-bootstrap", "A jacclBootstrap to rank 0", BOOTSTRAP, roles=RANK_0)
_ignored("misplaced-session-end", "A sessionEnd to rank 0", SESSION_END, roles=RANK_0)
_ignored("misplaced-session-stop", "A sessionStop to rank 0", b'\x0a{"uid":"a"}', roles=RANK_0, revisions=V2)
_ignored("opaque-empty", "An empty inferenceToken to rank 1", b"\x06", "PAYLOAD-OPAQUE", roles=RANK_1)
_ignored("opaque-empty", "An empty inferenceStep to rank 0", b"\x05", "PAYLOAD-OPAQUE", roles=RANK_0)


@case("frame", "second-introduction", "SESSION-IGNORE")
async def second_introduction(peer: Peer) -> None:
    """A second hello or ack is ignored, and changes no key."""
    link = await peer.session()
    await link.send("the same hello or ack again", link.introduction(nonce=bytes(32)))
    await link.expect_alive("that it is ignored")


@case("frame", "introduction-of-the-other", "SESSION-IGNORE")
async def introduction_of_the_other(peer: Peer) -> None:
    """An ack to rank 1, or a hello to rank 0, is ignored in the open session."""
    link = await peer.session()
    theirs = ACK if peer.role is Role.RESPONDER else HELLO
    await link.send("the other side's part of the handshake", theirs + link.introduction()[1:])
    await link.expect_alive("that it is ignored")


@case("frame", "ping-is-not-answered", "SESSION-STATE", roles=RANK_0)
async def ping_is_not_answered(peer: Peer) -> None:
    """A rank 0 never sends a pong, so it does not answer a ping."""
    link = await peer.session()
    await link.send("a ping", PING)
    link.step("expect no pong")
    await link.expect_no_frame(b"\x04")


@case("frame", "revision-not-guessed", "REV-EXPLICIT", revisions=V1, needs=("frame.type-unknown",))
async def revision_not_guessed(peer: Peer) -> None:
    """A box in revision 1 is read as a frame: its first byte is a type, here an unknown one."""
    link = await peer.session()
    assert link.key is not None  # noqa: S101 - there is a session
    await link.send_body("a box with a ping", byhand.sealed(link.key, PING, b"\x7e" + bytes(11)))
    await link.expect_closed()
