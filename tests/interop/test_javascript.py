"""The JavaScript peer, written from spec/protocol.md alone, and this one: on sockets, and verdict by verdict."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import LinkError
from bootstrap.trust import load_identity
from tests.bootstrap.links import (
    HOST,
    RANK_0,
    RANK_1,
    STRANGER,
    Steps,
    leading,
    run,
    serving,
    session_0,
    session_1,
)
from tests.wireproto.peers import output, take
from wireproto import (
    JacclBootstrapPayload,
    MemoryPressure,
    Ping,
    PongPayload,
    Revision,
    encode_link_frame,
)
from wireproto.codec.link import HEADER
from wireproto.conformance.contract import expected_answer, wrong
from wireproto.session import Config, Role, Session, State
from wireproto.session.handshake import KeySigner
from wireproto.testing.encodings import foreign_frame
from wireproto.testing.mutations import nearly_valid_frame, token_soup
from wireproto.testing.requirements import DIRECTORY
from wireproto.testing.strategies import messages, seeded_randoms

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

HERE: Final = Path(__file__).parent
PAYLOAD: Final = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF")
BOOTSTRAP: Final = {"port": PAYLOAD.port, "sessionID": PAYLOAD.session_id}
LOADED: Final = PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)
REVISIONS: Final = pytest.mark.parametrize("revision", list(Revision))


class Identity:
    """The JavaScript peer's key, in the file it reads."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "identity.pem"
        self.key = load_identity(self.path).public_key


@pytest.fixture
def javascript(tmp_path: Path) -> Identity:
    return Identity(tmp_path)


class Peer(Steps):
    """A running JavaScript peer, and its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            self(event.pop("event"), **event)

    async def exit_code(self) -> int:
        return await self._process.wait()


@asynccontextmanager
async def peer(
    role: str, identity: Identity, revision: Revision, pin: bytes, *arguments: str, **variables: str
) -> AsyncIterator[Peer]:
    command = ["node", str(HERE / "peer.mjs"), role, "--identity", str(identity.path), *arguments]
    command += ["--peer-key", base64.b64encode(pin).decode(), "--revision", str(revision.value)]
    environment = os.environ | variables
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    printed = Peer(process)
    reading = asyncio.create_task(printed.read())
    try:
        yield printed
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@asynccontextmanager
async def listening(
    identity: Identity, revision: Revision, pin: bytes = RANK_0.public_key
) -> AsyncIterator[tuple[Peer, int]]:
    """The peer as rank 1, and its port."""
    async with peer("listen", identity, revision, pin, "--host", HOST, "--port", "0") as printed:
        yield printed, (await printed.until("listening"))["port"]


@asynccontextmanager
async def connecting(
    identity: Identity, revision: Revision, port: int, pin: bytes = RANK_1.public_key
) -> AsyncIterator[Peer]:
    """The peer as rank 0."""
    arguments = ["--coordinator-port", str(PAYLOAD.port), "--session-id", PAYLOAD.session_id]
    variables = {"CONFORM_HOST": HOST, "CONFORM_PORT": str(port)}
    async with peer("connect", identity, revision, pin, *arguments, **variables) as printed:
        yield printed


# -- one session ------------------------------------------------------------------------------------------------------


@REVISIONS
def test_it_is_rank_1(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-ACK, SESSION-PONG, BOOT-RECEIVE, SESSION-END]"""

    async def main() -> None:
        make_session = partial(session_0, revision=revision, pin=javascript.key)
        async with (
            listening(javascript, revision) as (one, port),
            leading(port, make_session=make_session) as (zero, steps),
        ):
            await zero.bootstrap(PAYLOAD)
            assert (await steps.until("pong"))["modelLoaded"] is True
            await zero.stop()
            assert (await one.until("closed"))["reason"] == "sessionEnd"
            confirmed = ["confirmed"] if revision is Revision.V2 else []
            assert one.names()[: 2 + len(confirmed)] == ["listening", "established", *confirmed]
            bootstrap = await one.until("message", type="jacclBootstrap")
            assert bootstrap["fields"] == BOOTSTRAP
            assert one.of("message")[-1]["type"] == "sessionEnd"
            assert {message["type"] for message in one.of("message")} == {"ping", "jacclBootstrap", "sessionEnd"}

    run(main)


