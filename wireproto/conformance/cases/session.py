"""The open session: pings, its end, and several connections."""

import asyncio
from itertools import pairwise
from typing import Final

from wireproto.conformance.byhand import Identity
from wireproto.conformance.case import RANK_0, RANK_1, V1, V2, case
from wireproto.conformance.frames import PING, PONG, PONG_UNLOADED, SESSION_END, link_frame, shown, strictly
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed, Undecided, Verdict
from wireproto.conformance.wire import Silence
from wireproto.messages import JacclBootstrapPayload, Message, Ping, SessionEnd

CROWD = 24

# -- rank 1 ------------------------------------------------------------------------------------------------------------


@case("session", "pong-fields", "PAYLOAD-PONG", "JSON-TEXT", roles=RANK_1)
async def pong_fields(peer: Peer) -> None:
    """A pong is strictly valid."""
    link = await peer.session()
    for _ in range(3):
        strictly(await link.ping(), peer.settings.revision)


@case("session", "pong-each", "SESSION-PONG", roles=RANK_1)
async def pong_each(peer: Peer) -> None:
    """Each ping is answered by one pong and nothing else."""
    link = await peer.session()
    for _ in range(3):
        await link.ping()
    await link.expect_silence()


@case("session", "pong-at-once", "SESSION-PONG", roles=RANK_1)
async def pong_at_once(peer: Peer) -> None:
    """A pong arrives within the 3 s for which a rank 0 waits."""
    link = await peer.session()
    await link.send("a ping", PING)
    link.step("expect a pong within 3 s")
    await link.frame(peer.settings.patience.pong)


@case("session", "unsolicited", "SESSION-PONG", roles=RANK_1)
async def unsolicited(peer: Peer) -> None:
    """No pong is sent without a ping."""
    link = await peer.session()
    await link.expect_no_frame(b"\x04")


@case("session", "end", "SESSION-END", roles=RANK_1)
async def end(peer: Peer) -> None:
    """A sessionEnd is followed by the end of the connection."""
    link = await peer.session()
    await link.ping()
    await link.send("sessionEnd", SESSION_END)
    await link.expect_closed(probe=False)


@case("session", "end-is-the-end", "SESSION-END", roles=RANK_1)
async def end_is_the_end(peer: Peer) -> None:
    """A ping after sessionEnd in the same piece is not answered."""
    link = await peer.session()
    await link.send_bytes(
        "sessionEnd, then a ping, in one piece",
        link_frame(link.body(SESSION_END)) + link_frame(link.body(PING)),
    )
    await link.expect_closed(probe=False)


@case("session", "stream-ends", "SESSION-ROLES", "SESSION-END-SEND", roles=RANK_1)
async def stream_ends(peer: Peer) -> None:
    """When the stream ends between two frames, the peer closes, and serves the next connection."""
    link = await peer.session()
    link.wire.send_end()
    try:
        await link.expect_closed(probe=False)
    except Missed as missed:
        raise Missed(missed.expected, missed.came, missed.requirement or "SESSION-END-SEND") from None
    again = await peer.session()
    await again.ping()


@case("session", "serves-again", "SESSION-ROLES", roles=RANK_1)
async def serves_again(peer: Peer) -> None:
    """After an orderly end, another session is possible."""
    link = await peer.session()
    await link.send("sessionEnd", SESSION_END)
    await link.expect_closed(probe=False)
    again = await peer.session()
    await again.ping()


@case("session", "survives-a-fault", "SESSION-ROLES", roles=RANK_1, needs=("frame.type-unknown",))
async def survives_a_fault(peer: Peer) -> None:
    """After a session that failed, another one is possible."""
    link = await peer.session()
    await link.send("an unknown type", b"\x7e")
    await link.expect_closed(probe=False)
    again = await peer.session()
    await again.ping()


@case("session", "no-state-kept", "HANDSHAKE-ONLY", roles=RANK_1)
async def no_state_kept(peer: Peer) -> None:
    """A new connection starts with a handshake, whatever was agreed on the last one."""
    link = await peer.session()
    await link.ping()
    ping = link.body(PING)
    await link.wire.close()
    again = await peer.connect()
    await again.send_body("a ping of the last session", ping)
    await again.expect_closed()


@case("session", "key-not-kept", "HANDSHAKE-KEY", "HANDSHAKE-FRESH", roles=RANK_1, revisions=V2)
async def key_not_kept(peer: Peer) -> None:
    """After a second handshake the last session's key opens nothing."""
    link = await peer.session()
    await link.ping()
    old = link.body(PING)
    await link.wire.close()
    again = await peer.session()
    await again.send_body("a box of the last session", old)
    await again.expect_closed()


