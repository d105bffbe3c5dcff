"""An attacker's actions: on the frames in transit, and with forged frames."""

from collections.abc import Callable
from functools import cache
from typing import Final

from tests.simulation.session.world import END, Action, Recording, Setting, Side, World
from wireproto import (
    HandshakeHello,
    JacclBootstrapPayload,
    MemoryPressure,
    PongPayload,
    SessionEnd,
    decode_frame,
    encode_frame,
    encode_link_frame,
)
from wireproto.messages import HandshakeAck
from wireproto.session import MAX_HANDSHAKE_LENGTH
from wireproto.testing.fixed_keys import KnownHandshake, KnownSide, box

STRANGER: Final = KnownSide(bytes([7]) * 32, bytes([8]) * 32, bytes([9]) * 32)
"""An identity that is not pinned."""
_OTHER_KEY: Final = bytes(32)
_NONCE: Final = b"an attacker."
_PLACES: Final = {"length": 0, "nonce": 8, "text": 20, "tag": 1 << 20}


def perform(world: World, action: Action) -> None:
    """Do a step of a schedule."""
    if world.trace is not None:
        world.trace.append(str(action))
    if action.do == "says":
        world.says(action.rank, action.what)
    else:
        STEPS[action.do](world, world.sides[action.rank], action.what)


# -- with frames on their way ------------------------------------------------------------------------------------------


def _deliver(world: World, side: Side, how: str) -> None:
    world.feed(side, side.coming.popleft(), how)


def _take(world: World, side: Side, _: str) -> None:
    """Let the program take the events of bytes delivered before."""
    world.take(side)


