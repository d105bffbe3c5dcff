"""The seal, the handshake and the sealed link, compared with their cryptographic operations and plain transfer."""

import asyncio
import hashlib
import io
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, islice

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bootstrap.link.transport import Link, connect, listen
from tests.benchmarks import floor
from tests.benchmarks.harness import Race, Row, benchmark, child
from wireproto.messages import InferenceStep, JacclBootstrapPayload
from wireproto.session import Config, Established, MessageReceived, Role, Session
from wireproto.session.handshake import KEY_INFO, KeySigner
from wireproto.session.seal import OVERHEAD, Seal

MIB = 1024 * 1024
KEY = os.urandom(32)
SHORT = os.urandom(70)
LONG = os.urandom(16 * MIB)
SIGNERS = (KeySigner.generate(), KeySigner.generate())


class LongBox:
    """16 MiB sealed and opened, in existing buffers, separate for each side."""

    def __init__(self) -> None:
        self.aead = AESGCM(KEY)
        self.seals = (Seal(KEY), Seal(KEY))
        self.box = memoryview(bytearray(len(LONG) + OVERHEAD))
        self.plain = memoryview(bytearray(len(LONG)))

    def ours(self) -> None:
        self.seals[0].encrypt_into(LONG, self.box)
        self.seals[1].decrypt_into(self.box, self.plain)

    def other(self) -> None:
        nonce = os.urandom(12)
        self.aead.encrypt_into(nonce, LONG, None, self.box[12:])
        self.aead.decrypt_into(nonce, self.box[12:], None, self.plain)


class ShortBoxes:
    """A session's first 10,000 boxes of 70 bytes, sealed and opened."""

    def ours(self) -> None:
        near, far = Seal(KEY), Seal(KEY)
        for _ in range(10_000):
            far.decrypt(near.encrypt(SHORT))

    def other(self) -> None:
        aead = AESGCM(KEY)
        for _ in range(10_000):
            nonce = os.urandom(12)
            aead.decrypt(nonce, aead.encrypt(nonce, SHORT, None), None)


class SealedFrames:
    """10,000 short frames opened by a session, in chunks of 64 KiB.

    Its ephemeral key is always the same, so each new session can open the boxes of the first.
    """

    def __init__(self) -> None:
        log = io.StringIO()
        sender = Session(replace(_config(Role.INITIATOR), key_log=log))
        self.hello = b"".join(sender.data_to_send())
        self.receiver = replace(_config(Role.RESPONDER), random=bytes)
        sender.receive_data(b"".join(self.established().data_to_send()))
        sender.next_event()
        self.key = bytes.fromhex(log.getvalue().split()[-1])
        for _ in range(10_000):
            sender.send(JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF"))
        stream = b"".join(sender.data_to_send())
        self.chunks = [stream[at : at + 64 * 1024] for at in range(0, len(stream), 64 * 1024)]

    def established(self) -> Session:
        session = Session(self.receiver)
        session.receive_data(self.hello)
        assert isinstance(session.next_event(), Established)
        return session

    def ours(self) -> None:
        session = self.established()
        for chunk in self.chunks:
            session.receive_data(chunk)
            while session.next_event() is not None:
                pass

    def other(self) -> None:
        decrypt = AESGCM(self.key).decrypt
        floor.decode_stream(self.chunks, lambda box: floor.decode(decrypt(box[:12], box[12:], None)))


class LaterBoxes:
    """The same after `count` boxes. Several pairs take turns, so that none gets far beyond that count."""

    def __init__(self, count: int, pairs: int) -> None:
        self.pairs = cycle([(Seal(KEY), Seal(KEY)) for _ in range(pairs)])
        for near, far in islice(self.pairs, pairs):
            for _ in range(count):
                far.decrypt(near.encrypt(SHORT))

    def ours(self) -> None:
        near, far = next(self.pairs)
        for _ in range(10_000):
            far.decrypt(near.encrypt(SHORT))


def shake_hands() -> None:
    """Both sides, from the start to the session key."""
    rank_0, rank_1 = _session(Role.INITIATOR), _session(Role.RESPONDER)
    for sender, receiver in ((rank_0, rank_1), (rank_1, rank_0)):
        receiver.receive_data(b"".join(sender.data_to_send()))
        assert isinstance(receiver.next_event(), Established)


def shake_hands_by_hand() -> None:
    """Only the cryptographic operations of both sides: each makes a commitment and checks the other's."""
    ephemerals = [X25519PrivateKey.generate() for _ in range(2)]
    publics = [each.public_key().public_bytes_raw() for each in ephemerals]
    nonces = [os.urandom(32) for _ in range(2)]
    for side, other in ((0, 1), (1, 0)):
        signature = SIGNERS[side].sign(hashlib.sha256(publics[side] + nonces[side]).digest())
        commitment = hashlib.sha256(publics[side] + nonces[side]).digest()
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + SIGNERS[side].public_key)
        key.verify(signature, commitment, ec.ECDSA(hashes.SHA256()))
        shared = ephemerals[side].exchange(X25519PublicKey.from_public_bytes(publics[other]))
        HKDF(hashes.SHA256(), 32, nonces[0] + nonces[1], KEY_INFO).derive(shared)


