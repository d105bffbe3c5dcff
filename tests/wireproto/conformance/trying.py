"""The suite on peers in this process, with short time limits."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.system.network import holds
from tests.wireproto.conformance.peers.conversation import Shared, public_bytes
from tests.wireproto.conformance.peers.reference import RankOne, RankZero, connect, listen
from wireproto import Revision
from wireproto.conformance import (
    CASES,
    Case,
    Identity,
    Launcher,
    Patience,
    RankOneTarget,
    RankZeroTarget,
    Result,
    Running,
    Settings,
    Target,
    run,
)
from wireproto.session import Role


def _own_host() -> str:
    """Return a loopback address unique to this process if all of 127/8 is local, as on Linux.

    A peer is started again and again at its port. At 127.0.0.1, another test might take the port in between.
    """
    pid = os.getpid()
    own = f"127.{100 + (pid >> 16) % 100}.{pid >> 8 & 0xFF}.{pid & 0xFF}"
    return own if holds(own) else "127.0.0.1"


HOST = _own_host()
AT_ONCE = 4
"""Cases that run in parallel."""
OURS = Identity()
THEIRS = ec.generate_private_key(ec.SECP256R1())
PATIENCE = Patience(
    start=3.0,
    answer=1.5,
    close=0.8,
    quiet=0.2,
    ping_every=0.8,
    pong=0.5,
    handshake=1.5,
    reconnect=0.4,
    retry=0.4,
    slack=1.5,
)
PATIENT = replace(PATIENCE, answer=Patience().answer, close=Patience().close, handshake=6.0)
"""Time limits for peers that should pass. A pause of this process could expire a timer that was met."""


def launcher(
    make: type[RankOne] | type[RankZero], revision: Revision = Revision.V2, patience: Patience = PATIENCE
) -> Launcher:
    """Start a peer of a class in this process, with the timers that the suite expects."""

    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        shared = Shared(
            THEIRS,
            OURS.public,
            revision,
            ping_every=patience.ping_every,
            pong_within=patience.pong,
            handshake_within=patience.handshake,
            reconnect_after=patience.reconnect,
        )
        if issubclass(make, RankOne):
            server = await listen(make, shared, host, port)
            try:
                yield Running()
            finally:
                server.close()
        else:
            task = asyncio.create_task(connect(make, shared, host, port))
            try:
                yield Running()
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    return launch


def target(
    make: type[RankOne] | type[RankZero], revision: Revision = Revision.V2, patience: Patience = PATIENCE
) -> Target:
    start = launcher(make, revision, patience)
    if issubclass(make, RankOne):
        return RankOneTarget(HOST, free_port(), start)
    return RankZeroTarget(HOST, free_port(), start)


def settings(revision: Revision = Revision.V2, patience: Patience = PATIENCE) -> Settings:
    return Settings(identity=OURS, peer_key=public_bytes(THEIRS), revision=revision, patience=patience, names_file=True)


def cases_of(role: Role) -> list[Case]:
    return [case for case in CASES.values() if case.role is role]


def role_of(make: type[RankOne] | type[RankZero]) -> Role:
    return Role.RESPONDER if issubclass(make, RankOne) else Role.INITIATOR


async def results_of(
    make: type[RankOne] | type[RankZero],
    revision: Revision = Revision.V2,
    cases: Collection[Case] | None = None,
    patience: Patience = PATIENCE,
) -> list[Result]:
    """Return the suite's results for a peer of a class."""
    cases = cases_of(role_of(make)) if cases is None else cases
    targets = [target(make, revision, patience) for _ in range(AT_ONCE)]
    return [result async for result in run(targets, settings(revision, patience), cases)]


def free_port(host: str = HOST) -> int:
    """Return a free port, a different one each time: the caller need not listen at once."""
    while True:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in _PORTS:
            _PORTS.add(port)
            return port


_PORTS: set[int] = set()
