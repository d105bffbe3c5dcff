"""The demo: one worker a rank on this host, a sealed link between them, one group of all."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap.control.child import Worker
from bootstrap.control.run import WORKER_SLACK, Display, Supervisor, check_timeout, supervise
from bootstrap.errors import ConfigError
from bootstrap.events import Event
from bootstrap.plan import (
    BackendChoice,
    check_backend,
    check_ip,
    check_port,
    check_session_id,
    check_size,
    new_session_id,
)
from bootstrap.ports import reserved_ports
from bootstrap.worker import LinkOrder, Order
from wireproto.messages import JacclBootstrapPayload, Revision
from wireproto.session.handshake import KeySigner


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What to show. ConfigError for what cannot be."""

    ranks: int = 2
    backend: BackendChoice = "auto"
    host: str = "127.0.0.1"
    port: int | None = None
    session_id: str = field(default_factory=new_session_id)
    revision: Revision = Revision.V2
    timeout: float = 60.0
    capture: Path | None = None
    """Where rank 0 records its links, which are all that there are."""

    def __post_init__(self) -> None:
        check_size(self.ranks)
        check_backend(self.backend)
        if not check_ip(self.host).is_loopback:
            raise ConfigError(
                f"address {self.host} is not loopback, where the demo takes place, use one such as 127.0.0.1",
                code="not-loopback",
            )
        if self.port is not None:
            check_port(self.port, self.ranks)
        check_session_id(self.session_id)
        check_timeout(self.timeout)


def run_demo(demo: Demo, display: Display) -> int:
    """Run `demo` to its end; the last event is `done`. Returns the exit code."""

    async def act(supervisor: Supervisor) -> None:
        with reserved_ports(demo.host, demo.ranks, demo.port) as port:
            await _form(demo, port, supervisor)

    return supervise(act, display, timeout=demo.timeout, ranks=demo.ranks, backend=demo.backend)


async def _form(demo: Demo, port: int, supervisor: Supervisor) -> None:
    addresses = [asyncio.get_running_loop().create_future() for _ in range(demo.ranks)]
    signers = [KeySigner.generate() for _ in range(demo.ranks)]  # thrown away with the demo
    keys = tuple(signer.public_key for signer in signers)

    def heard(worker: Worker, event: Event) -> bool:
        if event["event"] == "listening":
            addresses[worker.rank].set_result((event["host"], event["port"]))
        return False

    def order(worker: Worker, peers: tuple[tuple[str, int], ...] = ()) -> Order:
        return Order(
            rank=worker.rank,
            ips=(demo.host,) * demo.ranks,
            backend=demo.backend,
            directory=str(worker.directory),
            origin=supervisor.origin,
            deadline=supervisor.deadline + WORKER_SLACK,
            bootstrap=JacclBootstrapPayload(port, demo.session_id) if worker.rank == 0 else None,
            link=LinkOrder(
                host=demo.host,
                identity=signers[worker.rank].scalar,
                keys=keys,
                peers=peers,
                revision=demo.revision,
                capture=None if demo.capture is None or worker.rank else str(demo.capture.absolute()),
            ),
        )

    leader, *others = [await supervisor.start(rank, heard) for rank in range(demo.ranks)]
    for worker in others:
        await worker.order(order(worker))

    async def order_leader() -> None:
        await leader.order(order(leader, tuple([await addresses[worker.rank] for worker in others])))

    ordering = asyncio.create_task(order_leader())
    try:
        await supervisor.watch()
    finally:
        ordering.cancel()
