"""One rank from start to end: session, bootstrap, group, and the time that the group is held."""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any, Final, TextIO, cast

from msgspec import structs

from bootstrap.control.child import Child
from bootstrap.control.run import WORKER_SLACK, Display, Run, RunError, execute
from bootstrap.doctor.rdma import local_rdma_devices, port_of, usable
from bootstrap.environment import contrary_names, environment_for
from bootstrap.errors import BootstrapError, ConfigError, LinkError, refused
from bootstrap.events import Event
from bootstrap.forming import checked
from bootstrap.keylog import KeyLog
from bootstrap.link.outcome import Exchange, PeerError, Send
from bootstrap.link.record import Capture
from bootstrap.link.relay import rehearsal, rehearse
from bootstrap.link.same_rank import no_other_rank_0, no_other_rank_1
from bootstrap.link.sessions import READY, RankOne, RankZero, SessionLostError, alongside
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
WORD_SECONDS: Final = 60.0
"""Between two reports of the ranks that are still awaited at the end."""
DRY_RUN_SECONDS: Final = 1.0
"""How long a dry run as rank 1 keeps the session of a rank 0 that may never end it, so that it sees what it sends."""
NEXT_SECONDS: Final = 10.0
"""How long another rank waits for the next rank 0, where one has ended its session without a jacclBootstrap."""
DEVICE_SECONDS: Final = 1.0
"""Between two looks at a device that is not usable yet."""
ENDED_EARLY: Final = "rank 0 ended the session before the group was formed"
MAX_EARLY: Final = 16
"""Messages that may wait until the bootstrap frame before them is acted on."""


