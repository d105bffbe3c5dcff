"""The rehearsal of JACCL's mesh init: over real sockets, on addresses of this host, and against strangers."""

import asyncio
import gc
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest

from bootstrap import Plan
from bootstrap.link import relay as rehearsal
from bootstrap.link.relay import RehearsalError
from tests.bootstrap.links import run
from tests.bootstrap.rehearsals import Stranger, failed, leading, nothing_left, plans, settled, started, until, watched

SHORT = 0.3
"""Seconds of a rehearsal that is meant to fail by its deadline."""
SLACK = 5.0
"""Seconds that a busy machine may add."""
HELLO = struct.Struct("<i")
COUNT = HELLO


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "SECONDS", SHORT)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails has to do so by itself, and not by the deadline."""
    monkeypatch.setattr(rehearsal, "SECONDS", 20.0)


# -- played through ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("size", [2, 4, 8])
def test_all_ranks_play_it(size: int) -> None:
    """[EXT-REHEARSAL, EXT-REHEARSAL-CLOSE, JACCL-MESH-INIT]"""

    async def main() -> None:
        zero, *others = plans(size)
        async with leading(zero) as part:
            await asyncio.gather(*started(*others))
            assert await part == []
        await nothing_left(zero)

    run(main)


@pytest.mark.usefixtures("patient")
def test_the_workers_may_come_before_rank_0() -> None:
    """As when a bootstrap frame overtakes the listener of a peer that is not this program."""

    async def main() -> None:
        zero, one = plans()
        (worker,) = started(one)
        await asyncio.sleep(2 * rehearsal._RETRY_SECONDS)
        async with leading(zero) as part:
            await worker
            assert await part == []
        await nothing_left(zero)

    run(main)


@pytest.mark.usefixtures("patient")
def test_the_same_port_again_and_again() -> None:
    async def main() -> None:
        zero, one = plans()
        for _ in range(5):
            async with leading(zero) as part:
                await asyncio.gather(part, *started(one))
        await nothing_left(zero)

    run(main)


@pytest.mark.usefixtures("patient")
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_the_listener_is_closed_where_nobody_plays() -> None:
    async def main() -> None:
        zero, _ = plans()
        async with rehearsal.rehearsal(zero):
            with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
                other.bind((zero.ips[0], zero.port))
        await nothing_left(zero)
        gc.collect()

    run(main)


def test_the_number_of_a_session() -> None:
    """[EXT-REHEARSAL-SESSION] The first 31 bits of SHA-256: `printf S-1 | sha256sum` starts with 6636c92b."""
    (zero, _) = plans(session_id="S-1")
    assert rehearsal._session_number(zero) == 0x6636C92B >> 1


# -- strangers ---------------------------------------------------------------------------------------------------------

OUTSIDE = "127.0.0.1"
"""An address that is no rank's."""


@pytest.mark.usefixtures("patient")
def test_an_address_that_is_no_ranks_is_turned_away_at_once() -> None:
    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part:
            for data in (b"", HELLO.pack(1), b"GET / HTTP/1.1\r\n\r\n"):
                async with Stranger(zero, OUTSIDE) as stranger:
                    await stranger.says(data)
                    await stranger.turned_away()
            await asyncio.gather(*started(one))
            assert await part == [f"{OUTSIDE}, which is no rank's address"]

    run(main)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "jaccl-rank in rank at byte 0: 542393671 is not from 1 to 1"),
        (b"\xff" * 100, "jaccl-rank in rank at byte 0: -1 is not from 1 to 1"),
        (HELLO.pack(0), "jaccl-rank in rank at byte 0: 0 is not from 1 to 1"),
        (HELLO.pack(2), "jaccl-rank in rank at byte 0: 2 is not from 1 to 1"),
        (bytes(1 << 20), "jaccl-rank in rank at byte 0: 0 is not from 1 to 1"),
    ],
    ids=["HTTP", "noise", "rank 0", "rank 2 of 2", "a megabyte"],
)
def test_a_wrong_hello_ends_its_own_connection(data: bytes, why: str) -> None:
    """[JACCL-HELLO]"""

    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part:
            async with Stranger(zero, one.ips[1]) as stranger:
                await stranger.says(data)
                await stranger.turned_away()
            await asyncio.gather(*started(one))
            assert await part == [f"{one.ips[1]}, which said no HELLO ({why})"]

    run(main)


