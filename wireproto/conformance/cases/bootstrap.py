"""jacclBootstrap: which are accepted, and when one is sent."""

import json
import re

from wireproto.conformance.case import RANK_0, RANK_1, case
from wireproto.conformance.frames import BOOTSTRAP, PONG_UNLOADED, SESSION_END, link_frame
from wireproto.conformance.peer import Peer
from wireproto.conformance.verdicts import Missed, Undecided, Verdict

NO_FILE = "it applies to a peer whose session ID names a file: --session-id-file"
_MOST_PORTS = 64
"""Ports that a group may need after its first."""
_UUID = re.compile(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")
_FILE_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")

# -- rank 1 ------------------------------------------------------------------------------------------------------------


@case("bootstrap", "taken", "BOOT-RECEIVE", roles=RANK_1)
async def taken(peer: Peer) -> None:
    """A jacclBootstrap is accepted, and the session continues."""
    link = await peer.session()
    await link.ping()
    await link.send("a jacclBootstrap", BOOTSTRAP)
    await link.expect_alive()


@case("bootstrap", "not-answered", "BOOT-SEND", roles=RANK_1)
async def not_answered(peer: Peer) -> None:
    """jacclBootstrap has no answer frame."""
    link = await peer.session()
    await link.send("a jacclBootstrap", BOOTSTRAP)
    await link.expect_silence()


@case("bootstrap", "without-ping", "BOOT-ESTABLISHED", roles=RANK_1)
async def without_ping(peer: Peer) -> None:
    """A jacclBootstrap can be the first frame of the session."""
    link = await peer.session()
    await link.send("a jacclBootstrap, the first frame", BOOTSTRAP)
    await link.expect_alive()


@case("bootstrap", "then-session-end", "SESSION-END", "BOOT-INDEPENDENT", roles=RANK_1)
async def then_session_end(peer: Peer) -> None:
    """A sessionEnd in the same piece as the jacclBootstrap ends the session."""
    link = await peer.session()
    frames = (BOOTSTRAP, SESSION_END)
    await link.send_bytes("a jacclBootstrap and sessionEnd", b"".join(link_frame(link.body(each)) for each in frames))
    await link.expect_closed(probe=False)


@case("bootstrap", "longest-session-id", "BOOT-SESSION-ID", roles=RANK_1)
async def longest_session_id(peer: Peer) -> None:
    """A session ID of 128 characters of every allowed kind is accepted."""
    link = await peer.session()
    await link.send("a session ID of 128 characters", _frame("aZ09._-".ljust(128, "x")))
    await link.expect_alive("that the session ID is accepted")


@case("bootstrap", "highest-port", "BOOT-REFUSE", roles=RANK_1)
async def highest_port(peer: Peer) -> None:
    """Port 65534 is the highest for two ranks; with more ranks, or more ports per rank, the highest is lower."""
    link = await peer.session()
    await link.send("port 65534", _frame("a", 65534))
    try:
        await link.expect_alive("that the port is accepted")
    except Missed:
        lower = 65535 - _MOST_PORTS
        link = await peer.session()
        await link.send(f"port {lower}", _frame("a", lower))
        await link.expect_alive("that the port is accepted")
        raise Undecided(Verdict.UNIMPLEMENTED, "its group needs more ports than two ranks do") from None


def _frame(session_id: str, port: int = 29400) -> bytes:
    return b"\x07" + json.dumps({"port": port, "sessionID": session_id}).encode()


def _refused(name: str, rule: str, what: str, frame: bytes) -> None:
    rules = (rule, "BOOT-REFUSE") if rule != "BOOT-REFUSE" else (rule,)

    @case("bootstrap", name, *rules, roles=RANK_1, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        if rule == "BOOT-SESSION-ID" and not peer.settings.names_file:
            raise Undecided(Verdict.SKIPPED, NO_FILE)
        link = await peer.session()
        await link.send(what, frame)
        await link.expect_closed()


_refused("port-zero", "BOOT-REFUSE", "Port 0", _frame("a", 0))
_refused("port-65535", "BOOT-REFUSE", "Port 65535, which leaves no port for rank 1", _frame("a", 65535))
_refused("session-id-path", "BOOT-SESSION-ID", "A session ID that contains ../", _frame("../x"))
_refused("session-id-absolute", "BOOT-SESSION-ID", "A session ID that contains a /", _frame("a/b"))
_refused("session-id-dot", "BOOT-SESSION-ID", "A session ID that starts with a dot", _frame(".a"))
_refused("session-id-empty", "BOOT-SESSION-ID", "An empty session ID", _frame(""))
_refused("session-id-129", "BOOT-SESSION-ID", "A session ID of 129 characters", _frame("x" * 129))
_refused("session-id-zero", "BOOT-SESSION-ID", "A session ID with a NUL character", _frame("a\0b"))
_refused("session-id-letter", "BOOT-SESSION-ID", "A session ID with a non-ASCII letter", _frame("\u00e9"))
_refused("session-id-line", "BOOT-SESSION-ID", "A session ID that ends with a line feed", _frame("a\n"))

# -- rank 0 ------------------------------------------------------------------------------------------------------------


@case("bootstrap", "sent", "BOOT-SEND", "PAYLOAD-BOOTSTRAP", "BOOT-ESTABLISHED", roles=RANK_0)
async def sent(peer: Peer) -> None:
    """A strictly valid jacclBootstrap is sent once the session is established, without waiting for a pong."""
    link = await peer.session_at_ack()
    await link.expect_bootstrap()


@case("bootstrap", "sent-without-a-model", "BOOT-ESTABLISHED", "BOOT-SEND", roles=RANK_0)
async def sent_without_a_model(peer: Peer) -> None:
    """A jacclBootstrap is sent even if the pong says that no model is loaded."""
    link = await peer.session_at_ack()
    await link.send("a pong: no model is loaded", PONG_UNLOADED)
    try:
        await link.expect_bootstrap(PONG_UNLOADED)
    except Missed as missed:
        raise Missed(missed.expected, missed.came) from None


@case("bootstrap", "sent-once", "BOOT-SEND", roles=RANK_0)
async def sent_once(peer: Peer) -> None:
    """There is one jacclBootstrap per session."""
    link = await peer.session_at_ack()
    await link.expect_bootstrap()
    link.step("expect no second one")
    await link.expect_no_frame(b"\x07")


@case("bootstrap", "usable", "BOOT-REFUSE", "BOOT-SESSION-ID", roles=RANK_0)
async def usable(peer: Peer) -> None:
    """Rank 1 can use the port and, if the session ID names a file, the session ID."""
    link = await peer.session_at_ack()
    bootstrap = await link.expect_bootstrap()
    link.step("check port and session ID")
    if not 0 < bootstrap.port < 65535:
        raise Missed("a port from 1 to 65,534", str(bootstrap.port), "BOOT-REFUSE")
    if peer.settings.names_file and not _FILE_NAME.fullmatch(bootstrap.session_id):
        raise Missed("a session ID that can name a file", repr(bootstrap.session_id), "BOOT-SESSION-ID")


@case("bootstrap", "uuid", "BOOT-FRESH-ID", roles=RANK_0)
async def uuid(peer: Peer) -> None:
    """The session ID is a UUID in upper case, different for each session."""
    link = await peer.session_at_ack()
    first = (await link.expect_bootstrap()).session_id
    link.step("check the session ID")
    if not _UUID.fullmatch(first):
        raise Missed("a UUID in upper case", repr(first))
    await peer.restart()
    link = await peer.session_at_ack()
    if (await link.expect_bootstrap()).session_id == first:
        raise Missed("a session ID that differs from the last one", repr(first))
