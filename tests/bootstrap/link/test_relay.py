"""The relay of native JACCL's side channel: native ends in asyncio on real loopback sockets, links in memory."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bootstrap.link.gather import SideChannelError
from bootstrap.link.relay import HOST, MAX_CANDIDATES, Relay, relay
from bootstrap.link.side_channel import SideChannel
from tests.bootstrap.exchanges import Links
from tests.bootstrap.links import run
from wireproto.jaccl import OWN_ENTRY, Destination, Root, Worker, mapped_gid, mesh_init, ring_init

LIMIT = 1.0
"""Seconds from a fault to its error."""


class Process:
    """The process with native JACCL."""

    def __init__(self) -> None:
        self.runs = True
        self.can_be_looked_into = True
        self.owned: set[int] = set()

    def is_running(self) -> bool:
        return self.runs

    async def owns(self, address: tuple[str, int]) -> bool | None:
        return (address[0] == HOST and address[1] in self.owned) if self.can_be_looked_into else None


class Group:
    """The relays of all ranks, linked; no native code runs yet."""

    def __init__(self, size: int, ring: bool) -> None:
        self.size, self.ring = size, ring
        self.links = Links()
        self.channels = [SideChannel(rank, size, self.links.send_of(rank)) for rank in range(size)]
        self.links.takers.update(enumerate(self.channels))
        self.processes = [Process() for _ in range(size)]
        self.relays: list[Relay] = []
        self.serving: list[asyncio.Task[None]] = []
        self.writers: dict[int, list[asyncio.StreamWriter]] = {rank: [] for rank in range(size)}

    def init(self, rank: int) -> Generator[bytes, bytes, Any]:
        reached = Destination(1, rank, gid=mapped_gid(f"169.254.1.{rank + 1}"))
        if self.ring:
            return ring_init(rank, self.size, [reached], [reached])
        return mesh_init(rank, self.size, [OWN_ENTRY if peer == rank else reached for peer in range(self.size)])

    async def native(self, rank: int) -> Any:
        """Act like a rank's native JACCL; return the result of its init."""
        return await self.forms(rank, await (self.root() if rank == 0 else self.worker(rank)))

    async def forms(self, rank: int, gather: Callable[[bytes], Awaitable[bytes]]) -> Any:
        init = self.init(rank)
        own = next(init)
        while True:
            try:
                own = init.send(await gather(own))
            except StopIteration as done:
                return done.value

    async def worker(self, rank: int) -> Callable[[bytes], Awaitable[bytes]]:
        reader, writer = await asyncio.open_connection(HOST, self.relays[rank].port)
        worker = Worker(rank, self.size)
        self.processes[rank].owned.add(writer.get_extra_info("sockname")[1])
        self.writers[rank].append(writer)
        writer.write(worker.start())

        async def gather(own: bytes) -> bytes:
            writer.write(worker.gather(own))
            while (result := worker.receive(await reader.read(4096) or fail())) is None:
                pass
            return result

        return gather

    async def close(self, *ranks: int) -> None:
        """Close the native connections of these ranks."""
        writers = [writer for rank in ranks for writer in self.writers[rank]]
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def root(self) -> Callable[[bytes], Awaitable[bytes]]:
        root = Root(self.size)
        streams: list[Any] = []
        there = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers[0].append(writer)
            connection = root.connect()
            connection.receive(await reader.readexactly(4))
            streams.append((connection, reader, writer))
            there.set()

        self.processes[0].owned.add(self.relays[0].port)
        server = await asyncio.start_server(accept, HOST, self.relays[0].port)
        while len(streams) < self.size - 1:
            there.clear()
            await there.wait()
        server.close()

        async def gather(own: bytes) -> bytes:
            root.gather(own)
            for connection, reader, _ in streams:
                connection.receive(await reader.readexactly(len(own)))
            result = root.result()
            assert result is not None
            for _, _, writer in streams:
                writer.write(result)
            return result

        return gather


def fail() -> bytes:
    raise EOFError


@asynccontextmanager
async def relayed(size: int, *, ring: bool = False) -> AsyncIterator[Group]:
    group = Group(size, ring)
    async with asyncio.timeout(30):
        stacks = [relay(rank, size, group.channels[rank], group.processes[rank], ring=ring) for rank in range(size)]
        group.relays = [await stack.__aenter__() for stack in stacks]
        group.serving = [asyncio.create_task(each.serve()) for each in group.relays]
        try:
            yield group
        finally:
            await group.close(*range(size))
            for task in group.serving:
                task.cancel()
            await asyncio.gather(*group.serving, return_exceptions=True)
            for stack in stacks:
                await stack.__aexit__(None, None, None)


