"""Two sides, and the frames in transit to each: the state of a simulation, and its steps."""

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256, shake_256
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from tests.simulation.session import invariants
from tests.simulation.session.ideal import Ideal, Ledger, Refused
from tests.simulation.session.invariants import Violation
from wireproto import (
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    LocalError,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    RemoteError,
    Revision,
    SessionEnd,
    SideChannelPart,
    SideChannelWhole,
    WireError,
    session,
)
from wireproto.session import Config, Established, Event, MessageReceived, Role, Session, State, seal
from wireproto.session.seal import NONCE
from wireproto.testing.fixed_keys import KNOWN

SIGNERS: Final = (KNOWN.rank_0, KNOWN.rank_1)
ROLES: Final = (Role.INITIATOR, Role.RESPONDER)
END: Final = b""
"""The end of the stream, among the frames in transit."""


class Action(NamedTuple):
    """One step of a schedule: the action, the side, and its arguments."""

    do: str
    rank: int
    what: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.do, str(self.rank), self.what)))


class Coins:
    """A source of random bytes determined by a name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._draws = 0
        self.first = b""
        """The private ephemeral key."""

    def __call__(self, count: int) -> bytes:
        self._draws += 1
        drawn = shake_256(f"{self._name}/{self._draws}".encode()).digest(count)
        self.first = self.first or drawn
        return drawn


class KeyLog:
    """Shows the session key to the simulation."""

    def __init__(self) -> None:
        self.key = ""

    def write(self, line: str) -> None:
        self.key = line.split()[2]

    def flush(self) -> None:
        """There is nothing to flush."""


class Setting(NamedTuple):
    """The common state of two sides."""

    revision: Revision = Revision.V2
    extensions: tuple[str, ...] = ()
    boxes: int = seal.MAX_BOXES
    """The number of boxes per key."""

    @property
    def name(self) -> str:
        """In a few words."""
        few = f", {self.boxes} boxes" if self.boxes < seal.MAX_BOXES else ""
        return f"revision {self.revision:d}" + (", extensions" if self.extensions else "") + few

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Limits the boxes of keys, and the nonces of few of them are in the dictionary."""
        if self.boxes == Setting().boxes:
            yield
            return
        near, first = self.boxes // 3, self.boxes // 4
        with (
            patch.object(seal, "MAX_BOXES", self.boxes),
            patch.object(seal, "_FIRST", first),
            patch.object(session, "NEAR_LIMIT", near),
        ):
            yield


class Recording(NamedTuple):
    """An earlier session between the same keys: the output of each side, and its hello and ack."""

    setting: Setting
    written: tuple[list[bytes], list[bytes]]
    introductions: tuple[dict[bytes, bytes | None], dict[bytes, bytes | None]]


class Side:
    """One end: its session, the frames in transit to it, and the results."""

    def __init__(self, rank: int, setting: Setting, coins: str, earlier: Recording | None) -> None:
        self.rank = rank
        self.coins, self.key_log = Coins(f"{coins}/{rank}"), KeyLog()
        revision, extensions, _ = setting
        self.session = Session(
            Config(
                role=ROLES[rank],
                signer=SIGNERS[rank],
                pin=SIGNERS[1 - rank].public_key,
                revision=revision,
                extensions=extensions,
                key_log=self.key_log,
                random=self.coins,
            )
        )
        self.names = extensions if revision is Revision.V2 else ()
        self.ledger = Ledger(SIGNERS[rank].public_key, earlier.introductions[rank] if earlier else {})
        self.coming: deque[bytes] = deque()
        self.written: list[bytes] = []
        """Its link frames, recorded by the attacker."""
        self.unread: list[tuple[bytes, bool]] = []
        """Bytes that the session has, and whether they were written in place; their events are not taken yet."""
        self.sent: list[Message] = []
        self.taken: list[Message] = []
        self.opened: list[bytes] = []
        """Plaintexts of tensors."""
        self.is_deaf = False
        """Whether nothing more can be delivered to it."""
        self.has_hung_up = False
        self.is_touched = False
        """Whether the attacker changed the stream to this side, except for cutting it into pieces."""
        self.ideal: Ideal

    def meet(self, peer: "Side", setting: Setting) -> None:
        """Record the peer's frames as a list, not by their bytes."""
        ledgers = (self.ledger, peer.ledger)
        self.ideal = Ideal(self.rank, setting.revision, self.session.extensions, setting.boxes, ledgers)


