"""Whether a mutant can be told from the peer without a change: what both do with 10,000 scripts of the model.

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

from wireproto import Revision
from wireproto.conformance.byhand import Identity, Introduction
from wireproto.conformance.frames import link_frame
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
    """Tries mutants against the peer without a change. `plain` is its folder, `key` the peer's identity file."""

    def __init__(self, plain: Path, key: Path, pin: str, ours: Identity, file: Path, count: int = SCRIPTS) -> None:
        self._words = (str(key), pin)
        self._plain, self._ours, self._file, self._count = plain, ours, file, count
        self._expected: list[str] = []
        self._lock = asyncio.Lock()

    async def first_difference(self, peer: Path) -> int | None:
        """Return the number of the first script with which the peer in a folder does something else."""
        async with self._lock:
            if not self._expected:
                await asyncio.to_thread(self._write)
                self._expected = [each async for each in self._played(self._plain)]
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
        with self._file.open("w") as file:
            file.writelines(json.dumps(script(number, self._ours)) + "\n" for number in range(self._count))

    async def _played(self, peer: Path) -> AsyncGenerator[str, None]:
        """The digest of each script. TimeoutError for a peer that computes without end."""
        with self._file.open() as file:
            process = await asyncio.create_subprocess_exec(
                *("node", str(_SCRIPT), str(peer), *self._words), stdin=file, stdout=asyncio.subprocess.PIPE
            )
        assert process.stdout is not None
        try:
            while line := await asyncio.wait_for(process.stdout.readline(), _LONGEST):
                yield line.decode().strip()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


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
