"""Links over real sockets."""

import asyncio
import os
import socket
import sys
from functools import partial

import pytest

from bootstrap import LinkError
from bootstrap.link.transport import MAX_WAITING, Link, connect, listen
from tests.bootstrap.links import HOST, SECONDS, linked, run, session_0, session_1
from tests.wireproto.peers import output
from wireproto import (
    InferenceStep,
    JacclBootstrapPayload,
    MemoryPressure,
    Ping,
    PongPayload,
    Revision,
    SessionEnd,
    encode_link_frame,
)
from wireproto.codec.link import HEADER
from wireproto.messages import MAX_LINK_LENGTH
from wireproto.session import Closed, Confirmed, Established, KeyNearLimit, MessageReceived, seal

PAYLOAD = JacclBootstrapPayload(29400, "S-1")
PONG = PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)


@pytest.mark.parametrize("revision", list(Revision))
def test_messages_go_both_ways(revision: Revision) -> None:
    async def main() -> None:
        async with linked(revision) as (near, far):
            confirmed = [Confirmed()] if revision is Revision.V2 else []
            await near.send(PAYLOAD, SECONDS)
            for event in [*confirmed, MessageReceived(PAYLOAD)]:
                assert await far.receive() == event
            await far.send(PONG, SECONDS)
            for event in [*confirmed, MessageReceived(PONG)]:
                assert await near.receive() == event

    run(main)


def test_a_frame_of_64_mib() -> None:
    box = os.urandom(64 * 1024 * 1024)

    async def main() -> None:
        async with linked() as (near, far):
            sending = asyncio.create_task(near.send(InferenceStep(box), SECONDS))
            assert await far.receive() == Confirmed()
            assert await far.receive() == MessageReceived(InferenceStep(box))
            await sending

    run(main)


def test_socket_options() -> None:
    """[SESSION-TCP]"""

    async def main() -> None:
        async with linked() as ends:
            for end in ends:
                tuned = end._transport.get_extra_info("socket")
                assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert tuned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                idle = socket.TCP_KEEPALIVE if sys.platform == "darwin" else socket.TCP_KEEPIDLE
                options = (idle, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                assert [tuned.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 3]
                # With unacknowledged bytes there is no keep-alive; they are resent for a quarter of an hour.
                unheard = 0x80 if sys.platform == "darwin" else socket.TCP_USER_TIMEOUT
                seconds = 25 if sys.platform == "darwin" else 25_000
                assert tuned.getsockopt(socket.IPPROTO_TCP, unheard) == seconds

    run(main)


def test_an_own_address_to_leave_by() -> None:
    async def main() -> str:
        accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        server = await listen(HOST, 0, session_1, accepted.set_result)
        port = server.sockets[0].getsockname()[1]
        async with await connect(HOST, port, session_0, seconds=SECONDS, own_ip="127.0.0.9"), await accepted as far:
            server.close()
            return far.peer_ip

    assert run(main) == "127.0.0.9"


def test_nobody_listens() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LinkError) as caught:
        run(partial(connect, HOST, port, session_0, seconds=SECONDS))
    assert caught.value.code == "link-refused"


def test_a_port_that_is_taken() -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as taken:
            await listen(HOST, taken.getsockname()[1], session_1, lambda link: None)

    with pytest.raises(LinkError, match=r"listening on 127\.0\.0\.1:"):
        run(main)