# -- over TCP ----------------------------------------------------------------------------------------------------------

MESSAGES = 16
TCP = "AES-GCM takes each rank 7 ms of its core; with one core for each, no thread has a core for it"
BODY = os.urandom(4 * MIB)
"""An activation of 512 tokens with a hiddenDim of 4096."""


def _config(role: Role) -> Config:
    own, peer = (0, 1) if role is Role.INITIATOR else (1, 0)
    return Config(role=role, signer=SIGNERS[own], pin=SIGNERS[peer].public_key)


def _session(role: Role, peer_ip: str = "") -> Session:
    return Session(_config(role))


async def _linked() -> tuple[Link, Link, asyncio.Server]:
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen("127.0.0.1", 0, partial(_session, Role.RESPONDER), accepted.set_result)
    port = server.sockets[0].getsockname()[1]
    near = await connect("127.0.0.1", port, partial(_session, Role.INITIATOR), seconds=10)
    return near, await accepted, server


async def _established() -> float:
    """Seconds from the TCP connect to the session key on both sides."""
    start = time.perf_counter()
    near, far, server = await _linked()
    await asyncio.gather(near.receive(), far.receive())
    took = time.perf_counter() - start
    async with near, far:
        server.close()
    return took


async def _send_sealed(port: int) -> None:
    link = await connect("127.0.0.1", port, partial(_session, Role.INITIATOR), seconds=10)
    async with link:
        await link.receive()
        for _ in range(MESSAGES):
            await link.send(InferenceStep(BODY), 10)
        await link.receive()


async def _send_raw(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(MESSAGES):
        writer.write(BODY)
        await writer.drain()
    await reader.read()


async def _sealed_transfer() -> float:
    """Time from the first complete message to the last, at the receiver."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await listen("127.0.0.1", 0, partial(_session, Role.RESPONDER), accepted.set_result)
    async with _sender("_send_sealed", server), await accepted as link:
        messages, start = 0, 0.0
        while messages < MESSAGES:
            if isinstance(await link.receive(), MessageReceived):
                messages += 1
                start = start or time.perf_counter()
        return time.perf_counter() - start


class _Messages(asyncio.BufferedProtocol):
    """Receives the same messages unsealed, as simply as asyncio allows: one buffer, one copy per message."""

    def __init__(self, took: asyncio.Future[float]) -> None:
        self.took = took
        self.start = 0.0
        self.left = MESSAGES
        self.filled = 0
        self.buffer = memoryview(bytearray(len(BODY)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.filled += nbytes
        if self.filled == len(BODY):
            self.filled = 0
            self.message = bytes(self.buffer)
            self.start = self.start or time.perf_counter()
            self.left -= 1
            if not self.left:
                self.took.set_result(time.perf_counter() - self.start)
                self.transport.close()


async def _raw_transfer() -> float:
    loop = asyncio.get_running_loop()
    took: asyncio.Future[float] = loop.create_future()
    server = await loop.create_server(lambda: _Messages(took), "127.0.0.1", 0)
    async with _sender("_send_raw", server):
        return await took


@asynccontextmanager
async def _sender(function: str, server: asyncio.Server) -> AsyncIterator[None]:
    """Run a sending function in another process, like the other rank's."""
    port = server.sockets[0].getsockname()[1]
    keys = [signer.scalar.hex() for signer in SIGNERS]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.session", function, str(port), *keys
    )
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        server.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _aes_alone() -> float:
    aead = AESGCM(KEY)
    box, plain = bytearray(len(BODY) + 16), bytearray(len(BODY))
    start = time.perf_counter()
    for _ in range(MESSAGES):
        nonce = os.urandom(12)
        aead.encrypt_into(nonce, BODY, None, box)
        aead.decrypt_into(nonce, box, None, plain)
    return time.perf_counter() - start


