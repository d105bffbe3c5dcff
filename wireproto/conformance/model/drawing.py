"""Draws scripts: a grammar of acts, with weights for each theme. All choices come from a seed."""

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from random import Random
from typing import Final

import msgspec

from wireproto.codec.fields import payload_fields
from wireproto.codec.frame import decode_frame
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.conformance.model.script import Act, Script
from wireproto.errors import WireError
from wireproto.messages import (
    MAX_LINK_LENGTH,
    REGISTRY,
    Direction,
    JacclBootstrapPayload,
    Message,
    PayloadKind,
    Revision,
)
from wireproto.session import Role
from wireproto.session.seal import NONCE
from wireproto.testing.encodings import canonical_members, foreign_frame, join_members, random_message
from wireproto.testing.malformed import broken_frame
from wireproto.testing.mutations import mutate_frame, random_frame
from wireproto.testing.vectors import ClusterFrameTest, load

PING: Final = Act(do="frame", data="03", nonce="00" * NONCE)
"""Its nonce is drawn where it is used."""
THEMES: Final = {
    Role.RESPONDER: ("frames", "boxes", "pieces", "order", "pauses", "connections"),
    Role.INITIATOR: ("frames", "boxes", "pieces", "order", "pauses"),
}
"""By the peer's role. A rank 0 makes the connections itself."""
DISTANCES: Final = (1, 2, 16, 65, 1000)
_LONGEST: Final = 16 * 1024
"""Bytes of a test vector that is worth sending often."""
_SESSION_IDS: Final = ("6F9619FF-8B86-D011-B42D-00CF4FC964FF", "a", "x" * 128, "x" * 129, "", ".a", "a/b", "../x", "é")
_PORTS: Final = (0, 1, 29400, 65471, 65472, 65534, 65535)


def drawn(
    seed: int, number: int, role: Role, revision: Revision, theme: str | None = None, *, bootstraps: bool = False
) -> Script:
    """Return the script of this number in a run from a seed, for a peer of this role: always the same.

    Without `bootstraps`, nothing makes a rank 1 form a group.
    """
    random = Random(f"{seed}/{number}/{theme}/{role.value}/{revision:d}")
    drawing = _Drawing(random, role, revision, bootstraps)
    return Script(seed=seed, number=number, acts=tuple(drawing.acts(theme or random.choice(THEMES[role]))))


