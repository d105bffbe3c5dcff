"""Running ranks in one process, over real links, each with its own action instead of a command."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from inspect import getclosurevars
from pathlib import Path
from typing import Any, cast

import pytest

from bootstrap import BootstrapError
from bootstrap.attempt import Attempt
from bootstrap.capabilities import Capabilities
from bootstrap.control.run import Run
from bootstrap.link.outcome import Exchange
from bootstrap.link.reason import Reason
from bootstrap.link.sessions import RankOne, RankZero, Times
from bootstrap.link.side_channel import SideChannel, SocketPair
from bootstrap.link.transport import Link
from bootstrap.plan import Backend, Plan
from bootstrap.rank import Rank
from bootstrap.trust import Trust
from tests.bootstrap.links import Steps
from tests.bootstrap.ranks import Rank as TestRank
from tests.bootstrap.ranks import make_ranks
from wireproto import Message, OutcomeState, Versions

QUICK = Times(ping_every=0.1, pong=5, reconnect=0.1, retry=0.05)
LIMIT = 1.0
"""Seconds in which one rank's fault ends all."""


class Calm:
    """A run without processes, signals and deadline."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.summary: dict[str, object] = {}
        self.is_met = False
        self.stopped_by: BootstrapError | None = None
        self.reason = Reason()

    def now(self) -> float:
        return 0.0

    def report(self, event: str, /, **fields: object) -> None:
        self.steps(event, **fields)

    async def again(self, seconds: float = 0.0) -> None:
        pass

    def stop(self, reason: object) -> None:
        raise AssertionError(reason)


class Acting(Rank):
    """A rank whose action in the group is `act` instead of a command."""

    def __init__(self, plan: Plan, trust: Trust, act: "Act") -> None:
        self.calm = Calm()
        super().__init__(plan, trust, cast(Run, self.calm))
        self.act = act
        self.begun = asyncio.Event()
        self.backend: Backend = "jaccl"

    @property
    def exchange(self) -> Exchange:
        """Of this attempt."""
        assert self.attempt is not None
        return self.attempt.exchange

    @property
    def gathers(self) -> SideChannel:
        assert self.attempt is not None
        assert self.attempt.side_channel is not None
        return self.attempt.side_channel

    async def send(self, peer: int, message: Message) -> None:
        await self.exchange._send(peer, message)

    @property
    def links(self) -> list[Link]:
        """Its sessions with other ranks."""
        held = getclosurevars(self.exchange._send).nonlocals
        roles = held["peers"] if self.plan.rank == 0 else [held["zero"]]
        links = [role._link if self.plan.rank == 0 else role._current for role in roles]
        return [link for link in links if link is not None]

    async def load(self, pair: SocketPair | None) -> Capabilities:
        return Capabilities(self.plan, self.backend, Versions("1", "", self.backend, ""))

    def begin(self, *arguments: Any) -> Attempt:
        attempt = super().begin(*arguments)

        async def work() -> None:
            await attempt._agree()
            await self.act(self)
            attempt.exchange.tell(OutcomeState.FINISHED)

        attempt.work = work  # type: ignore[method-assign]
        self.begun.set()
        return attempt


Act = Callable[[Acting], Awaitable[None]]


async def forever(rank: Acting) -> None:
    await asyncio.Event().wait()


class Group:
    """Ranks that pin each other, on separate loopback addresses; the command is never run."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for role in (RankZero, RankOne):
            monkeypatch.setitem(role.__init__.__kwdefaults__, "times", QUICK)  # type: ignore[misc]
        self._directory = directory
        self.ranks: list[Acting] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fault_at = 0.0

    async def start(
        self,
        acts: list[Act],
        *,
        without: Collection[int] = (),
        backends: Mapping[int, Backend] | None = None,
        trust: Callable[[TestRank, list[TestRank]], Trust] = TestRank.trust,
        **options: Any,
    ) -> None:
        """Start all ranks; those in `without` have their extensions turned off. MLX is found to have `backends`.

        `trust` is called with each of them, rank 0 last.
        """
        ranks = make_ranks(self._directory, len(acts))
        for rank, act in reversed(list(zip(ranks, acts, strict=True))):
            plan = Plan(
                rank=rank.number,
                ips=tuple(each.ip for each in ranks),
                backend="jaccl",
                command=("true",),
                extensions=rank.number not in without,
                **options,
            )
            acting = Acting(plan, trust(rank, ranks), act)
            acting.backend = (backends or {}).get(rank.number, "jaccl")
            self.ranks.insert(0, acting)
            self.tasks.insert(0, asyncio.create_task(acting.main()))
            if rank.number:
                await acting.calm.steps.until("listening")

    async def ends(self) -> list[BaseException | None]:
        """How each rank ended."""
        return await asyncio.gather(*self.tasks, return_exceptions=True)

    async def until_begun(self) -> None:
        """Wait until all have the bootstrap frame."""
        for rank in self.ranks:
            await rank.begun.wait()

    def fault(self) -> None:
        """From here on all must end."""
        self.fault_at = time.monotonic()

    async def ends_alike(self, code: str, text: str, *, but: Collection[int] = ()) -> None:
        """Check that all ranks ended with this error, or with a report of it, soon after the fault."""
        errors = await self.ends()
        assert time.monotonic() - self.fault_at < LIMIT
        for rank, error in enumerate(errors):
            if rank not in but:
                assert isinstance(error, BootstrapError), error
                assert (error.code, str(error)) == (code, text)
