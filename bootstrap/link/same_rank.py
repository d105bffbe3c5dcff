"""Notices that both ranks of a pair were given the same number: two ranks 0 would connect, two ranks 1 would listen.

A rank 0 listens on its own link port, where only another rank 0 sends anything. A rank 1 connects to the peer's link
port, where a rank 0 closes soon, and another rank 1 waits for a hello.
"""

import asyncio
from contextlib import suppress
from typing import Final

from bootstrap.errors import LinkError

HELLO_SECONDS: Final = 0.5
"""How long whoever connects to a rank 0 has to send something, before it closes."""
WORD_SECONDS: Final = 1.5
"""How long the other end has to close: a rank 0 does so earlier, and a rank 1 once no hello can come any more."""
LOOK_SECONDS: Final = 3.0
"""Between two looks of a rank 1 that nobody has connected to."""
STAY_SECONDS: Final = LOOK_SECONDS + 2 * WORD_SECONDS + 1.5
"""How long a rank 1 goes on listening once it knows, so that the other finds out too."""


def _same(rank: int) -> LinkError:
    return LinkError(
        f"the peer has rank {rank}, and so has this rank; give one --rank 0 and the other --rank 1", code="same-rank"
    )


async def no_other_rank_0(own_ip: str, peer_ip: str, port: int, is_met: asyncio.Event) -> None:
    """Raise LinkError (`same-rank`) when the peer connects, and speaks, as rank 0 does; return once `is_met`."""
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

    with suppress(OSError):  # another program has the port: nothing can be found out
        async with await asyncio.start_server(look, own_ip, port):
            waits = [asyncio.create_task(event.wait()) for event in (found, is_met)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in (*waits, *filter(None, looking)):
                    each.cancel()
            if not is_met.is_set():
                await asyncio.sleep(WORD_SECONDS)  # the other connects every second, and is to find this one
                raise _same(0)


async def no_other_rank_1(own_ip: str, peer_ip: str, port: int, is_met: asyncio.Event) -> None:
    """Raise LinkError (`same-rank`) when the peer listens as rank 1 does; return once `is_met`."""
    while not await _set_within(is_met, LOOK_SECONDS):
        # A rank 0 that has just come up, or is slow to close, has a session with this rank soon.
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
            async with asyncio.timeout(WORD_SECONDS):  # the system of one that is stopped would not close it
                return not await reader.read(1)
    except (OSError, TimeoutError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return False
