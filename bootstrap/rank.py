"""One rank, from start to end.

    session with the other ranks → ports → jacclBootstrap → versions → group or command → end on every rank

Rank 0 leads, all others follow. Everything after the jacclBootstrap is an `Attempt`; after a lost link there may be
another one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Final, TextIO, cast

from msgspec import structs

from bootstrap.attempt import Attempt
from bootstrap.capabilities import Capabilities, load, offered, supported
from bootstrap.control.run import Display, Run, RunError
from bootstrap.control.running import EventQueue, RunningRank, running
from bootstrap.errors import BootstrapError, ConfigError, IdentityError, LinkError, refused
from bootstrap.link.outcome import Send
from bootstrap.link.record import Capture, KeyLog
from bootstrap.link.same_rank import no_other_rank_0, no_other_rank_1
from bootstrap.link.sessions import READY, REPLACED, RankOne, RankZero, SessionLostError, alongside
from bootstrap.link.side_channel import SocketPair, socket_pair
from bootstrap.link.signing import RankSigner
from bootstrap.plan import Plan, new_session_id
from bootstrap.restarts import EndedEarlyError, Restarts, is_lost_session
from bootstrap.system import current
from bootstrap.trust import Trust
from wireproto.messages import OUTCOME_1, SIDE_CHANNEL_1, SPEC_BY_CLASS, JacclBootstrapPayload, Message, OutcomeState
from wireproto.session import Config, Role, Session
from wireproto.session.handshake import Pin, TrustAnyKey

AGAIN_SECONDS: Final = 5.0
"""How often a finished rank reports that until rank 0 ends the session. [EXT-OUTCOME-AGAIN]"""
END_SECONDS: Final = 10.0
"""How long a command may run after rank 0 has ended the session, if the ranks cannot tell each other."""
DRY_RUN_SECONDS: Final = 1.0
"""How long a dry run as rank 1 keeps the session of a rank 0 that may never end it, to see its messages."""
STOPPED_SECONDS: Final = 0.25
"""How long a rank with a failed program waits for a sessionEnd that may have caused the failure."""
NEXT_SECONDS: Final = 10.0
"""How long to wait for the next rank 0 after one has ended its session without a jacclBootstrap."""
ENDED_EARLY: Final = "rank 0 ended the session before the group was formed"
MAX_EARLY: Final = 16
"""Messages kept until the preceding bootstrap frame is acted on."""


@asynccontextmanager
async def rank(
    plan: Plan, trust: Trust, *, key_log: KeyLog | None = None, capture: Capture | None = None, run: Run | None = None
) -> AsyncIterator[RunningRank]:
    """Run one rank of a group inside the block: link, bootstrap, and the group or the plan's command.

        async with bootstrap.rank(plan, trust) as run:
            async for event in run:
                if isinstance(event, events.Holding): ...  # the group is up

    MLX and the command run in their own processes. Leaving the block ends the rank cleanly, like Ctrl-C for
    `jaccl-bootstrap up`: rank 0 ends the group on every rank. If the rank fails, a BootstrapError is raised by the
    iteration and by `RunningRank.ended`, or else at the end of the block. The caller's signals and other processes are
    left alone, and several ranks can run in one event loop.

    A given `run` owns the events and the deadline; by default this function does.
    """
    if not plan.link_ports:
        raise ConfigError("the plan has no link port, which a rank needs; give link_ports", code="bad-port")
    if missing := {*plan.peers} - trust.keys.keys():
        raise ConfigError(f"no key is given for rank {min(missing)}; give one for each peer", code="bad-trust")
    events = EventQueue()
    if run is None:
        run = run_for(plan, events, owns_process=False)
    script = Rank(plan, trust, run, key_log, capture)
    async with running(run, lambda _: script.main(), events) as inside:
        yield inside


def run_for(plan: Plan, display: Display, *, owns_process: bool = True) -> Run:
    """Return the run for a plan's rank."""
    return Run(
        display,
        timeout=plan.timeout,
        rank=plan.rank,
        host=(plan.own_ip, plan.link_port(plan.rank)),
        grace=plan.grace,
        owns_process=owns_process,
    )


