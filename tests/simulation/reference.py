"""A peer that behaves as the reference peer does, as a process of a simulated host; see the spec's chapter on it.

It has no extensions and its own timers, tells nobody of a failure, and makes no collective. Its group is in a process
of its own, which a new jacclBootstrap replaces.
"""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

from bootstrap.group import prepare
from tests.simulation.keys import signer
from tests.simulation.machine import SimulatedProcess
from wireproto.errors import WireError
from wireproto.messages import (
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PromptTokensPayload,
    Revision,
    SessionEnd,
    SessionStopPayload,
)
from wireproto.session import Closed, Config, Established, MessageIgnored, MessageReceived, Role, Session

if TYPE_CHECKING:
    from tests.simulation.world import World

CONNECT_SECONDS: Final = 10.0
PING_SECONDS: Final = 5.0
"""From the handshake to the first ping, and between two."""
PONG_SECONDS: Final = 3.0
RECONNECT_SECONDS: Final = 10.0
MISSED: Final = 3
FAULTS: Final = (EOFError, OSError, WireError)
STATUS: Final = PongPayload(model_loaded=False, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)
"""Which its newest sources say whatever is loaded."""


@dataclass(frozen=True)
class Reference:
    """One rank of a world that is a reference peer."""

    rank: int
    sends: str = "ready"
    """When rank 0 sends jacclBootstrap: once the peer is `ready`, `never`, or an `unusable` one then."""
    init_after: float = 0.0
    """Seconds from the jacclBootstrap to the init."""
    unconfirmed: int = 0
    """Connections that rank 0 makes before the one that it uses."""
    infers: bool = False
    """Whether rank 0 sends messages of an inference besides."""

    @classmethod
    def of(cls, random: Random, size: int, revision: Revision) -> Self:
        rank = random.randrange(2) if size == 2 else random.randrange(1, size)  # its rank 0 knows one peer
        return cls(
            rank=rank,
            sends=random.choice(("ready", "ready", "ready", "never", "unusable")) if rank == 0 else "ready",
            init_after=random.choice((0.0, random.uniform(0.0, 25.0))),
            unconfirmed=random.choice((0, 0, 2)) if revision is Revision.V2 else 0,
            infers=random.random() < 0.3,
        )


@dataclass
class Connection:
    """One connection and its session."""

    session: Session
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_established: bool = field(default=False, init=False)

    def send(self, message: Message | None = None) -> None:
        if message is not None:
            self.session.send(message)
        self.writer.writelines(self.session.data_to_send())

    async def established(self) -> None:
        self.send()
        while not self.is_established:
            await self._next()

    async def receive(self) -> Message:
        """Return the next message. EOFError at the end, WireError for what is none."""
        while (message := await self._next()) is None:
            pass
        return message

    async def _next(self) -> Message | None:
        match self.session.next_event():
            case None:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self.session.receive_data(data)
            case MessageReceived(message) | MessageIgnored(message):
                return message
            case Established():
                self.is_established = True
                self.send()  # the ack
            case Closed():
                return SessionEnd()
        return None