@case("session", "stranger-waits", "SESSION-DISPLACE", roles=RANK_1)
async def stranger_waits(peer: Peer) -> None:
    """A silent connection does not block the existing session."""
    link = await peer.session()
    await link.ping()
    await peer.connect()
    await link.ping()


@case("session", "stranger-first", "SESSION-DISPLACE", roles=RANK_1)
async def stranger_first(peer: Peer) -> None:
    """An earlier silent connection does not block the handshake of the true peer."""
    await peer.connect()
    link = await peer.connect()
    link.step("complete a handshake, then ping")
    try:
        await link.shake_hands()
        await link.ping()
    except Missed as missed:
        raise Missed("a session beside the silent connection", missed.came) from None


@case("session", "stranger-s-fault", "SESSION-DISPLACE", roles=RANK_1)
async def stranger_s_fault(peer: Peer) -> None:
    """A fault on an unauthenticated connection ends only that connection."""
    link = await peer.session()
    await link.ping()
    stranger = await peer.connect()
    await stranger.send_bytes("a length of 0", bytes(8))
    await stranger.expect_closed(probe=False)
    await _still(link)


@case("session", "recorded-hello", "SESSION-DISPLACE", roles=RANK_1, revisions=V2)
async def recorded_hello(peer: Peer) -> None:
    """A replayed hello may get an ack, but does not replace the confirmed session."""
    link = await peer.connect()
    hello = link.introduction()
    await link.shake_hands(hello)
    await link.ping()
    stranger = await peer.connect()
    await stranger.send_body("the recorded hello", hello)
    await stranger.anything_comes()
    await _still(link)


async def _still(link: Link) -> None:
    """Check that the first session continues."""
    try:
        await link.ping()
    except Missed as missed:
        raise Missed("the first session to continue", missed.came) from None


@case("session", "replace", "SESSION-REPLACE", roles=RANK_1, revisions=V2)
async def replace(peer: Peer) -> None:
    """A confirmed new session replaces the one before it, which is closed."""
    link = await peer.session()
    await link.ping()
    newcomer = await peer.session()
    await newcomer.ping()
    await link.expect_closed(probe=False)
    await newcomer.ping()


@case("session", "newcomer", "SESSION-NEWCOMER", roles=RANK_1, revisions=V1)
async def newcomer(peer: Peer) -> None:
    """A new session does not replace a live one, because nothing confirms it."""
    link = await peer.session()
    await link.ping()
    await peer.session()
    await _still(link)


@case("session", "crowd", "SESSION-CROWD", roles=RANK_1, needs=("session.stranger-first",))
async def crowd(peer: Peer) -> None:
    """Many silent connections do not keep out the true peer."""
    for _ in range(CROWD):
        await peer.connect()
    link = await peer.connect()
    try:
        await link.shake_hands()
        await link.ping()
    except Missed as missed:
        raise Missed("a session despite the silent connections", missed.came) from None


@case("session", "silent-stranger", "SESSION-TIMES", roles=RANK_1, deadline=30.0)
async def silent_stranger(peer: Peer) -> None:
    """A connection without a hello is closed eventually; this implementation waits 10 s."""
    link = await peer.connect()
    patience = peer.settings.patience
    await _expect_end(link, patience.handshake + patience.slack)


async def _expect_end(link: Link, seconds: float) -> None:
    link.step(f"expect that the peer closes within {seconds:g} s")
    try:
        body = await link.wire.frame(seconds)
    except Silence:
        reason = f"it waits for more than {seconds:g} s, perhaps forever"
        raise Undecided(Verdict.NON_STRICT, reason) from None
    if body is not None:
        raise Missed("the end of the connection", shown(body), "HANDSHAKE-FIRST")


# -- rank 0 ------------------------------------------------------------------------------------------------------------


@case("session", "ping-at-once", "SESSION-PING", roles=RANK_0)
async def ping_at_once(peer: Peer) -> None:
    """A ping is sent as soon as the session is established."""
    link = await peer.session_at_ack()
    await _expect_ping(link, peer.settings.patience.pong)


