"""Fuzzes a live peer: session after session past a real handshake, and behind each a sign of life.

The only module of the kit with an event loop. The other rank is `wireproto.conformance`'s, played by hand.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wireproto.conformance.byhand import sealed
from wireproto.conformance.peer import Link, Peer, Settings, link_frame
from wireproto.conformance.targets import Target
from wireproto.conformance.verdicts import Missed, Record, Undecided
from wireproto.fuzzing.scripts import Act, End, Script, end_of, is_answered
from wireproto.messages import Revision
from wireproto.session import Role


@dataclass(frozen=True)
class PeerFinding:
    """A session that a peer does not take as it must."""

    kind: str
    came: str
    script: Script


class PeerGoneError(Exception):
    """There is no peer any more, and no command that starts one."""


@dataclass
class PeerProgress:
    """How far a run is."""

    sessions: int = 0
    seconds: float = 0.0
    findings: int = 0


def fuzz(
    target: Target,
    settings: Settings,
    scripts: Iterable[Script],
    *,
    seconds: float,
    rate: float,
    found: Callable[[PeerFinding], None],
    tell: Callable[[PeerProgress], None] = lambda _: None,
) -> PeerProgress:
    """Plays scripts, at most `rate` sessions a second, for so long or to their end; `found` gets what goes wrong.

    Raises `Undecided` or `PeerGoneError` where no session can be made.
    """
    return asyncio.run(_fuzz(_Runner(target, settings), scripts, seconds, rate, found, tell))


async def _fuzz(
    runner: "_Runner",
    scripts: Iterable[Script],
    seconds: float,
    rate: float,
    found: Callable[[PeerFinding], None],
    tell: Callable[[PeerProgress], None],
) -> PeerProgress:
    progress = PeerProgress()
    kinds: set[str] = set()
    finding = None
    start = time.monotonic()
    try:
        await runner.target.fresh()
        for script in scripts:
            turn = time.monotonic()
            if progress.sessions:
                await runner.ready(is_bad=finding is not None)
            finding = await runner.play(script)
            progress.sessions += 1
            if finding is not None and finding.kind not in kinds:
                kinds.add(finding.kind)
                progress.findings += 1
                found(await runner.smaller(finding))
            progress.seconds = time.monotonic() - start
            tell(progress)
            if progress.seconds > seconds:
                break
            await asyncio.sleep(max(1 / rate - (time.monotonic() - turn), 0))
    finally:
        await runner.target.stop()
    return progress


class _Runner:
    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self._settings = settings

    async def play(self, script: Script) -> PeerFinding | None:
        """One session, and a sign of life."""
        peer = Peer(self.target, self._settings, Record())
        try:
            link = await peer.session()
            try:
                await self._say(link, script.acts)
                await self.target.settle()
            except Missed as missed:
                crashed = await self._crash()
                return PeerFinding(crashed or f"expected {missed.expected}", missed.came, script)
            await peer.close()
            return await self._probe(script)
        finally:
            await peer.close()

    async def _say(self, link: Link, acts: tuple[Act, ...]) -> None:
        count, end = end_of(acts, self.target.role, self._settings.revision)
        for number, act in enumerate(acts[:count], 1):
            await link.send_bytes(act.do, _bytes_of(link, act, self._settings.revision))
            if is_answered(acts[:number], self.target.role, self._settings.revision):
                await link.expect_pong()
        if end is End.OPEN:
            await link.expect_alive()
        elif end is End.CLOSED:
            await link.expect_closed(probe=False)

    async def _crash(self) -> str:
        try:
            await self.target.settle()
        except Missed as missed:
            return f"the peer crashed: {missed.came}"
        return ""

    async def _probe(self, script: Script) -> PeerFinding | None:
        """Whether the peer takes a session that is in order."""
        if self.target.role is Role.INITIATOR and not self.target.restarts:
            return None  # it comes again when it wants to, and the next session shows that
        probe = Peer(self.target, self._settings, Record())
        try:
            if self.target.role is Role.RESPONDER:
                await (await probe.session()).ping()
        except (Missed, Undecided) as error:
            return PeerFinding(await self._crash() or "no sign of life", str(error), script)
        finally:
            await probe.close()
        return None

    async def smaller(self, finding: PeerFinding) -> PeerFinding:
        """With as few acts as do; each is tried with a fresh peer, where there can be one."""
        if not self.target.restarts:
            return finding
        end = time.monotonic() + 30
        tried: list[PeerFinding] = [finding]

        async def is_same(acts: tuple[Act, ...]) -> bool:
            await self.target.fresh()
            script = Script(seed=finding.script.seed, number=finding.script.number, acts=acts)
            try:
                again = await self.play(script)
            except (Missed, Undecided):
                return False
            if again is None or again.kind != finding.kind:
                return False
            tried.append(again)
            return True

        acts = list(finding.script.acts)
        at = 0
        while at < len(acts) and time.monotonic() < end:
            without = acts[:at] + acts[at + 1 :]
            if without and await is_same(tuple(without)):
                acts = without
            else:
                at += 1
        return tried[-1]

    async def ready(self, *, is_bad: bool) -> None:
        """A peer for the next session: another one behind a finding, and for a rank 0, which returns late."""
        if self.target.restarts:
            if is_bad or self.target.role is Role.INITIATOR:
                await self.target.fresh()
        elif is_bad and await self._crash():
            raise PeerGoneError("the peer has gone, and there is no --restart-command")


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
