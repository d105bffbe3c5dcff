"""One rank's part in one bootstrap after the jacclBootstrap frame: form the group, and hold it or run a program."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from bootstrap.capabilities import Capabilities, devices_usable
from bootstrap.control.child import Child
from bootstrap.control.run import WORKER_SLACK, Run, RunError
from bootstrap.events import EventDict
from bootstrap.files import private_directory
from bootstrap.group import forms_jaccl_ring, prepare
from bootstrap.link.outcome import Exchange, Send
from bootstrap.link.ports import check_neighbour, check_own_ports
from bootstrap.link.relay import HOST, relay
from bootstrap.link.sessions import alongside
from bootstrap.link.side_channel import SideChannel, SocketPair
from bootstrap.plan import Order, Plan
from bootstrap.system import current
from wireproto.messages import OUTCOME_1, SIDE_CHANNEL_1, Message, OutcomeState, Revision

AWAITED_SECONDS: Final = 60.0
"""Between two reports of unfinished ranks at the end."""


@dataclass(eq=False)
class Attempt:
    """One rank's part in one bootstrap, whose jacclBootstrap names `extensions`.

    `plan` has the frame's port and session ID, and the devices. On rank 0, `without_outcome` are the ranks that have
    not offered outcome/1.
    """

    plan: Plan
    able: Capabilities
    run: Run
    send: Send
    extensions: Collection[str]
    pair: SocketPair | None
    without_outcome: Collection[int] = ()

    def __post_init__(self) -> None:
        rank, size = self.plan.rank, self.plan.size
        self.exchange = Exchange(rank, size, OUTCOME_1 in self.extensions, self.send, self.run.report)
        self.side_channel = SideChannel(rank, size, self.send) if SIDE_CHANNEL_1 in self.extensions else None

    def take(self, peer: int, message: Message) -> None:
        """Take an extension's message from the rank at the other end of a link."""
        self.exchange.take(peer, message)
        if self.side_channel is not None:
            self.side_channel.take(peer, message)

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """Return the services that run beside the work, and end the attempt if they fail."""
        services: list[Coroutine[Any, Any, None]] = [self.exchange.failure()]
        if self.side_channel is not None:
            assert self.pair is not None  # noqa: S101 - this rank supports it
            services += [self.side_channel.serve(self.pair.control), self.side_channel.fault()]
        return services

    async def check_ports(self) -> None:
        """Check the ports that native code will open to the network, before it runs on any rank. Raise PortError.

        Rank 0 checks before it sends jacclBootstrap, other ranks before they send their versions, so that no check
        connects to a neighbour's native code.
        """
        if self.side_channel is not None or self.plan.dry_run:
            return
        check_own_ports(self.plan, self.able.backend)
        if self.able.backend == "ring":
            if self.exchange.agreed:
                await check_neighbour(self.plan)
        elif self.plan.rank == 0:
            text = f"JACCL will listen at {self.plan.coordinator}, open to the whole network"
            self.run.report("warning", message=f"{text}, because not every rank offers {SIDE_CHANNEL_1}")

    async def work(self) -> None:
        """Form the group and hold it, or run the program to its end. On a dry run, report what would be done."""
        if self.plan.dry_run:
            await self._agree()
            await self._show()
        elif self.able.worker is not None:
            await self._relayed(partial(self._form_group, self.able.worker), native=not self.able.gathers)
        else:
            await self._relayed(self._run_command, native=True)
        self.exchange.tell(OutcomeState.FINISHED)

    async def _agree(self) -> None:
        """Exchange versions with the other ranks, and wait for the devices. Raise BootstrapError."""
        if self.exchange.agreed:
            await self.exchange.compare(self.able.versions, self.able.wires)
        await devices_usable(self.plan, self.run.report)

    async def all_finished(self, wait: Awaitable[None]) -> None:
        """Wait until all ranks have finished. Report the others now and every minute. Raise RunError if late."""
        loop = asyncio.get_running_loop()
        waiting, began, limit = asyncio.ensure_future(wait), loop.time(), self.plan.finish_timeout
        try:
            while not waiting.done():
                left = AWAITED_SECONDS if limit is None else min(AWAITED_SECONDS, began + limit - loop.time())
                awaited = " and ".join(f"rank {rank}" for rank in self.exchange.unfinished())
                if left <= 0:
                    text = f"{awaited or 'another rank'} did not finish within {limit:g} s after this rank"
                    raise RunError(f"{text} (--finish-timeout)", code="finish-timeout")
                if awaited and not self.plan.dry_run:
                    self.run.report("unfinished", ranks=self.exchange.unfinished())
                await asyncio.wait({waiting}, timeout=left)
            waiting.result()
        finally:
            waiting.cancel()

    def no_sum(self) -> str:
        """Return why the group must not be checked with a sum; "" if every rank is known to make one. [PLAIN-SUM]

        Any other rank's first collective belongs to its own work, and would be paired with the sum.
        """
        if self.plan.revision is Revision.V1:
            return "revision 1 has no extensions, so no peer has outcome/1"
        if not self.plan.extensions:
            return "extensions are off, so no peer has outcome/1"
        if self.without_outcome:
            ranks = ", ".join(f"rank {rank}" for rank in self.without_outcome)
            return f"{ranks} did not offer outcome/1"
        return "" if self.exchange.agreed else "rank 0 did not choose outcome/1"

    # -- the group, in the worker --------------------------------------------------------------------------------------

    async def _form_group(self, worker: Child, plan: Plan) -> None:
        """Form and check the group in the worker. Then run the program in it, or hold it until cancelled."""
        order = Order(
            plan=replace(plan, backend=self.able.backend),
            origin=self.run.origin,
            deadline=None if self.run.deadline is None else self.run.deadline + WORKER_SLACK,
            side_channel=self.side_channel is not None and self.able.gathers,
            no_sum=self.no_sum(),
            output=worker.output,
            stdin=worker.stdin,
            python_path=os.environ.get("PYTHONPATH"),
        )
        prepared: list[EventDict] = []

        async def prepare() -> None:
            while worker.last != "environment-set":
                prepared.append(await worker.next_event())

        async def watch() -> None:
            await prepare()
            await _until_it_ends(worker)

        async def wait_for_turn() -> None:
            await self._agree()
            await self._turn()

        worker.tell(order)
        await alongside(wait_for_turn(), watch())  # meanwhile the worker writes its file, which may fail
        await prepare()
        worker.tell(None)
        self.exchange.tell(OutcomeState.STARTED)
        for event in prepared:
            self.run.show(event)
        kept: list[EventDict] = []
        while worker.last not in ("sum-checked", "sum-skipped"):
            event = await worker.next_event()
            if event["event"] in ("group-ready", "sum-checked", "sum-skipped"):
                kept.append(event)  # shown once all ranks are ready
            else:
                self.run.show(event)
        self.exchange.tell(OutcomeState.READY)
        await alongside(self._announce(kept), _until_it_ends(worker))  # [EXT-OUTCOME-READY]
        if plan.command:
            await self.run.run_program(worker)
        else:
            await _until_it_ends(worker)

    async def _announce(self, kept: list[EventDict]) -> None:
        await self.exchange.all(OutcomeState.READY)
        for event in kept:
            self.run.show(event)
        self.run.met()
        if self.plan.command:
            self.run.report("running", program=self.plan.command[0], all_ready=self.exchange.agreed)
        else:
            self.run.report("holding")

    async def _turn(self) -> None:
        """Wait for this rank's turn to start its init on MLX's ring. [EXT-OUTCOME-TURN]

        Rank 0 is first, once every rank has checked its neighbour's port. The last rank waits for all others, as it
        connects first, see RING_STAGGER.
        """
        rank = self.plan.rank
        if self.able.backend == "ring":
            await self.exchange.started(range(rank if rank == self.plan.size - 1 else min(rank, 1)))

    async def _relayed(self, work: Callable[[Plan], Coroutine[Any, Any, None]], *, native: bool) -> None:
        """Do `work`, beside a relay for a native side channel if the ranks have agreed on one.

        The plan gets the relay's port, and a directory for MLX's file.
        """
        plan = replace(self.plan, directory=str(self.run.watchers.new_directory()))
        if self.side_channel is None or not native:
            await work(plan)
            return
        ring = forms_jaccl_ring(plan)
        async with relay(plan.rank, plan.size, self.side_channel, self.run, ring=ring) as part:
            await alongside(work(replace(plan, relay_port=part.port)), part.serve())

    # -- the user's command, and a dry run -----------------------------------------------------------------------------

    async def _run_command(self, plan: Plan) -> None:
        await self._agree()
        prepared = prepare(plan, self.able.backend)
        with private_directory(prepared.path.parent), prepared.written():
            self.run.report("file-written", path=str(prepared.path), format=prepared.format)
            self.run.report("environment-set", variables=prepared.variables, cleared=prepared.cleared)
            await self._turn()
            self.run.met()
            self.exchange.tell(OutcomeState.STARTED)
            channel = None if self.side_channel is None or self.pair is None else self.pair.child
            environment = {"PYTHONUNBUFFERED": "1", **prepared.environment()}
            await self.run.run_command(
                self.plan.command, environment, channel, cwd=self.plan.cwd, stdin=self.plan.reads_stdin
            )

    async def _show(self) -> None:
        port = None if self.side_channel is None else current().network.free_port(HOST)
        prepared = prepare(replace(self.plan, relay_port=port), self.able.backend)
        content = prepared.content.decode()
        self.run.report("would-write", path=str(prepared.path), format=prepared.format, content=content)
        self.run.report("would-set", variables=prepared.variables, cleared=prepared.cleared)
        if self.plan.rank != 0 and not self.exchange.agreed:
            text = "rank 0 has started its init, which will fail: this rank is a dry run and does not join"
            self.run.report("warning", message=text)


async def _until_it_ends(worker: Child) -> None:
    """Wait for the end of a worker that sends no more events, and raise ChildError."""
    await worker.next_event()