@pytest.mark.usefixtures("patient")
def test_one_that_leaves_without_a_hello() -> None:
    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part:
            for data in (b"", b"\x01\x00"):
                async with Stranger(zero, one.ips[1]) as stranger:
                    await stranger.says(data)
                    stranger.writer.write_eof()
                    await stranger.turned_away()
            await asyncio.gather(*started(one))
            turned_away = await part
        assert [each.partition(" (")[0] for each in turned_away] == [f"{one.ips[1]}, which said no HELLO"] * 2
        assert all("truncated at byte" in each for each in turned_away)

    run(main)


@pytest.mark.usefixtures("patient")
def test_a_silent_one_holds_up_nobody() -> None:
    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part, Stranger(zero, one.ips[1]), Stranger(zero, one.ips[1]) as second:
            await second.says(b"\x01")
            await asyncio.gather(*started(one))
            assert await part == []
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@pytest.mark.usefixtures("patient")
def test_a_rank_that_is_there_already() -> None:
    """[JACCL-HELLO]"""

    async def main() -> None:
        zero, one, two = plans(3)
        async with watched(zero) as (root, part):
            (worker,) = started(one)
            await until(lambda: 1 in root.workers)
            async with Stranger(zero, one.ips[1]) as twin:
                await twin.says(HELLO.pack(1))
                await twin.turned_away()
            await asyncio.gather(worker, *started(two))
            (why,) = await part
        assert why.startswith(f"{one.ips[1]}, which said no HELLO (jaccl-rank-taken in rank at byte 0")

    run(main)


@pytest.mark.usefixtures("patient")
def test_many_strangers_are_named_once() -> None:
    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part:
            for _ in range(50):
                async with Stranger(zero, OUTSIDE) as stranger:
                    await stranger.turned_away()
            await asyncio.gather(*started(one))
            assert await part == [f"{OUTSIDE}, which is no rank's address"]

    run(main)


# -- ranks that do not fit ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
def test_a_hello_from_another_ranks_address() -> None:
    async def main() -> None:
        zero, one, two = plans(3)
        async with leading(zero) as part, Stranger(zero, two.ips[2]) as stranger:
            await stranger.says(HELLO.pack(1))
            assert await failed(part) == (
                "rehearsal-foreign",
                f"a HELLO for rank 1 came from {two.ips[2]}, not from {one.ips[1]}",
            )

    run(main)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("size", [2, 3])
def test_a_worker_of_another_session(size: int) -> None:
    """[EXT-REHEARSAL-SESSION]"""

    async def main() -> None:
        zero, *others = plans(size)
        foreign = Plan(rank=1, ips=zero.ips, port=zero.port, session_id="S-2")
        async with leading(zero) as part:
            workers = started(foreign, *others[1:])
            code, text = await failed(part)
            assert (code, text) == (
                "rehearsal-foreign",
                f"rank 1 at the coordinator {zero.coordinator} belongs to another session",
            )
            code, text = await failed(workers[0])
            assert (code, text) == (
                "rehearsal-foreign",
                f"rank 0 at the coordinator {zero.coordinator} belongs to another session",
            )
            for worker in workers[1:]:
                code, text = await failed(worker)
                assert code == "rehearsal-foreign"
                assert text.startswith("rank 1 ")

    run(main)


def early(plan: Plan) -> bytes:
    """A HELLO, and more than the first contribution: what can only be said once its result is known."""
    return HELLO.pack(plan.rank) + COUNT.pack(plan.size) + b"\0"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("joined", ["byte by byte", "at once"])
def test_bytes_that_are_too_early(joined: str) -> None:
    """[JACCL-GATHER]"""

    async def main() -> None:
        zero, one, _ = plans(3)
        async with leading(zero) as part, Stranger(zero, one.ips[1]) as stranger:
            data = early(one)
            for at in range(len(data)) if joined == "byte by byte" else [0]:
                await stranger.says(data[at : at + 1] if joined == "byte by byte" else data)
            # Rank 2 comes, so that the first gather begins.
            async with Stranger(zero, zero.ips[2]) as other:
                await other.says(HELLO.pack(2) + COUNT.pack(3))
                code, text = await failed(part)
        assert code == "rehearsal-foreign"
        assert "jaccl-early" in text
        assert "rank 1" in text

    run(main)


