"""Detection of mutants without effect: the outputs of mutant and unchanged peer for 10,000 scripts of the model.

A script is played to the peer's session alone, without a socket or a clock, so that it costs a millisecond, and with
randomness that its number decides, so that its bytes can be made beforehand.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.wireproto.conformance.test_conform_cli import ROOT, new_key
from wireproto import Revision
from wireproto.conformance.byhand import Identity, Introduction
from wireproto.conformance.frames import link_frame
from wireproto.conformance.identity import load_identity
from wireproto.conformance.model.drawing import drawn
from wireproto.conformance.model.introductions import introduce
from wireproto.conformance.model.script import Act, Hand, rewritten
from wireproto.conformance.side import Side
from wireproto.session import Role

SCRIPTS: Final = 10_000
COVERED: Final = ("session.mjs", "seal.mjs", "link.mjs", "json.mjs", "frames.mjs", "handshake.mjs")
"""Files all of whose work can be seen so; the timers and other connections are in peer.mjs."""
_SEED: Final = 10_000
_LONGEST: Final = 60.0
"""Seconds for one script, on a busy machine."""
_SCRIPT: Final = Path(__file__).with_suffix(".mjs")
_ELSEWHERE: Final = ("strangers", "newcomer")


class Outputs:
    """Tries mutants against the peer without a change, in `plain`.

    `folder` keeps the scripts and what that peer does with them, for the next run with the same peer and grammar.
    """

    def __init__(self, plain: Path, folder: Path, count: int = SCRIPTS) -> None:
        self._plain, self._folder, self._count = plain, folder, count
        self._key, self._scripts = folder / "theirs.pem", folder / "scripts"
        self._pin = ""
        self._expected: list[str] = []
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Write the scripts, and play them to the peer without a change."""
        async with self._lock:
            if self._expected:
                return
            kept = self._folder / "expected"
            mark = f"{self._count} {_digest_of_sources()}"
            if not kept.exists() or kept.read_text().partition("\n")[0] != mark:
                self._folder.mkdir(parents=True, exist_ok=True)
                new_key(self._key)
                (self._folder / "pin").write_text(new_key(self._folder / "ours.pem"))
                await asyncio.to_thread(self._write)
                self._pin = (self._folder / "pin").read_text()
                digests = [each async for each in self._played(self._plain)]
                kept.write_text("\n".join((mark, *digests)))
            self._pin = (self._folder / "pin").read_text()
            self._expected = kept.read_text().splitlines()[1:]

    async def first_difference(self, peer: Path) -> int | None:
        """Return the number of the first script with which the peer in a folder does something else."""
        await self.prepare()
        number = 0
        try:
            async with aclosing(self._played(peer)) as played:
                async for each in played:
                    if each != self._expected[number]:
                        return number
                    number += 1
        except TimeoutError:
            return number
        return None if number == self._count else number

    def _write(self) -> None:
        ours = load_identity(self._folder / "ours.pem")
        with self._scripts.open("w") as file:
            file.writelines(json.dumps(script(number, ours)) + "\n" for number in range(self._count))

    async def _played(self, peer: Path) -> AsyncGenerator[str, None]:
        """The digest of each script. TimeoutError for a peer that computes without end."""
        with self._scripts.open() as file:
            process = await asyncio.create_subprocess_exec(
                *("node", str(_SCRIPT), str(peer), str(self._key), self._pin),
                stdin=file,
                stdout=asyncio.subprocess.PIPE,
            )
        assert process.stdout is not None
        try:
            while line := await asyncio.wait_for(process.stdout.readline(), _LONGEST):
                yield line.decode().strip()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _digest_of_sources() -> str:
    """Of all that decides about the scripts and the peer."""
    files = [
        *ROOT.glob("tests/interop/*.mjs"),
        *ROOT.glob("tests/interop/mutants/outputs.*"),
        *ROOT.glob("wireproto/**/*.py"),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def script(number: int, ours: Identity) -> dict[str, Any]:
    """The script of this number: a peer, and the pieces that it is sent."""
    random = Random(f"{_SEED}/{number}")
    role = random.choice(list(Role))
    revision = random.choice((Revision.V1, Revision.V2, Revision.V2, Revision.V2))
    acts = drawn(_SEED, number, role, revision, bootstraps=True).acts
    side = _side(number, role, revision, ours)
    return {
        "rank": 1 if role is Role.RESPONDER else 0,
        "revision": int(revision),
        "pieces": list(_pieces(side, acts)),
    }


def _side(number: int, role: Role, revision: Revision, ours: Identity) -> Side:
    """Our side, which knows what the peer will draw."""
    key, nonce = (hashlib.sha256(f"{number}/{draw}".encode()).digest() for draw in (1, 2))
    side = Side(role, revision, ours)
    public = X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    side.theirs = Introduction(bytes(64), public, nonce, b"")
    return side


def _pieces(side: Side, acts: Sequence[Act]) -> Iterator[str | int]:
    first = next((act for act in acts if act.do == "introduce"), Act(do="introduce"))
    # A hello is made before the peer's part is known.
    theirs, side.theirs = side.theirs, None if side.role is Role.RESPONDER else side.theirs
    introduction = (
        introduce(side, first.part, first.way).frame if first.part else rewritten(side.introduction(), first.at)
    )
    side.theirs = theirs
    hand = Hand(side, introduction)
    held = b""
    for number, act in enumerate(acts):
        if act.do in _ELSEWHERE:
            break
        if act.do == "own box" and side.key is not None:
            yield act.at
            continue
        data = hand.bytes_of(act, acts[number + 1] if number + 1 < len(acts) else None)
        if act.do == "introduce" and side.key is None:
            side.open()
        cuts = [0, *(cut for cut in act.cuts if cut < len(data)), len(data)]
        *pieces, last = [data[start:stop] for start, stop in pairwise(cuts)]
        for piece in pieces:
            yield (held + piece).hex()
            held = b""
        held += last
        if not act.joined:
            yield held.hex()
            held = b""
    yield held.hex()
    yield link_frame(b"\xff" if side.revision is Revision.V1 or side.key is None else side.body(b"\xff")).hex()
