"""`jaccl-bootstrap up`: one rank of two, the whole way from link to group."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from bootstrap.environment import contrary_names, environment_for
from bootstrap.errors import ConfigError, LinkError
from bootstrap.group import resolve_backend
from bootstrap.identity import IdentityError, Pins, decode_public_key, load_identity
from bootstrap.plan import (
    BackendChoice,
    Plan,
    RankChoice,
    check_backend,
    check_ip,
    check_port,
    elect,
    new_session_id,
)
from bootstrap.roles import OnConfirmed, RankOne, RankZero, alongside, nothing
from bootstrap.supervisor import WORKER_SLACK, Display, Supervisor, check_timeout, supervise
from bootstrap.topology import backend_file
from bootstrap.worker import Order
from wireproto.handshake import Pin, Signer, TrustAnyKey
from wireproto.messages import JacclBootstrapPayload, Revision
from wireproto.session import Role, Session

SessionFor = Callable[[Role, str], Session]

LINK_PORT = 7777
END_SECONDS = 2.0
"""How long rank 1 waits for rank 0 to end the session, when all is done."""


@dataclass(frozen=True, kw_only=True)
class Up:
    """What one rank is to do. ConfigError for what cannot be."""

    own_ip: str
    peer_ip: str
    rank: RankChoice = "auto"
    link_port: int = LINK_PORT
    coordinator_port: int = 29400
    revision: Revision = Revision.V2
    backend: BackendChoice = "auto"
    timeout: float = 60.0
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_ip(self.own_ip)
        check_ip(self.peer_ip)
        if self.rank not in ("auto", "0", "1"):
            raise ConfigError(f"rank {self.rank!r} is wrong, use 0, 1 or auto", code="bad-rank")
        if not 1 <= self.link_port <= 65535:
            raise ConfigError(f"link port {self.link_port} is wrong, use 1 to 65535", code="bad-port")
        check_port(self.coordinator_port, 2)
        check_backend(self.backend)
        check_timeout(self.timeout)
        self.own_rank  # noqa: B018 - raises where none can be elected

    @property
    def own_rank(self) -> int:
        """The given rank, or the elected one: the lower address is rank 0. [BOOT-ELECTION]"""
        return elect(self.own_ip, self.peer_ip) if self.rank == "auto" else int(self.rank)


@dataclass(frozen=True)
class Trust:
    """Who this rank is, and whom it takes for its peer."""

    signer: Signer
    pin: Pin
    on_confirmed: OnConfirmed = nothing


def trust(up: Up, identity: Path | None, peer_key: str | None, first_use: bool) -> Trust:
    """Own key from the file `identity`; the peer's as given, or as pinned, or any that is shown and then pinned.

    Raises IdentityError, and ConfigError for what cannot be.
    """
    if peer_key is not None and first_use:
        raise ConfigError("give --peer-key or --trust-first-use, not both", code="bad-trust")
    if first_use and up.revision is Revision.V1:
        raise ConfigError("revision 1 proves no key at the start, so give --peer-key, or pin it", code="bad-trust")
    if peer_key is not None:
        key = decode_public_key(peer_key)  # before an identity is made
        return Trust(load_identity(identity), key)
    pins = Pins()
    pinned = pins.get(up.peer_ip)
    if pinned is not None:
        return Trust(load_identity(identity), pinned)
    if not first_use:
        raise IdentityError(
            f"no key is pinned for {up.peer_ip}; run 'jaccl-bootstrap identity' there, "
            f"then 'jaccl-bootstrap pin {up.peer_ip} KEY' here",
            code="not-pinned",
        )
    return Trust(load_identity(identity), TrustAnyKey(), pins.add)


def run_up(up: Up, trusted: Trust, display: Display, key_log: TextIO | None = None) -> bool:
    """Run `up` to its end; the last event is `done`. True when the group was formed, or the dry run went well."""

    def session(role: Role, peer_ip: str) -> Session:
        pin = trusted.pin if peer_ip == up.peer_ip else None
        return Session(role, trusted.signer, pin, up.revision, key_log)

    act = _lead if up.own_rank == 0 else _follow
    return supervise(
        partial(act, up, session, trusted.on_confirmed),
        display,
        timeout=up.timeout,
        rank=up.own_rank,
        ranks=2,
        backend=up.backend,
        dry_run=up.dry_run,
    )


async def _lead(up: Up, session: SessionFor, on_confirmed: OnConfirmed, supervisor: Supervisor) -> None:
    report = partial(_report, supervisor, 0)
    payload = JacclBootstrapPayload(up.coordinator_port, new_session_id())
    rank = RankZero(
        up.peer_ip,
        up.link_port,
        partial(session, Role.INITIATOR),
        own_ip=up.own_ip,
        on_confirmed=on_confirmed,
        report=report,
    )

    async def work() -> None:
        await rank.bootstrap(payload)
        if up.dry_run:
            await rank.ponged()
        await alongside(_form(up, payload, supervisor), _fail_when(rank.lost()))
        await rank.stop()

    await alongside(work(), rank.run())


async def _follow(up: Up, session: SessionFor, on_confirmed: OnConfirmed, supervisor: Supervisor) -> None:
    report = partial(_report, supervisor, 1)
    rank = RankOne(up.own_ip, up.link_port, partial(session, Role.RESPONDER), on_confirmed=on_confirmed, report=report)

    async def work() -> None:
        payload = await rank.bootstrap()
        await alongside(_form(up, payload, supervisor), _fail_when(rank.lost()))
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await rank.ended()

    await alongside(work(), rank.run())


async def _form(up: Up, payload: JacclBootstrapPayload, supervisor: Supervisor) -> None:
    """Form the group in a worker; on a dry run, say what it would do."""
    rank = up.own_rank
    ips = (up.own_ip, up.peer_ip) if rank == 0 else (up.peer_ip, up.own_ip)
    if up.dry_run:
        plan = Plan(rank=rank, ips=ips, port=payload.port, session_id=payload.session_id, backend=up.backend)
        backend = resolve_backend(up.backend)
        form, path, data = backend_file(plan, backend)
        variables = environment_for(plan, backend, path)
        supervisor.summary["backend"] = backend
        supervisor.report("would-write", rank, path=str(path), format=form, content=data.decode())
        supervisor.report("would-set", rank, variables=variables, cleared=contrary_names(variables))
        return
    worker = await supervisor.start(rank)
    order = Order(
        rank=rank,
        ips=ips,
        backend=up.backend,
        directory=str(worker.directory),
        origin=supervisor.origin,
        deadline=supervisor.deadline + WORKER_SLACK,
        bootstrap=payload,
    )
    await worker.order(order)
    await supervisor.watch()


async def _fail_when(lost: Coroutine[Any, Any, None]) -> None:
    await lost
    raise LinkError("the session was lost before the group was formed; see what the other rank says", code="link-lost")


def _report(supervisor: Supervisor, rank: int, event: str, /, **fields: object) -> None:
    supervisor.report(event, rank, **fields)
