"""Draws scripts: a grammar of acts, with weights for each theme. All choices come from a seed."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from random import Random
from typing import Final

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.conformance.model import contents
from wireproto.conformance.model.introductions import BLIND, PARTS
from wireproto.conformance.model.script import Act, Script
from wireproto.errors import WireError
from wireproto.messages import (
    MAX_LINK_LENGTH,
    REGISTRY,
    SPEC_BY_CLASS,
    Direction,
    JacclBootstrapPayload,
    Message,
    PayloadKind,
    Revision,
)
from wireproto.session import Role
from wireproto.session.seal import NONCE, OVERHEAD
from wireproto.testing.encodings import foreign_frame, random_message
from wireproto.testing.malformed import broken_frame
from wireproto.testing.mutations import mutate_frame, random_frame
from wireproto.testing.vectors import ClusterFrameTest, load

PING: Final = Act(do="frame", data="03", nonce="00" * NONCE)
"""The nonce is drawn when it is used."""
THEMES: Final = {
    Role.RESPONDER: ("handshakes", "frames", "values", "boxes", "pieces", "order", "pauses", "connections"),
    Role.INITIATOR: ("handshakes", "frames", "values", "boxes", "pieces", "order", "pauses"),
}
"""Themes by the peer's role. A rank 0 makes the connections itself."""
TAG_POSITIONS: Final = (1, 2, 17, 1000)
"""Boxes of a session with a wrong tag."""
DISTANCES: Final = (1, 2, 16, 65, 1000)
_LONGEST: Final = 16 * 1024
"""Bytes of a test vector that is short enough to be sent often."""


def drawn(
    seed: int, number: int, role: Role, revision: Revision, theme: str | None = None, *, bootstraps: bool = False
) -> Script:
    """Return script `number` of a seed, for a peer of this role. The result is always the same.

    Without `bootstraps`, no script makes a rank 1 form a group.
    """
    random = Random(f"{seed}/{number}/{theme}/{role.value}/{revision:d}")
    drawing = _Drawing(random, role, revision, bootstraps)
    theme = theme or random.choice(THEMES[role])
    return Script(seed=seed, number=number, acts=tuple(drawing.acts(theme, number)))