@pytest.mark.usefixtures("patient")
def test_another_number_of_ranks() -> None:
    """One host has another hostfile: its count does not fit. [JACCL-MESH-INIT]"""

    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part, Stranger(zero, one.ips[1]) as stranger:
            await stranger.says(HELLO.pack(1) + COUNT.pack(4))
            code, text = await failed(part)
        assert code == "rehearsal-foreign"
        assert "jaccl-count" in text

    run(main)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("said", [b"", b"\x02", COUNT.pack(2)[:3]], ids=["HELLO", "1 byte", "3 bytes"])
def test_a_worker_that_stops_in_the_middle(said: bytes, end: str) -> None:
    async def main() -> None:
        zero, one = plans()
        async with watched(zero) as (root, part):
            async with Stranger(zero, one.ips[1]) as stranger:
                await stranger.says(HELLO.pack(1) + said)
                await until(lambda: 1 in root.workers and root.workers[1].waiting == len(said))
                if end == "reset":
                    reset(stranger.writer)
            assert await failed(part) == (
                "rehearsal-lost",
                f"rank 1 at {one.ips[1]} left in the middle; see what it says",
            )

    run(main)


def reset(writer: asyncio.StreamWriter) -> None:
    """Its close is a reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# -- rank 0 is not there, or is another -------------------------------------------------------------------------------


@asynccontextmanager
async def coordinator(plan: Plan, answer: Callable[[bytes], bytes], end: str = "") -> AsyncIterator[None]:
    """A program at the coordinator's port: it answers what comes, and may end the connection then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(answer(data))
            if end == "reset":
                reset(writer)
            if end:
                break
        writer.close()

    server = await asyncio.start_server(serve, plan.ips[0], plan.port)
    try:
        yield
    finally:
        server.close()
        await settled()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_coordinator_that_ends_the_connection(end: str) -> None:
    async def main() -> None:
        zero, one = plans()
        async with coordinator(zero, lambda data: b"", end):
            assert await failed(*started(one)) == (
                "rehearsal-lost",
                f"the coordinator {zero.coordinator} left in the middle; see what it says",
            )

    run(main)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda data: b"HTTP/1.1 400 Bad Request\r\n\r\n", "jaccl-own-changed"),
        (lambda data: b"SSH-2.0-x", "jaccl-own-changed"),
        (lambda data: COUNT.pack(2) * 2 + b"\0", "jaccl-early"),
        (lambda data: COUNT.pack(3) + COUNT.pack(2), "jaccl-count"),
    ],
    ids=["HTTP", "SSH", "too much", "another count"],
)
def test_a_coordinator_that_is_another_program(answer: Callable[[bytes], bytes], code: str) -> None:
    async def main() -> None:
        zero, one = plans()
        async with coordinator(zero, answer):
            found, text = await failed(*started(one))
        assert found == "rehearsal-foreign"
        assert text.startswith(f"the coordinator {zero.coordinator} does not keep to the side channel: {code}")

    run(main)


@pytest.mark.usefixtures("patient")
def test_an_own_address_that_is_gone() -> None:
    async def main() -> None:
        zero, _ = plans()
        one = Plan(rank=1, ips=(zero.ips[0], "192.0.2.1"), port=zero.port)
        code, text = await failed(*started(one))
        assert code == "rehearsal-unreachable"
        assert text.startswith(f"the coordinator {zero.coordinator} cannot be reached: ")

    run(main)


# -- the port ----------------------------------------------------------------------------------------------------------


def listener(plan: Plan, ip: str, *options: int) -> socket.socket:
    taken = socket.socket()
    for option in options:
        taken.setsockopt(socket.SOL_SOCKET, option, 1)
    taken.bind((ip, plan.port))
    taken.listen()
    return taken


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_port_in_use(options: tuple[int, ...], everywhere: bool) -> None:
    """Also by a listener such as MLX's own, with whom another of MLX's would share the port, and mix up two groups."""

    async def main() -> None:
        zero, _ = plans()
        with closing(listener(zero, "0.0.0.0" if everywhere else zero.ips[0], *options)):  # noqa: S104
            with pytest.raises(RehearsalError) as caught:
                async with rehearsal.rehearsal(zero):
                    pass
            assert (caught.value.code, str(caught.value)) == (
                "port-in-use",
                f"cannot listen on the coordinator's {zero.coordinator}: another program listens there",
            )
        await nothing_left(zero)

    run(main)