class _Drawing:
    def __init__(self, random: Random, role: Role, revision: Revision, bootstraps: bool) -> None:
        self._random = random
        self._role = role
        self._revision = revision
        self._bootstraps = bootstraps
        self._frames: list[Act] = []
        """Those that were sent on this connection, in boxes."""

    def acts(self, theme: str) -> Iterator[Act]:
        random = self._random
        if theme == "order" and random.random() < 0.2:
            yield self._frame(_any_frame(random))  # in place of the introduction
            return
        yield self._introduction(theme)
        for _ in range(random.randint(1, 8)):
            for act in random.choice(_CHOICES[theme])(self):
                yield self._delivered(act, theme)
        if theme == "frames":
            yield from self.wrong()

    def _introduction(self, theme: str) -> Act:
        random = self._random
        act = Act(do="introduce", at=random.randrange(1, 128) if random.random() < 0.5 else 0)
        if theme != "pieces":
            return act
        cuts = tuple(sorted(random.sample(range(1, 300), random.randint(0, 3))))
        if self._role is Role.INITIATOR or self._revision is Revision.V1:
            return msgspec.structs.replace(act, cuts=cuts, joined=random.random() < 0.5)
        return msgspec.structs.replace(act, cuts=cuts, early=random.choice((0, 1, 7, 8, 9, 20)))

    def _delivered(self, act: Act, theme: str) -> Act:
        """The act, in pieces, with the next one, or after a pause."""
        random = self._random
        if act.do in ("strangers", "newcomer", "others"):
            return act
        if theme == "pieces":
            sizes = [random.choice((1, 7, 8, 9, random.randint(1, 40), random.randint(1, 400))) for _ in range(4)]
            cuts = tuple(accumulate(sizes[: random.choice((0, 1, 2, 4))]))
            return msgspec.structs.replace(act, cuts=cuts, joined=random.random() < 0.4)
        if theme == "pauses" and random.random() < 0.3:
            pause = random.choice((0.005, 0.01, 0.03))
            return msgspec.structs.replace(act, pause=pause, cuts=(random.randint(1, 36),) * (random.random() < 0.5))
        return act

    # -- acts ----------------------------------------------------------------------------------------------------------

    def pings(self) -> Iterator[Act]:
        for _ in range(self._random.choice((1, 1, 1, 2, 5))):
            yield self._frame(b"\x03")

    def valid(self) -> Iterator[Act]:
        yield self._frame(self._valid())

    def wrong(self) -> Iterator[Act]:
        draw = self._random.choice(_WRONG)
        yield self._frame(draw(self._random))

    def wrong_type(self) -> Iterator[Act]:
        yield self._frame(bytes([self._random.randrange(256)]) + self._random.choice((b"", b"{}", b"x")))

    def introduction_again(self) -> Iterator[Act]:
        yield Act(do="introduce", nonce=self._nonce())

    def tensor(self) -> Iterator[Act]:
        yield Act(do="tensor", data=self._random.choice(("05", "06")), nonce=self._nonce())

    def bootstrap(self) -> Iterator[Act]:
        random = self._random
        ports = (*_PORTS, random.randint(1, 65471), 65535 + int(2 ** random.uniform(0, 15)))
        payload: dict[str, object] = {"port": random.choice(ports), "sessionID": random.choice(_SESSION_IDS)}
        if random.random() < 0.3:
            payload["extensions"] = random.choice(([], ["outcome/1"], ["side-channel/1"], ["x/1"]))
        frame = b"\x07" + json.dumps(payload).encode()
        for _ in range(random.choice((1, 1, 2))):
            yield self._frame(frame)

    def session_end(self) -> Iterator[Act]:
        if self._random.random() < 0.3:
            yield msgspec.structs.replace(self._frame(b"\xff"), joined=True)
            yield self._frame(self._valid())

    def replay(self) -> Iterator[Act]:
        """A box again, the same or another one with its nonce, at some distance."""
        random = self._random
        first = self._frame(self._valid())
        yield first
        distance = random.choice((*DISTANCES, random.randint(1, 1000)))
        if distance > 1:
            yield self._others(distance - 1)
        yield first if random.random() < 0.7 else msgspec.structs.replace(first, data="03")

    def alike(self) -> Iterator[Act]:
        """A box whose nonce differs from an earlier one's in a single byte."""
        first = self._frame(self._valid())
        yield first
        nonce = bytearray.fromhex(first.nonce)
        nonce[self._random.randrange(NONCE)] ^= 1 << self._random.randrange(8)
        yield msgspec.structs.replace(self._frame(self._valid()), nonce=nonce.hex())

    def others(self) -> Iterator[Act]:
        yield self._others(int(2 ** self._random.uniform(0, 8)))

    def spoilt(self) -> Iterator[Act]:
        """A box that does not open, mostly for its tag alone."""
        random = self._random
        if random.random() < 0.7:
            yield self._others(int(2 ** random.uniform(0, 9)))
        kind = random.choice(("changed box", "changed box", "changed box", "cut box", "other key", "unsealed"))
        at = random.choice((-1, -16, random.randrange(-16, 0), random.randrange(400)))
        yield Act(do=kind, data=self._valid().hex(), nonce=self._nonce(), at=at)  # type: ignore[arg-type]

    def reflection(self) -> Iterator[Act]:
        for _ in range(int(2 ** self._random.uniform(0, 6)) if self._role is Role.RESPONDER else 1):
            yield msgspec.structs.replace(self._frame(b"\x03"), joined=True)
        yield self._frame(b"\x03")
        yield Act(do="own box")

    def long_length(self) -> Iterator[Act]:
        random = self._random
        if random.random() < 0.5:
            yield Act(do="wrapped length", data="03", nonce=self._nonce(), at=random.randint(28, 63))
        else:
            length = random.choice((0, MAX_LINK_LENGTH + int(2 ** random.uniform(0, 30)), 2**63, 2**64 - 1))
            yield Act(do="bytes", data=length.to_bytes(8, "little").hex())

    def strangers(self) -> Iterator[Act]:
        random = self._random
        at = random.choice((0, 1, 7, 8, 9, 200, -1))
        yield Act(do="strangers", count=random.choice((1, 1, 2, 6)), at=at, stays=random.random() < 0.5)
        yield self._frame(b"\x03")

    def newcomer(self) -> Iterator[Act]:
        random = self._random
        if random.random() < 0.5:
            yield Act(do="part", data=self._valid().hex(), nonce=self._nonce(), at=random.choice((1, 7, 8, 9, 20, 30)))
        yield Act(do="newcomer", at=random.randrange(3))
        self._frames.clear()

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _nonce(self) -> str:
        return self._random.randbytes(NONCE).hex()

    def _frame(self, frame: bytes) -> Act:
        if not self._bootstraps and self._role is Role.RESPONDER and _starts_a_group(frame, self._revision):
            frame = b"\x03"  # a group is real work, and not undone
        return Act(do="frame", data=frame.hex(), nonce=self._nonce())

    def _others(self, count: int) -> Act:
        return Act(do="others", count=count, nonce=self._nonce())

    def _valid(self) -> bytes:
        """A frame of any type that the peer has to take or to ignore, encoded in any way."""
        random = self._random
        kinds = _kinds(self._revision)
        while True:
            message = random_message(random, random.choice(kinds))
            frame = foreign_frame(random, message)
            if not isinstance(message, JacclBootstrapPayload) or self._role is Role.INITIATOR:
                return frame