@case("session", "pings-unanswered", "SESSION-PING", "SESSION-MISSED", roles=RANK_0, deadline=40.0)
async def pings_unanswered(peer: Peer) -> None:
    """A ping is sent every 5 s; after three without a pong within 3 s, the session ends."""
    patience = peer.settings.patience
    link = await peer.session_at_ack()
    now = asyncio.get_running_loop().time
    at = []
    for count in range(3):
        await _expect_ping(link, (patience.ping_every if count else patience.pong) + patience.slack)
        at.append(now())
    for one, following in pairwise(at):
        if following - one < patience.ping_every / 2:
            raise Missed(f"{patience.ping_every:g} s from ping to ping", f"{following - one:.1f} s")
    await _expect_end_of_pings(link, patience.pong + patience.slack)


@case("session", "pings-unanswered-in-init", "PLAIN-INIT", "SESSION-MISSED", roles=RANK_0, deadline=90.0)
async def pings_unanswered_in_init(peer: Peer) -> None:
    """After jacclBootstrap, missed pongs do not end the session: a peer without extensions reads nothing meanwhile.

    A pong to a later ping shows that the init is over; from then on three missed pongs end the session.
    """
    patience = peer.settings.patience
    link = await peer.session_at_ack()
    await _expect_ping(link, patience.pong + patience.slack)
    await link.send("a pong", PONG)
    await _expect_messages(link, JacclBootstrapPayload, 1, patience.answer, "BOOT-SEND")
    await _expect_messages(link, Ping, 5, 5 * patience.ping_every + patience.slack, "PLAIN-INIT")
    await link.send("a pong", PONG)
    await _expect_end_of_pings(link, 4 * patience.ping_every + patience.pong + patience.slack)


async def _expect_messages(link: Link, kind: type[Message], count: int, seconds: float, requirement: str) -> None:
    """Wait for `count` messages of a kind. Raise Undecided if the peer ends its session orderly first."""
    link.step(f"expect {count} of {kind.__name__} within {seconds:g} s")
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    while count:
        try:
            message = await link.message(max(deadline - now(), 0.0))
        except Missed as missed:
            broken = missed.requirement or (requirement if link.wire.ended or kind is not Ping else "SESSION-PING")
            raise Missed(f"{count} more of {kind.__name__}", missed.came, broken) from None
        if isinstance(message, SessionEnd):
            raise Undecided(Verdict.SKIPPED, "the peer ends its session after a pong")
        count -= isinstance(message, kind)


async def _expect_ping(link: Link, seconds: float) -> None:
    link.step(f"expect a ping within {seconds:g} s")
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            message = await link.message(max(deadline - asyncio.get_running_loop().time(), 0.0))
        except Missed as missed:
            raise Missed(missed.expected, missed.came, missed.requirement or "SESSION-PING") from None
        if isinstance(message, Ping):
            return


async def _expect_end_of_pings(link: Link, seconds: float) -> None:
    link.step(f"expect that the peer closes within {seconds:g} s")
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    while True:
        try:
            await link.frame(max(deadline - now(), 0.0))
        except Missed as missed:
            if link.wire.ended:
                return
            raise Missed("the end of the session", missed.came, "SESSION-MISSED") from None


NO_END: Final = "the peer does not end its session with sessionEnd"


@case("session", "end-closes", "SESSION-END-SEND", roles=RANK_0)
async def end_closes(peer: Peer) -> None:
    """A rank 0 that has sent sessionEnd closes the connection, whether or not the other side does."""
    patience = peer.settings.patience
    seconds = patience.ping_every + patience.slack
    link = await peer.session()
    link.step(f"answer pings, and expect a sessionEnd within {seconds:g} s")
    deadline = asyncio.get_running_loop().time() + seconds
    frame = b""
    while frame != SESSION_END:
        await link.answer_pings()
        try:
            frame = await link.frame(max(deadline - asyncio.get_running_loop().time(), 0.0))
        except Missed as missed:
            if missed.requirement is not None:
                raise
            raise Undecided(Verdict.SKIPPED, NO_END) from None
    link.step(f"expect that the peer closes within {patience.close:g} s")
    try:
        more = await link.next_frame(patience.close)
    except Silence:
        raise Undecided(Verdict.NON_STRICT, "it does not close the connection after its sessionEnd") from None
    if more is not None:
        raise Missed("the end of the connection", shown(more))


@case("session", "pong-answers", "SESSION-PONG", roles=RANK_0)
async def pong_answers(peer: Peer) -> None:
    """A pong is accepted, even one that says that no model is loaded."""
    link = await peer.session()
    await link.send("a pong: no model is loaded", PONG_UNLOADED)
    await link.expect_alive("that the pong is accepted")