def test_a_port_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    async def main() -> None:
        zero, _ = plans()
        monkeypatch.setattr(socket.socket, "bind", refuse)
        with pytest.raises(RehearsalError) as caught:
            async with rehearsal.rehearsal(zero):
                pass
        assert (caught.value.code, str(caught.value)) == (
            "port-refused",
            f"cannot listen on the coordinator's {zero.coordinator}: Permission denied",
        )

    run(main)


# -- the deadline ------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert SHORT <= time.monotonic() - start < SHORT + SLACK


@pytest.mark.usefixtures("short", "in_time")
def test_a_worker_that_never_comes() -> None:
    async def main() -> None:
        zero, one, two = plans(3)
        async with leading(zero) as part, Stranger(zero, one.ips[1]) as stranger:
            await stranger.says(HELLO.pack(7))
            await stranger.turned_away()
            (worker,) = started(one)
            code, text = await failed(part)
        assert code == "rehearsal-timeout"
        assert text == (
            f"rank 2 ({two.ips[2]}) did not play its part at {zero.coordinator} within {SHORT} s; turned away: "
            f"{one.ips[1]}, which said no HELLO (jaccl-rank in rank at byte 0: 7 is not from 1 to 2)"
        )
        # Rank 0 has given up; the rank that was there says where to look, and not that the port is another's.
        assert (await failed(worker))[0] in ("rehearsal-lost", "rehearsal-timeout")
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@pytest.mark.usefixtures("short", "in_time")
def test_a_worker_that_says_hello_and_no_more() -> None:
    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part, Stranger(zero, one.ips[1]) as stranger:
            await stranger.says(HELLO.pack(1))
            code, text = await failed(part)
        assert code == "rehearsal-timeout"
        assert text.startswith(f"rank 1 ({one.ips[1]}) did not play its part")

    run(main)


@pytest.mark.usefixtures("short", "in_time")
def test_a_worker_that_does_not_leave() -> None:
    """The port would not be free for the native init. [EXT-REHEARSAL-CLOSE]"""

    async def main() -> None:
        zero, one = plans()
        async with leading(zero) as part, Stranger(zero, one.ips[1]) as stranger:
            channel = rehearsal.Worker(1, 2)
            init = rehearsal.mesh_init(1, 2, rehearsal._destinations(one))
            await stranger.says(channel.start())
            own = next(init)
            for _ in range(4):
                await stranger.says(channel.gather(own))
                result = None
                while result is None:
                    result = channel.receive(await stranger.reader.read(4096))
                try:
                    own = init.send(result)
                except StopIteration:
                    break
            code, text = await failed(part)
        assert (code, text) == (
            "rehearsal-timeout",
            f"a rank did not play its part at {zero.coordinator} within {SHORT} s",
        )

    run(main)


@pytest.mark.usefixtures("short", "in_time")
def test_nobody_listens() -> None:
    async def main() -> None:
        zero, one = plans()
        assert await failed(*started(one)) == (
            "rehearsal-refused",
            f"nobody listens at the coordinator {zero.coordinator}",
        )
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@pytest.mark.usefixtures("short", "in_time")
@pytest.mark.parametrize("accepts", [True, False])
def test_a_coordinator_that_says_nothing(accepts: bool) -> None:
    async def main() -> None:
        zero, one = plans()
        with closing(listener(zero, zero.ips[0])) as mute:
            if not accepts:
                mute.listen(0)
            assert await failed(*started(one)) == (
                "rehearsal-timeout",
                f"the coordinator {zero.coordinator} did not answer within {SHORT} s",
            )
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@pytest.mark.usefixtures("patient")
def test_a_rehearsal_that_is_cancelled_leaves_nothing() -> None:
    async def main() -> None:
        zero, one, _ = plans(3)
        async with watched(zero) as (root, _):
            (worker,) = started(one)
            await until(lambda: 1 in root.workers)
        assert (await failed(worker))[0] == "rehearsal-lost"
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with closing(listener(zero, zero.ips[0], socket.SO_REUSEADDR)):  # as MLX's listener has it
            pass

    run(main)
