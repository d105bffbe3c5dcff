"""MLX's ring backend, which joins the ranks of a group."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.simulation.groups import Groups
from tests.simulation.machine import SimulatedProcess
from tests.simulation.network import Address, Network

CONNECT_SECONDS = 0.01


class Ring:
    """MLX's ring backend on all hosts. A stray connection to a ring port breaks the init that meets it."""

    def __init__(self, network: Network, groups: Groups) -> None:
        self.network, self.groups = network, groups
        self._inits: dict[Address, Init] = {}

    async def form(
        self,
        process: SimulatedProcess,
        rows: Sequence[Sequence[Address]],
        rank: int,
        session: str,
        *,
        is_reference: bool = False,
    ) -> bool:
        """Form a group of all rows; False where that fails. A reference peer may do so for an earlier session."""
        own, following = rows[rank][0], rows[(rank + 1) % len(rows)][0]
        init = Init(session, is_reference)
        host = process.machine.host
        try:
            listener = host.listen(lambda: Stray(init), own[1], process, process.context)
        except OSError:
            return False
        self._inits[own] = init
        self.groups.join(process, session)
        process.at_end.append(lambda: self._leave(own, init))
        seconds = CONNECT_SECONDS
        try:
            while not init.is_complete():
                if init.has_stray:
                    self.groups.broken.append(f"a stray connection met the init of {own[0]}:{own[1]}")
                    return False
                there = self._inits.get(following)
                if there is not None and self.network.reaches(own[0], following[0]):
                    is_other = not (self.groups.may_misname or is_reference or there.is_reference)
                    if there.session != session and is_other:
                        self.groups.broken.append(f"the inits of {session} and {there.session} met")
                        return False
                    init.following = there
                await asyncio.sleep(seconds)
                seconds = min(seconds * 1.5, 1.0)
        finally:
            listener.close()
            self._leave(own, init)
        self.groups.formed.setdefault(session, set()).add(rank)
        return True

    def _leave(self, own: Address, init: "Init") -> None:
        if self._inits.get(own) is init:
            del self._inits[own]


class Init:
    """One rank's init under way."""

    def __init__(self, session: str, is_reference: bool) -> None:
        self.session, self.is_reference = session, is_reference
        self.following: Init | None = None
        self.has_stray = False

    def is_complete(self) -> bool:
        """Whether the connections go all around."""
        seen, each = [self], self.following
        while each is not None and each is not self:
            if each in seen:
                return False
            seen.append(each)
            each = each.following
        return each is self


class Stray(asyncio.Protocol):
    def __init__(self, init: Init) -> None:
        self._init = init

    def connection_made(self, transport: Any) -> None:
        self._init.has_stray = True