class ReferencePeer:
    """The process of a reference peer."""

    def __init__(self, world: "World", reference: Reference, name: str) -> None:
        self.name = name
        self._world, self._reference = world, reference
        self.plan = world.scenario.plans[reference.rank]
        self._machine = world.machines[reference.rank]
        self._bootstraps = 0
        self._group: SimulatedProcess | None = None
        self.process = self._machine.spawn(self._main, ("reference peer",))
        self.process.at_end.append(self._end_group)

    async def _main(self, process: SimulatedProcess) -> int:
        if self._reference.rank == 0:
            await self._lead()
        try:
            await asyncio.start_server(self._accept, self.plan.own_ip, self.plan.link_port(self.plan.rank))
        except OSError:
            return 1
        await asyncio.Event().wait()
        return 0

    def _tell(self, event: str) -> None:
        self._world.told(self.plan.rank, self.name, event)

    def _session(self, role: Role, peer: int) -> Session:
        own = signer(self.plan.rank)
        pin = signer(peer).public_key
        random = self.process.system.random
        return Session(Config(role=role, signer=own, pin=pin, revision=self.plan.revision, random=random))

    # -- rank 0 --------------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        while True:
            connections: list[Connection] = []
            try:
                for _ in range(self._reference.unconfirmed):
                    await self._connect(connections)
                await self._connect(connections)
                self._tell("established")
                await self._serve_as_zero(connections[-1])
            except FAULTS as error:
                self._world.record(f"{self.name} lost its session: {type(error).__name__}")
            for each in connections:
                each.writer.close()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self, connections: list[Connection]) -> None:
        plan = self.plan
        async with asyncio.timeout(CONNECT_SECONDS):
            streams = await asyncio.open_connection(plan.ips[1], plan.link_port(1), local_addr=(plan.own_ip, 0))
        connections.append(Connection(self._session(Role.INITIATOR, 1), *streams))
        await connections[-1].established()  # without a time limit

    async def _serve_as_zero(self, connection: Connection) -> None:
        missed, has_sent = 0, self._reference.sends == "never"
        while missed < MISSED:
            await asyncio.sleep(PING_SECONDS)
            connection.send(Ping())
            if self._reference.infers and self.plan.revision is Revision.V2:
                connection.send(PromptTokensPayload("U", (1, 2), 8))
                connection.send(SessionStopPayload("U"))
            receiving = asyncio.ensure_future(connection.receive())
            in_time, _ = await asyncio.wait({receiving}, timeout=PONG_SECONDS)
            message = await receiving  # which it cannot cancel, so that one silence stalls its pings
            if not in_time or not isinstance(message, PongPayload):
                missed += 1
                continue
            missed = 0
            if message.model_loaded and not has_sent:
                has_sent = True
                await self._bootstrap(connection)

    async def _bootstrap(self, connection: Connection) -> None:
        self._bootstraps += 1
        session_id = f"{self.plan.session_id}-{self._bootstraps}"
        if self._reference.sends == "unusable":
            session_id = "../" + session_id
        connection.send(JacclBootstrapPayload(self.plan.port, session_id))
        self._tell("bootstrap-sent")
        if not await self._form(self.plan.port, session_id):
            self.process.end(-signal.SIGABRT)  # with tensor parallelism it needs the group

    # -- the others ----------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one of any number of connections."""
        connection = Connection(self._session(Role.RESPONDER, 0), reader, writer)
        with suppress(*FAULTS):
            await connection.established()
            self._tell("established")
            while not isinstance(message := await connection.receive(), SessionEnd):
                if isinstance(message, Ping):
                    connection.send(STATUS)
                elif isinstance(message, JacclBootstrapPayload):
                    self._tell("bootstrap-received")
                    await self._form(message.port, message.session_id)  # and reads nothing meanwhile
        writer.close()

    # -- the group -----------------------------------------------------------------------------------------------------

    async def _form(self, port: int, session_id: str) -> bool:
        """Form a group in a new process; say whether it could."""
        self._end_group()
        formed = asyncio.Event()
        group = self._group = self._machine.spawn(self._program(port, session_id, formed), ("group",), self.process)
        waits = [asyncio.ensure_future(each) for each in (formed.wait(), group.ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if formed.is_set():
            self._tell("group-ready")
        return formed.is_set() or group is not self._group

    def _program(self, port: int, session_id: str, formed: asyncio.Event) -> Any:
        async def main(process: SimulatedProcess) -> int:
            await asyncio.sleep(self._reference.init_after)
            process.is_native = True
            prepared = prepare(replace(self.plan, port=port, session_id="S"), self.plan.backend)  # type: ignore[arg-type]
            variables, content = prepared.variables, prepared.content
            if not await self._world.mlx.init(process, variables, content, session_id, is_reference=True):
                return 1
            formed.set()
            await asyncio.Event().wait()
            return 0

        def run(process: SimulatedProcess) -> Coroutine[Any, Any, int]:
            process.at_end.append(lambda: self._is_aborted(process))
            return main(process)

        return run

    def _is_aborted(self, group: SimulatedProcess) -> None:
        """An abort of native code ends the whole peer."""
        if group is self._group and group.status == -signal.SIGABRT:
            self.process.end(-signal.SIGABRT)

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.signal(signal.SIGKILL)