async def fault_of(group: Group, rank: int) -> tuple[str, str]:
    """Return the code and text with which a rank's relay soon ends."""
    with pytest.raises(SideChannelError) as caught:
        async with asyncio.timeout(LIMIT):
            await group.serving[rank]
    return caught.value.code, str(caught.value)


def listening() -> set[int]:
    """Return the TCP ports on HOST with a listening socket."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1][9:], 16) for row in rows if row[3] == "0A" and row[1].startswith("0100007F")}


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_native_ranks_form_their_group(size: int, ring: bool) -> None:
    """All get the same error; afterwards nothing listens. [EXT-SIDE-CHANNEL-NATIVE]"""

    async def main() -> None:
        async with relayed(size, ring=ring) as group:
            lists = await asyncio.gather(*(group.native(rank) for rank in range(size)))
            assert all(each == lists[0] for each in lists)
            assert listening().isdisjoint(each.port for each in group.relays)
            assert not any(task.done() for task in group.serving)

    run(main)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_any_rank_may_be_last(late: int) -> None:
    """The others are in the middle of their init by then."""

    async def main() -> None:
        async with relayed(3) as group:
            first = [asyncio.create_task(group.native(rank)) for rank in range(3) if rank != late]
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in first)
            last = await group.native(late)
            assert await asyncio.gather(*first) == [last, last]

    run(main)


def test_a_command_may_form_one_group_after_the_other() -> None:
    """Like a shell script with two programs; the same ports serve both."""

    async def main() -> None:
        async with relayed(2) as group:
            for _ in range(2):
                gathers = await asyncio.gather(group.root(), worker_of(group))
                await asyncio.gather(*(group.forms(rank, gather) for rank, gather in enumerate(gathers)))
                await group.close(0, 1)

    run(main)


async def worker_of(group: Group) -> Callable[[bytes], Awaitable[bytes]]:
    """Rank 1's, once its relay listens."""
    while True:
        with suppress(ConnectionRefusedError):
            return await group.worker(1)
        await asyncio.sleep(0.01)


def test_the_root_may_leave_right_after_its_last_result() -> None:
    """Rank 1 once hung: rank 0's end of connection overtook the last result, which was never sent."""

    async def main() -> None:
        for _ in range(20):
            async with relayed(2) as group:
                one = asyncio.create_task(group.native(1))
                gather = await group.root()
                await group.forms(0, gather)
                await group.close(0)
                await one

    run(main)


# -- strangers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"\x01", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, *(struct.pack("<i", n) for n in (-1, 0, 1, 2, 99))],
)
def test_a_stranger_at_the_port_of_another_rank_is_harmless(said: bytes) -> None:
    async def main() -> None:
        async with relayed(3) as group:
            strangers = []
            for _ in range(MAX_CANDIDATES + 2):
                strangers.append(await asyncio.open_connection(HOST, group.relays[1].port))
                strangers[-1][1].write(said)
            await asyncio.gather(*(group.native(rank) for rank in range(3)))
            for reader, writer in strangers:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            assert not any(task.done() for task in group.serving)

    run(main)


def test_a_stranger_at_the_port_of_the_root_was_taken_for_it() -> None:
    """It was told a rank, and a gather began for it: "rank 7 put 0 bytes into gather 0, rank 0 4"."""

    async def main() -> None:
        async with relayed(3) as group:
            heard: asyncio.Queue[bytes] = asyncio.Queue()

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                heard.put_nowait(await reader.read())
                writer.close()

            stranger = await asyncio.start_server(accept, HOST, group.relays[0].port)
            workers = [asyncio.create_task(group.native(rank)) for rank in (1, 2)]
            assert [await heard.get(), await heard.get()] == [b"", b""]
            stranger.close()
            await stranger.wait_closed()
            await asyncio.gather(group.native(0), *workers)
            assert not any(task.done() for task in group.serving)

    run(main)


def test_the_worker_may_be_a_process_that_cannot_be_looked_into() -> None:
    """Like one that runs as another user: its HELLO is enough."""

    async def main() -> None:
        async with relayed(2) as group:
            group.processes[1].can_be_looked_into = False
            await asyncio.gather(group.native(0), group.native(1))

    run(main)