def sealed_transfer(rounds: int) -> Row:
    """64 MiB in messages of 4 MiB between two processes, compared with the slower of its parts."""
    ours, raw, aes = [], [], []
    for _ in range(rounds):
        ours.append(asyncio.run(_sealed_transfer()))
        raw.append(asyncio.run(_raw_transfer()))
        aes.append(_aes_alone())
    parts = [benchmark("64 MiB: raw asyncio", raw), benchmark("64 MiB: AES-GCM", aes)]
    slower = max(parts, key=lambda part: part.median())
    sealed = benchmark("64 MiB sealed over TCP", ours)
    return Row(
        "64 MiB sealed over TCP",
        slower.get_name(),
        sealed,
        slower,
        slower.median() / sealed.median(),
        (">=", 0.9),
        TCP,
    )


def established(rounds: int) -> Row:
    """The ratio is the time in milliseconds."""
    took = benchmark("TCP connect to established", [asyncio.run(_established()) for _ in range(rounds)])
    bound = benchmark("10 ms", [0.01])
    return Row("connect to established", "10 ms, in ms", took, bound, took.median() * 1e3, ("<=", 10))


PEAK = f"""
import os, tracemalloc
from wireproto.session.seal import OVERHEAD, Seal
key, data = os.urandom(32), os.urandom({16 * MIB})
near, far = Seal(key), Seal(key)
tracemalloc.start()
box = memoryview(bytearray(len(data) + OVERHEAD))
near.encrypt_into(data, box)
sealing = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
plain = memoryview(bytearray(len(data)))
far.decrypt_into(box, plain)
print(max(sealing, tracemalloc.get_traced_memory()[1] - len(box)))
"""


def peak_memory(rounds: int) -> Row:
    """Memory for sealing or opening 16 MiB, beyond the input."""
    peak = benchmark("16 MiB box: peak memory", [float(child(PEAK)) for _ in range(rounds)], "byte")
    size = benchmark("16 MiB box: length", [16.0 * MIB], "byte")
    return Row("16 MiB box: peak memory", "the input", peak, size, peak.median() / size.median(), ("<=", 1.1))


def races(rounds: int) -> list[Race]:
    long, short, frames = LongBox(), ShortBoxes(), SealedFrames()
    later = LaterBoxes(200_000, pairs=1 + rounds // 5)
    done = [
        Race("seal and open 16 MiB", "AESGCM", long.ours, long.other, (">=", 0.9), rate=True),
        Race("10,000 × 70 bytes", "AESGCM + urandom", short.ours, short.other, ("<=", 1.5)),
        Race("the same after 200,000", "AESGCM + urandom", later.ours, short.other, ("<=", 1.6)),
        Race("10,000 sealed frames", "AESGCM + floor", frames.ours, frames.other, (">=", 0.6), rate=True),
        Race("handshake, both sides", "its cryptography", shake_hands, shake_hands_by_hand, ("<=", 1.3)),
    ]
    if rounds > 3:  # a quick run skips slow preparations
        latest = LaterBoxes(1_000_000, pairs=1)
        done.append(Race("the same after 1,000,000", "AESGCM + urandom", latest.ours, short.other, None))
    return done


def rows(rounds: int, seconds: float) -> list[Callable[[], Row]]:
    return [
        *(partial(race.run, rounds, seconds) for race in races(rounds)),
        partial(peak_memory, 3),
        partial(sealed_transfer, rounds),
        partial(established, rounds),
    ]


if __name__ == "__main__":
    _, function, port, *keys = sys.argv
    SIGNERS = tuple(KeySigner.from_scalar(bytes.fromhex(key)) for key in keys)  # type: ignore[assignment]
    asyncio.run(globals()[function](int(port)))
