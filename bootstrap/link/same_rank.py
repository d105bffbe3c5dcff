"""Detects that both ranks of a pair have the same number. Two ranks 0 would only connect, two ranks 1 only listen.

A rank 0 listens on its own link port, where only another rank 0 sends anything. A rank 1 connects to the peer's link
port, where a rank 0 closes soon, and another rank 1 waits for a hello.
"""

import asyncio
from contextlib import suppress
from typing import Final

from bootstrap.errors import LinkError

HELLO_SECONDS: Final = 0.5
"""How long a rank 0 waits for the first byte of a connection before it closes it."""
WORD_SECONDS: Final = 1.5
"""How long the other end may take to close: a rank 0 closes earlier, a rank 1 once no hello can come."""
LOOK_SECONDS: Final = 3.0
"""Between two checks of a rank 1 without a connection."""
STAY_SECONDS: Final = LOOK_SECONDS + 2 * WORD_SECONDS + 1.5
"""How long a rank 1 keeps listening after that, so that the other one notices too."""


def _same(rank: int) -> LinkError:
    text = f"this rank and the peer both have rank {rank}; give one --rank 0 and the other --rank 1"
    return LinkError(text, code="same-rank")


async def no_other_rank_0(own_ip: str, peer_ip: str, port: int, is_met: asyncio.Event) -> None:
    """Raise LinkError (`same-rank`) if the peer connects and sends like a rank 0. Return once `is_met`."""
    found = asyncio.Event()
    looking: set[asyncio.Task[None] | None] = set()

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        looking.add(task)
        try:
            if writer.get_extra_info("peername")[0] == peer_ip:
                async with asyncio.timeout(HELLO_SECONDS):
                    if await reader.read(1):
                        found.set()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            looking.discard(task)

    with suppress(OSError):  # another program has the port, so this cannot be checked
        async with await asyncio.start_server(look, own_ip, port):
            waits = [asyncio.create_task(event.wait()) for event in (found, is_met)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in (*waits, *filter(None, looking)):
                    each.cancel()
            if not is_met.is_set():
                await asyncio.sleep(WORD_SECONDS)  # the other connects every second, and must find this one
                raise _same(0)


async def no_other_rank_1(own_ip: str, peer_ip: str, port: int, is_met: asyncio.Event) -> None:
    """Raise LinkError (`same-rank`) if the peer listens like a rank 1. Return once `is_met`."""
    while not await _set_within(is_met, LOOK_SECONDS):
        # A rank 0 that has just started, or is slow to close, soon has a session with this rank.
        if await _waits_for_a_hello(own_ip, peer_ip, port) and not await _set_within(is_met, STAY_SECONDS):
            raise _same(1)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def _waits_for_a_hello(own_ip: str, peer_ip: str, port: int) -> bool:
    writer = None
    try:
        async with asyncio.timeout(WORD_SECONDS):
            reader, writer = await asyncio.open_connection(peer_ip, port, local_addr=(own_ip, 0))
        try:
            async with asyncio.timeout(WORD_SECONDS):
                await reader.read(1)
        except TimeoutError:
            writer.write_eof()
            async with asyncio.timeout(WORD_SECONDS):  # a stopped process would not close it
                return not await reader.read(1)
    except (OSError, TimeoutError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return False