async def raw_peer() -> tuple[Link, asyncio.StreamReader, asyncio.StreamWriter, asyncio.Server]:
    """A rank 1's link, and the other end as a raw stream."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen(HOST, 0, session_1, accepted.set_result)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    return await accepted, reader, writer, server


async def how_it_ends(link: Link) -> str:
    """Return the code of the error after all events except Established."""
    try:
        while not isinstance(await link.receive(), Established):
            pass
    except LinkError as error:
        return error.code
    return "established"


HELLO = encode_link_frame(b"\x01{}")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "link-closed"),
        (b"\x01", "truncated"),
        (HEADER.pack(100) + b"abc", "truncated"),
        (HEADER.pack(0), "link-length-zero"),
        (HEADER.pack(64 * 1024 + 1), "link-length-limit"),
        (HEADER.pack(2**63), "link-length-limit"),
        (HELLO, "handshake-malformed"),
        (encode_link_frame(b"\x03"), "handshake-unexpected"),
        (encode_link_frame(os.urandom(98)[:0] + b"\xee" * 98), "handshake-malformed"),
    ],
)
@pytest.mark.parametrize("step", [1, 100_000], ids=["byte by byte", "at once"])
def test_a_peer_that_breaks_the_protocol(data: bytes, code: str, step: int) -> None:
    """[SESSION-SILENT]"""

    async def main() -> None:
        link, reader, writer, server = await raw_peer()
        async with link:
            for at in range(0, len(data), step):
                writer.write(data[at : at + step])
                await asyncio.sleep(0)
            if code in ("link-closed", "truncated"):
                writer.write_eof()
            assert await how_it_ends(link) == code
        assert await reader.read() == b""
        writer.close()
        server.close()

    run(main)


def test_an_oversized_frame_after_the_handshake() -> None:
    async def main() -> None:
        async with linked() as (near, far):
            near._transport.write(HEADER.pack(MAX_LINK_LENGTH + 1))
            with pytest.raises(LinkError) as caught:
                await far.receive()
            assert caught.value.code == "link-length-limit"

    run(main)


def test_an_unsealed_frame_after_the_handshake() -> None:
    """[SEAL-FRAMES]"""

    async def main() -> None:
        async with linked() as (near, far):
            near._transport.write(encode_link_frame(b"\x05" + bytes(40)))
            with pytest.raises(LinkError) as caught:
                await far.receive()
            assert caught.value.code == "seal-tag"

    run(main)


def test_a_box_sent_twice() -> None:
    """[SEAL-REPLAY]"""

    async def main() -> None:
        async with linked() as (near, far):
            box = output(near.session, Ping())
            near._transport.write(box + box)
            assert [await far.receive(), await far.receive()] == [Confirmed(), MessageReceived(Ping())]
            with pytest.raises(LinkError) as caught:
                await far.receive()
            assert caught.value.code == "seal-replay"

    run(main)


def test_a_key_that_has_served_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "MAX_BOXES", 2)

    async def main() -> None:
        async with linked() as (near, far):
            for _ in range(2):
                await near.send(Ping(), SECONDS)
            for _ in range(2):
                with pytest.raises(LinkError) as caught:
                    await near.send(Ping(), SECONDS)
                assert caught.value.code == "seal-exhausted"
            assert await far.receive() == KeyNearLimit(2)
            assert await far.receive() == Confirmed()

    run(main)


def test_the_end_of_a_session() -> None:
    """[SESSION-END]"""

    async def main() -> None:
        async with linked() as (near, far):
            await near.send(SessionEnd(), SECONDS)
            near._transport.write(b"what follows is not read")
            for event in (Confirmed(), MessageReceived(SessionEnd()), Closed(orderly=True)):
                assert await far.receive() == event
            with pytest.raises(LinkError) as caught:
                await far.receive()
            assert caught.value.code == "link-closed"

    run(main)


def test_a_peer_that_goes_away() -> None:
    async def main() -> None:
        async with linked() as (near, far):
            near._transport.abort()
            assert await how_it_ends(far) in ("link-closed", "link-reset")
            with pytest.raises(LinkError):
                await far.send(PONG, SECONDS)

    run(main)


def test_reading_stops_while_nobody_takes_what_came() -> None:
    """A peer that floods fills its own buffers, not ours; its send runs into its deadline."""
    box = bytes(1024 * 1024)

    async def flood(link: Link) -> None:
        for _ in range(200):
            await link.send(InferenceStep(box), 0.5)

    async def main() -> None:
        async with linked() as (near, far):
            with pytest.raises(LinkError) as caught:
                await flood(near)
            assert caught.value.code == "link-timeout"
            waiting = sum(len(event.message.box) for event in far._events if isinstance(event, MessageReceived))
            assert 0 < waiting <= MAX_WAITING + 2 * len(box)
            assert not far._transport.is_reading()

    run(main)


def test_closing_does_not_wait_for_a_peer_that_does_not_read() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with linked() as (near, far):
            far._transport.pause_reading()
            near._transport.write(bytes(64 * 1024 * 1024))
            start = loop.time()
            await near.__aexit__(None, None, None)
            assert near._transport.is_closing()
            return loop.time() - start

    assert run(main) < SECONDS / 2