def run_up(
    up: Up, trusted: Trust, display: Display, key_log: KeyLog | None = None, capture: Capture | None = None
) -> int:
    """Run `up` to its end; the last event is `done`. Return the exit code."""

    async def act(run: Run) -> None:
        await (lead if up.rank == 0 else follow)(Member(up, trusted, key_log, capture, run))

    return execute(
        act,
        display,
        timeout=up.timeout,
        rank=up.rank,
        host=(up.own_ip, up.link_port(up.rank)),
        has_command=bool(up.command),
        grace=up.grace,
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
            up.link_port(peer),
            partial(member.session, Role.INITIATOR),
            peer=peer,
            own_ip=up.own_ip,
            on_message=partial(member.take, peer),
            on_confirmed=member.confirmed,
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
            # sessionEnd also where this rank has failed: the others know by now, and need not wait for the link.
            await asyncio.gather(*(peer.stop() for peer in peers))

    services = [member.pin_confirmed(), *(peer.run() for peer in peers)]
    if up.size == 2:
        services.append(no_other_rank_0(up.own_ip, up.ips[1], up.link_port(0)))
    await alongside(work(), *services)


async def _lead_once(member: "Member", peers: list[RankZero]) -> None:
    with member.side_channel_pair():
        await member.load()
        await asyncio.gather(*(peer.offered() for peer in peers))
        offered = await asyncio.gather(*(peer.offered() for peer in peers))  # one may have come anew meanwhile
        member.without_outcome = [rank for rank, names in enumerate(offered, start=1) if OUTCOME_1 not in names]
        extensions = member.choose(frozenset.intersection(*offered))
        session_id = member.up.session_id or new_session_id()
        payload = JacclBootstrapPayload(member.up.coordinator_port, session_id, tuple(sorted(extensions)))
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
                await member.all_finished(member.exchange.all(OutcomeState.FINISHED))

            lost = (_fail_when_lost(peer, rank) for rank, peer in enumerate(peers, start=1))
            await alongside(work(), *member.services(), *lost)


async def _fail_when_lost(peer: RankZero, rank: int) -> None:
    raise SessionLostError(rank, await peer.lost())


# -- the others --------------------------------------------------------------------------------------------------------


class EndedEarlyError(LinkError):
    """Rank 0 ended its session without a jacclBootstrap."""

    def __init__(self) -> None:
        super().__init__(ENDED_EARLY, code="session-ended")


async def follow(member: "Member") -> None:
    """Any other rank: a session with rank 0, the group when it says so."""
    up = member.up
    rank = RankOne(
        up.own_ip,
        up.link_port(up.rank),
        partial(member.session, Role.RESPONDER),
        size=up.size,
        offers=member.offers,
        holds=lambda: member.is_met,
        status=lambda: structs.replace(READY, model_loaded=member.is_loaded),
        on_message=partial(member.take, 0),
        on_confirmed=member.confirmed,
        on_seen=member.seen,
        capture=member.capture,
        report=member.report,
    )
    member.send = lambda peer, message: rank.send(message)
    services = [member.pin_confirmed(), rank.run()]
    if up.size == 2:
        services.append(no_other_rank_1(up.own_ip, up.ips[0], up.link_port(0), member.met_peer))
    await alongside(member.attempts(partial(_follow_once, member, rank), lambda: None), *services)


async def _follow_once(member: "Member", rank: RankOne) -> None:
    with member.side_channel_pair():
        await member.load()
        payload = await _bootstrap(member, rank)
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

            async def until_over() -> None:
                while not (await asyncio.wait({over}, timeout=AGAIN_SECONDS))[0]:  # however it ends
                    member.exchange.tell(OutcomeState.FINISHED)

            await member.all_finished(until_over())
            return
        if (reason := over.result()) is not None:
            raise SessionLostError(0, reason)
        if not member.is_met:
            raise LinkError(ENDED_EARLY, code="session-ended")
        member.stopped()
        if member.up.command and not member.exchange.agreed:
            await asyncio.wait({run}, timeout=END_SECONDS)
            if run.done():
                run.result()
    finally:
        for task in (run, over):
            task.cancel()
        await asyncio.gather(run, over, return_exceptions=True)


async def _bootstrap(member: "Member", rank: RankOne) -> JacclBootstrapPayload | None:
    """The jacclBootstrap. EndedEarlyError where rank 0 ends its session without one, and no other takes its place.

    A dry run returns None at once then: rank 0 may be a dry run as well.
    """
    frame = asyncio.create_task(rank.bootstrap())
    end = asyncio.create_task(rank.ended_early())
    try:
        while True:
            await asyncio.wait({frame, end}, return_when=asyncio.FIRST_COMPLETED)
            if frame.done():
                return frame.result()
            if member.up.dry_run:
                text = "rank 0 ended the session without a jacclBootstrap; is it a dry run as well?"
                member.report("warning", message=text)
                return None
            error = EndedEarlyError()
            member.ended_early(error)
            await asyncio.wait({frame}, timeout=NEXT_SECONDS)
            if rank.has_ended_early and not frame.done():
                raise error
            end = asyncio.create_task(rank.ended_early())
    finally:
        frame.cancel()
        end.cancel()


def _is_lost_session(error: BootstrapError) -> bool:
    """Whether another attempt may help: this rank lost a session, or rank 0 says that it lost one."""
    told = isinstance(error, PeerError) and error.stage == LinkError.stage and error.code != "session-ended"
    return told or isinstance(error, SessionLostError | EndedEarlyError)


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
        key_log: KeyLog | None,
        capture: Capture | None,
        run: Run,
    ) -> None:
        self.up = up
        self.trusted = trusted
        self.capture = capture
        self._key_log = key_log
        self._run = run
        self._devices: DeviceMatrix | None = None
        self._version = own_version()
        self._extensions = self._supported()
        self._backend: Backend | None = None  # known once MLX is loaded
        self._mlx_version = ""
        self._gathers = True  # whether MLX, or the command, takes another side channel
        self._worker: Child | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._side_channel: SideChannel | None = None
        self._early: list[tuple[int, Message]] | None = []  # None once `begin` was called
        self.met_peer = asyncio.Event()
        """Set once there was a session."""
        self._confirmed: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.without_outcome = []
        self._reason: LinkError | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether this rank can take a bootstrap frame: MLX is loaded, or the command will load it."""
        return self._backend is not None

    @property
    def backend(self) -> Backend:
        assert self._backend is not None  # noqa: S101 - `load` has returned
        return self._backend

    async def load(self) -> None:
        """Find the backend, and check all that can be checked before the bootstrap. BootstrapError if it fails.

        MLX is imported in a process of its own, while the link comes up. A command with a named backend may come with
        an MLX of its own, and needs none here.
        """
        up = self.up
        self._backend = None
        if up.rank == 0 or (up.command and up.backend != "auto"):
            checked(up.plan(up.coordinator_port, new_session_id()), "ring")  # what needs no MLX
        if up.command and up.backend != "auto":
            backend = up.backend
        else:
            is_probe = bool(up.command or up.dry_run)
            self._worker = await self._run.start_worker(up.backend, self._workers_end, quiet=is_probe)
            self._close_workers_end(keep=bool(up.command))
            loaded = await self._worker.next_event()
            backend, self._mlx_version = cast(Backend, loaded["backend"]), str(loaded["version"])
            self._gathers = bool(up.command or loaded["gather_factory"])
            if is_probe:
                await self._run.end(self._worker)
        plan = checked(up.plan(up.coordinator_port, new_session_id()), backend)
        self._devices = plan.devices
        await self._devices_usable()
        self._run.summary["backend"] = self._backend = backend

    def offers(self) -> frozenset[str]:
        """Return the extensions to offer. They are complete once this rank is loaded. [EXT-OFFER]"""
        has_side_channel = self._backend == "jaccl" and self._gathers
        return self._extensions if has_side_channel else self._extensions - {SIDE_CHANNEL_1}

    def confirmed(self, ip: str, key: bytes) -> None:
        """Take a peer's key that the session has confirmed; `pin_confirmed` pins it."""
        self._confirmed.put_nowait((ip, key))

    async def pin_confirmed(self) -> None:
        """Pin keys of first use, off the event loop: the file may be locked. IdentityError if that fails."""
        while True:
            await asyncio.to_thread(self.trusted.on_confirmed, *await self._confirmed.get())

    def session(self, role: Role, peer_ip: str) -> Session:
        """The session for a connection with the peer at an address."""
        pin = self.trusted.pins.get(peer_ip)
        return Session(
            Config(
                role=role,
                signer=self.trusted.signer,
                pin=pin,
                revision=self.up.revision,
                key_log=cast("TextIO | None", self._key_log),
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
                await self._run.again()
            except asyncio.CancelledError:
                ends_in_order = self.is_met and self.up.rank == 0  # sessionEnd says so
                if self._early is None and not ends_in_order and (reason := self._run.stopped_by) is not None:
                    await self.exchange.last_words(reason)
                raise
            except Exception as error:
                if self._early is None:  # a bug here is a failure of the group, not its orderly end
                    text = f"rank {self.up.rank} failed: {type(error).__name__}: {error}"
                    await self.exchange.last_words(RunError(text, code="internal"))
                raise
            else:
                return

    def choose(self, offered: frozenset[str]) -> frozenset[str]:
        """Of what all others offer, what is to be used.

        A side channel over the link leaves no port to rehearse, unless a command may use the port all the same.
        """
        chosen = offered & self.offers()
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
                    mlx="" if self.up.command else self._mlx_version,
                    backend=self.backend,
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
            form, path, data = backend_file(plan, self.backend)
            variables = environment_for(plan, self.backend, path)
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

    async def all_finished(self, wait: Awaitable[None]) -> None:
        """Wait until all ranks have finished; say at once and every minute which are awaited. RunError if late."""
        waiting, began = asyncio.ensure_future(wait), time.monotonic()
        limit = self.up.finish_timeout
        try:
            while not waiting.done():
                left = WORD_SECONDS if limit is None else min(WORD_SECONDS, began + limit - time.monotonic())
                awaited = " and ".join(f"rank {rank}" for rank in self.exchange.unfinished())
                if left <= 0:
                    text = f"{awaited or 'another rank'} did not finish within {limit:g} s after this rank"
                    raise RunError(f"{text} (--finish-timeout)", code="finish-timeout")
                if awaited and not self.up.dry_run:
                    self.report("unfinished", ranks=self.exchange.unfinished())
                await asyncio.wait({waiting}, timeout=left)
            waiting.result()
        finally:
            waiting.cancel()

    @property
    def is_met(self) -> bool:
        return self._run.is_met

    def stopped(self) -> None:
        """Another rank has ended the group in order."""
        self._run.summary["stopped"] = True

    def ended_early(self, error: LinkError) -> None:
        """Remember that rank 0 went without a jacclBootstrap, for an error at the deadline."""
        self._run.reason = self._reason or error

    def seen(self, what: str | LinkError | None) -> None:
        """Remember what rank 0 was last seen to do, for the error at the deadline; None for nothing to tell.

        A protocol error stays the reason, since rank 0 reconnects and repeats it.
        """
        if what is None:
            self._reason = self._run.reason = None
            return
        if isinstance(what, LinkError):
            if not what.code.startswith("link-"):
                self._reason = LinkError(str(SessionLostError(0, what)), code=what.code)
            self._run.reason = self._reason or what
            return
        if self._reason is not None:
            return
        text = (
            f"rank 0 is there (last seen: {what}, {self._run.now() / 1000:.1f} s after the start of this run), "
            "and has not sent a jacclBootstrap"
        )
        self._run.reason = LinkError(text, code="no-bootstrap")

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
        if event == "link-lost":
            self._run.reason = LinkError(str(fields["message"]), code=str(fields["code"]))
        elif event == "established":
            self._run.reason = self._reason
            self.met_peer.set()
        self._run.report(event, **fields)

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

    def _close_workers_end(self, *, keep: bool) -> None:
        """Close this process's copy, so that the end of the worker is seen; a command is still to get it."""
        if self._pair is not None and not keep:
            self._pair[1].close()

    def _supported(self) -> frozenset[str]:
        """Return the extensions that this rank can use, depending on the backend."""
        if not self.up.extensions or self.up.revision is Revision.V1:
            return frozenset()
        supported = {OUTCOME_1}
        if self.up.rehearse:
            supported.add(REHEARSAL_1)
        if self.up.backend != "ring":
            supported.add(SIDE_CHANNEL_1)
        return frozenset(supported)

    async def _settled(self, error: BootstrapError) -> BootstrapError:
        return error if self._early is not None else await self.exchange.settle(error)

    async def _hold_group(self, plan: Plan) -> None:
        """Form the group in the worker, check it, and hold it until the worker ends or this is cancelled."""
        assert self._worker is not None  # noqa: S101 - `load` has returned
        worker = self._worker
        order = Order(
            rank=plan.rank,
            ips=plan.ips,
            all_ips=plan.all_ips,
            port=plan.port,
            session_id=plan.session_id,
            backend=self.backend,
            directory=str(self._run.watchers.new_directory()),
            origin=self._run.origin,
            deadline=self._run.deadline + WORKER_SLACK,
            devices=plan.devices,
            jaccl_ring=plan.jaccl_ring,
            envs=plan.envs,
            side_channel=self._side_channel is not None,
            no_sum=self.no_sum(),
        )
        await self._turn(plan)
        worker.tell(order)
        kept: list[Event] = []
        while worker.last not in ("sum-checked", "sum-skipped"):
            event = await worker.next_event()
            if event["event"] in ("group-ready", "sum-checked", "sum-skipped"):
                kept.append(event)  # to be shown when all ranks say so
            else:
                self._run.show(event)
            if event["event"] == "environment-set":
                self.exchange.tell(OutcomeState.STARTED)
        self.exchange.tell(OutcomeState.READY)
        await alongside(self._announce(kept), _fails(worker))  # [EXT-OUTCOME-READY]
        await worker.next_event()  # none is left: it fails when the worker ends

    async def _announce(self, kept: list[Event]) -> None:
        await self.exchange.all(OutcomeState.READY, but=self.exchange.commands)
        for event in kept:
            self._run.show(event)
        self._run.met()
        self.report("holding")

    async def _turn(self, plan: Plan) -> None:
        """Wait for this rank's turn to start its init: after rank 0, whose rehearsal has left its port by then.

        The last rank of a ring comes after all others: it connects first, see RING_STAGGER.
        """
        is_last = self.backend == "ring" and plan.rank == plan.size - 1
        await self.exchange.started(range(plan.rank if is_last else min(plan.rank, 1)))

    async def _run_command(self, plan: Plan) -> None:
        directory = self._run.watchers.new_directory()
        form, path, data = backend_file(replace(plan, directory=str(directory)), self.backend)
        with private_directory(directory), written(path, data):
            self.report("file-written", path=str(path), format=form)
            variables = environment_for(plan, self.backend, path)
            cleared = contrary_names(variables)
            inherited = {name: value for name, value in os.environ.items() if name not in cleared}
            self.report("environment-set", variables=variables, cleared=cleared)
            await self._turn(plan)
            self._run.met()
            self.exchange.tell(OutcomeState.STARTED)
            channel = None if self._side_channel is None else self._workers_end
            environment = {"PYTHONUNBUFFERED": "1", **inherited, **variables}
            await self._run.run_command(self.up.command, environment, channel)

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


async def _fails(worker: Child) -> None:
    """Wait until a worker that has nothing more to say ends, and raise ChildError."""
    await worker.next_event()


def own_version() -> str:
    """That of this package; empty in a source tree that is not installed, or where no file can be opened."""
    try:
        return metadata.version("cluster-wireproto")
    except metadata.PackageNotFoundError:
        return ""
