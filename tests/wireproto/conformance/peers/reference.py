"""A reference peer of each rank, for tests of the suite."""

import asyncio
import re
import uuid

from tests.wireproto.conformance.peers.conversation import Conversation, Fault, Shared
from wireproto import (
    OUTCOME_1,
    Direction,
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    Revision,
    SessionEnd,
    Versions,
)
from wireproto.messages import SPEC_BY_CLASS


class RankOne(Conversation):
    """Listens, and answers."""

    rank = 1
    max_unconfirmed = 8
    file_name = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")

    def begin(self) -> None:
        self.shared.unconfirmed.append(self)
        if len(self.shared.unconfirmed) > self.max_unconfirmed:
            self.shared.unconfirmed.pop(0).end()

    def gone(self) -> None:
        if self in self.shared.unconfirmed:
            self.shared.unconfirmed.remove(self)
        if self.shared.current is self:
            self.shared.current = None

    def shake_hands(self, frame: bytes) -> None:
        hello = self.introduction(frame, HandshakeHello)
        self.check_peer(hello, self.hello_commitment(hello.ephemeral_x25519_pub_key, hello.nonce))
        key = self.derive(hello.ephemeral_x25519_pub_key, hello.nonce, self.nonce)
        self.write_introduction(b"\x02", self.own_ack_commitment(hello.nonce))
        self.established(key)
        if self.revision is Revision.V1:
            self.settle()

    def settle(self) -> None:
        if self in self.shared.unconfirmed:
            self.shared.unconfirmed.remove(self)

    def confirmed(self) -> None:
        self.settle()
        if self.shared.current is not self and self.revision is Revision.V2:
            self.replace()
        self.shared.current = self

    def replace(self) -> None:
        if self.shared.current is not None:
            self.shared.current.end()

    def handle(self, message: Message) -> None:
        match message:
            case Ping():
                self.pong()
            case JacclBootstrapPayload():
                self.bootstrap(message)
            case SessionEnd():
                self.session_end()
            case _ if SPEC_BY_CLASS[type(message)].direction is Direction.RANK_1_TO_0:
                self.misplaced(message)
            case HandshakeHello():
                self.misplaced(message)

    def misplaced(self, message: Message) -> None:
        pass

    def session_end(self) -> None:
        self.end()

    def pong(self) -> None:
        extensions = self.extensions if self.revision is Revision.V2 else ()
        self.offered |= frozenset(extensions)
        self.send(PongPayload(False, False, MemoryPressure.NORMAL, extensions))

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        self.check_port(payload.port)
        self.check_session_id(payload.session_id)
        if self.revision is Revision.V2:
            self.check_extensions(payload.extensions)
            self.agreed = frozenset(payload.extensions) & self.offered
        if OUTCOME_1 in self.agreed:
            self.send_versions()

    def check_port(self, port: int) -> None:
        if not 0 < port < 65535:
            raise Fault("port")

    def check_session_id(self, session_id: str) -> None:
        if not self.file_name.fullmatch(session_id):
            raise Fault("session ID")

    def check_extensions(self, names: tuple[str, ...]) -> None:
        if set(names) - self.offered:
            raise Fault("not offered")

    def send_versions(self) -> None:
        self.send(Versions("0", "0", "ring", ""))


class RankZero(Conversation):
    """Connects, asks, bootstraps."""

    rank = 0
    max_missed = 3
    tries_again_when_refused = True
    pause_when_refused: float | None = None
    """None for the same as after any other failure."""

    def begin(self) -> None:
        self.missed = 0
        self.unanswered = 0
        self.pongs_until_init_is_over = 0
        self.ponged = False
        self.missing: asyncio.TimerHandle | None = None
        self.hello()

    def hello(self) -> None:
        self.write_introduction(b"\x01", self.own_hello_commitment())

    def shake_hands(self, frame: bytes) -> None:
        ack = self.introduction(frame, HandshakeAck)
        self.check_peer(ack, self.ack_commitment(self.nonce, ack.nonce, ack.ephemeral_x25519_pub_key))
        self.established(self.derive(ack.ephemeral_x25519_pub_key, self.nonce, ack.nonce))
        self.first_ping()
        self.later(0.05, self.bootstrap)

    def first_ping(self) -> None:
        self.ping()

    def ping(self) -> None:
        self.send(Ping())
        self.unanswered += 1
        self.missing = asyncio.get_running_loop().call_later(self.shared.pong_within, self.miss)
        self.timers.append(self.missing)
        self.later(self.shared.ping_every, self.ping)

    def miss(self) -> None:
        self.missed += 1
        if self.missed >= self.max_missed and not self.may_be_in_init():
            self.end()

    def may_be_in_init(self) -> bool:
        is_plain = self.ponged and OUTCOME_1 not in self.offered
        return is_plain and self.pongs_until_init_is_over > 0

    def bootstrap(self) -> None:
        self.agreed = self.choose()
        self.pongs_until_init_is_over = self.unanswered + 1
        self.send(JacclBootstrapPayload(self.port(), self.session_id(), tuple(self.agreed)))
        if OUTCOME_1 in self.agreed:
            self.send_versions()

    def choose(self) -> frozenset[str]:
        return self.offered

    def port(self) -> int:
        return 29400

    def session_id(self) -> str:
        return str(uuid.uuid4()).upper()

    def send_versions(self) -> None:
        self.send(Versions("0", "0", "ring", ""))

    def handle(self, message: Message) -> None:
        match message:
            case PongPayload():
                self.pong(message)
            case _:
                self.misplaced(message)

    def misplaced(self, message: Message) -> None:
        pass

    def pong(self, payload: PongPayload) -> None:
        if self.missing is not None:
            self.missing.cancel()
        self.missed = 0
        self.ponged = True
        self.unanswered = max(0, self.unanswered - 1)
        self.pongs_until_init_is_over = max(0, self.pongs_until_init_is_over - 1)
        if self.revision is Revision.V2:
            self.offered |= self.known(payload.extensions)

    def known(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset(self.extensions).intersection(names)

    def gone(self) -> None:
        self.shared.memory["gone"]()


async def listen(make: type[RankOne], shared: Shared, host: str, port: int) -> asyncio.Server:
    """A rank 1 that listens."""
    server = await asyncio.get_running_loop().create_server(lambda: make(shared), host, port)
    shared.memory["stop listening"] = server.close
    return server


async def connect(make: type[RankZero], shared: Shared, host: str, port: int) -> None:
    """A rank 0 that connects, and reconnects, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        over = asyncio.Event()
        shared.memory["gone"] = over.set
        try:
            transport, _ = await loop.create_connection(lambda: make(shared), host, port)
        except OSError:
            if not make.tries_again_when_refused:
                return
            await asyncio.sleep(make.pause_when_refused or shared.reconnect_after)
            continue
        try:
            await over.wait()
        finally:
            transport.abort()
        await asyncio.sleep(shared.reconnect_after)
