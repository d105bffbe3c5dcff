"""Ranks at work in one process, over real links, each with a part of its own in the place of a command."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from inspect import getclosurevars
from pathlib import Path
from typing import Self, cast

import pytest

from bootstrap import BootstrapError
from bootstrap.control.run import Run
from bootstrap.link.sessions import RankOne, RankZero, Times
from bootstrap.link.side_channel import SideChannel
from bootstrap.link.transport import Link
from bootstrap.plan import Plan
from bootstrap.rank import Member, follow, lead
from bootstrap.trust import load_identity
from bootstrap.up import Trust, Up
from tests.bootstrap.links import Steps
from tests.bootstrap.ranks import make_ranks
from wireproto import OutcomeState

QUICK = Times(ping_every=0.1, pong=5, reconnect=0.1, retry=0.05)
LIMIT = 1.0
"""Seconds in which a fault of one rank has ended all."""


class Calm:
    """A run without processes, signals and deadline."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.summary: dict[str, object] = {}
        self.is_met = False
        self.stopped_by: BootstrapError | None = None
        self.reason: BootstrapError | None = None

    def now(self) -> float:
        return 0.0

    def report(self, event: str, /, **fields: object) -> None:
        self.steps(event, **fields)

    async def again(self) -> None:
        pass


class Acting(Member):
    """A rank whose part in the group is `act`, in the place of a command."""

    calm: Calm
    act: "Act"
    begun: asyncio.Event

    @classmethod
    def of(cls, up: Up, trusted: Trust, act: "Act") -> Self:
        calm = Calm()
        member = cls(up, trusted, key_log=None, capture=None, run=cast(Run, calm))
        member.calm, member.act, member.begun = calm, act, asyncio.Event()
        return member

    def begin(self, extensions: frozenset[str]) -> None:
        super().begin(extensions)
        self.begun.set()

    async def load(self) -> None:
        self._backend = "jaccl"

    @property
    def links(self) -> list[Link]:
        """Its sessions with other ranks."""
        held = getclosurevars(self.send).nonlocals
        roles = held["peers"] if self.up.rank == 0 else [held["rank"]]
        links = [role._link if self.up.rank == 0 else role._current for role in roles]
        return [link for link in links if link is not None]

    @property
    def gathers(self) -> SideChannel:
        assert self._side_channel is not None
        return self._side_channel

    async def run(self, plan: Plan) -> None:
        await self.act(self)
        self.exchange.tell(OutcomeState.FINISHED)


Act = Callable[[Acting], Awaitable[None]]


async def forever(member: Acting) -> None:
    await asyncio.Event().wait()


class Group:
    """Ranks that pin each other, on loopback addresses of their own; the command is never run."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for role in (RankZero, RankOne):
            monkeypatch.setitem(role.__init__.__kwdefaults__, "times", QUICK)  # type: ignore[misc]
        self._directory = directory
        self.members: list[Acting] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fault_at = 0.0

    async def start(self, acts: list[Act], *, without: Collection[int] = (), restarts: int = 0) -> None:
        """Start all ranks; those in `without` have their extensions turned off."""
        ranks = make_ranks(self._directory, len(acts))
        for rank, act in reversed(list(zip(ranks, acts, strict=True))):
            up = Up(
                rank=rank.number,
                ips=tuple(each.ip for each in ranks),
                backend="jaccl",
                command=("true",),
                restarts=restarts,
                extensions=rank.number not in without,
                rehearse=False,
            )
            pins = {each.ip: each.key for each in ranks}
            member = Acting.of(up, Trust(load_identity(rank.identity), pins), act)
            self.members.insert(0, member)
            self.tasks.insert(0, asyncio.create_task((lead if rank.number == 0 else follow)(member)))
            if rank.number:
                await member.calm.steps.until("listening")

    async def ends(self) -> list[BaseException | None]:
        """How each rank ended."""
        return await asyncio.gather(*self.tasks, return_exceptions=True)

    async def until_begun(self) -> None:
        """Wait until the bootstrap frame has come to all."""
        for member in self.members:
            await member.begun.wait()

    def fault(self) -> None:
        """From here on all have to end."""
        self.fault_at = time.monotonic()

    async def ends_alike(self, code: str, text: str, *, but: Collection[int] = ()) -> None:
        """All ranks have ended with this error, or with its news, soon after the fault."""
        errors = await self.ends()
        assert time.monotonic() - self.fault_at < LIMIT
        for rank, error in enumerate(errors):
            if rank not in but:
                assert isinstance(error, BootstrapError), error
                assert (error.code, str(error)) == (code, text)