@case("session", "missed-count", "SESSION-MISSED", roles=RANK_0, needs=("session.pings-unanswered",), deadline=60.0)
async def missed_count(peer: Peer) -> None:
    """A late pong resets the count of missed pongs to 0: two more may be missed."""
    patience = peer.settings.patience
    link = await peer.session_at_ack()
    await _expect_messages(link, Ping, 3, 3 * patience.ping_every + patience.slack, "SESSION-PING")
    for number in range(3):
        await link.send(f"a pong to ping {number + 1}", PONG)
    await _expect_messages(link, Ping, 2, 2 * patience.ping_every + patience.slack, "SESSION-MISSED")


@case("session", "reconnect", "SESSION-RECONNECT", "HANDSHAKE-FRESH", roles=RANK_0, deadline=40.0)
async def reconnect(peer: Peer) -> None:
    """After a failure rank 0 reconnects 10 s later, with a new nonce and X25519 key."""
    link = await peer.session()
    link.step("close without a word")
    await link.wire.close()
    again = await _late(peer)
    assert link.theirs is not None and again.theirs is not None  # noqa: S101, PT018 - both hellos have come
    if {link.theirs.nonce, link.theirs.ephemeral} & {again.theirs.nonce, again.theirs.ephemeral}:
        raise Missed("a fresh hello", "the nonce or X25519 key of the last one", "HANDSHAKE-FRESH")


@case("session", "reconnect-after-reset", "SESSION-RECONNECT", roles=RANK_0, deadline=40.0)
async def reconnect_after_reset(peer: Peer) -> None:
    """After a reset rank 0 also reconnects 10 s later."""
    link = await peer.session()
    link.step("reset the connection")
    await link.wire.reset()
    await (await _late(peer)).shake_hands()


@case("session", "reconnect-when-refused", "SESSION-RECONNECT", roles=RANK_0, deadline=60.0)
async def reconnect_when_refused(peer: Peer) -> None:
    """After a refused connection rank 0 tries again at most 10 s later."""
    link = await peer.session()
    link.step("close without a word")
    await link.wire.close()
    await peer.refuse(peer.settings.patience.reconnect + 1)
    await (await peer.comes_again()).shake_hands()


_REFUSED: Final = (1.3, 1.57, 1.93, 2.26)
"""How long attempts are refused, in pauses between them: each time at another point between two attempts."""


@case("session", "pauses-when-refused", "SESSION-RECONNECT", roles=RANK_0, deadline=60.0)
async def pauses_when_refused(peer: Peer) -> None:
    """Rank 0 pauses between refused attempts; this implementation waits 1 s.

    A refused attempt cannot be seen, but the time from our listening to the next one can: by chance it is short
    sometimes, but each time only where attempts follow each other at once.
    """
    patience = peer.settings.patience
    delays = []
    for share in _REFUSED:
        await peer.restart(refused=share * patience.retry)
        began = asyncio.get_running_loop().time()
        await peer.comes_again()
        delays.append(asyncio.get_running_loop().time() - began)
        if delays[-1] > patience.retry / 4:
            return
    shown = ", ".join(f"{1000 * delay:.0f} ms" for delay in delays)
    raise Missed(f"pauses of {patience.retry:g} s between attempts", f"connections {shown} after we listened again")


@case("session", "reconnect-after-wrong-ack", "SESSION-RECONNECT", "SESSION-GIVE-UP", roles=RANK_0, deadline=40.0)
async def reconnect_after_wrong_ack(peer: Peer) -> None:
    """After a failed handshake rank 0 reconnects 10 s later or gives up; it does not retry at once."""
    link = await peer.connect()
    other = Identity()
    await link.send_body("an ack signed by another key", link.introduction(sign=lambda _, text: other.sign(text)))
    await link.expect_closed()
    began = asyncio.get_running_loop().time()
    try:
        await peer.comes_again()
    except Missed:
        return  # it has given up
    _expect_late(peer, began)


async def _late(peer: Peer) -> Link:
    """The connection after a failure."""
    began = asyncio.get_running_loop().time()
    link = await peer.comes_again()
    _expect_late(peer, began)
    return link


def _expect_late(peer: Peer, began: float) -> None:
    """Check that a rank 0 waited for most of the time from a failure to the next attempt."""
    seconds, least = asyncio.get_running_loop().time() - began, peer.settings.patience.reconnect / 2
    if seconds < least:
        raise Missed(f"no connection before {least:g} s", f"one after {seconds:.1f} s", "SESSION-RECONNECT")