def _piece(world: World, side: Side, size: str) -> None:
    """Deliver the first half of the next frame or, given a number, that many bytes."""
    data = side.coming.popleft()
    end = min(int(size or len(data) // 2), len(data) - 1)
    side.coming.appendleft(data[end:])
    world.feed(side, data[:end])


def _joined(world: World, side: Side, how: str) -> None:
    """Deliver all frames in transit at once."""
    data = side.coming.popleft()
    while side.coming and side.coming[0]:
        data += side.coming.popleft()
    world.feed(side, data, how)


def _drop(world: World, side: Side, _: str) -> None:
    side.is_touched = True
    side.coming.popleft()


def _repeat(world: World, side: Side, when: str) -> None:
    """A second copy: next, or last."""
    side.is_touched = True
    frame = side.coming[0]
    if when == "last":
        side.coming.append(frame)
    else:
        side.coming.appendleft(frame)


def _swap(world: World, side: Side, _: str) -> None:
    side.is_touched = True
    coming = side.coming
    coming[0], coming[1] = coming[1], coming[0]


def _reflect(world: World, side: Side, _: str) -> None:
    """Send the next frame back to where it came from."""
    side.is_touched = True
    peer = world.peer(side)
    peer.is_touched = True
    peer.coming.appendleft(side.coming.popleft())


def _change(world: World, side: Side, where: str) -> None:
    """Flip the lowest bit of a byte of the next frame, in a named place or at an offset."""
    side.is_touched = True
    frame = bytearray(side.coming.popleft())
    at = _PLACES[where] if where in _PLACES else int(where)
    frame[min(at, len(frame) - 1)] ^= 1
    side.coming.appendleft(bytes(frame))


def _cut(world: World, side: Side, _: str) -> None:
    """End the stream."""
    side.is_touched = True
    world.feed(side, END)


# -- with others -------------------------------------------------------------------------------------------------------


def _replay(world: World, side: Side, what: str) -> None:
    """Deliver an earlier frame of either side: `what` is its sender and number."""
    side.is_touched = True
    rank, _, number = what.partition(":")
    world.feed(side, world.sides[int(rank)].written[int(number)])


def _inject(world: World, side: Side, kind: str) -> None:
    side.is_touched = True
    world.feed(side, FORGERIES[kind](world, side))


def _earlier(number: int) -> Callable[[World, Side], bytes]:
    """A frame of an earlier session between the same keys."""

    def frame(world: World, side: Side) -> bytes:
        assert world.earlier is not None
        return world.earlier.written[1 - side.rank][number]

    return frame


def _plain_frame(side: Side) -> bytes:
    """An expected frame, long enough to pass for a box."""
    if side.rank:
        return encode_frame(JacclBootstrapPayload(1, "of an attacker"))
    return encode_frame(PongPayload(True, False, MemoryPressure.NORMAL))


def _plain(world: World, side: Side) -> bytes:
    return encode_link_frame(_plain_frame(side))


def _other_key(world: World, side: Side) -> bytes:
    return encode_link_frame(box(_OTHER_KEY, _NONCE, encode_frame(SessionEnd()) if side.rank else _plain_frame(side)))


def _forged_introduction(world: World, side: Side) -> bytes:
    """The pinned identity with the attacker's ephemeral key and another signature of that identity."""
    assert world.earlier is not None
    true = decode_frame(world.earlier.written[1 - side.rank][0][8:])
    kind = HandshakeHello if side.rank else HandshakeAck
    assert isinstance(true, kind)
    return encode_link_frame(
        encode_frame(kind(true.se_pub_key_raw, STRANGER.public, STRANGER.nonce, true.se_signature))
    )


def _stranger(world: World, side: Side) -> bytes:
    """A complete introduction with an unpinned identity."""
    if side.rank:
        return encode_link_frame(KnownHandshake(STRANGER, STRANGER).hello)
    hello = side.ledger.own_hello
    greeting = STRANGER.nonce
    if hello is not None:
        message = decode_frame(hello)
        assert isinstance(message, HandshakeHello)
        greeting = message.nonce
    return encode_link_frame(KnownHandshake(KnownSide(b"", b"", greeting), STRANGER).ack)


FORGERIES: Final[dict[str, Callable[[World, Side], bytes]]] = {
    "no length": lambda world, side: bytes(8),
    "long length": lambda world, side: (MAX_HANDSHAKE_LENGTH + 1).to_bytes(8, "little"),
    "huge length": lambda world, side: b"\xff" * 8,
    "short frame": lambda world, side: encode_link_frame(encode_frame(SessionEnd())),
    "plain frame": _plain,
    "other key": _other_key,
    "earlier introduction": _earlier(0),
    "earlier frame": _earlier(-1),
    "forged introduction": _forged_introduction,
    "stranger": _stranger,
}
"""The attacker's own link frames, by kind."""

STEPS: Final[dict[str, Callable[[World, Side, str], None]]] = {
    "deliver": _deliver,
    "take": _take,
    "piece": _piece,
    "joined": _joined,
    "drop": _drop,
    "repeat": _repeat,
    "swap": _swap,
    "reflect": _reflect,
    "change": _change,
    "cut": _cut,
    "replay": _replay,
    "inject": _inject,
}


STRIKES: Final = (
    ("drop", ""),
    ("piece", ""),
    ("joined", ""),
    ("swap", ""),
    ("reflect", ""),
    ("repeat", "next"),
    ("repeat", "last"),
    *(("change", place) for place in _PLACES),
    ("cut", ""),
    *(("inject", kind) for kind in FORGERIES),
)
"""Actions on the stream of a side, except for delivering the next frame."""


def is_possible(world: World, action: Action) -> bool:
    """Return whether a step is possible now; programs may also try calls that their session refuses."""
    side = world.sides[action.rank]
    if action.do == "says":
        return action.what != "hello" or not side.written
    if action.do == "take":
        return bool(side.unread)
    if side.is_deaf:
        return False
    coming = side.coming
    match action.do:
        case "deliver" | "drop":
            return bool(coming)
        case "piece":
            return bool(coming) and len(coming[0]) > 1
        case "repeat" if action.what == "last":
            return len(coming) > 1 and bool(coming[0])
        case "repeat" | "reflect" | "change":
            return bool(coming and coming[0])
        case "swap" | "joined":
            return len(coming) > 1 and bool(coming[0] and coming[1])
        case "replay":
            rank, _, number = action.what.partition(":")
            return int(number) < len(world.sides[int(rank)].written)
        case _:
            return True


def strikes(world: World, rank: int) -> list[Action]:
    """Return everything that the attacker can do to the stream of a side."""
    actions = (Action(do, rank, what) for do, what in STRIKES)
    return [action for action in actions if is_possible(world, action)]


@cache
def earlier(setting: Setting) -> Recording:
    """Record an honest session between the same keys: a handshake, and a frame or two from each side."""
    world = World(setting, "earlier")
    for rank, what in ((0, "hello"), (1, ""), (0, ""), (0, "ping"), (1, ""), (0, ""), (0, "end"), (1, "")):
        if what:
            world.says(rank, what)
        else:
            world.feed(world.sides[rank], world.sides[rank].coming.popleft())
    first, second = world.sides
    introductions = (first.ledger.introductions, second.ledger.introductions)
    return Recording(setting, (first.written, second.written), introductions)
