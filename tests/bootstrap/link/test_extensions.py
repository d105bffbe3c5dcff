"""Peers without extensions, with other ones, or that use them uninvited. [EXT-*]"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bootstrap import LinkError
from bootstrap.link.gather import SideChannelError
from bootstrap.rank import Rank
from tests.bootstrap.links import leading, run, serving, session_0, session_1
from tests.bootstrap.working_ranks import Acting, Group
from wireproto import (
    JacclBootstrapPayload,
    Message,
    Outcome,
    OutcomeState,
    SideChannelPart,
    SideChannelWhole,
    Versions,
    session,
)
from wireproto.messages import EXTENSIONS, OUTCOME_1, SIDE_CHANNEL_1
from wireproto.session import Role, Session


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(tmp_path, monkeypatch)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All messages sent in this process, unsealed; without pings."""
    sent: list[bytes] = []
    encode = session.frame_pieces

    def recorded(message: Message, *options: Any) -> tuple[bytes, bytes]:
        pieces = encode(message, *options)
        if pieces != (b"\x03", b""):
            sent.append(b"".join(pieces))
        return pieces

    monkeypatch.setattr(session, "frame_pieces", recorded)
    return sent


PLAIN_PONG = b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'
PONG_ALL = PLAIN_PONG[:-1] + b',"extensions":["outcome/1","side-channel/1"]}'


