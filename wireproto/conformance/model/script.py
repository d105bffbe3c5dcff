"""Scripts: everything sent to a peer on one or more connections, as data that can be stored in a file."""

import json
from collections.abc import Iterator
from enum import Flag
from typing import Final, Literal

import msgspec

from wireproto.conformance import byhand
from wireproto.conformance.frames import BOOTSTRAP, PONG, link_frame
from wireproto.conformance.side import Side
from wireproto.messages import Revision
from wireproto.session import Role
from wireproto.session.seal import NONCE, OVERHEAD

_OTHER_KEY: Final = bytes(32)
_STOP: Final = b"\xff\xff\xff\xff"
"""The plaintext of a tensor box that any receiver understands: the stop sentinel. [TENSOR-STOP]"""

Deed = Literal[
    "introduce", "frame", "unsealed", "changed box", "cut box", "other key", "own box", "tensor", "wrapped length",
    "bytes", "part", "others", "strangers", "newcomer",
]  # fmt: skip


class Form(Flag):
    """Unusual features of the JSON of our hello or ack."""

    UNKNOWN_KEY = 1
    WHITE_SPACE = 2
    ESCAPES = 4
    ORDER = 8


def rewritten(frame: bytes, flags: int) -> bytes:
    """Return our hello or ack in another form; higher bits of `flags` choose the unknown key."""
    form = Form(flags % 16)
    members = [(f'"{key}"', f'"{value}"') for key, value in json.loads(frame[1:]).items()]
    if Form.ESCAPES in form:
        members = [(f'"\\u{ord(key[1]):04x}{key[2:]}', value.replace("/", "\\/")) for key, value in members]
    if Form.UNKNOWN_KEY in form:
        members.insert(0, (f'"{_UNKNOWN[flags // 16 % len(_UNKNOWN)]}"', '[-1.5e3,{"nonce":null}]'))
    if Form.ORDER in form:
        members.reverse()
    space = " \n\t\r" if Form.WHITE_SPACE in form else ""
    text = f",{space}".join(f"{key}{space}:{space}{value}" for key, value in members)
    return frame[:1] + f"{space}{{{space}{text}{space}}}{space}".encode()


_UNKNOWN: Final = ("", "x", "Nonce", "nonce ", "extensions", "a longer key", "é", "seSignatures")


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action, usually sending something.

    `introduce`       our hello or ack, in the `Form` given by `at`, with `early` bytes of the next act; or with
                      a `part` varied by `introductions`
    `frame`           a cluster frame, in a box if the revision has them
    `unsealed`        the same without a box
    `changed box`     a box with the lowest bit of byte `at` flipped
    `cut box`         the first `at` bytes of a box
    `other key`       a box sealed with another key
    `own box`         the peer's own box number `at`
    `tensor`          a frame of the type `data` with a valid tensor box
    `wrapped length`  a valid link frame with 2^`at` added to its length
    `bytes`           `data` instead of a link frame
    `part`            the first `at` bytes of a link frame
    `others`          `count` unexpected messages
    `strangers`       `count` other connections, each with the first `at` bytes of a hello (-1: a handshake), or with
                      a hello that has a varied `part`
    `newcomer`        another connection that is confirmed, and on which the script continues; the old one is left open,
                      closed or reset before, for `at` 0, 1 and 2
    """

    do: Deed
    data: str = ""
    """In hex."""
    nonce: str = ""
    """Nonce of the box, in hex."""
    at: int = 0
    count: int = 1
    part: str = ""
    way: int = 0
    """The seed of the varied part."""
    early: int = 0
    stays: bool = False
    """Whether the other connections stay open."""
    cuts: tuple[int, ...] = ()
    """Offsets at which the bytes are cut into pieces, which are sent one by one."""
    joined: bool = False
    """Whether the last piece is sent together with the next act's first."""
    pause: float = 0.0
    """Pause before the last piece, as a share of the handshake timeout."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """All acts of one play."""

    seed: int
    number: int
    """The script's number, in a run from that seed."""
    acts: tuple[Act, ...]


def bursts(acts: tuple[Act, ...]) -> Iterator[tuple[Act, ...]]:
    """Group acts whose bytes are sent together."""
    burst: list[Act] = []
    for act in acts:
        if burst and not (burst[-1].joined and act.do not in ("strangers", "newcomer")):
            yield tuple(burst)
            burst = []
        burst.append(act)
    if burst:
        yield tuple(burst)


class Hand:
    """Makes the bytes of acts for one connection."""

    def __init__(self, side: Side, introduction: bytes) -> None:
        self.side = side
        self._introduction = introduction
        self._early = b""

    def bytes_of(self, act: Act, following: Act | None) -> bytes:
        """Return what an act puts on the wire; `following` is the act after it."""
        early, self._early = self._early, b""
        if act.do == "introduce":
            if self.side.key is not None:  # a second, unexpected one
                return link_frame(self._body(self._introduction, act))
            if self.side.role is Role.INITIATOR:
                self.side.open()
            elif following is not None and following.do == "frame":
                self._early = self._start(following)[: act.early]
            return link_frame(self._introduction) + self._early
        return self._bytes(act)[len(early) :]

    def _start(self, act: Act) -> bytes:
        """Return the first bytes of a link frame that do not depend on the key."""
        frame = bytes.fromhex(act.data)
        if self.side.revision is Revision.V1:
            return link_frame(frame)
        return (len(frame) + OVERHEAD).to_bytes(8, "little") + bytes.fromhex(act.nonce)

    def _bytes(self, act: Act) -> bytes:
        match act.do:
            case "bytes":
                return bytes.fromhex(act.data)
            case "own box":
                return link_frame(self.side.bodies[act.at % len(self.side.bodies)]) if self.side.bodies else b""
            case "others":
                frame = PONG if self.side.role is Role.RESPONDER else BOOTSTRAP
                return b"".join(link_frame(self._body(frame, act, number)) for number in range(act.count))
            case "wrapped length":
                body = self._body(bytes.fromhex(act.data), act)
                return (len(body) + (1 << act.at)).to_bytes(8, "little") + body
            case "part":
                return link_frame(self._body(bytes.fromhex(act.data), act))[: act.at]
            case _:
                return link_frame(self._body_of(act))

    def _body_of(self, act: Act) -> bytes:
        frame = bytes.fromhex(act.data)
        key = self.side.key
        if act.do == "tensor" and key is not None:
            frame += byhand.sealed(key, _STOP, bytes.fromhex(act.nonce)[::-1])
        box = self._body(frame, act)
        match act.do:
            case "unsealed":
                return frame
            case "changed box":
                at = act.at % len(box)
                return box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
            case "cut box":
                return box[: max(act.at % len(box), 1)]
            case "other key":
                return byhand.sealed(_OTHER_KEY, frame, bytes.fromhex(act.nonce))
            case _:
                return box

    def _body(self, frame: bytes, act: Act, number: int = 0) -> bytes:
        """Return a body with the act's nonce, or a later one."""
        if self.side.key is None or self.side.revision is Revision.V1:
            return frame
        nonce = (int(act.nonce, 16) + number) % 256**NONCE
        return self.side.body(frame, nonce=nonce.to_bytes(NONCE))