@REVISIONS
def test_it_is_rank_0(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-HELLO, SESSION-PING, BOOT-SEND, SESSION-END-SEND]"""

    async def main() -> None:
        make_session = partial(session_1, revision=revision, pin=javascript.key)
        async with (
            serving(make_session=make_session, status=lambda: LOADED) as (one, steps, port),
            connecting(javascript, revision, port) as zero,
        ):
            assert await one.bootstrap() == PAYLOAD
            assert await one.over() is None
            await steps.until("session-ended")
            assert await zero.exit_code() == 0
            confirmed = ["confirmed"] if revision is Revision.V2 else []
            assert zero.names() == ["established", *confirmed, "message", "closed"]
            assert zero.of("message") == [
                {
                    "connection": 1,
                    "type": "pong",
                    "fields": {"modelLoaded": True, "inferenceInFlight": False, "memoryPressure": "normal"},
                }
            ]

    run(main)


@pytest.mark.parametrize(
    "payload",
    [JacclBootstrapPayload(0, "S-1"), JacclBootstrapPayload(65535, "S-1"), JacclBootstrapPayload(29400, "../x")],
    ids=["port 0", "no port for rank 1", "a path"],
)
def test_its_rank_1_refuses_a_bootstrap_that_cannot_be_used(
    javascript: Identity, payload: JacclBootstrapPayload
) -> None:
    """[BOOT-REFUSE]"""

    async def main() -> None:
        make_session = partial(session_0, pin=javascript.key)
        async with (
            listening(javascript, Revision.V2) as (one, port),
            leading(port, make_session=make_session) as (zero, steps),
        ):
            await zero.bootstrap(payload)
            assert (await one.until("closed"))["reason"].startswith("a bootstrap")
            await steps.until("link-lost")

    run(main)


# -- wrong pins -------------------------------------------------------------------------------------------------------


def strange_session_0(identity: Identity, revision: Revision, signer: KeySigner, peer_ip: str) -> Session:
    return Session(Config(role=Role.INITIATOR, signer=signer, pin=identity.key, revision=revision))


@REVISIONS
def test_its_rank_1_refuses_a_stranger_and_serves_the_next(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-PIN]"""

    async def main() -> None:
        async with listening(javascript, revision) as (one, port):
            async with leading(port, make_session=partial(strange_session_0, javascript, revision, STRANGER)) as (
                _,
                at,
            ):
                fault = await one.until("error")
                assert (fault["code"], fault["offset"]) == ("handshake-wrong-pin", None)
                await at.until("link-lost", code="link-closed")
            async with leading(port, make_session=partial(session_0, revision=revision, pin=javascript.key)) as (
                zero,
                _,
            ):
                await zero.bootstrap(PAYLOAD)
                await one.until("message", type="jacclBootstrap", fields=BOOTSTRAP)
            assert len(one.of("established")) == 1

    run(main)


@REVISIONS
def test_its_rank_0_refuses_a_stranger(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-PIN]"""

    async def main() -> None:
        make_session = partial(session_1, revision=revision, pin=javascript.key)
        async with (
            serving(make_session=make_session) as (_, steps, port),
            connecting(javascript, revision, port, pin=STRANGER.public_key) as zero,
        ):
            fault = await zero.until("error")
            assert (fault["code"], fault["offset"]) == ("handshake-wrong-pin", None)
            assert await zero.exit_code() == 1
            await steps.until("link-lost", code="link-closed")

    run(main)


@REVISIONS
def test_rank_0_refuses_it(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-PIN, SESSION-SILENT]"""

    async def main() -> None:
        async with listening(javascript, revision) as (one, port):
            async with leading(port, make_session=partial(session_0, revision=revision)) as (zero, _):
                with pytest.raises(LinkError) as refused:
                    await asyncio.create_task(zero.run())
                assert refused.value.code == "handshake-wrong-pin"
            assert (await one.until("closed"))["reason"] == "end of the stream"

    run(main)


@REVISIONS
def test_rank_1_refuses_it(javascript: Identity, revision: Revision) -> None:
    """[HANDSHAKE-PIN, SESSION-SILENT]"""

    async def main() -> None:
        make_session = partial(session_1, revision=revision)
        async with (
            serving(make_session=make_session) as (_, steps, port),
            connecting(javascript, revision, port) as zero,
        ):
            await steps.until("link-lost", code="handshake-wrong-pin")
            assert await zero.exit_code() == 1
            assert zero.names() == ["closed"]

    run(main)


# -- faults over a socket ---------------------------------------------------------------------------------------------

Fault = tuple[Revision, Callable[[bytes, bytes], bytes], str, int, bool]


def v1(frame: bytes, code: str, offset: int) -> Fault:
    return Revision.V1, lambda ping, pong: encode_link_frame(frame), code, offset, False


def v2(fault: Callable[[bytes, bytes], bytes], code: str, offset: int = 0) -> Fault:
    return Revision.V2, fault, code, offset, False


def link(revision: Revision, data: bytes, code: str, offset: int) -> Fault:
    return revision, lambda ping, pong: data, code, offset, True


