"""Fuzzes live peers: plays scripts of `wireproto.conformance.model`, and checks after each that the peer answers.

This is the only module of the kit with an event loop. With several targets, sessions overlap.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from wireproto.conformance.case import rule
from wireproto.conformance.model.play import CRASHES, Disagreement, met, play
from wireproto.conformance.model.rules import Listener
from wireproto.conformance.model.script import Script
from wireproto.conformance.model.shrink import shrunk
from wireproto.conformance.peer import Peer, Settings
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import Missed, Record, Undecided
from wireproto.session import Role
from wireproto.testing.requirements import Level

_SHRINKING = 30.0
"""Seconds for reducing a finding."""


@dataclass(frozen=True)
class PeerFinding:
    """A script on which a peer breaks a rule. Findings with the same kind and rule are one."""

    kind: str
    """The peer's fault, and the act that shows it."""
    rule: str
    came: str
    script: Script
    is_crash: bool = False
    is_strict: bool = True
    """Whether a MUST is broken; otherwise the finding is informative."""


class PeerGoneError(Exception):
    """The peer has exited, and there is no command to start another."""


@dataclass(frozen=True)
class PeerProgress:
    """The progress of a run."""

    sessions: int = 0
    seconds: float = 0.0
    findings: int = 0
    non_strict: int = 0
    """Kinds in which the peer breaks a SHOULD."""
    expected: int = 0
    """Sessions with an expected failure."""


def fuzz(
    targets: Sequence[Target],
    settings: Settings,
    scripts: Iterable[Script],
    *,
    seconds: float,
    rate: float,
    found: Callable[[PeerFinding], None],
    tell: Callable[[PeerProgress], None] = lambda _: None,
    expected: Collection[str] = (),
) -> PeerProgress:
    """Play scripts, at most `rate` per second, for some time or to the end; pass each finding to `found`.

    A finding that breaks a requirement in `expected` is not reported, unless the peer crashes. Raises `Undecided` or
    `PeerGoneError` if no session can be made.
    """
    return asyncio.run(_Run(targets, settings, iter(scripts), rate, found, tell, frozenset(expected)).run(seconds))


class _Run:
    """The shared state of the workers, one per target."""

    def __init__(
        self,
        targets: Sequence[Target],
        settings: Settings,
        scripts: Iterator[Script],
        rate: float,
        found: Callable[[PeerFinding], None],
        tell: Callable[[PeerProgress], None],
        expected: frozenset[str],
    ) -> None:
        self._targets = targets
        self._settings = settings
        self._scripts = scripts
        self._rate = rate
        self._found = found
        self._tell = tell
        self._expected = expected
        self._kinds: set[tuple[str, str]] = set()
        self._start = time.monotonic()
        self._turn = self._start
        self._progress = PeerProgress()

    async def run(self, seconds: float) -> PeerProgress:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._work()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            for target in self._targets:
                await target.stop()
        return self._progress

    async def _work(self) -> None:
        first = self._targets[0]
        await first.fresh()
        listener = await _met(first, self._settings)
        async with asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(self._sessions(_Runner(target, self._settings, listener)))

    async def _sessions(self, runner: "_Runner") -> None:
        is_bad = True
        while (script := next(self._scripts, None)) is not None:
            await self._wait_for_turn()
            await runner.ready(is_bad=is_bad)
            found = await runner.play(script)
            is_bad = found is not None
            is_expected = found is not None and self._is_expected(found, runner)
            self._count(sessions=1, expected=int(is_expected))
            if found is not None and not is_expected and self._is_new(found):
                await self._tell_finding(runner, script, found)

    def _is_expected(self, found: Disagreement, runner: "_Runner") -> bool:
        is_final = found.is_certain or not runner.target.restarts
        return is_final and found.does != CRASHES and found.rule in self._expected

    def _is_new(self, found: Disagreement) -> bool:
        kind = (found.kind, found.rule)
        is_new = kind not in self._kinds
        self._kinds.add(kind)
        return is_new

    async def _tell_finding(self, runner: "_Runner", script: Script, found: Disagreement) -> None:
        """Return the smallest script that shows the finding, or the original one if time is up."""
        smallest = [(script, found)]
        try:
            if runner.target.restarts:
                smallest.append(await shrunk(script, found, runner.play_again, _SHRINKING))
        finally:
            script, named = smallest[-1]
            is_known = named.rule in self._expected and named.does != CRASHES
            if (named == found or self._is_new(named)) and not is_known:
                self._tell_one(script, named)

    def _tell_one(self, script: Script, named: Disagreement) -> None:
        is_crash = named.does == CRASHES
        is_strict = is_crash or rule(named.rule).level is Level.MUST
        self._count(findings=int(is_strict), non_strict=int(not is_strict))
        self._found(PeerFinding(named.kind, named.rule, named.came, script, is_crash=is_crash, is_strict=is_strict))

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._progress, name) + number for name, number in more.items()}
        self._progress = replace(self._progress, **counts, seconds=time.monotonic() - self._start)
        if "sessions" in more:
            self._tell(self._progress)

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        wait, self._turn = max(self._turn - now, 0), max(self._turn, now) + 1 / self._rate
        await asyncio.sleep(wait)


