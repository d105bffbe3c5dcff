"""Messages between ranks around the group init: versions, states, and the first failure.

Rank 0 is the hub: it relays states, and decides which failure came first. Every rank shows that one. [EXT-OUTCOME,
EXT-VERSIONS]
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final, NoReturn

from bootstrap.errors import BootstrapError, LinkError
from bootstrap.events import OnStep
from wireproto.errors import WireError
from wireproto.messages import Message, Outcome, OutcomeState, Program, Versions

Send = Callable[[int, Message], Awaitable[None]]
"""Sends a message to another rank. Raises LinkError if that fails, WireError if the extension is not agreed."""

VERSIONS_SECONDS: Final = 3.0
"""From the bootstrap frame to the last rank's versions."""
SETTLE_SECONDS: Final = 0.25
"""How long rank 0 waits for the cause of a possible consequence."""
VERDICT_SECONDS: Final = 1.0
"""How long a failed rank waits for rank 0's verdict, and for its last messages to be sent."""
LONGEST_TEXT: Final = 1024

CONSEQUENCES: Final = frozenset(
    {"command-failed", "init-failed", "link-lost", "session-ended", "side-channel-lost", "sum-failed", "worker-died"}
)
"""Codes of failures that another rank's failure can cause. That one counts as first even if heard shortly after."""


