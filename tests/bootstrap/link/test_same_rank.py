"""Both ranks of a pair with the same number: each is told, and no other rank."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest

from bootstrap.link import same_rank
from tests.bootstrap.links import run
from tests.bootstrap.ranks import LINK_PORT, Rank, Start, failed


async def connected(ip: str, **options: Any) -> asyncio.StreamWriter:
    """Connect once there is a listener."""
    while True:
        with suppress(ConnectionRefusedError):
            return (await asyncio.open_connection(ip, LINK_PORT, **options))[1]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_both_ranks_are_told_that_they_have_the_same_number(rank: str, pair: tuple[Rank, Rank], up: Start) -> None:
    """Each once waited for the other until its deadline."""
    assert same_rank.STAY_SECONDS == same_rank.LOOK_SECONDS + 2 * same_rank.WORD_SECONDS + 1.5  # as in the script
    options = ("--json", "--rank", rank, "--timeout", "40")
    runs = [up(own, peer, *options, program="looks_often.py") for own, peer in (pair, pair[::-1])]
    for each in runs:
        event = failed(each, "same-rank")
        assert event["message"].startswith(f"this rank and the peer both have rank {rank}")


def test_a_rank_0_that_had_just_come_up_was_taken_for_a_rank_1(pair: tuple[Rank, Rank]) -> None:
    """It once held the connection longer than a rank 1 waited for its close."""
    zero, one = pair

    async def main() -> None:
        rank_0 = asyncio.create_task(same_rank.no_other_rank_0(zero.ip, one.ip, LINK_PORT, asyncio.Event()))
        (await connected(zero.ip)).close()
        assert not await same_rank._waits_for_a_hello(one.ip, zero.ip, LINK_PORT)
        rank_0.cancel()

    run(main)


def test_a_session_is_the_better_proof(pair: tuple[Rank, Rank], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank 0 that closes slowly, and meanwhile has a session with this rank, is not a rank 1."""
    zero, one = pair
    monkeypatch.setattr(same_rank, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(same_rank, "WORD_SECONDS", 0.5)
    is_met = asyncio.Event()

    async def has_a_session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until this rank has given up
        is_met.set()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(has_a_session, zero.ip, LINK_PORT):
            await same_rank.no_other_rank_1(one.ip, zero.ip, LINK_PORT, is_met)

    run(main)


def test_a_stopped_rank_0_was_taken_for_a_rank_1(pair: tuple[Rank, Rank], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its system accepts the connection, and no process closes it."""
    zero, one = pair
    monkeypatch.setattr(same_rank, "WORD_SECONDS", 0.2)
    with socket.create_server((zero.ip, LINK_PORT)):
        assert not asyncio.run(same_rank._waits_for_a_hello(one.ip, zero.ip, LINK_PORT))


def test_no_connection_to_a_rank_0_outlives_its_look(pair: tuple[Rank, Rank]) -> None:
    """It did by half a second, in the caller's event loop."""
    zero, _ = pair

    async def main() -> None:
        rank_0 = asyncio.create_task(same_rank.no_other_rank_0(zero.ip, zero.ip, LINK_PORT, asyncio.Event()))
        writer = await connected(zero.ip, local_addr=(zero.ip, 0))
        while len(asyncio.all_tasks()) < 5:  # noqa: ASYNC110 - main, rank 0, its two waits, and the look
            await asyncio.sleep(0.01)
        rank_0.cancel()
        await asyncio.wait({rank_0})
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        writer.close()

    run(main)