class _Drawing:
    def __init__(self, random: Random, role: Role, revision: Revision, bootstraps: bool) -> None:
        self._random = random
        self._role = role
        self._revision = revision
        self._bootstraps = bootstraps
        self._frames: list[Act] = []
        """The acts sent in boxes on this connection."""

    def acts(self, theme: str, number: int) -> Iterator[Act]:
        """Yield the acts of a script. Its `number` selects points of ranges that are covered completely."""
        random = self._random
        if theme == "order" and random.random() < 0.2:
            yield self._frame(_any_frame(random))  # instead of the introduction
            return
        introduction = self._introduction(theme)
        yield introduction
        if introduction.part == BLIND:
            return
        if theme == "boxes" and number % 4 == 0 and self._revision is Revision.V2:
            yield from self._wrong_tag(TAG_POSITIONS[number // 4 % len(TAG_POSITIONS)])
            return
        for _ in range(random.randint(1, 8)):
            for act in random.choice(_CHOICES[theme])(self):
                yield self._delivered(act, theme)
        if theme == "frames":
            yield from self.wrong()
        if theme == "values":
            yield self._frame(self._wrong_value(number))

    def _introduction(self, theme: str) -> Act:
        random = self._random
        act = Act(do="introduce", at=random.randrange(1, 128) if random.random() < 0.5 else 0)
        if theme == "handshakes":
            return Act(do="introduce", part=random.choice(_PARTS), way=random.getrandbits(32))
        if theme != "pieces":
            return act
        cuts = tuple(sorted(random.sample(range(1, 300), random.randint(0, 3))))
        if self._role is Role.INITIATOR or self._revision is Revision.V1:
            return msgspec.structs.replace(act, cuts=cuts, joined=random.random() < 0.5)
        return msgspec.structs.replace(act, cuts=cuts, early=random.choice((0, 1, 7, 8, 9, 20)))

    def _delivered(self, act: Act, theme: str) -> Act:
        """Return the act in pieces, joined with the next one, or after a pause."""
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
        extensions = random.choice(([], ["outcome/1"], ["side-channel/1"], ["x/1"]))
        more = {"extensions": extensions} if random.random() < 0.3 else {}
        number = contents.port(random) if random.random() < 0.8 else contents.wrong_port(random)
        frame = contents.bootstrap(number, random.choice(contents.SESSION_IDS), **more)
        for _ in range(random.choice((1, 1, 2))):
            yield self._frame(frame)

    def ports(self) -> Iterator[Act]:
        """Send bootstraps to a rank 0, which ignores them; a rank 1 would start its group."""
        if self._role is Role.INITIATOR:
            for _ in range(3):
                yield self._frame(contents.bootstrap(contents.port(self._random)))

    def texts(self) -> Iterator[Act]:
        random = self._random
        free = [kind for kind in self._with_texts() if contents.has_free_text(kind) and not self._is_bootstrap(kind)]
        for _ in range(3 if free else 0):
            message = random_message(random, random.choice(free))
            yield self._frame(contents.text_with(random, message, contents.harmless_character(random)))

    def sizes(self) -> Iterator[Act]:
        yield self._frame(contents.sized(self._random, self._revision, self._random.choice((0, 0, -1))))

    def session_end(self) -> Iterator[Act]:
        if self._random.random() < 0.3:
            yield msgspec.structs.replace(self._frame(b"\xff"), joined=True)
            yield self._frame(self._valid())

    def replay(self) -> Iterator[Act]:
        """Repeat a box, or another box with its nonce, at some distance."""
        random = self._random
        first = self._frame(self._valid())
        yield first
        distance = random.choice((*DISTANCES, random.randint(1, 1000)))
        if distance > 1:
            yield self._others(distance - 1)
        yield first if random.random() < 0.7 else msgspec.structs.replace(first, data="03")

    def alike(self) -> Iterator[Act]:
        """Send a box whose nonce differs from an earlier one in a single byte."""
        first = self._frame(self._valid())
        yield first
        nonce = bytearray.fromhex(first.nonce)
        nonce[self._random.randrange(NONCE)] ^= 1 << self._random.randrange(8)
        yield msgspec.structs.replace(self._frame(self._valid()), nonce=nonce.hex())

    def others(self) -> Iterator[Act]:
        yield self._others(int(2 ** self._random.uniform(0, 8)))

    def plain_nonce(self) -> Iterator[Act]:
        """Send a box with a nonce that does not look random."""
        nonce = self._random.choice((bytes(NONCE), b"\xff" * NONCE, b"cluster-link", bytes(range(NONCE))))
        yield msgspec.structs.replace(self._frame(self._valid()), nonce=nonce.hex())

    def spoilt(self) -> Iterator[Act]:
        """Send a box that does not open, usually only because of its tag."""
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
        part = random.choice(_PARTS) if random.random() < 0.3 else ""
        way = random.getrandbits(32) if part else 0
        count, stays = random.choice((1, 1, 2, 6)), random.random() < 0.5
        yield Act(do="strangers", count=count, at=at, stays=stays, part=part, way=way)
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
            frame = b"\x03"  # forming a group is real work that cannot be undone
        return Act(do="frame", data=frame.hex(), nonce=self._nonce())

    def _wrong_tag(self, position: int) -> Iterator[Act]:
        """Give the box at this position of the session a wrong tag."""
        if position > 1:
            yield self._others(position - 1)
        at = self._random.randrange(-OVERHEAD + NONCE, 0)
        yield Act(do="changed box", data=self._valid().hex(), nonce=self._nonce(), at=at)

    def _wrong_value(self, number: int) -> bytes:
        """Send a value beyond its limit. Each control character has its turn."""
        random = self._random
        kind = _VALUES[number % len(_VALUES)]
        if kind == "text":
            control = number // len(_VALUES) * _VALUES.count("text") + _VALUES[: number % len(_VALUES)].count("text")
            message = random_message(random, random.choice(self._with_texts()))
            return contents.text_with(random, message, bytes([control % 0x20]))
        if kind == "size":
            return contents.sized(random, self._revision, random.choice((1, 1, int(2 ** random.uniform(0, 16)))))
        unusable = (0, 0xFFFF) if self._role is Role.RESPONDER else ()
        return contents.bootstrap(random.choice((*unusable, *(contents.wrong_port(random) for _ in range(4)))))

    def _with_texts(self) -> list[type[Message]]:
        return [kind for kind in _kinds(self._revision) if SPEC_BY_CLASS[kind].kind is PayloadKind.JSON]

    def _others(self, count: int) -> Act:
        return Act(do="others", count=count, nonce=self._nonce())

    def _valid(self) -> bytes:
        """Send a frame of any type that the peer must accept or ignore, in any encoding."""
        random = self._random
        kinds = _kinds(self._revision)
        while True:
            message = random_message(random, random.choice(kinds))
            frame = foreign_frame(random, message)
            if not self._is_bootstrap(type(message)):
                return frame

    def _is_bootstrap(self, kind: type[Message]) -> bool:
        """Return whether a message may start a group."""
        return kind is JacclBootstrapPayload and self._role is Role.RESPONDER


_PARTS: Final = (*PARTS, *("wrong signature",) * 6, *("wrong commitment",) * 2)
"""Parts of a hello or an ack, more often if they have more to get wrong."""
_VALUES: Final = ("port", "text", "size", "port", "text")
"""Kinds of excess at the end of a script, used in turn."""
_Choice = Callable[[_Drawing], Iterator[Act]]
_D = _Drawing
_CHOICES: Final[dict[str, tuple[_Choice, ...]]] = {
    "handshakes": (_D.pings, _D.valid),
    "values": (_D.pings, _D.ports, _D.texts, _D.texts, _D.sizes),
    "frames": (_D.valid, _D.valid, _D.valid, _D.pings, _D.wrong, _D.wrong, _D.wrong_type),
    "boxes": (_D.valid, _D.replay, _D.alike, _D.plain_nonce, _D.others, _D.spoilt, _D.reflection, _D.long_length),
    "pieces": (_D.valid, _D.pings, _D.pings, _D.wrong, _D.tensor, _D.long_length),
    "order": (
        _D.valid, _D.pings, _D.tensor, _D.bootstrap, _D.bootstrap, _D.session_end, _D.introduction_again, _D.others,
    ),
    "connections": (_D.pings, _D.valid, _D.strangers, _D.strangers, _D.newcomer, _D.bootstrap),
    "pauses": (_D.valid, _D.pings, _D.pings, _D.wrong),
}  # fmt: skip
"""The acts of each theme; repeated ones are more frequent."""


@cache
def _kinds(revision: Revision) -> list[type[Message]]:
    """Messages of the plain protocol except sessionEnd, more often if they have more to get wrong."""
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


def _any_frame(random: Random) -> bytes:
    return random_frame(random) or b"\x03"


def _mutated(random: Random) -> bytes:
    return mutate_frame(random, random_frame(random)) or b"\x03"


_WRONG: Final = (
    _broken, _vector, _mutated, _any_frame, contents.key_twice, contents.key_twice, contents.control_character,
    contents.deep, contents.wrong_base64,
)  # fmt: skip
"""Functions that draw mostly invalid frames."""


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