_Choice = Callable[[_Drawing], Iterator[Act]]
_D = _Drawing
_CHOICES: Final[dict[str, tuple[_Choice, ...]]] = {
    "frames": (_D.valid, _D.valid, _D.valid, _D.pings, _D.wrong, _D.wrong, _D.wrong_type),
    "boxes": (_D.valid, _D.replay, _D.alike, _D.others, _D.spoilt, _D.reflection, _D.long_length),
    "pieces": (_D.valid, _D.pings, _D.pings, _D.wrong, _D.tensor, _D.long_length),
    "order": (
        _D.valid, _D.pings, _D.tensor, _D.bootstrap, _D.bootstrap, _D.session_end, _D.introduction_again, _D.others,
    ),
    "connections": (_D.pings, _D.valid, _D.strangers, _D.strangers, _D.newcomer, _D.bootstrap),
    "pauses": (_D.valid, _D.pings, _D.pings, _D.wrong),
}  # fmt: skip
"""Of each theme; what stands there twice comes twice as often."""


@cache
def _kinds(revision: Revision) -> list[type[Message]]:
    """The messages of the plain protocol that end nothing, those with more to get wrong more often."""
    return [
        spec.payload
        for spec in REGISTRY
        if spec.revision <= revision and not spec.extension and spec.msg_type != 0xFF
        for _ in range(3 if spec.kind is PayloadKind.JSON else 1)
    ]


def _broken(random: Random) -> bytes:
    spec = random.choice([each for each in REGISTRY if each.direction is not Direction.BOTH])
    return broken_frame(random, random_message(random, spec.payload)).frame


def _vector(random: Random) -> bytes:
    return random.choice(_vectors())


def _mutated(random: Random) -> bytes:
    return mutate_frame(random, random_frame(random)) or b"\x03"


def _key_twice(random: Random) -> bytes:
    """A key twice, at some depth of an unknown value or at the top: any of those that payloads have, or another one."""
    key = random.choice(_keys())
    again = key if random.random() < 0.7 else f"\\u{ord(key[0]):04x}{key[1:]}"
    pair = [f'"{key}":{random.choice(_VALUES)}', f'"{again}":{random.choice(_VALUES)}']
    pair.insert(random.randrange(3), '"between":0')
    value = "{" + ",".join(pair) + "}"
    for _ in range(random.randrange(6)):
        value = f"[{value}]" if random.random() < 0.5 else f'{{"":{value}}}'
    return _with_unknown(random, value.encode())


def _control_character(random: Random) -> bytes:
    """A control character in a string, or in an unknown key."""
    text = b'"' + b"a" * random.randrange(3) + bytes([random.randrange(0x20)]) + b"b" * random.randrange(3) + b'"'
    return _with_unknown(random, b"{%s:0}" % text if random.random() < 0.3 else text)


def _base64(random: Random) -> bytes:
    """A character of no alphabet somewhere in the base64 of a field."""
    text = base64.b64encode(random.randbytes(random.randrange(3, 9))).decode()
    at = random.randrange(len(text) + 1)
    value = json.dumps(text[:at] + random.choice(" \n\r\t*.,\0-_=\u00e9") + text[at:])
    kind, rest = random.choice(((0x0C, '"sealedToken"'), (0x0B, '"seqLen":1,"sealedActivation"')))
    return bytes([kind]) + f'{{"uid":"a",{rest}:{value}}}'.encode()


def _deep(random: Random) -> bytes:
    """A value that is nested nearly too deep, or just too deep."""
    levels = MAX_NESTING - 1 + random.choice((0, 1, random.randint(-64, 64)))  # the payload is the first
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return _with_unknown(random, opening * levels + (b"0" if opening != b"[" else b"") + closing * levels)


def _with_unknown(random: Random, value: bytes) -> bytes:
    """A valid frame with one more member."""
    spec = random.choice([each for each in REGISTRY if each.kind is PayloadKind.JSON and not each.extension])
    frame = bytes([spec.msg_type]) + join_members(canonical_members(random_message(random, spec.payload)))
    member = b'"unknown":' + value
    return frame[:2] + member + b"," + frame[2:] if random.random() < 0.5 else frame[:-1] + b"," + member + b"}"


_VALUES: Final = ("0", '""', "[]", "{}", "true")


@cache
def _keys() -> list[str]:
    """Those that payloads have, and others."""
    specs = (spec for spec in REGISTRY if spec.kind is PayloadKind.JSON and not spec.extension)
    return ["x", "key", *dict.fromkeys(key for spec in specs for key in payload_fields(spec.payload))]


def _any_frame(random: Random) -> bytes:
    return random_frame(random) or b"\x03"


_WRONG: Final = (_broken, _vector, _mutated, _any_frame, _key_twice, _key_twice, _control_character, _deep, _base64)
"""What draws frames that are mostly not valid."""


@cache
def _vectors() -> list[bytes]:
    tests = (test for group in load(ClusterFrameTest).groups for test in group.tests)
    return [bytes(test.frame) for test in tests if 0 < len(test.frame) <= _LONGEST]


def _starts_a_group(frame: bytes, revision: Revision) -> bool:
    try:
        message = decode_frame(frame, revision)
    except WireError:
        return False
    return isinstance(message, JacclBootstrapPayload) and message.port not in (0, 0xFFFF)