FAULTS: Final[dict[str, Fault]] = {
    "replay": v2(lambda ping, pong: ping, "seal-replay"),
    "reflection": v2(lambda ping, pong: pong, "seal-reflection"),
    "another box": v2(lambda ping, pong: ping[:-1] + bytes([ping[-1] ^ 1]), "seal-replay"),
    "no box": v2(lambda ping, pong: encode_link_frame(bytes(28)), "seal-tag"),
    "half a box": v2(lambda ping, pong: encode_link_frame(bytes(27)), "truncated", 27),
    "unknown type": v1(b"\x0e", "type-unknown", 0),
    "type of revision 2": v1(b'\x09{"uid":"u","token":1}', "type-unknown", 0),
    "ping with a payload": v1(b"\x03\x00", "payload-not-empty", 1),
    "a key twice": v1(b'\x07{"port":1,"sessionID":"a","p\\u006frt":2}', "json-duplicate-key", 27),
    "a malformed unexpected frame": v1(b"\x04{}", "field-missing", 2),
    "length 0": link(Revision.V2, bytes(8), "link-length-zero", 0),
    "length over the limit": link(Revision.V1, HEADER.pack(2**28 + 1), "link-length-limit", 0),
    "end within a frame": link(Revision.V1, HEADER.pack(5) + b"\x03", "truncated", 9),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_connection(javascript: Identity, fault: str) -> None:
    """After a ping and its pong. The offset of a link frame counts from the start of the stream.

    [SESSION-BOX, SEAL-REPLAY, SEAL-REFLECTION, LINK-LEN-MIN, LINK-LEN-MAX, LINK-EOF]
    """
    revision, make, code, offset, in_stream = FAULTS[fault]

    async def main() -> None:
        session = session_0(revision=revision, pin=javascript.key)
        async with listening(javascript, revision) as (one, port):
            reader, writer = await asyncio.open_connection(HOST, port)
            hello = output(session)
            writer.write(hello)
            while session.state is not State.ESTABLISHED:
                take(session, await reader.read(4096))
            ping = output(session, Ping())
            writer.write(ping)
            header = await reader.readexactly(HEADER.size)
            pong = header + await reader.readexactly(*HEADER.unpack(header))
            writer.write(make(ping, pong))
            writer.write_eof()
            found = await one.until("error")
            start = len(hello) + len(ping) if in_stream else 0
            assert (found["code"], found["offset"]) == (code, start + offset)
            assert [event["type"] for event in one.of("message")] == ["ping"]
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1)  # nothing more
            writer.close()

    run(main)


def test_a_confirmed_newcomer_takes_the_place(javascript: Identity) -> None:
    """A connection with only a hello does not. [SESSION-REPLACE, SESSION-DISPLACE]"""

    async def main() -> None:
        make_session = partial(session_0, pin=javascript.key)
        async with (
            listening(javascript, Revision.V2) as (one, port),
            leading(port, make_session=make_session) as (_, steps),
        ):
            await steps.until("pong")
            reader, writer = await asyncio.open_connection(HOST, port)
            session = session_0(pin=javascript.key)
            writer.write(output(session))
            while session.state is not State.ESTABLISHED:
                take(session, await reader.read(4096))
            await steps.until("pong", len(steps.of("pong")) + 2)
            assert one.of("closed") == []
            writer.write(output(session, Ping()))
            closed = await one.until("closed")
            assert closed == {"connection": 1, "reason": "another connection has taken its place"}
            writer.close()

    run(main)


# -- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cluster_frame", "link_stream", "handshake", "seal", "session"])
def test_the_vectors(name: str) -> None:
    """Code and offset of each error; vectors with extensions are skipped, and nothing else."""
    path = DIRECTORY / "vectors" / f"{name}.json"
    command = ["node", str(HERE / "vectors.mjs"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    tests = {test["id"]: test for group in json.loads(path.read_bytes())["groups"] for test in group["tests"]}
    assert [verdict for verdict in found if verdict["verdict"] == "disagrees"] == []
    assert [verdict["id"] for verdict in found] == list(tests)
    for verdict in found:
        test = tests[verdict["id"]]
        plain = "extensions" not in test and not any(each.startswith("EXT-") for each in test["requirements"])
        assert verdict["verdict"] == "agrees" or not plain


class Decoder:
    """decode.mjs, which answers frame by frame."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, frame: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(frame.hex() + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="module", params=list(Revision))
def decoder(request: pytest.FixtureRequest) -> Iterator[tuple[Revision, Decoder]]:
    command = ["node", str(HERE / "decode.mjs"), "--revision", str(request.param.value)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield request.param, Decoder(process)
        process.kill()


frames = st.one_of(
    st.builds(foreign_frame, seeded_randoms, messages()),
    st.builds(nearly_valid_frame, seeded_randoms, messages()),
    st.builds(token_soup, seeded_randoms),
)


@given(frame=frames)
def test_one_verdict_on_any_frame(decoder: tuple[Revision, Decoder], frame: bytes) -> None:
    """[JSON-TEXT]"""
    revision, decode = decoder
    assert wrong(expected_answer(frame, revision, has_extensions=False), json.dumps(decode(frame)).encode()) == ""