class Rank:
    """The script of one rank."""

    def __init__(
        self, plan: Plan, trust: Trust, run: Run, key_log: KeyLog | None = None, capture: Capture | None = None
    ) -> None:
        self.plan, self.trust, self.run = plan, trust, run
        self.able: Capabilities | None = None
        """None until MLX is loaded: before that, this rank cannot accept a jacclBootstrap."""
        self.attempt: Attempt | None = None
        """The current bootstrap; None before its jacclBootstrap."""
        self._early: list[tuple[int, Message]] = []
        self._key_log, self._capture = key_log, capture
        self._confirmed: asyncio.Queue[tuple[int, str, bytes, bool]] = asyncio.Queue()
        """Keys to store; a short run waits for that at its end."""
        self._met_peer = asyncio.Event()
        self._session_ids = chain([plan.session_id], iter(new_session_id, ""))  # [BOOT-FRESH-ID]

    async def main(self) -> None:
        await (self._lead() if self.plan.rank == 0 else self._follow())

    # -- rank 0 --------------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Hold a session with each other rank, and bootstrap once all are up."""
        plan = self.plan
        peers = [
            RankZero(
                plan.ips[peer],
                plan.link_port(peer),
                partial(self.session, Role.INITIATOR, peer),
                peer=peer,
                own_ip=plan.own_ip,
                on_message=partial(self.take, peer),
                on_confirmed=partial(self._confirm, peer),
                on_loading=partial(self.run.reason.loading, peer),
                capture=self._capture,
                report=self.report,
            )
            for peer in plan.peers
        ]

        async def drop_all() -> None:
            for peer in peers:
                peer.drop()

        async def was_stopped() -> bool:
            return False

        async def work() -> None:
            try:
                await self._attempts(partial(self._lead_once, peers), drop_all, was_stopped)
            finally:
                # Send sessionEnd also after a failure: the others know of it, and need not wait for the link.
                await asyncio.gather(*(peer.stop() for peer in peers))
            await self._confirmed.join()

        services = [self._store_confirmed(), *(peer.run() for peer in peers)]
        if plan.size == 2:
            services.append(no_other_rank_0(plan.own_ip, plan.ips[1], plan.link_port(0), self._met_peer))
        await alongside(work(), *services)

    async def _lead_once(self, peers: list[RankZero]) -> None:
        with socket_pair(SIDE_CHANNEL_1 in supported(self.plan)) as pair:
            able = self.able = await self.load(pair)
            await asyncio.gather(*(peer.offered() for peer in peers))
            offers = await asyncio.gather(*(peer.offered() for peer in peers))  # again: one may have reconnected
            extensions = offered(self.plan, able).intersection(*offers)  # [EXT-CHOICE]
            without = [rank for rank, names in zip(self.plan.peers, offers, strict=True) if OUTCOME_1 not in names]
            payload = JacclBootstrapPayload(self.plan.port, next(self._session_ids), tuple(sorted(extensions)))
            attempt = self.begin(able, payload, lambda peer, message: peers[peer - 1].send(message), pair, without)
            if self.plan.dry_run and OUTCOME_1 not in extensions:
                # A peer that cannot know of the dry run would start a native init. [PLAIN-DRY-RUN]
                self.report("warning", message=f"no jacclBootstrap is sent, because {attempt.no_sum()}")
                await attempt.work()
                return
            await attempt.check_ports()
            while not all(peer.is_up for peer in peers):  # one has to reconnect, and the others would wait for it
                await asyncio.gather(*(peer.offered() for peer in peers))

            async def work() -> None:
                for peer in peers:
                    await peer.bootstrap(payload)
                await attempt.work()
                await attempt.all_finished(attempt.exchange.all(OutcomeState.FINISHED))

            lost = (_fail_when_lost(peer, rank) for rank, peer in enumerate(peers, start=1))
            await alongside(work(), *attempt.services(), *lost)

    # -- the others ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Hold a session with rank 0, and form the group when it sends jacclBootstrap."""
        plan = self.plan
        zero = RankOne(
            plan.own_ip,
            plan.link_port(plan.rank),
            partial(self.session, Role.RESPONDER, 0),
            size=plan.size,
            offers=lambda: offered(plan, self.able),
            holds=lambda: self.run.is_met,
            status=lambda: structs.replace(READY, model_loaded=self.able is not None),
            on_message=partial(self.take, 0),
            on_confirmed=partial(self._confirm, 0),
            on_seen=lambda what: self.run.reason.seen(what, self.run.now()),
            on_new=self._early.clear,
            capture=self._capture,
            report=self.report,
        )
        services = [self._store_confirmed(), zero.run()]
        if plan.size == 2:
            services.append(no_other_rank_1(plan.own_ip, plan.ips[0], plan.link_port(0), self._met_peer))

        async def until_dropped() -> None:
            if self.attempt is None:
                return
            if self.attempt.exchange.agreed:  # further messages of the old session belong to it
                await zero.ended_in_order(NEXT_SECONDS)
            else:
                zero.drop()  # else rank 0 would never learn that this rank has left its init

        async def was_stopped() -> bool:
            """Whether rank 0 has cleanly ended the group, so that this rank's failure is a consequence."""
            exchange = None if self.attempt is None else self.attempt.exchange
            if exchange is None or not exchange.agreed or exchange.verdict or not self.run.is_met:
                return False
            return await zero.ended_in_order(STOPPED_SECONDS)

        async def work() -> None:
            await self._attempts(partial(self._follow_once, zero), until_dropped, was_stopped)
            await self._confirmed.join()

        await alongside(work(), *services)

    async def _follow_once(self, zero: RankOne) -> None:
        with socket_pair(SIDE_CHANNEL_1 in supported(self.plan)) as pair:
            able = self.able = await self.load(pair)
            payload = await self._bootstrap(zero)
            if payload is None:
                return
            attempt = self.begin(able, payload, lambda peer, message: zero.send(message), pair)

            async def work() -> None:
                await attempt.check_ports()
                await attempt.work()

            await alongside(self._until_over(attempt, zero, work()), *attempt.services())

    async def _bootstrap(self, zero: RankOne) -> JacclBootstrapPayload | None:
        """Return the jacclBootstrap. Raise EndedEarlyError if rank 0 ends its session without one and stays away.

        A dry run returns None at once then: rank 0 may be a dry run too.
        """
        frame = asyncio.create_task(zero.bootstrap())
        end = asyncio.create_task(zero.ended_early())
        try:
            while True:
                await asyncio.wait({frame, end}, return_when=asyncio.FIRST_COMPLETED)
                if frame.done():
                    return frame.result()
                if self.plan.dry_run:
                    text = "rank 0 ended the session without a jacclBootstrap; it may be a dry run too"
                    self.report("warning", message=text)
                    return None
                error = EndedEarlyError(ENDED_EARLY, code="session-ended")
                self.run.reason.ended_early(error)
                await asyncio.wait({frame}, timeout=NEXT_SECONDS)
                if zero.has_ended_early and not frame.done():
                    raise error
                end = asyncio.create_task(zero.ended_early())
        finally:
            frame.cancel()
            end.cancel()

    async def _until_over(self, attempt: Attempt, zero: RankOne, work: Coroutine[Any, Any, None]) -> None:
        """Do the work until rank 0 ends the session."""
        working = asyncio.create_task(work)
        over = asyncio.create_task(zero.over())
        try:
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                if self.plan.dry_run and not attempt.exchange.agreed:
                    await asyncio.wait({over}, timeout=DRY_RUN_SECONDS)  # it may never end [PLAIN-DRY-RUN]
                    return

                async def until_over() -> None:
                    while not (await asyncio.wait({over}, timeout=AGAIN_SECONDS))[0]:  # however it ends
                        attempt.exchange.tell(OutcomeState.FINISHED)

                await attempt.all_finished(until_over())
                return
            if (reason := over.result()) is not None:
                raise SessionLostError(0, reason)
            if not self.run.is_met:
                raise LinkError(ENDED_EARLY, code="session-ended")
            self.run.summary["stopped"] = True
            if self.plan.command and not attempt.exchange.agreed:
                await asyncio.wait({working}, timeout=END_SECONDS)
                if working.done():
                    working.result()
        finally:
            for task in (working, over):
                task.cancel()
            await asyncio.gather(working, over, return_exceptions=True)

    # -- any rank ------------------------------------------------------------------------------------------------------

    async def load(self, pair: SocketPair | None) -> Capabilities:
        """Determine what this rank can do while the links come up."""
        able = await load(self.plan, self.run, pair)
        self.run.summary["backend"] = able.backend
        return able

    def begin(
        self,
        able: Capabilities,
        payload: JacclBootstrapPayload,
        send: Send,
        pair: SocketPair | None,
        without_outcome: list[int] | None = None,
    ) -> Attempt:
        """Start the attempt for a jacclBootstrap."""
        # No link ports: the links are up, and the frame's port may collide with this rank's.
        plan = replace(able.plan, port=payload.port, session_id=payload.session_id, link_ports=())
        attempt = Attempt(plan, able, self.run, send, payload.extensions, pair, without_outcome or ())
        self.attempt = attempt
        early = list(self._early)
        self._early.clear()
        if self.plan.rank != 0:  # what rank 0 hears before its frame belongs to an earlier attempt
            for peer, message in early:
                attempt.take(peer, message)
        return attempt

    async def _attempts(
        self,
        once: Callable[[], Awaitable[None]],
        again: Callable[[], Awaitable[None]],
        was_stopped: Callable[[], Awaitable[bool]],
    ) -> None:
        """Run `once`. After a failure run `again` and then `once` again, as often as the plan allows.

        A failure does not count if the group `was_stopped` cleanly before it.
        """
        restarts = Restarts(self.plan, lambda: self.run.now() / 1000)
        try:
            while (error := await self._failure_of(once)) is not None:
                first = error if is_lost_session(error) and restarts.may_follow(error) else await self._settled(error)
                if await was_stopped():
                    self.run.summary["stopped"] = True
                    return
                if not restarts.may_follow(first):
                    raise first from error
                seconds = restarts.begin()
                self.report("restarting", left=restarts.left, message=str(first))
                self.run.reason.failed(first)
                await again()
                self.able = self.attempt = None
                self._early.clear()
                await self.run.again(seconds)
        except BootstrapError:
            raise
        except asyncio.CancelledError:  # also while a failure was settled
            ends_in_order = self.run.is_met and self.plan.rank == 0  # sessionEnd says so
            if self.attempt is not None and not ends_in_order and (reason := self.run.stopped_by) is not None:
                await self.attempt.exchange.last_words(reason)
            raise
        except Exception as error:
            if self.attempt is not None:  # a bug is a failure of the group, not a clean end
                text = f"rank {self.plan.rank} failed: {type(error).__name__}: {error}"
                await self.attempt.exchange.last_words(RunError(text, code="internal"))
            raise

    async def _failure_of(self, once: Callable[[], Awaitable[None]]) -> BootstrapError | None:
        """Run `once` and return its failure. Raise one that no other attempt may follow."""
        try:
            await once()
        except BootstrapError as error:
            return error
        except OSError as error:
            raise await self._settled(refused(error)) from error
        return None

    async def _settled(self, error: BootstrapError) -> BootstrapError:
        """Return the first failure of all ranks."""
        return error if self.attempt is None else await self.attempt.exchange.settle(error)

    # -- its sessions --------------------------------------------------------------------------------------------------

    def session(self, role: Role, peer: int, peer_ip: str) -> Session:
        """Return the session for a connection with a rank, which must hold that rank's key. [HANDSHAKE-PIN]"""
        pin: Pin = self.trust.keys[peer]
        if isinstance(pin, TrustAnyKey) and peer_ip != self.plan.ips[peer]:
            pin = None  # any key, but only at the address from the user
        return Session(
            Config(
                role=role,
                signer=RankSigner(self.trust.signer, self.run.stop),
                pin=pin,
                revision=self.plan.revision,
                key_log=cast("TextIO | None", self._key_log),
                extensions=supported(self.plan),
                random=current().random,
            )
        )

    def take(self, peer: int, message: Message) -> None:
        """Take a message from a peer. Only those of extensions matter here."""
        if SPEC_BY_CLASS[type(message)].extension is None:
            return
        if self.attempt is not None:
            self.attempt.take(peer, message)
            self.run.verdict = self.attempt.exchange.verdict
        elif len(self._early) < MAX_EARLY:
            self._early.append((peer, message))

    def report(self, event: str, /, **fields: object) -> None:
        if event == "link-lost" and fields["code"] != REPLACED:
            error = LinkError(str(fields["message"]), code=str(fields["code"]))
            self.run.reason.lost(cast(int | None, fields["peer"]), error)
        elif event == "established":
            self.run.reason.established(cast(int, fields["peer"]))
            self._met_peer.set()
        self.run.report(event, **fields)

    def _confirm(self, peer: int, ip: str, key: bytes) -> None:
        """Take a rank's proved key. Raise LinkError for the key of another rank."""
        is_first_use = self.trust.confirm(peer, key)
        self._confirmed.put_nowait((peer, ip, key, is_first_use))

    async def _store_confirmed(self) -> None:
        """Store keys of first use and changed addresses, off the event loop, since the file may be locked.

        Raise IdentityError if a key cannot be stored.
        """
        while True:
            peer, ip, key, is_first_use = await self._confirmed.get()
            try:
                name = await asyncio.to_thread(self.trust.on_confirmed, peer, ip, key)
            except IdentityError as error:
                if is_first_use:
                    raise
                self.report("warning", message=f"cannot store {ip} as the address of rank {peer}: {error}")
            else:
                if name is not None:
                    self.report("peer-moved", peer=peer, name=name, address=ip)
            self._confirmed.task_done()


async def _fail_when_lost(peer: RankZero, rank: int) -> None:
    raise SessionLostError(rank, await peer.lost())
