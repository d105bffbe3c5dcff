"""Fuzzes live peers: session after session past a real handshake, and after each a sign of life.

The only module of the kit with an event loop. The other rank is `wireproto.conformance`'s, played by hand. Where there
are several targets, sessions overlap.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from wireproto.conformance.byhand import sealed
from wireproto.conformance.frames import OFFER, link_frame, offered
from wireproto.conformance.peer import Link, Peer, Settings
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import Missed, Record, Undecided
from wireproto.fuzzing.scripts import Act, End, Listener, Script, end_of, is_answered, judged
from wireproto.messages import Revision
from wireproto.session import Role

_MINIMIZING = 30.0
"""Seconds for making a finding smaller."""
_REFUSES = "does not take"


@dataclass(frozen=True)
class PeerFinding:
    """A session that a peer does not take as it must. Findings of one kind are one."""

    kind: str
    """What it does, and with what."""
    rule: str
    came: str
    script: Script
    is_crash: bool = False


class PeerGoneError(Exception):
    """There is no peer any more, and no command that starts one."""


@dataclass(frozen=True)
class PeerProgress:
    """How far a run is."""

    sessions: int = 0
    seconds: float = 0.0
    findings: int = 0
    expected: int = 0
    """Sessions that showed what was expected."""


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
    """Plays scripts, at most `rate` sessions a second, for so long or to their end; `found` gets what goes wrong.

    Requirements in `expected` are known to be broken: what breaks one of them is left out, unless the peer crashes.
    Raises `Undecided` or `PeerGoneError` where no session can be made.
    """
    return asyncio.run(_Run(targets, settings, iter(scripts), rate, found, tell, frozenset(expected)).run(seconds))


class _Run:
    """What the workers, one a target, have in common."""

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
        self._kinds: set[str] = set()
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
        has_extensions = await _has_extensions(first, self._settings)
        peer = Listener(first.role, self._settings.revision, has_extensions)
        async with asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(self._sessions(_Runner(target, self._settings, peer)))

    async def _sessions(self, runner: "_Runner") -> None:
        is_bad = True
        while (script := next(self._scripts, None)) is not None:
            await self._wait_for_turn()
            await runner.ready(is_bad=is_bad)
            finding = await runner.play(script)
            is_bad = finding is not None
            expected = finding is not None and not finding.is_crash and finding.rule in self._expected
            self._count(sessions=1, expected=int(expected))
            if finding is not None and not expected and finding.kind not in self._kinds:
                self._kinds.add(finding.kind)
                self._count(findings=1)
                await self._tell_finding(runner, finding)

    async def _tell_finding(self, runner: "_Runner", finding: PeerFinding) -> None:
        """The smallest script that shows it, or the one that did where the time is up."""
        smallest = [finding]
        try:
            await runner.make_smaller(smallest)
        finally:
            self._kinds.add(smallest[-1].kind)
            self._found(smallest[-1])

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._progress, name) + number for name, number in more.items()}
        self._progress = replace(self._progress, **counts, seconds=time.monotonic() - self._start)
        if "sessions" in more:
            self._tell(self._progress)

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        wait, self._turn = max(self._turn - now, 0), max(self._turn, now) + 1 / self._rate
        await asyncio.sleep(wait)


async def _has_extensions(target: Target, settings: Settings) -> bool | None:
    """Whether the peer offers extensions, or takes one that is offered. None where it does not come to that."""
    if settings.has_extensions is not None:
        return settings.has_extensions
    if target.role is Role.INITIATOR and not target.restarts:
        return None  # it comes again when it wants to
    peer = Peer(target, settings, Record())
    try:
        if target.role is Role.RESPONDER:
            return bool(offered(await (await peer.session()).ping()))
        link = await peer.session_at_ack()
        await link.send("a pong that offers an extension", OFFER)
        return bool((await link.expect_bootstrap()).extensions)
    except Missed:
        return None
    finally:
        await peer.close()


class _Runner:
    def __init__(self, target: Target, settings: Settings, peer: Listener) -> None:
        self.target = target
        self._settings = settings
        self._peer = peer

    async def play(self, script: Script) -> PeerFinding | None:
        """One session, and a sign of life."""
        peer = Peer(self.target, self._settings, Record())
        try:
            link = await peer.session()
            try:
                await self._say(link, script.acts)
            except Missed as missed:
                return await self._crash(script, peer) or self._finding(script, missed)
            if crash := await self._crash(script, peer):
                return crash
            await peer.close()
            return await self._probe(script)
        finally:
            await peer.close()

    async def _say(self, link: Link, acts: tuple[Act, ...]) -> None:
        count, end = end_of(acts, self._peer)
        for number, act in enumerate(acts[:count], 1):
            await link.send_bytes(act.do, _bytes_of(link, act, self._settings.revision))
            if is_answered(acts[:number], self._peer):
                await link.expect_pong()
        if end is End.OPEN:
            await link.expect_alive()
        elif end is End.CLOSED:
            await link.expect_closed(probe=False)

    def _finding(self, script: Script, missed: Missed) -> PeerFinding:
        """What the last act that counts was, and what the peer did with it."""
        count, end = end_of(script.acts, self._peer)
        nonces: set[str] = set()
        *_, last = (judged(act, self._peer, nonces) for act in script.acts[:count])
        if end is not End.CLOSED and last.shape == "a valid ping":
            return PeerFinding("leaves a ping unanswered", "SESSION-PONG", missed.came, script)
        does = "takes" if end is End.CLOSED else _REFUSES
        return PeerFinding(f"{does} {last.shape}", missed.requirement or last.rule, missed.came, script)

    async def _crash(self, script: Script, peer: Peer | None = None) -> PeerFinding | None:
        how = await self.target.crash(was_closed=peer is None or peer.was_closed)
        if not how:
            return None
        found = self._finding(script, Missed("a peer that lives on", how))
        shape = found.kind.removeprefix("takes ").removeprefix(f"{_REFUSES} ")
        return replace(found, kind=f"crashes: {shape}", is_crash=True)

    async def _probe(self, script: Script) -> PeerFinding | None:
        """Whether the peer takes a session that is in order."""
        if self.target.role is Role.INITIATOR and not self.target.restarts:
            return None  # it comes again when it wants to, and the next session shows that
        probe = Peer(self.target, self._settings, Record())
        try:
            if self.target.role is Role.RESPONDER:
                await (await probe.session()).ping()
        except (Missed, Undecided) as error:
            found = self._finding(script, Missed("a session", str(error)))
            return await self._crash(script) or replace(found, kind="gives no sign of life", rule="SESSION-ROLES")
        finally:
            await probe.close()
        return None

    async def make_smaller(self, found: list[PeerFinding]) -> None:
        """Append what shows the finding with fewer acts and, of a crash, fewer bytes; each with a fresh peer."""
        if not self.target.restarts:
            return
        end = time.monotonic() + _MINIMIZING

        async def is_same(acts: tuple[Act, ...]) -> bool:
            await self.target.restart()
            script = Script(seed=found[0].script.seed, number=found[0].script.number, acts=acts)
            try:
                again = await self.play(script)
            except (Missed, Undecided):
                return False
            if again is None or not _is_alike(found[0], again):
                return False
            found.append(again)
            return True

        acts = found[0].script.acts
        at = 0
        while at < len(acts) and time.monotonic() < end:
            without = acts[:at] + acts[at + 1 :]
            if without and await is_same(without):
                acts = without
            else:
                at += 1
        if found[0].is_crash:
            *before, last = acts
            size = len(last.data) // 4
            while size and time.monotonic() < end:
                at = 0
                while at < len(last.data) and time.monotonic() < end:
                    shorter = msgspec.structs.replace(last, data=last.data[:at] + last.data[at + 2 * size :])
                    if shorter.data and await is_same((*before, shorter)):
                        last = shorter
                    else:
                        at += 2 * size
                size //= 2

    async def ready(self, *, is_bad: bool) -> None:
        """A peer for the next session: another one after a finding, and for a rank 0, which returns late."""
        if self.target.restarts:
            if is_bad or self.target.role is Role.INITIATOR:
                await self.target.restart()
        elif is_bad and await self.target.crash(was_closed=True):
            raise PeerGoneError("the peer has gone, and there is no --restart-command")


def _is_alike(one: PeerFinding, other: PeerFinding) -> bool:
    """Whether two findings are the same one. Which act a peer did not take shows only once the others are gone."""
    if one.is_crash or other.is_crash:
        return one.is_crash and other.is_crash
    return one.kind == other.kind or {_REFUSES} == {each.kind[: len(_REFUSES)] for each in (one, other)}


def _bytes_of(link: Link, act: Act, revision: Revision) -> bytes:
    data = bytes.fromhex(act.data)
    if act.do == "bytes":
        return data
    if act.do == "unsealed" or revision is Revision.V1 or link.key is None:
        return link_frame(data)
    box = bytearray(sealed(link.key, data, bytes.fromhex(act.nonce)))
    if act.do == "broken box":
        box[-1] ^= 1
    return link_frame(bytes(box))