@pytest.mark.parametrize("without", [{0}, {1}, {0, 1}])
def test_a_peer_without_extensions_meets_the_plain_protocol(
    without: set[int], group: Group, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: no other frames are sent to it or by it, and only rank 1's offer may be unknown to it.

    [EXT-OFFER, EXT-CHOICE, EXT-EMPTY]
    """

    async def act(rank: Acting) -> None:
        assert not rank.exchange.agreed
        assert rank.attempt is not None
        assert rank.attempt.side_channel is None

    async def main() -> None:
        await group.start([act, act], without=without, session_id="S-1")
        assert await group.ends() == [None, None]

    run(main)
    pong = PLAIN_PONG if 1 in without else PONG_ALL
    assert {*frames} == {pong, b'\x07{"port":29400,"sessionID":"S-1"}', b"\xff"}


def test_all_ranks_have_to_offer_an_extension(group: Group, frames: list[bytes]) -> None:
    """One of three does not: extensions are not used with the others either."""

    async def act(rank: Acting) -> None:
        assert not rank.exchange.agreed
        await asyncio.sleep(0)

    async def main() -> None:
        await group.start([act] * 3, without={2})
        assert await group.ends() == [None] * 3

    run(main)
    assert {frame[0] for frame in frames} == {0x04, 0x07, 0xFF}


def offer(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks but 0 offer these."""
    make = Rank.session

    def make_session(rank: Rank, role: Role, peer: int, peer_ip: str) -> Session:
        made = make(rank, role, peer, peer_ip)
        if role is Role.RESPONDER:
            made._supported = frozenset(names)
        return made

    monkeypatch.setattr(Rank, "session", make_session)


def test_names_that_rank_0_does_not_know(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown ones are ignored, and known ones are used. [EXT-UNKNOWN]"""
    offer({OUTCOME_1, "outcome/2", "zz-9/9999"}, monkeypatch)

    async def act(rank: Acting) -> None:
        assert rank.exchange.agreed
        assert rank.attempt is not None
        assert rank.attempt.side_channel is None

    async def main() -> None:
        await group.start([act, act])
        assert await group.ends() == [None, None]

    run(main)


def test_without_outcomes_a_fault_ends_the_connections(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """[EXT-SIDE-CHANNEL-FAULT]"""
    offer({SIDE_CHANNEL_1}, monkeypatch)

    async def act(rank: Acting) -> None:
        assert not rank.exchange.agreed
        await rank.gathers.gather(bytes(rank.plan.rank))

    async def main() -> None:
        await group.start([act] * 3)
        errors = await group.ends()
        assert [type(error) for error in errors] == [SideChannelError, LinkError, LinkError]
        assert {error.code for error in errors[1:] if isinstance(error, LinkError)} <= {"session-ended", "link-lost"}

    run(main)


STARTED = Outcome(1, OutcomeState.STARTED, "", "", "")
VERSIONS = Versions("0.1.0", "", "ring", "")


@pytest.mark.parametrize("message", [STARTED, VERSIONS, SideChannelPart(0, b"")], ids=lambda m: type(m).__name__)
def test_rank_1_sends_frames_uninvited(message: Message) -> None:
    """Rank 0 closes the session silently, and opens another. [EXT-UNINVITED, SESSION-SILENT]"""

    async def main() -> None:
        make = partial(session_1, extensions=EXTENSIONS)
        async with (
            serving(make_session=make) as (one, seen, port),
            leading(port, make_session=partial(session_0, extensions=EXTENSIONS)) as (zero, steps),
        ):
            await zero.offered()
            assert one._current is not None
            one._current.session._agreed = frozenset(EXTENSIONS)
            await one.send(message)
            await steps.until("link-lost", code="type-unknown")
            lost = await seen.until("link-lost")
            assert lost["code"] in ("link-closed", "link-reset", "link-replaced")  # rank 0 may reconnect before the end
            await steps.until("established", 2)

    run(main)


@pytest.mark.parametrize("message", [STARTED, VERSIONS, SideChannelWhole(0, b"")], ids=lambda m: type(m).__name__)
def test_rank_0_sends_frames_uninvited(message: Message) -> None:
    """[EXT-UNINVITED, SESSION-SILENT]"""

    async def main() -> None:
        make_0, make_1 = (partial(each, extensions=EXTENSIONS) for each in (session_0, session_1))
        async with serving(make_session=make_1) as (_, seen, port), leading(port, make_session=make_0) as (zero, steps):
            await zero.ponged()
            assert zero._link is not None
            zero._link.session._agreed = frozenset(EXTENSIONS)
            await zero.send(message)
            await seen.until("link-lost", code="type-unknown")
            await steps.until("link-lost", code="link-closed")
            await steps.until("established", 2)

    run(main)


def test_rank_0_names_what_was_not_offered() -> None:
    """[EXT-NOT-OFFERED]"""

    async def main() -> None:
        async with (
            serving(make_session=partial(session_1, extensions=(OUTCOME_1,))) as (one, seen, port),
            leading(port, make_session=partial(session_0, extensions=EXTENSIONS)) as (zero, _),
        ):
            await zero.offered()
            assert zero._link is not None
            zero._link.session._offered = frozenset(EXTENSIONS)
            await zero.bootstrap(JacclBootstrapPayload(29400, "S-1", EXTENSIONS))
            await seen.until("link-lost", code="extension-not-offered")
            assert one._bootstraps.empty()

    run(main)


def test_another_session_may_not_offer_what_was_chosen() -> None:
    """The peer reconnected, with other options, between its offer and the bootstrap frame."""

    async def main() -> None:
        async with serving() as (_, _, port), leading(port) as (zero, _):
            with pytest.raises(LinkError, match="rank 1 was replaced by a new one") as caught:
                await zero.bootstrap(JacclBootstrapPayload(29400, "S-1", (OUTCOME_1,)))
            assert caught.value.code == "link-lost"

    run(main)


def test_nothing_follows_the_end_of_a_session() -> None:
    """Rank 0 may still receive outcomes that it would pass on. [SESSION-END-SEND]"""

    async def main() -> None:
        async with serving() as (_, seen, port), leading(port) as (zero, _):
            await zero.ponged()
            await zero.stop()
            with pytest.raises(LinkError) as caught:
                await zero.send(STARTED)
            assert caught.value.code == "link-closed"
            await seen.until("session-ended")

    run(main)
