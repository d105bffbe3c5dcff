"""Extensions: offers, choices, and refusal of uninvited frames.

A peer without extensions ignores the key `extensions` and does not know their types. Cases that do not apply to it are
`unimplemented`.
"""

import json

import msgspec

from wireproto.conformance.case import RANK_0, RANK_1, V1, V2, case
from wireproto.conformance.frames import BOOTSTRAP, PONG, name_of, offered
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed, Undecided, Verdict
from wireproto.messages import EXTENSIONS, OUTCOME_1, Program, Versions
from wireproto.session import Role

_OUTCOME = {"rank": 1, "state": "started", "stage": "", "code": "", "message": ""}
_VERSIONS = {"package": "0", "mlx": "0", "backend": "ring", "devices": ""}
_FRAMES = {
    "side-channel": (bytes(4), b"\x40", b"\x41"),
    "outcome": (json.dumps(_OUTCOME).encode(), b"\x42", b"\x42"),
    "versions": (json.dumps(_VERSIONS).encode(), b"\x43", b"\x43"),
}


def _naming(frame: bytes, names: object) -> bytes:
    return frame[:-1] + b',"extensions":' + json.dumps(names).encode() + b"}"


def _uninvited(name: str) -> None:
    payload, to_rank_0, to_rank_1 = _FRAMES[name]
    about = f"A frame of an extension ({name}) that was not agreed on has an unknown type."

    needs = ("frame.type-unknown",)

    @case("extensions", f"uninvited-{name}", "EXT-UNINVITED", revisions=V2, about=about, needs=needs)
    async def script(peer: Peer) -> None:
        link = await peer.session()
        first = to_rank_1 if peer.role is Role.RESPONDER else to_rank_0
        await link.send(f"0x{first.hex()}; not agreed on", first + payload)
        await link.expect_closed()


for _name in _FRAMES:
    _uninvited(_name)

# -- rank 1 ------------------------------------------------------------------------------------------------------------


async def _offers(link: Link) -> tuple[str, ...]:
    """Return the offer of a rank 1. Raise Undecided if it is empty."""
    names = offered(await link.ping())
    if not names:
        raise Undecided(Verdict.UNIMPLEMENTED, "the peer offers no extension")
    return names


def _bad_names(name: str, what: str, names: object) -> None:
    about = f"{what} ends the connection."

    @case("extensions", f"names-{name}", "EXT-NAMES", revisions=V2, about=about)
    async def script(peer: Peer) -> None:
        if peer.role is Role.RESPONDER:
            link = await peer.session()
            await _offers(link)
            await link.send(what, _naming(BOOTSTRAP, names))
        else:
            link = await peer.session_at_ack()
            await _chooses(link)
            await link.send(what, _naming(PONG, names))
        await link.expect_closed()


_bad_names("string", "A string in place of the array", OUTCOME_1)
_bad_names("twice", "A repeated extension", ["x-unknown/1", "x-unknown/1"])
_bad_names("form", "A name without a version", ["outcome"])
_bad_names("too-many", "33 names", [f"x-{number}/1" for number in range(33)])


@case("extensions", "not-offered", "EXT-NOT-OFFERED", roles=RANK_1, revisions=V2)
async def not_offered(peer: Peer) -> None:
    """A jacclBootstrap with an extension that was not offered ends the connection."""
    link = await peer.session()
    await _offers(link)
    await link.send("a jacclBootstrap with x-unknown/1", _naming(BOOTSTRAP, ["x-unknown/1"]))
    await link.expect_closed()


@case("extensions", "not-yet-offered", "EXT-NOT-OFFERED", "EXT-OFFER", roles=RANK_1, revisions=V2)
async def not_yet_offered(peer: Peer) -> None:
    """An offer from the last session does not count in this one."""
    first = await peer.session()
    names = await _offers(first)
    await first.wire.close()
    link = await peer.session()
    await link.send("a jacclBootstrap before the first pong", _naming(BOOTSTRAP, names))
    await link.expect_closed()


@case("extensions", "empty", "EXT-EMPTY", "JSON-UNKNOWN-KEY", roles=RANK_1)
async def empty(peer: Peer) -> None:
    """A jacclBootstrap with an empty array of extensions is like one without the key."""
    link = await peer.session()
    has_extensions = bool(offered(await link.ping()))
    await link.send("a jacclBootstrap with no extension", _naming(BOOTSTRAP, []))
    try:
        await link.expect_alive()
    except Missed as missed:
        rule = "EXT-EMPTY" if has_extensions else "JSON-UNKNOWN-KEY"
        raise Missed(missed.expected, missed.came, missed.requirement or rule) from None


@case("extensions", "outcome-agreed", "EXT-VERSIONS-SEND", "EXT-VERSIONS", "EXT-UNINVITED", roles=RANK_1, revisions=V2)
async def outcome_agreed(peer: Peer) -> None:
    """Once outcome/1 is agreed on, rank 1 sends its versions before any other extension frame."""
    link = await peer.session()
    await _agree_as_rank_0(link)
    await _expect_versions(link)


async def _agree_as_rank_0(link: Link) -> None:
    """Agree on outcome/1. Raise Undecided if rank 1 does not offer it."""
    if OUTCOME_1 not in await _offers(link):
        raise Undecided(Verdict.UNIMPLEMENTED, f"the peer does not offer {OUTCOME_1}")
    await link.send(f"a jacclBootstrap with {OUTCOME_1}", _naming(BOOTSTRAP, [OUTCOME_1]))


