"""One rank from start to end: session, bootstrap, group, and the time that the group is held."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any, Final, Self, TextIO

from bootstrap.control.child import Worker, new_directory
from bootstrap.control.run import WORKER_SLACK, Display, Supervisor, SupervisorError, supervise
from bootstrap.doctor.rdma import local_rdma_devices, port_of, usable
from bootstrap.environment import contrary_names, environment_for
from bootstrap.errors import BootstrapError, ConfigError, LinkError, refused
from bootstrap.events import Event
from bootstrap.forming import checked
from bootstrap.group import mlx_version, resolve_backend, takes_gather_factory
from bootstrap.link.outcome import Exchange, PeerError, Send
from bootstrap.link.record import Capture
from bootstrap.link.relay import rehearsal, rehearse
from bootstrap.link.sessions import RankOne, RankZero, SessionLostError, alongside
from bootstrap.link.side_channel import SideChannel
from bootstrap.plan import Backend, Plan, new_session_id
from bootstrap.topology import backend_file, private_directory, written
from bootstrap.up import Trust, Up
from bootstrap.worker import Order
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix, devices_of, format_device_file
from wireproto.messages import (
    OUTCOME_1,
    REHEARSAL_1,
    SIDE_CHANNEL_1,
    SPEC_BY_CLASS,
    JacclBootstrapPayload,
    Message,
    OutcomeState,
    Revision,
    Versions,
)
from wireproto.session import Config, Role, Session

AGAIN_SECONDS: Final = 5.0
"""How often a rank that has finished says so, until rank 0 ends the session. [EXT-OUTCOME-AGAIN]"""
END_SECONDS: Final = 10.0
"""How long a command may go on once rank 0 has ended the session, where the ranks do not tell each other."""
DRY_RUN_SECONDS: Final = 1.0
"""How long a dry run as rank 1 keeps the session of a rank 0 that may never end it, so that it sees what it sends."""
DEVICE_SECONDS: Final = 1.0
"""Between two looks at a device that is not usable yet."""
MAX_EARLY: Final = 16
"""Messages that may wait until the bootstrap frame before them is acted on."""


def run_up(
    up: Up, trusted: Trust, display: Display, key_log: TextIO | None = None, capture: Capture | None = None
) -> int:
    """Run `up` to its end; the last event is `done`. Returns the exit code."""

    async def act(supervisor: Supervisor) -> None:
        member = await Member.ready(up, trusted, key_log, capture, supervisor)
        await (lead if up.rank == 0 else follow)(member)

    return supervise(
        act,
        display,
        timeout=up.timeout,
        rank=up.rank,
        lock_ip=None if up.dry_run else up.own_ip,
        ranks=up.size,
        backend=up.backend,
        dry_run=up.dry_run,
    )


# -- rank 0 ------------------------------------------------------------------------------------------------------------


async def lead(member: "Member") -> None:
    """Rank 0: a session with each other rank, the bootstrap, the group."""
    up = member.up
    peers = [
        RankZero(
            ip,
            up.link_port,
            partial(member.session, Role.INITIATOR),
            peer=peer,
            own_ip=up.own_ip,
            on_message=partial(member.take, peer),
            on_confirmed=member.trusted.on_confirmed,
            capture=member.capture,
            report=member.report,
        )
        for peer, ip in enumerate(up.peer_ips, start=1)
    ]
    member.send = lambda peer, message: peers[peer - 1].send(message)

    def drop_all() -> None:
        for peer in peers:
            peer.drop()

    async def work() -> None:
        try:
            await member.attempts(partial(_lead_once, member, peers), drop_all)
        finally:
            await asyncio.gather(*(peer.stop() for peer in peers))

    await alongside(work(), *(peer.run() for peer in peers))


async def _lead_once(member: "Member", peers: list[RankZero]) -> None:
    with member.side_channel_pair():
        await member.start_worker()
        await asyncio.gather(*(peer.offered() for peer in peers))
        offered = await asyncio.gather(*(peer.offered() for peer in peers))  # one may have come anew meanwhile
        member.without_outcome = [rank for rank, names in enumerate(offered, start=1) if OUTCOME_1 not in names]
        extensions = member.choose(frozenset.intersection(*offered))
        payload = JacclBootstrapPayload(member.up.coordinator_port, new_session_id(), tuple(sorted(extensions)))
        plan = member.plan(payload)
        member.begin(extensions)
        if member.up.dry_run and OUTCOME_1 not in extensions:
            # A peer that cannot be told that this is a dry run would start a native init. [PLAIN-DRY-RUN]
            member.report("warning", message=f"no jacclBootstrap is sent, since {member.no_sum()}")
            await member.run(plan)
            return
        async with AsyncExitStack() as until_rehearsed:
            part = None
            if REHEARSAL_1 in extensions:
                part = await until_rehearsed.enter_async_context(rehearsal(plan))
            for peer in peers:
                await peer.bootstrap(payload)

            async def work() -> None:
                await member.compare()
                if part is not None:
                    member.report("rehearsed", coordinator=plan.coordinator, turned_away=await part.run())
                    await until_rehearsed.aclose()
                await member.run(plan)
                await member.exchange.all(OutcomeState.FINISHED)

            lost = (_fail_when_lost(peer, rank) for rank, peer in enumerate(peers, start=1))
            await alongside(work(), *member.services(), *lost)


async def _fail_when_lost(peer: RankZero, rank: int) -> None:
    raise SessionLostError(rank, await peer.lost())


# -- the others --------------------------------------------------------------------------------------------------------


async def follow(member: "Member") -> None:
    """Any other rank: a session with rank 0, the group when it says so."""
    rank = RankOne(
        member.up.own_ip,
        member.up.link_port,
        partial(member.session, Role.RESPONDER),
        size=member.up.size,
        on_message=partial(member.take, 0),
        on_confirmed=member.trusted.on_confirmed,
        on_seen=member.seen,
        capture=member.capture,
        report=member.report,
    )
    member.send = lambda peer, message: rank.send(message)
    await alongside(member.attempts(partial(_follow_once, member, rank), lambda: None), rank.run())


async def _follow_once(member: "Member", rank: RankOne) -> None:
    with member.side_channel_pair():
        await member.start_worker()
        payload = await (_dry_bootstrap(member, rank) if member.up.dry_run else rank.bootstrap())
        if payload is None:
            return
        plan = member.plan(payload)
        member.begin(frozenset(payload.extensions))

        async def work() -> None:
            await member.compare()
            if REHEARSAL_1 in payload.extensions:
                await rehearse(plan)
                member.report("rehearsed", coordinator=plan.coordinator, turned_away=[])
            await member.run(plan)

        await alongside(_until_over(member, rank, work()), *member.services())


async def _until_over(member: "Member", rank: RankOne, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until rank 0 ends the session."""
    run = asyncio.create_task(work)
    over = asyncio.create_task(rank.over())
    try:
        await asyncio.wait({run, over}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            run.result()
            if member.up.dry_run and not member.exchange.agreed:
                await asyncio.wait({over}, timeout=DRY_RUN_SECONDS)  # such a rank 0 may never end it [PLAIN-DRY-RUN]
                return
            while not (await asyncio.wait({over}, timeout=AGAIN_SECONDS))[0]:  # however it ends
                member.exchange.tell(OutcomeState.FINISHED)
            return
        if (reason := over.result()) is not None:
            raise SessionLostError(0, reason)
        if not member.is_met:
            raise LinkError("rank 0 ended the session before the group was formed", code="session-ended")
        member.stopped()
        if member.up.command and not member.exchange.agreed:
            await asyncio.wait({run}, timeout=END_SECONDS)
            if run.done():
                run.result()
    finally:
        for task in (run, over):
            task.cancel()
        await asyncio.gather(run, over, return_exceptions=True)


async def _dry_bootstrap(member: "Member", rank: RankOne) -> JacclBootstrapPayload | None:
    """The jacclBootstrap; None where rank 0 ends its session without one, as a dry run of rank 0 may."""
    frame = asyncio.create_task(rank.bootstrap())
    end = asyncio.create_task(rank.ended_early())
    try:
        await asyncio.wait({frame, end}, return_when=asyncio.FIRST_COMPLETED)
        if frame.done():
            return frame.result()
    finally:
        frame.cancel()
        end.cancel()
    member.report("warning", message="rank 0 ended the session without a jacclBootstrap; is it a dry run as well?")
    return None


def _is_lost_session(error: BootstrapError) -> bool:
    """Whether another attempt may help: this rank lost a session, or rank 0 says that it lost one."""
    told = isinstance(error, PeerError) and error.stage == LinkError.stage and error.code != "session-ended"
    return told or isinstance(error, SessionLostError)


# -- any rank ----------------------------------------------------------------------------------------------------------


class Member:
    """What every rank has and does. `send` is set before the first attempt."""

    send: Send
    exchange: Exchange
    """Of this attempt, from `begin` on."""
    without_outcome: list[int]
    """Rank 0 only: the ranks whose pongs have offered no `outcome/1`."""

    def __init__(
        self,
        up: Up,
        trusted: Trust,
        key_log: TextIO | None,
        capture: Capture | None,
        supervisor: Supervisor,
        backend: Backend,
        devices: DeviceMatrix | None,
    ) -> None:
        self.up = up
        self.trusted = trusted
        self.capture = capture
        self._key_log = key_log
        self._supervisor = supervisor
        self._backend: Backend = backend
        self._devices = devices
        self._version = own_version()
        self._extensions = self._supported()
        self._worker: Worker | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._side_channel: SideChannel | None = None
        self._early: list[tuple[int, Message]] | None = []  # None once `begin` was called
        self._kept: list[Event] = []
        self._group_checked = asyncio.Event()
        self.without_outcome = []
        self._reason: SupervisorError | None = None

    @classmethod
    async def ready(
        cls, up: Up, trusted: Trust, key_log: TextIO | None, capture: Capture | None, supervisor: Supervisor
    ) -> Self:
        """Check all that can be checked before the link. Raises BootstrapError."""
        # A command may come with an MLX of its own.
        given = up.backend if up.command and up.backend != "auto" else None
        backend = given or resolve_backend(up.backend)
        plan = checked(up.plan(up.coordinator_port, new_session_id()), backend)
        supervisor.summary["backend"] = backend
        member = cls(up, trusted, key_log, capture, supervisor, backend, plan.devices)
        await member._devices_usable()
        return member

    def session(self, role: Role, peer_ip: str) -> Session:
        """The session for a connection with the peer at an address."""
        pin = self.trusted.pins.get(peer_ip)
        return Session(
            Config(
                role=role,
                signer=self.trusted.signer,
                pin=pin,
                revision=self.up.revision,
                key_log=self._key_log,
                extensions=self._extensions,
            )
        )

    def take(self, peer: int, message: Message) -> None:
        """A message from the rank at the other end of a link; only those of extensions mean something here."""
        if SPEC_BY_CLASS[type(message)].extension is None:
            return
        if self._early is not None:
            if len(self._early) < MAX_EARLY:
                self._early.append((peer, message))
            return
        self.exchange.take(peer, message)
        if self._side_channel is not None:
            self._side_channel.take(peer, message)

    async def attempts(self, once: Callable[[], Awaitable[None]], again: Callable[[], None]) -> None:
        """Run `once`; after a lost link `again`, and then `once` again, as often as that may be."""
        for left in range(self.up.restarts, -1, -1):
            try:
                await once()
            except OSError as error:
                raise await self._settled(refused(error)) from error
            except BootstrapError as error:
                if not left or not _is_lost_session(error):
                    raise await self._settled(error) from error
                self.report("restarting", left=left - 1, message=str(error))
                again()
                self._early = []
                await self._supervisor.anew()
            except asyncio.CancelledError:
                if self._early is None and (reason := self._supervisor.stopped_by) is not None:
                    await self.exchange.last_words(reason)
                raise
            else:
                return

    async def start_worker(self) -> None:
        """Let the worker load MLX while the link comes up."""
        self._kept.clear()
        self._group_checked.clear()
        if not self.up.dry_run and not self.up.command:
            self._worker = await self._supervisor.start(self.up.rank, self._heard, self._workers_end)
            self._close_workers_end()

    def choose(self, offered: frozenset[str]) -> frozenset[str]:
        """Of what all others offer, what is to be used.

        A side channel over the link leaves no port to rehearse, unless a command may use the port all the same.
        """
        chosen = offered & self._extensions
        return chosen - {REHEARSAL_1} if SIDE_CHANNEL_1 in chosen and not self.up.command else chosen

    def begin(self, extensions: frozenset[str]) -> None:
        """Start this attempt's exchange, with the extensions that jacclBootstrap names."""
        rank, size = self.up.rank, self.up.size
        self.exchange = Exchange(rank, size, OUTCOME_1 in extensions, self.send, self.report)
        self._side_channel = SideChannel(rank, size, self.send) if SIDE_CHANNEL_1 in extensions else None
        early, self._early = self._early or [], None
        if rank != 0:  # before its frame is out, what rank 0 heard belongs to an earlier attempt
            for peer, message in early:
                self.take(peer, message)

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on besides, and ends the attempt when it fails."""
        services: list[Coroutine[Any, Any, None]] = [self.exchange.failure()]
        if self._side_channel is not None:
            assert self._pair is not None  # noqa: S101 - this rank supports it
            services += [self._side_channel.serve(self._pair[0]), self._side_channel.fault()]
        return services

    async def compare(self) -> None:
        """Hear what the other ranks run, and whether that can work."""
        if self.exchange.agreed:
            devices = b"" if self.up.devices is None else format_device_file(self.up.devices)
            wires = 0
            if self.up.devices is not None and self._backend == "jaccl":
                wires = check_device_matrix(self.up.devices).wires
            if devices and self.up.jaccl_ring:
                devices += b"ring"
                wires = 0
            await self.exchange.compare(
                Versions(
                    package=self._version,
                    mlx="" if self.up.command else mlx_version(),
                    backend=self._backend,
                    devices=hashlib.sha256(devices).hexdigest() if devices else "",
                ),
                wires,
            )

    def plan(self, payload: JacclBootstrapPayload) -> Plan:
        """What the bootstrap frame makes of it."""
        return replace(self.up.plan(payload.port, payload.session_id), devices=self._devices)

    async def run(self, plan: Plan) -> None:
        """Form the group and hold it, or run the command to its end; on a dry run, say what would be done."""
        await self._devices_usable()  # link-local addresses come late, and change
        if self.up.dry_run:
            form, path, data = backend_file(plan, self._backend)
            variables = environment_for(plan, self._backend, path)
            self.report("would-write", path=str(path), format=form, content=data.decode())
            self.report("would-set", variables=variables, cleared=contrary_names(variables))
            if self.up.rank != 0 and not self.exchange.agreed:
                text = "rank 0 has started its init, which will fail: this rank, a dry run, takes no part in it"
                self.report("warning", message=text)
        elif self.up.command:
            await self._run_command(plan)
        else:
            await self._hold_group(plan)
        self.exchange.tell(OutcomeState.FINISHED)

    @property
    def is_met(self) -> bool:
        return self._supervisor.is_met

    def stopped(self) -> None:
        """Another rank has ended the group in order."""
        self._supervisor.summary["stopped"] = True

    def seen(self, what: str | LinkError | None) -> None:
        """Remember what rank 0 was last seen to do, for the error at the deadline; None for nothing to tell.

        A protocol error stays the reason, since rank 0 reconnects and repeats it.
        """
        if what is None:
            self._reason = self._supervisor.late = None
            return
        if isinstance(what, LinkError):
            if not what.code.startswith("link-"):
                text = str(SessionLostError(0, what))
                self._reason = SupervisorError(text, code=what.code, stage="link", rank=self.up.rank)
            self._supervisor.late = self._reason
            return
        if self._reason is not None:
            return
        text = (
            f"rank 0 is there (last seen: {what}, {self._supervisor.now() / 1000:.1f} s after the start of this run), "
            "and has not sent a jacclBootstrap"
        )
        self._supervisor.late = SupervisorError(text, code="no-bootstrap", stage="link", rank=0)

    def no_sum(self) -> str:
        """Return why the group must not be checked by a sum; empty where every rank is known to make one. [PLAIN-SUM]

        Another rank's first collective is part of its own work, and would be paired with the sum.
        """
        if self.up.revision is Revision.V1:
            return "revision 1 has no extensions, so every peer counts as one without outcome/1"
        if not self.up.extensions:
            return "extensions are off, so every peer counts as one without outcome/1"
        if self.without_outcome:
            ranks = ", ".join(f"rank {rank}" for rank in self.without_outcome)
            return f"{ranks} offered no outcome/1"
        if not self.exchange.agreed:
            return "rank 0 did not choose outcome/1"
        if self.exchange.commands:
            return ", ".join(f"rank {rank} runs a command" for rank in self.exchange.commands)
        return ""

    def report(self, event: str, /, **fields: object) -> None:
        self._supervisor.report(event, self.up.rank, **fields)

    @contextmanager
    def side_channel_pair(self) -> Iterator[None]:
        """The two ends of the socket pair with the worker, where this rank supports that; closed at the end."""
        if SIDE_CHANNEL_1 in self._extensions:
            self._pair = socket.socketpair()
            self._pair[0].setblocking(False)
        try:
            yield
        finally:
            for end in self._pair or ():
                end.close()
            self._pair = None

    @property
    def _workers_end(self) -> socket.socket | None:
        return None if self._pair is None else self._pair[1]

    def _close_workers_end(self) -> None:
        """So that the end of the worker is seen."""
        if self._pair is not None:
            self._pair[1].close()

    def _supported(self) -> frozenset[str]:
        """The extensions that this rank can use."""
        if not self.up.extensions or self.up.revision is Revision.V1:
            return frozenset()
        supported = {OUTCOME_1}
        if self.up.rehearse:
            supported.add(REHEARSAL_1)
        if self._backend == "jaccl" and (self.up.command or takes_gather_factory()):
            supported.add(SIDE_CHANNEL_1)
        return frozenset(supported)

    async def _settled(self, error: BootstrapError) -> BootstrapError:
        return error if self._early is not None else await self.exchange.settle(error)

    async def _hold_group(self, plan: Plan) -> None:
        assert self._worker is not None  # noqa: S101 - `start_worker` was called
        order = Order(
            rank=plan.rank,
            ips=plan.ips,
            all_ips=plan.all_ips,
            backend=self._backend,
            directory=str(self._worker.directory),
            origin=self._supervisor.origin,
            deadline=self._supervisor.deadline + WORKER_SLACK,
            bootstrap=JacclBootstrapPayload(plan.port, plan.session_id),
            devices=plan.devices,
            jaccl_ring=plan.jaccl_ring,
            envs=plan.envs,
            side_channel=self._side_channel is not None,
            no_sum=self.no_sum(),
            hold=True,
        )
        if self._backend == "ring" and plan.rank == plan.size - 1:
            await self.exchange.others_started()  # see RING_STAGGER
        await self._worker.order(order)
        await alongside(self._supervisor.watch(), self._announce())

    async def _announce(self) -> None:
        """The group is ready when all ranks say so. [EXT-OUTCOME-READY]"""
        await self._group_checked.wait()
        self.exchange.tell(OutcomeState.READY)
        await self.exchange.all(OutcomeState.READY, but=self.exchange.commands)
        for event in self._kept:
            self._supervisor.show(event)
        self._supervisor.met()
        self.report("holding")

    def _heard(self, worker: Worker, event: Event) -> bool:
        if event["event"] == "environment-set":
            self.exchange.tell(OutcomeState.STARTED)
        elif event["event"] in ("sum-checked", "sum-skipped"):
            self._group_checked.set()
        keep = event["event"] in ("group-ready", "sum-checked", "sum-skipped")
        if keep:
            self._kept.append(event)
        return keep

    async def _run_command(self, plan: Plan) -> None:
        directory = new_directory()
        self._supervisor.guard_over(directory)
        form, path, data = backend_file(replace(plan, directory=str(directory)), self._backend)
        with private_directory(directory), written(path, data):
            self.report("file-written", path=str(path), format=form)
            variables = environment_for(plan, self._backend, path)
            cleared = contrary_names(variables)
            inherited = {name: value for name, value in os.environ.items() if name not in cleared}
            self.report("environment-set", variables=variables, cleared=cleared)
            self._supervisor.met()
            self.exchange.tell(OutcomeState.STARTED)
            channel = None if self._side_channel is None else self._workers_end
            await self._supervisor.run_command(
                plan.rank, self.up.command, {**inherited, **variables}, directory, channel
            )

    async def _devices_usable(self) -> None:
        """JACCL's devices of this rank are there, and their ports have an IPv4 address; wait for that."""
        if self._devices is None:
            return
        names = sorted({name for each in devices_of(self._devices, self.up.rank).values() for name in each})
        there = await asyncio.to_thread(local_rdma_devices)
        if missing := [name for name in names if name not in there]:
            raise ConfigError(
                f"the device matrix names {', '.join(missing)} for this host, which has {', '.join(there) or 'none'}",
                code="device-missing",
            )
        for name in names:
            said = None
            while reason := usable(await asyncio.to_thread(port_of, name)):
                if reason != said:
                    self.report("waiting", what=reason)
                said = reason
                await asyncio.sleep(DEVICE_SECONDS)


def own_version() -> str:
    """That of this package; empty in a source tree that is not installed, or where no file can be opened."""
    try:
        return metadata.version("cluster-wireproto")
    except metadata.PackageNotFoundError:
        return ""
