import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from bootstrap import ConfigError, LinkError
from bootstrap.transport import Link, Listener, connect, listen
from wireproto import JacclBootstrapPayload, Ping, encode_frame, encode_link_frame

PAYLOAD = JacclBootstrapPayload(port=29400, session_id="S-1")
FRAME = encode_frame(PAYLOAD)
SECONDS = 30.0
T = TypeVar("T")


def on_a_link(act: Callable[[Link, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[T]]) -> T:
    """Call `act` with one end as a Link and the other as a raw stream."""

    async def main() -> T:
        with listen("127.0.0.1") as listener:
            reader, writer = await asyncio.open_connection(listener.host, listener.port)
            async with await listener.accept(SECONDS) as link:
                try:
                    return await act(link, reader, writer)
                finally:
                    writer.close()

    return asyncio.run(main())


def received(data: bytes, *, eof: bool = True) -> object:
    """What a link gives to a peer that sends `data`."""

    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        writer.write(data)
        if eof:
            writer.write_eof()
        return (await link.receive(SECONDS))[0]

    return on_a_link(act)


def test_a_message_arrives_with_the_length_of_its_frame() -> None:
    async def main() -> None:
        with listen("127.0.0.1") as listener:
            async with (
                await connect(listener.host, listener.port, SECONDS) as near,
                await listener.accept(SECONDS) as far,
            ):
                assert await near.send(PAYLOAD, SECONDS) == len(FRAME)
                assert await near.send(Ping(), SECONDS) == 1
                assert await far.receive(SECONDS) == (PAYLOAD, len(FRAME))
                assert await far.receive(SECONDS) == (Ping(), 1)

    asyncio.run(main())


def test_the_bytes_on_the_wire_are_one_link_frame() -> None:
    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        await link.send(PAYLOAD, SECONDS)
        return await reader.readexactly(8 + len(FRAME))

    assert on_a_link(act) == struct.pack("<Q", len(FRAME)) + FRAME


def test_two_frames_in_one_segment() -> None:
    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[object]:
        writer.write(encode_link_frame(FRAME) * 2)
        return [(await link.receive(SECONDS))[0], (await link.receive(SECONDS))[0]]

    assert on_a_link(act) == [PAYLOAD, PAYLOAD]


def test_a_frame_byte_by_byte() -> None:
    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        waiting = asyncio.create_task(link.receive(SECONDS))
        for byte in encode_link_frame(FRAME):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        return (await waiting)[0]

    assert on_a_link(act) == PAYLOAD


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "link-closed"),
        (encode_link_frame(FRAME)[:5], "truncated"),
        (encode_link_frame(FRAME)[:-1], "truncated"),
        (struct.pack("<Q", 0), "link-length-zero"),
        (struct.pack("<Q", 65537), "link-length-limit"),
        (b"GET / HTTP/1.1\r\n\r\n", "link-length-limit"),
        (encode_link_frame(b"\x0e"), "type-unknown"),
        (encode_link_frame(b"\x07{}"), "field-missing"),
    ],
)
def test_what_is_no_frame_is_a_link_error(data: bytes, code: str) -> None:
    with pytest.raises(LinkError) as caught:
        received(data)
    assert (caught.value.stage, caught.value.code) == ("link", code)


def test_a_reset_is_a_link_error() -> None:
    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await link.receive(SECONDS)

    with pytest.raises(LinkError) as caught:
        on_a_link(act)
    assert caught.value.code == "link-reset"


def test_a_silent_peer_meets_the_deadline() -> None:
    async def act(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await link.receive(0.05)

    with pytest.raises(LinkError, match="waiting for a frame took too long") as caught:
        on_a_link(act)
    assert caught.value.code == "link-timeout"


def test_a_peer_that_never_comes_meets_the_deadline() -> None:
    async def main() -> None:
        with listen("127.0.0.1") as listener:
            await listener.accept(0.05)

    with pytest.raises(LinkError) as caught:
        asyncio.run(main())
    assert caught.value.code == "link-timeout"


def test_a_refused_connection_is_a_link_error() -> None:
    with listen("127.0.0.1") as listener:
        port = listener.port
    with pytest.raises(LinkError, match=f"connecting to 127.0.0.1:{port} failed") as caught:
        asyncio.run(connect("127.0.0.1", port, SECONDS))
    assert caught.value.code == "link-refused"


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.1.1", "8.8.8.8", "128.0.0.1"])
def test_only_loopback_is_spoken_to(host: str) -> None:
    with pytest.raises(ConfigError, match="not loopback") as caught:
        Listener(host)
    assert caught.value.code == "not-loopback"
    with pytest.raises(ConfigError, match="not loopback"):
        asyncio.run(connect(host, 1, SECONDS))


def test_nagle_is_off_on_both_ends() -> None:
    async def main() -> list[int]:
        with listen("127.0.0.1") as listener:
            async with (
                await connect(listener.host, listener.port, SECONDS) as near,
                await listener.accept(SECONDS) as far,
            ):
                sockets = [link._writer.get_extra_info("socket") for link in (near, far)]
                return [raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for raw in sockets]

    assert all(asyncio.run(main()))