@case("extensions", "none-in-revision-1", "EXT-REVISION", roles=RANK_1, revisions=V1)
async def none_offered_in_revision_1(peer: Peer) -> None:
    """In revision 1 a pong offers nothing. An extension in a jacclBootstrap is neither agreed on nor an error."""
    link = await peer.session()
    names = offered(await link.ping())
    if names:
        raise Missed("no extensions", ", ".join(names))
    await link.send("a jacclBootstrap with an extension", _naming(BOOTSTRAP, [OUTCOME_1]))
    await link.expect_alive()


async def _expect_versions(link: Link) -> Versions:
    link.step("expect versions")
    message = await link.message()
    if not isinstance(message, Versions):
        raise Missed("versions", name_of(message))
    return message


# -- rank 0 ------------------------------------------------------------------------------------------------------------


async def _chooses(link: Link) -> tuple[str, ...]:
    """Return the choice of a rank 0 from all extensions. Raise Undecided if it is empty."""
    await link.send("a pong that offers all extensions", _naming(PONG, EXTENSIONS))
    chosen = (await link.expect_bootstrap()).extensions
    if not chosen:
        raise Undecided(Verdict.UNIMPLEMENTED, "the peer chooses no extension")
    return chosen


@case("extensions", "none-chosen", "EXT-CHOICE", roles=RANK_0)
async def none_chosen(peer: Peer) -> None:
    """Without an offer, a jacclBootstrap names no extension."""
    link = await peer.session_at_ack()
    await link.send("a pong that offers nothing", PONG)
    bootstrap = await link.expect_bootstrap()
    if bootstrap.extensions:
        raise Missed("no extensions", ", ".join(bootstrap.extensions))


@case("extensions", "unknown-offered", "EXT-UNKNOWN", "EXT-CHOICE", roles=RANK_0)
async def unknown_offered(peer: Peer) -> None:
    """A name that rank 0 does not know is ignored and not chosen."""
    link = await peer.session_at_ack()
    await link.send("a pong that offers x-unknown/1", _naming(PONG, ["x-unknown/1"]))
    try:
        bootstrap = await link.expect_bootstrap()
    except Missed as missed:
        raise Missed(missed.expected, missed.came) from None
    if bootstrap.extensions:
        raise Missed("no extensions", ", ".join(bootstrap.extensions), "EXT-CHOICE")


@case("extensions", "empty", "EXT-EMPTY", roles=RANK_0)
async def empty_offer(peer: Peer) -> None:
    """A pong with an empty array of extensions is like one without the key."""
    link = await peer.session()
    await link.send("a pong with no extension", _naming(PONG, []))
    await link.expect_alive()


@case("extensions", "outcome-agreed", "EXT-VERSIONS-SEND", "EXT-VERSIONS", "EXT-UNINVITED", roles=RANK_0, revisions=V2)
async def outcome_chosen(peer: Peer) -> None:
    """When it chooses outcome/1, rank 0 sends its versions right after jacclBootstrap."""
    link = await peer.session_at_ack()
    await _agree_as_rank_1(link)
    await _expect_versions(link)


async def _agree_as_rank_1(link: Link) -> None:
    """Agree on outcome/1. Raise Undecided if rank 0 does not choose it."""
    if OUTCOME_1 not in await _chooses(link):
        raise Undecided(Verdict.UNIMPLEMENTED, f"the peer does not choose {OUTCOME_1}")


@case("extensions", "none-in-revision-1", "EXT-REVISION", roles=RANK_0, revisions=V1)
async def none_chosen_in_revision_1(peer: Peer) -> None:
    """In revision 1 an offer in a pong is not chosen."""
    link = await peer.session_at_ack()
    await link.send("a pong that offers all extensions", _naming(PONG, EXTENSIONS))
    bootstrap = await link.expect_bootstrap()
    if bootstrap.extensions:
        raise Missed("no extensions", ", ".join(bootstrap.extensions))


# -- either rank -------------------------------------------------------------------------------------------------------


def _program(name: str, about: str, program: str | None, *rules: str, is_taken: bool) -> None:
    """Send the peer its own versions with another program, so that nothing else in them can make it fail."""

    @case("extensions", f"program-{name}", *rules, revisions=V2, about=about, needs=("extensions.outcome-agreed",))
    async def script(peer: Peer) -> None:
        if peer.role is Role.RESPONDER:
            link = await peer.session()
            await _agree_as_rank_0(link)
        else:
            link = await peer.session_at_ack()
            await _agree_as_rank_1(link)
        own = await _expect_versions(link)
        if own.program in (Program.COMMAND, Program.DRY_RUN):
            text = f"the peer's own program is {own.program.value}, so it refuses others [EXT-VERSIONS-PROGRAM]"
            raise Undecided(Verdict.SKIPPED, text)
        versions = {**msgspec.to_builtins(own), "program": program}
        shown = json.dumps(program)
        await link.send(f"versions with the program {shown}", b"\x43" + json.dumps(versions).encode())
        if is_taken:
            await link.expect_alive("that the versions are accepted")
        else:
            await link.expect_closed()


for _each in (Program.HOLD, Program.MODULE):  # for a peer that holds its group: it refuses the others
    _about = f"The program in versions may be {_each.value}."
    _program(_each.value, _about, _each.value, "EXT-VERSIONS", is_taken=True)
_program("unknown", "An unknown program ends the connection.", "script", "EXT-VERSIONS", "SESSION-BOX",
         is_taken=False)  # fmt: skip
_program("null", "A program of null ends the connection.", None, "EXT-VERSIONS", "SESSION-BOX", is_taken=False)