class World:
    """A pair of sides, with one method per step. Every step checks the invariants; it raises `Violation`."""

    def __init__(self, setting: Setting, coins: str, earlier: Recording | None = None) -> None:
        self.setting = setting
        self.earlier = earlier
        self.sides = (Side(0, setting, coins, earlier), Side(1, setting, coins, earlier))
        for side in self.sides:
            side.meet(self.peer(side), setting)
        self.secrets = [form for signer in SIGNERS for form in _forms(signer.scalar)]
        self.trace: list[str] | None = None

    def peer(self, side: Side) -> Side:
        """Return the other end."""
        return self.sides[1 - side.rank]

    # -- the honest ends -----------------------------------------------------------------------------------------------

    def says(self, rank: int, what: str) -> None:
        """Let the program of a side do something."""
        side = self.sides[rank]
        if what == "close":
            side.is_deaf = True
            self._hang_up(side)
        elif what == "hello":
            self._introduce(side)
            side.ledger.own_hello = side.written[0][8:]
        else:
            self._send(side, WORDS[what](side, self))

    def _send(self, side: Side, message: Message | None) -> None:
        if message is None:
            return
        came = self._call(side, LocalError, side.session.send, message)
        invariants.same(side, came, side.ideal.send(message))
        if came is not None:
            return
        side.sent.append(message)
        self._tell(side, f"sends {message}")
        body = self._body(side)
        side.ledger.messages[body] = message
        if self.setting.revision is Revision.V2:
            self._note_nonce(side, body)

    def seal(self, side: Side, plaintext: bytes) -> bytes | None:
        """Return a tensor box of a side, None if it refuses to make one."""
        box = self._call(side, LocalError, side.session.seal_tensor, plaintext)
        refused = isinstance(box, Refused)
        invariants.same(side, box if refused else None, side.ideal.seal_tensor())
        if refused:
            return None
        side.ledger.tensors[box] = plaintext
        self._note_nonce(side, box)
        return box

    def _note_nonce(self, side: Side, box: bytes) -> None:
        nonce = box[:NONCE]
        if any(nonce in each.ledger.nonces for each in self.sides):
            raise Violation("a nonce serves once", f"rank {side.rank} uses {nonce.hex()} again")
        side.ledger.nonces[nonce] = None
        side.ideal.boxes += 1

    def _introduce(self, side: Side) -> None:
        side.ledger.introductions[self._body(side)] = side.ideal.heard
        self._keep_secret(side.coins.first)

    def _body(self, side: Side) -> bytes:
        """Return the body of the only frame that a side must write now."""
        frames = self._flush(side)
        if len(frames) != 1:
            raise Violation("one frame a message", f"rank {side.rank} writes {len(frames)}")
        return frames[0][8:]

    def _flush(self, side: Side) -> list[bytes]:
        data = b"".join(self._call(side, None, side.session.data_to_send))
        if data and side.ideal.state is State.FAILED:
            raise Violation("a failed session is silent", f"rank {side.rank} writes {len(data)} bytes")
        frames = []
        while data:
            end = 8 + int.from_bytes(data[:8], "little")
            frames.append(data[:end])
            data = data[end:]
            self._tell(side, f"writes {_digest(frames[-1])}, {len(frames[-1])} bytes")
        if not side.has_hung_up:
            self.peer(side).coming.extend(frames)
        side.written += frames
        return frames

    def _hang_up(self, side: Side) -> None:
        if not side.has_hung_up:
            side.has_hung_up = True
            self.peer(side).coming.append(END)

    # -- the wire ------------------------------------------------------------------------------------------------------

    def feed(self, side: Side, data: bytes, how: str = "") -> None:
        """Deliver bytes by `receive_data` or, `in place`, by the session's buffer. `held`: events are taken later."""
        self._tell(side, f"gets {_digest(data)}, {len(data)} bytes{how and ', '}{how}" if data else "gets the end")
        is_in_place = how == "in place" and bool(data)
        self._call(side, None, partial(_put, side.session) if is_in_place else side.session.receive_data, data)
        side.unread.append((data, is_in_place))
        if not data:
            side.is_deaf = True
        if how != "held":
            self.take(side)

    def take(self, side: Side) -> None:
        """Take all events of a side, and compare each with the required one."""
        for data, is_in_place in side.unread:
            side.ideal.receive(data, is_in_place)
        side.unread.clear()
        while True:
            came = self._call(side, RemoteError, side.session.next_event)
            if came is not None:
                text = repr(came)
                self._tell(side, text)
                invariants.event(self, side, came, text)
            invariants.same(side, came, side.ideal.next_event())
            if came is None:
                break
            self._react(side, came)
            invariants.state(self, side)
        if side.ideal.is_over:
            self._flush(side)
            self._hang_up(side)

    def _call(self, side: Side, allowed: type[WireError] | None, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a session. Return its result, or the allowed error with which it refuses."""
        try:
            return call(*arguments)
        except Exception as error:
            if allowed is None or not isinstance(error, allowed):
                raise Violation("documented errors", f"rank {side.rank}: {type(error).__name__}: {error}") from error
            invariants.error(self, side, error)
            return Refused(error.code)

    def _react(self, side: Side, event: Event | Refused) -> None:
        """Act on an event like a program."""
        match event:
            case Established():
                side.ledger.key = side.key_log.key
                self._keep_secret(bytes.fromhex(side.ledger.key))
                if side.rank:
                    self._introduce(side)
            case MessageReceived(Ping()):
                self._send(side, WORDS["pong"](side, self))
            case MessageReceived(InferenceStep(box) | InferenceToken(box)) if not side.ideal.is_over:
                self._open_tensor(side, box)
            case _:
                pass

    def _open_tensor(self, side: Side, box: bytes) -> None:
        came = self._call(side, RemoteError, side.session.open_tensor, box)
        self._tell(side, f"opens a tensor box: {came!r}")
        if not isinstance(came, Refused):
            invariants.tensor(side, self.peer(side), came)
        invariants.same(side, came, side.ideal.open_tensor(box))

    def _keep_secret(self, value: bytes) -> None:
        if value:
            self.secrets += _forms(value)

    def _tell(self, side: Side, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"    rank {side.rank} {what:.120}")


def _put(session: Session, data: bytes) -> None:
    while data:
        space = session.get_buffer()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        session.buffer_updated(count)
        data = data[count:]


def _forms(secret: bytes) -> tuple[str, ...]:
    """Return the forms in which bytes could appear in a text."""
    return secret.hex(), b64encode(secret).decode(), repr(secret)[2:-1]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:8]


# -- what programs say -------------------------------------------------------------------------------------------------


def _pong(side: Side, _: World) -> Message:
    return PongPayload(len(side.sent) % 2 == 0, False, MemoryPressure.NORMAL, side.names)


def _bootstrap(side: Side, _: World) -> Message:
    offered = tuple(name for name in side.names if name in side.ideal.offered)
    return JacclBootstrapPayload(29400 + len(side.sent), "s", offered)


def _step(side: Side, world: World) -> Message | None:
    box = world.seal(side, f"activation {len(side.sent)}".encode())
    return None if box is None else InferenceStep(box)


def _token(side: Side, world: World) -> Message | None:
    box = world.seal(side, f"token {len(side.sent)}".encode())
    return None if box is None else InferenceToken(box)


WORDS: Final[dict[str, Callable[[Side, World], Message | None]]] = {
    "ping": lambda side, world: Ping(),
    "pong": _pong,
    "step": _step,
    "token": _token,
    "bootstrap": _bootstrap,
    "withdraw": lambda side, world: JacclBootstrapPayload(1, "", ()),
    "part": lambda side, world: SideChannelPart(len(side.sent), b"part"),
    "whole": lambda side, world: SideChannelWhole(len(side.sent), b"whole"),
    "end": lambda side, world: SessionEnd(),
}
"""The messages of a program, by the word for each in a script."""