async def _met(target: Target, settings: Settings) -> Listener:
    if target.role is Role.INITIATOR and not target.restarts:
        settings = replace(settings, has_extensions=False)  # it reconnects at a time of its own
    peer = Peer(target, settings, Record())
    try:
        return await met(peer)
    finally:
        await peer.close()


class _Runner:
    def __init__(self, target: Target, settings: Settings, listener: Listener) -> None:
        self.target = target
        self._settings = settings
        self._listener = listener
        self._is_dead = False
        """Return whether the peer crashed or did not answer."""

    async def play(self, script: Script) -> Disagreement | None:
        """Play one script, and check that the peer still answers."""
        found = await self._play(script)
        self._is_dead = found is not None and (found.does == CRASHES or found.rule == "SESSION-ROLES")
        return found

    async def _play(self, script: Script) -> Disagreement | None:
        peer = Peer(self.target, self._settings, Record())
        try:
            found = await play(peer, self._listener, script)
            if crash := await peer.crash():
                return _crash(found, crash)
        finally:
            await peer.close()
        return found or await self._probe()

    async def play_again(self, script: Script) -> Disagreement | None:
        """Play a script again, with another peer if the last one has exited or serves one session."""
        if self._is_dead or self.target.role is Role.INITIATOR:
            await self.target.restart()
        try:
            return await self.play(script)
        except Undecided:
            return None

    async def _probe(self) -> Disagreement | None:
        """Return whether the peer accepts a valid session."""
        if self.target.role is Role.INITIATOR:
            return None  # the next script shows this
        peer = Peer(self.target, self._settings, Record())
        try:
            await (await peer.session()).ping()
        except (Missed, Undecided) as error:
            found = Disagreement("does not take", "another session", "SESSION-ROLES", "a session", str(error))
            crash = await self.target.crash(was_closed=True)
            return _crash(found, crash) if crash else found
        finally:
            await peer.close()
        return None

    async def ready(self, *, is_bad: bool) -> None:
        """Prepare a peer for the next session: a new one after a finding, and for a rank 0, which reconnects late."""
        if self.target.restarts:
            if is_bad or self.target.role is Role.INITIATOR:
                await self.target.restart()
        elif is_bad and await self.target.crash(was_closed=True):
            raise PeerGoneError("the peer has exited, and there is no --restart-command")


def _crash(found: Disagreement | None, how: str) -> Disagreement:
    """Return the finding of a crashed peer."""
    shape, broken = (found.shape, found.rule) if found else ("a script", "SESSION-ROLES")
    return Disagreement(CRASHES, shape, broken, "a peer that lives on", how)