class PeerError(BootstrapError):
    """Another rank failed first: its stage, code and message."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(printable(outcome.message), code=printable(outcome.code))
        self.stage = printable(outcome.stage)
        self.rank = outcome.rank
        self.outcome = outcome


class VersionError(BootstrapError):
    """The ranks run versions or programs that cannot work together."""

    stage = "versions"


class Exchange:
    """One rank's part in one bootstrap. Unless the extension is `agreed`, it knows only its own state."""

    def __init__(self, rank: int, size: int, agreed: bool, send: Send, report: OnStep) -> None:
        self.agreed = agreed
        self._rank = rank
        self._size = size
        self._send = send
        self._report = report
        self._peers = () if not agreed else tuple(range(1, size)) if rank == 0 else (0,)
        self._versions: dict[int, Versions] = {}
        self._states: dict[int, OutcomeState] = {}
        self._failures: dict[int, Outcome] = {}  # in the order heard; on other ranks than 0 only from rank 0
        self._news = asyncio.Event()
        self._sending: set[asyncio.Task[bool]] = set()

    def take(self, peer: int, message: Message) -> None:
        """Take a message from a peer; rank 0 relays it. [EXT-OUTCOME-RELAY]"""
        match message:
            case Versions():
                self._versions[peer] = message
            case Outcome(rank=rank, state=OutcomeState.FAILED) if self._is_theirs(peer, rank):
                self._failures.setdefault(rank, message)
            case Outcome(rank=rank, state=state) if self._is_theirs(peer, rank) and rank != self._rank:
                if state is OutcomeState.FINISHED and self._states.get(rank) is not state:
                    self._report("finished", peer=rank)
                self._states[rank] = state
                if self._rank == 0:
                    self._post(message, but=peer)
        self._news.set()

    async def compare(self, own: Versions, wires: int = 1) -> None:
        """Send this rank's versions and wait for those of its peers. [EXT-VERSIONS-SEND]

        `wires` is the number of connections between two ranks of a JACCL mesh. Raise VersionError if the ranks cannot
        work together; report a warning if they may not.
        """
        self._post(own)
        try:
            async with asyncio.timeout(VERSIONS_SECONDS):
                await self._until(lambda: self._versions.keys() >= set(self._peers))
        except TimeoutError:
            missing = ", ".join(f"rank {peer}" for peer in self._peers if peer not in self._versions)
            text = f"{missing} did not send its versions within {VERSIONS_SECONDS:g} s"
            raise VersionError(text, code="versions-missing") from None
        for peer, other in sorted(self._versions.items()):
            if _makes_sum(own) is not _makes_sum(other):
                raise self._differ("program", _program(own).value, peer, _program(other).value, "programs-differ")
            if own.backend != other.backend:
                raise self._differ("backend", own.backend, peer, other.backend, "backends-differ")
            if own.devices and other.devices and own.devices != other.devices:
                raise self._differ("device matrix", own.devices[:16], peer, other.devices[:16], "devices-differ")
            if wires > 1 and own.mlx and other.mlx and _all_wires(own.mlx) != _all_wires(other.mlx):
                raise self._differ("MLX version", own.mlx, peer, other.mlx, "mlx-differs")
            for what, mine, theirs in (("cluster-wireproto", own.package, other.package), ("mlx", own.mlx, other.mlx)):
                if mine and theirs and mine != theirs:
                    text = f"{what} is {mine} on this rank, and {printable(theirs)} on rank {peer}"
                    self._report("warning", message=text)

    def tell(self, state: OutcomeState) -> None:
        """Announce this rank's state."""
        self._states[self._rank] = state
        self._post(Outcome(self._rank, state, "", "", ""))
        self._news.set()

    async def all(self, state: OutcomeState) -> None:
        """Wait until every rank is in this state; unless agreed, return at once. [EXT-OUTCOME-READY]"""
        ranks = range(self._size) if self.agreed else ()
        await self._until(lambda: all(self._states.get(rank) is state for rank in ranks))

    @property
    def verdict(self) -> PeerError | None:
        """The first failure of all ranks, if one is known."""
        return PeerError(self._first()) if self._failures else None

    def unfinished(self) -> list[int]:
        """Return the other ranks that have not finished yet; none unless agreed."""
        others = range(self._size) if self.agreed else ()
        return [r for r in others if r != self._rank and self._states.get(r) is not OutcomeState.FINISHED]

    async def started(self, ranks: Collection[int]) -> None:
        """Wait until these ranks have started their init or command; unless agreed, return at once."""
        awaited = set(ranks if self.agreed else ())
        await self._until(lambda: self._states.keys() >= awaited)

    async def failure(self) -> NoReturn:
        """Wait until another rank fails, and raise PeerError."""
        await self._until(lambda: bool(self._failures))
        if self._rank == 0:
            await self._cause()
        raise PeerError(self._first())

    async def settle(self, error: BootstrapError) -> BootstrapError:
        """Return the first failure of all ranks, after this one has failed with `error`. [EXT-OUTCOME-FIRST]"""
        if not self.agreed:
            return error
        own = None if isinstance(error, PeerError) else self._failed(error)
        if self._rank == 0:
            if own is not None:
                self._failures[0] = own
                await self._cause()
            self._post(self._first())
        elif own is not None and not self._failures:
            (told,) = self._post(own)
            with suppress(TimeoutError):
                async with asyncio.timeout(VERDICT_SECONDS):
                    if await told:
                        await self._until(lambda: bool(self._failures))
        await self.flush()
        verdict = self.verdict
        if verdict is None or verdict.rank == self._rank:
            return error
        if own is not None:
            self._report("consequence", stage=error.stage, code=error.code, message=str(error))
        return verdict

    async def last_words(self, error: BootstrapError) -> None:
        """Announce a failure without waiting for a verdict: a signal or the deadline."""
        self._post(self._failed(error))
        await self.flush()

    async def flush(self) -> None:
        """Wait until all messages are sent."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=VERDICT_SECONDS)

    def _is_theirs(self, peer: int, rank: int) -> bool:
        """Whether the peer may report on a rank: rank 0 on all, others on themselves."""
        return rank < self._size and (peer == 0 or rank == peer)

    def _first(self) -> Outcome:
        """Return the first failure: on rank 0 a cause before consequences, elsewhere what rank 0 reported first."""
        return min(self._failures.values(), key=lambda failure: self._rank == 0 and failure.code in CONSEQUENCES)

    async def _cause(self) -> None:
        """Rank 0: wait briefly for the cause of what may be a consequence."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._until(lambda: self._first().code not in CONSEQUENCES)

    def _failed(self, error: BootstrapError) -> Outcome:
        """Return the report of an error, which may be another rank's failure that was known at the deadline."""
        rank, stage, code = getattr(error, "rank", None), error.stage, error.code
        if rank is None:
            rank = self._rank
        elif rank != self._rank and self._rank != 0:  # only rank 0 may report it [EXT-OUTCOME-RELAY]
            rank, stage, code = self._rank, "run", "deadline"
        texts = (printable(text)[:LONGEST_TEXT] for text in (stage, code, str(error)))
        return Outcome(rank, OutcomeState.FAILED, *texts)

    def _differ(self, what: str, own: str, peer: int, other: str, code: str) -> VersionError:
        text = f"the {what} is {own} on rank {self._rank}, and {printable(other)} on rank {peer}"
        return VersionError(text, code=code)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    def _post(self, message: Message, *, but: int | None = None) -> list[asyncio.Task[bool]]:
        """Send to the peers, in the order of the calls. Each task returns whether that worked."""
        tasks = [asyncio.create_task(say(self._send, peer, message)) for peer in self._peers if peer != but]
        for task in tasks:
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return tasks


async def say(send: Send, peer: int, message: Message) -> bool:
    """Send a message and return whether that worked. A lost session is reported elsewhere."""
    try:
        await send(peer, message)
    except (LinkError, WireError):
        return False
    return True


def _program(versions: Versions) -> Program:
    """Return a rank's program, as stated or else inferred from `mlx`. [EXT-VERSIONS]"""
    return versions.program or (Program.HOLD if versions.mlx else Program.COMMAND)


def _makes_sum(versions: Versions) -> bool | None:
    """Whether a rank checks the group with a sum; None for a dry run, which forms none. [EXT-VERSIONS-PROGRAM]"""
    return {Program.HOLD: True, Program.MODULE: True, Program.COMMAND: False}.get(_program(versions))


def _all_wires(mlx: str) -> bool:
    """Return whether MLX uses every connection between two ranks of a mesh: from 0.32.4 on. [JACCL-MESH-INIT]"""
    match = re.match(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", mlx, re.ASCII)
    return match is not None and tuple(int(each or 0) for each in match.groups()) >= (0, 32, 4)


def printable(text: str) -> str:
    """Return a peer's text without control characters."""
    return "".join(each if each.isprintable() else "?" for each in text)