def test_only_so_many_strangers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if they all connect at the same time."""
    monkeypatch.setattr("bootstrap.link.relay.HELLO_SECONDS", 600)

    async def main() -> None:
        async with relayed(2) as group:
            count = 3 * MAX_CANDIDATES
            streams = [await asyncio.open_connection(HOST, group.relays[1].port) for _ in range(count)]
            ended = [asyncio.create_task(reader.read()) for reader, _ in streams]
            for end in islice(asyncio.as_completed(ended), count - MAX_CANDIDATES):
                assert await end == b""
            await asyncio.gather(group.native(0), group.native(1))
            await asyncio.gather(*ended, return_exceptions=True)
            for _, writer in streams:
                writer.close()

    run(main)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_command_that_takes_itself_for_another_rank() -> None:
    async def main() -> None:
        async with relayed(3) as group:
            _, writer = await asyncio.open_connection(HOST, group.relays[1].port)
            group.processes[1].owned.add(writer.get_extra_info("sockname")[1])
            writer.write(struct.pack("<i", 2))
            code, text = await fault_of(group, 1)
            assert code == "side-channel-rank"
            assert text.startswith("rank 1, gather 0 of the init: native JACCL reports rank 2;")
            writer.close()
            await writer.wait_closed()

    run(main)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("runs", [False, True])
def test_native_code_leaves_in_the_middle_of_a_gather(rank: int, runs: bool) -> None:
    """If its process has exited, too, the exit status is the reason instead of the relay."""

    async def main() -> None:
        async with relayed(3) as group:
            tasks = [asyncio.create_task(group.native(r)) for r in (0, 1) if r != rank]
            gather = await (group.root() if rank == 0 else group.worker(rank))
            waiting = asyncio.create_task(group.forms(rank, gather))  # rank 2 does not come
            await asyncio.sleep(0.1)
            group.processes[rank].runs = runs
            await group.close(rank)
            if runs:
                text = f"rank {rank}, gather 0 of the init: native JACCL disconnected before the init was complete"
                assert await fault_of(group, rank) == ("side-channel-lost", text)
            else:
                async with asyncio.timeout(LIMIT):
                    await group.serving[rank]
            for task in (waiting, *tasks):
                task.cancel()
            await asyncio.gather(waiting, *tasks, return_exceptions=True)

    run(main)


def test_another_number_of_cables() -> None:
    """Detected before any rank's native code receives it."""

    async def main() -> None:
        async with relayed(2) as group:
            zero = asyncio.create_task(group.native(0))
            gather = await group.worker(1)
            waiting = asyncio.create_task(gather(struct.pack("<i", 4)))
            code, text = await fault_of(group, 0)
            assert code == "side-channel-malformed"
            assert "rank 1 has 4 Destinations, and rank 0 has 2" in text
            for task in (zero, waiting):
                task.cancel()
            await asyncio.gather(zero, waiting, return_exceptions=True)

    run(main)


@pytest.mark.parametrize("count", [0, 1, 3, -2, 2**31 - 1])
def test_a_count_that_no_mesh_has_does_not_leave_its_rank(count: int) -> None:
    async def main() -> None:
        async with relayed(2) as group:
            gather = await group.worker(1)
            waiting = asyncio.create_task(gather(struct.pack("<i", count)))
            code, text = await fault_of(group, 1)
            assert code == "side-channel-malformed"
            assert f"rank 1 has {count} Destinations" in text
            assert group.links.sent == []
            await asyncio.gather(waiting, return_exceptions=True)

    run(main)


def test_bytes_before_their_gather() -> None:
    async def main() -> None:
        async with relayed(2) as group:
            gather = await group.worker(1)
            waiting = asyncio.create_task(gather(struct.pack("<i", 2) + b"\0"))
            code, text = await fault_of(group, 1)
            assert (code, "jaccl-early" in text) == ("side-channel-malformed", True)
            await asyncio.gather(waiting, return_exceptions=True)

    run(main)


def test_a_peer_that_sends_a_part_of_another_size() -> None:
    """Our relay does not send it: it never reaches the native root."""

    async def main() -> None:
        async with relayed(2) as group:
            zero = asyncio.create_task(group.native(0))
            other = asyncio.create_task(group.channels[1].gather(bytes(5)))
            assert await fault_of(group, 0) == ("side-channel-size", "rank 1 put 5 bytes into gather 0, rank 0 4")
            for task in (zero, other):
                task.cancel()
            await asyncio.gather(zero, other, return_exceptions=True)

    run(main)
