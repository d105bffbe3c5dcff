"""One bootstrap of one rank, with a scripted worker."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from bootstrap.attempt import Attempt
from bootstrap.capabilities import Capabilities
from bootstrap.control.child import Child, ChildError
from bootstrap.control.run import Run
from bootstrap.plan import Plan
from wireproto.messages import OUTCOME_1, Message, Versions


class Failing:
    """A worker that fails as soon as it receives its order."""

    output = stdin = None
    last = "loaded"

    def __init__(self) -> None:
        self.told = asyncio.Event()

    def tell(self, order: object) -> None:
        self.told.set()

    async def next_event(self) -> None:
        await self.told.wait()
        raise ChildError("the disk is full", code="file-failed")


def test_a_worker_that_fails_while_the_ranks_agree_is_the_reason() -> None:
    """Not the other rank's missing versions."""

    async def send(peer: int, message: Message) -> None:
        pass

    async def main() -> None:
        plan = Plan(rank=0, ips=("127.0.0.1", "127.0.0.2"), backend="ring")
        worker = cast(Child, Failing())
        able = Capabilities(plan, "ring", Versions("1", "", "ring", ""), worker=worker)
        run = SimpleNamespace(origin=0.0, deadline=None, report=lambda *_, **__: None)
        attempt = Attempt(plan, able, cast(Run, run), send, {OUTCOME_1}, None)
        async with asyncio.timeout(5):
            await attempt._form_group(worker, plan)

    with pytest.raises(ChildError, match="the disk is full"):
        asyncio.run(main())
