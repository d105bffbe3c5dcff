"""Cases along a rule's dimensions: numbers, pieces, histories, time, other connections, handshake fields.

Each has a list of points. A rank 0 that must be restarted for each point gets the first few in the standard profile and
all of them with `--full`.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from typing import Final

from wireproto.conformance import byhand
from wireproto.conformance.byhand import KEYS, Identity
from wireproto.conformance.case import FULL_ONLY, RANK_0, RANK_1, V2, case
from wireproto.conformance.frames import BOOTSTRAP, PING, PONG, SESSION_END, link_frame
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed, Undecided, Verdict
from wireproto.conformance.wire import Silence
from wireproto.messages import MAX_LINK_LENGTH, SPEC_BY_TYPE
from wireproto.session import Role
from wireproto.testing.faults import UTF_8_CLASSES
from wireproto.testing.signatures import LOW_ORDER, ORDER, wrong_points, wrong_signatures

_NONCE: Final = 12


# -- numbers -----------------------------------------------------------------------------------------------------------

_LENGTHS: Final = (2**32 + 40, 2**31, MAX_LINK_LENGTH + 1, 2**48 + 40, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


@case("framing", "lengths", "LINK-LEN-MAX", deadline=60.0)
async def lengths(peer: Peer) -> None:
    """A length over 256 MiB ends the connection, even if its low 16, 31, 32, 48 or 53 bits are a valid length."""
    async for link, length in peer.sessions(peer.sample(_LENGTHS)):
        await link.send_bytes(f"a length of {length}", length.to_bytes(8, "little"))
        await link.expect_closed(probe=False)


_MIB: Final = 1024 * 1024
_LONG: Final = (1 * _MIB, 16 * _MIB)
_LONGEST: Final = (64 * _MIB + 1, MAX_LINK_LENGTH - 1, MAX_LINK_LENGTH)


@case("framing", "long-frames", "LINK-LEN-MAX", "SESSION-IGNORE", deadline=240.0)
async def long_frames(peer: Peer) -> None:
    """Frames of 1 and 16 MiB are accepted; with --full also 64 MiB + 1, 256 MiB − 1 and 256 MiB."""
    async for link, length in peer.sessions((*_LONG, *_LONGEST) if peer.settings.full else _LONG):
        await link.send_long(peer.misplaced_opaque, length)
        await link.expect_alive(f"that {length:,} bytes are accepted")


_UNKNOWN: Final = [byte for byte in (0x44, 0x80, 0x0F, *range(256)) if byte not in {int(each) for each in SPEC_BY_TYPE}]


@case("frame", "types-unknown", "SESSION-BOX", "FRAME-TYPE", needs=("frame.type-unknown",), deadline=240.0)
async def types_unknown(peer: Peer) -> None:
    """Each type byte that no revision has ends the connection."""
    async for link, byte in peer.sessions(peer.sample(_UNKNOWN)):
        await link.send(f"the type 0x{byte:02x}", bytes([byte]) + b"{}" * (byte % 2))
        await link.expect_closed()


# -- characters --------------------------------------------------------------------------------------------------------


def _with_unknown(peer: Peer, value: bytes) -> bytes:
    """Return a valid frame with one more member."""
    good = BOOTSTRAP if peer.role is Role.RESPONDER else PONG
    return good[:-1] + b',"x":' + value + b"}"


@case("payload", "strings-of-every-character", "JSON-STRING", needs=("payload.unknown-key",))
async def strings_of_every_character(peer: Peer) -> None:
    """Strings that start with any character, including space, DEL and U+FEFF, are accepted, and so is an empty one.

    So are the first and last character of each class of UTF-8 sequences, and the same in escapes.
    """
    edges = [each.decode() for pair in UTF_8_CLASSES for each in pair]
    characters = [*map(chr, range(0x20, 0x82)), "\ufeff", "\u2028", *edges]
    texts = ["", *characters, *(f"{each}a{each}" for each in characters)]
    async for link, value in peer.sessions((json.dumps(texts, ensure_ascii=False), json.dumps(texts))):
        await link.send("strings of every character", _with_unknown(peer, value.encode()))
        await link.expect_alive("that they are accepted")


# -- pieces ------------------------------------------------------------------------------------------------------------


@case("framing", "every-split", "LINK-CHUNKS", needs=("session.pong-each",), roles=RANK_1, deadline=40.0)
async def every_split(peer: Peer) -> None:
    """A frame is accepted wherever it is split into two pieces."""
    link = await peer.session()
    size = len(link_frame(link.body(PING)))
    for at in range(1, size):
        data = link_frame(link.body(PING))
        await link.send_bytes(f"the first {at} of {size} bytes of a ping", data[:at])
        await asyncio.sleep(0.002)
        await link.send_bytes("the rest", data[at:])
        await link.expect_pong()


@case("framing", "box-with-the-ack", "LINK-CHUNKS", roles=RANK_0, revisions=V2)
async def box_with_the_ack(peer: Peer) -> None:
    """A box in one piece with the ack is accepted, and a bad one ends the connection."""
    for number, flip in enumerate((0, 1)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        ack = link_frame(link.introduction())
        link.open()
        box = bytearray(link.body(peer.misplaced()))
        box[-1] ^= flip
        await link.send_bytes("the ack and a box", ack + link_frame(bytes(box)))
        if flip:
            await link.expect_closed()
        else:
            await link.expect_alive("that the box is accepted")
        await link.wire.close()


@case("session", "cut-anywhere", "SESSION-ROLES", "LINK-EOF", roles=RANK_1)
async def cut_anywhere(peer: Peer) -> None:
    """A connection that is cut inside a hello, or reset, does not affect the next one."""
    for reset in (False, True):
        for size in (0, 1, 7, 8, 9, 200):
            link = await peer.connect()
            await link.send_bytes(f"the first {size} bytes of a hello", link_frame(link.introduction())[:size])
            await (link.wire.reset() if reset else link.wire.close())
        link = await peer.session()
        await link.send_bytes("half a frame", link_frame(link.body(PING))[:-3])
        await (link.wire.reset() if reset else link.wire.close())
    await (await peer.session()).ping()


# -- histories ---------------------------------------------------------------------------------------------------------


def _replay_after(distance: int) -> None:
    about = f"A repeated box is refused, even after {distance:,} others."

    @case("seal", f"replay-after-{distance}", "SEAL-REPLAY", roles=RANK_1, revisions=V2, about=about, deadline=60.0)
    async def script(peer: Peer) -> None:
        if distance > 2000 and not peer.settings.full:
            raise Undecided(Verdict.SKIPPED, FULL_ONLY)
        link = await peer.session()
        box = link.body(peer.misplaced())
        await link.send_body("a box", box)
        await link.send_others(distance)
        await link.ping()
        await link.send_body("the first box again", box)
        await link.expect_closed()


for _distance in (1, 2, 16, 65, 1_000, 20_000):
    _replay_after(_distance)


def _reflection_after(name: str, distance: int) -> None:
    about = f"The peer refuses its own first box, even after it has sent {distance} others."

    @case("seal", name, "SEAL-REFLECTION", roles=RANK_1, revisions=V2, about=about, deadline=40.0)
    async def script(peer: Peer) -> None:
        link = await peer.session()
        for _ in range(distance + 1):
            await link.ping()
        await link.send_body("the peer's first box", link.bodies[0])
        await link.expect_closed()


_reflection_after("reflection-of-the-first", 20)
_reflection_after("reflection-after-100", 100)


@case("seal", "nonce-of-the-last-session", "SEAL-LAYOUT", roles=RANK_1, revisions=V2)
async def nonce_of_the_last_session(peer: Peer) -> None:
    """A nonce used in an earlier session, with another key, is accepted."""
    nonce = os.urandom(_NONCE)
    for _ in range(2):
        link = await peer.session()
        await link.send_body("a box with the nonce", link.body(peer.misplaced(), nonce=nonce))
        await link.expect_alive("that the box is accepted")
        await link.wire.close()


@case("seal", "nonces-share-a-prefix", "SEAL-LAYOUT", revisions=V2)
async def nonces_share_a_prefix(peer: Peer) -> None:
    """Nonces that differ in any single byte are different."""
    link = await peer.session()
    nonce = os.urandom(_NONCE)
    for at in range(_NONCE):
        changed = nonce[:at] + bytes([nonce[at] ^ 1]) + nonce[at + 1 :]
        await link.send_body(f"a box whose nonce differs in byte {at}", link.body(peer.misplaced(), nonce=changed))
    await link.expect_alive("that the boxes are accepted")


@case("seal", "nonces-have-no-pattern", "SEAL-NONCE", roles=RANK_1, revisions=V2)
async def nonces_have_no_pattern(peer: Peer) -> None:
    """In 64 nonces no byte is constant, none is repeated, and none is text."""
    link = await peer.session()
    for _ in range(64):
        await link.ping()
    link.step("check the nonces")
    nonces = [body[:_NONCE] for body in link.bodies]
    fixed = [at for at in range(_NONCE) if len({nonce[at] for nonce in nonces}) < 8]
    if fixed or len(set(nonces)) < len(nonces) or all(nonce.isascii() for nonce in nonces):
        raise Missed("random nonces", ", ".join(nonce.hex() for nonce in nonces[:4]))


def _later_box(count: int) -> None:
    about = f"A box that does not open ends the connection, even after {count:,} good ones."

    @case("seal", f"changed-after-{count}", "SESSION-BOX", "SEAL-LAYOUT", roles=RANK_1, revisions=V2, about=about)
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send_others(count)
        await link.ping()
        box = link.body(peer.misplaced())
        await link.send_body("a box with one bit changed", box[:20] + bytes([box[20] ^ 1]) + box[21:])
        await link.expect_closed()


for _count in (2, 16, 100, 1_000):
    _later_box(_count)


# -- other connections -------------------------------------------------------------------------------------------------


def _beside(count: int) -> None:
    about = f"{count} short connections of other hosts, one after the other, do not end the session."

    @case("session", f"{count}-strangers-pass", "SESSION-DISPLACE", roles=RANK_1, about=about, deadline=40.0)
    async def script(peer: Peer) -> None:
        if count > 50 and not peer.settings.full:
            raise Undecided(Verdict.SKIPPED, FULL_ONLY)
        link = await peer.session()
        await link.ping()
        for _ in range(count):
            await (await peer.connect()).wire.close()
        await link.expect_alive()


for _count in (1, 12, 200):
    _beside(_count)


def _crowd_beside(count: int) -> None:
    about = f"A session continues while {count} silent connections of other hosts are open, and after they close."

    @case("session", f"{count}-strangers-stay", "SESSION-DISPLACE", roles=RANK_1, about=about, deadline=40.0)
    async def script(peer: Peer) -> None:
        if count > 50 and not peer.settings.full:
            raise Undecided(Verdict.SKIPPED, FULL_ONLY)
        link = await peer.session()
        await link.ping()
        strangers = [await peer.connect() for _ in range(count)]
        await link.expect_alive()
        for stranger in strangers:
            await stranger.wire.close()
        await link.expect_alive()


for _count in (1, 4, 8, 24, 200):
    _crowd_beside(_count)


@case("session", "replace-beside-strangers", "SESSION-REPLACE", roles=RANK_1, needs=("session.replace",), revisions=V2)
async def replace_beside_strangers(peer: Peer) -> None:
    """A confirmed new session replaces the one before it, even while others are connected."""
    link = await peer.session()
    await link.ping()
    for _ in range(6):
        await peer.connect()
    newcomer = await peer.session()
    await newcomer.ping()
    await link.expect_closed(probe=False)
    await newcomer.ping()


@case("session", "old-connection-closes", "SESSION-DISPLACE", roles=RANK_1, needs=("session.replace",), revisions=V2)
async def old_connection_closes(peer: Peer) -> None:
    """The end of a replaced connection does not end the session that replaced it."""
    old = await peer.session()
    await old.ping()
    link = await peer.session()
    await link.ping()
    await old.wire.close()
    for _ in range(3):
        await link.expect_alive()


# -- time --------------------------------------------------------------------------------------------------------------


@case("session", "idle-stays", "SESSION-TIMES", roles=RANK_1, deadline=40.0)
async def idle_stays(peer: Peer) -> None:
    """A session stays open when idle longer than the handshake timeout; with --full, longer than any timeout."""
    link = await peer.session()
    await link.ping()
    await _idle(link, peer.settings.patience.first_box if peer.settings.full else peer.settings.patience.handshake)
    try:
        await link.ping()
    except Missed as missed:
        raise Missed("a session that is still there", missed.came, missed.requirement) from None


@case("session", "idle-at-first", "SESSION-TIMES", roles=RANK_1, deadline=40.0)
async def idle_at_first(peer: Peer) -> None:
    """A session in which nothing has been sent stays open after the handshake timeout."""
    link = await peer.session()
    await _idle(link, peer.settings.patience.handshake)
    try:
        await link.ping()
    except Missed as missed:
        raise Missed("a session that is still there", missed.came, missed.requirement) from None


async def _idle(link: Link, limit: float) -> None:
    link.step(f"send nothing for {limit + 1:g} s")
    await asyncio.sleep(limit + 1)


@case("session", "closes-for-good", "SESSION-TIMES", roles=RANK_1, deadline=40.0)
async def closes_for_good(peer: Peer) -> None:
    """After sessionEnd a peer does not wait forever for the other side to close; this implementation waits 1 s."""
    link = await peer.session()
    await link.ping()
    await link.send("sessionEnd", SESSION_END)
    await link.expect_closed(probe=False)
    patience = peer.settings.patience
    seconds = patience.handshake + patience.slack
    link.step(f"stay for {seconds:g} s, until the peer's socket is gone")
    if not await link.wire.is_gone(seconds):
        raise Undecided(Verdict.NON_STRICT, f"{seconds:g} s after its end of the stream it still reads")


@case("session", "hello-drips", "SESSION-TIMES", roles=RANK_1, deadline=40.0)
async def hello_drips(peer: Peer) -> None:
    """A hello that arrives in single bytes with pauses is not waited for forever; this implementation waits 10 s."""
    link = await peer.connect()
    patience = peer.settings.patience
    end = asyncio.get_running_loop().time() + patience.handshake + patience.slack
    data = link_frame(link.introduction())
    pause = (patience.handshake + patience.slack) / 20
    for at in range(0, 40, 2):
        await link.send_bytes("two more bytes of the hello", data[at : at + 2])
        try:
            if await link.wire.frame(pause) is None:
                return
        except Silence:
            pass
        if asyncio.get_running_loop().time() > end:
            break
    raise Undecided(Verdict.NON_STRICT, "it waits for a hello as long as bytes arrive")


@case("session", "reconnect-each-time", "SESSION-RECONNECT", roles=RANK_0, deadline=90.0)
async def reconnect_each_time(peer: Peer) -> None:
    """After the third failure rank 0 reconnects as soon as after the first: a session in between resets the wait."""
    if not peer.settings.full:
        raise Undecided(Verdict.SKIPPED, FULL_ONLY)
    link = await peer.session()
    for _ in range(3):
        link.step("close without sending anything")
        await link.wire.close()
        link = await peer.comes_again()
        await link.shake_hands()


# -- every field of the handshake --------------------------------------------------------------------------------------

_Fault = Callable[[str], str]
"""Replaces the JSON text of a base64 string, quotes included."""


def _stray_bits(text: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    digits = text.strip('"').rstrip("=")
    last = alphabet[alphabet.index(digits[-1]) | 1]
    return f'"{digits[:-1]}{last}{text.strip(chr(34))[len(digits) :]}"'


_FAULTS: Final[dict[str, tuple[str, str, _Fault]]] = {
    "null": ("PAYLOAD-HELLO", "null", lambda _: "null"),
    "number": ("PAYLOAD-HELLO", "a number", lambda _: "0"),
    "array": ("PAYLOAD-HELLO", "an array that contains it", lambda text: f"[{text}]"),
    "space": ("JSON-BASE64", "base64 with a space in it", lambda text: f'"{text[1:5]} {text[5:]}'),
    "padding": ("JSON-BASE64", "base64 with extra padding", lambda text: f'{text[:-1]}===="'),
    "letter": ("JSON-BASE64", "base64 with an invalid character", lambda text: f'"{text[1:5]}*{text[6:]}'),
    "stray-bits": ("JSON-BASE64", "base64 with stray bits", _stray_bits),
    "escape": ("JSON-STRING", "an escape that JSON does not define", lambda text: f'"\\x41{text[2:]}'),
}


_OF_PADDED: Final = ("stray-bits", "padding")


def _introductions(link: Link, fault: _Fault, is_padded: bool) -> Iterator[tuple[str, bytes]]:
    """Yield a valid hello or ack with the fault in each field in turn."""
    frame = link.introduction()
    values = json.loads(frame[1:])
    for key in KEYS:
        if is_padded and not values[key].endswith("="):
            continue  # it has no spare bits and no padding
        texts = {name: f'"{value}"' for name, value in values.items()}
        members = [f'"{name}":{fault(text) if name == key else text}' for name, text in texts.items()]
        yield key, frame[:1] + ("{" + ",".join(members) + "}").encode()


def _field_fault(name: str) -> None:
    first, what, fault = _FAULTS[name]
    about = f"In place of each field of a hello or an ack, {what} ends the connection."

    @case("handshake", f"field-{name}", first, "HANDSHAKE-ORDER", about=about, deadline=60.0)
    async def script(peer: Peer) -> None:
        for number in range(len(KEYS)):
            if number and not await peer.again():
                return
            link = await peer.connect()
            found = [*_introductions(link, fault, name in _OF_PADDED)]
            if number >= len(found) or (number and peer.role is Role.INITIATOR and not peer.settings.full):
                return
            key, frame = found[number]
            await link.send_body(f"{what} as {key}", frame)
            await link.expect_closed()
            await link.wire.close()


for _name in _FAULTS:
    _field_fault(_name)


@case("handshake", "field-twice", "JSON-DUPLICATE-KEY", "HANDSHAKE-ORDER", deadline=60.0)
async def field_twice(peer: Peer) -> None:
    """A repeated field in a hello or an ack ends the connection, even if its key is escaped."""
    for number, key in enumerate(peer.sample(KEYS)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        frame = link.introduction()
        value = json.loads(frame[1:])[key]
        escaped = f"\\u{ord(key[0]):04x}{key[1:]}" if number % 2 else key
        await link.send_body(f"{key} repeated", frame[:-1] + f',"{escaped}":"{value}"}}'.encode())
        await link.expect_closed()
        await link.wire.close()


@case("handshake", "swift-escapes-everywhere", "JSON-BASE64", "JSON-SPELLING")
async def swift_escapes_everywhere(peer: Peer) -> None:
    """A hello or an ack with white space, unknown keys of every kind, and \\u escapes in its base64 is accepted."""
    link = await peer.connect()
    frame = link.introduction()
    values = json.loads(frame[1:])
    members = [f' "{key}"\t: "\\u{ord(value[0]):04X}{value[1:]}"\r\n' for key, value in values.items()]
    unknown = ['"":[]', '"x":-1234567890123456789012345678901234567890e-12', '"y":{"a":{"a":"\\u007f\ufeff"}}']
    text = "{" + ",".join((*unknown, *members)) + "}\n"
    await link.shake_hands(frame[:1] + text.encode())


@case("handshake", "sizes", "PAYLOAD-LIMIT", deadline=40.0)
async def sizes(peer: Peer) -> None:
    """A hello or an ack of 4,096 bytes is accepted, and one of 4,097 ends the connection."""
    for number, over in enumerate((0, 1)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        frame = link.introduction()
        frame += b" " * (SPEC_BY_TYPE[frame[0]].max_length + over - len(frame))
        if over:
            await link.send_body(f"{len(frame)} bytes", frame)
            await link.expect_closed()
        else:
            await link.shake_hands(frame)
        await link.wire.close()


# -- signatures and keys -----------------------------------------------------------------------------------------------

_OTHER_SIGNATURES: Final = [each.about for each in wrong_signatures(ORDER - 2, ORDER - 3)]
_DER_LENGTHS: Final = (70, 71, 72, 69)
_NUMBER: Final = 32
"""Bytes of r or s, without a leading zero byte."""


@case("handshake", "der-grammar", "HANDSHAKE-SIGNATURE", "HANDSHAKE-ORDER", deadline=240.0)
async def der_grammar(peer: Peer) -> None:
    """A signature in a form other than DER, or with r or s out of range, ends the connection."""
    for number, about in enumerate(peer.sample(_OTHER_SIGNATURES)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        await link.send_body(f"a signature: {about}", link.introduction(sign=_signing(about)))
        await link.expect_closed()
        await link.wire.close()


def _signing(about: str) -> Callable[[Identity, bytes], bytes]:
    """Sign in one of the wrong ways, with r and s to which it applies.

    Both need a leading zero byte, except where an extra one is added: a reader may refuse an integer of 34 bytes.
    A negative integer starts with 0x80, and one with an extra zero byte with 0x7f: the limit that a reader checks.
    """
    is_long = "more zero bytes" not in about
    first = 0x80 if about.endswith("so negative") else None if is_long else 0x7F

    def sign(own: Identity, text: bytes) -> bytes:
        while True:
            numbers = own.numbers(text, long_r=is_long, long_s=is_long)
            if first in (None, numbers[about.endswith("before s") or about.startswith("s")] >> 248):
                return {each.about: each.data for each in wrong_signatures(*numbers)}[about]

    return sign


@case("handshake", "signature-lengths", "HANDSHAKE-SIGNATURE", deadline=40.0)
async def signature_lengths(peer: Peer) -> None:
    """A signature is accepted with 69, 70, 71 or 72 bytes: r and s may have a leading zero byte, or be short.

    So it is with an r that starts with 0x7f, or with 0x80 after its zero byte.
    """
    forms = [*(_of_length(size) for size in _DER_LENGTHS), *map(_of_first_byte, (0x80, 0x7F))]
    for number, sign in enumerate(peer.sample(forms)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        await link.shake_hands(link.introduction(sign=sign))
        await link.wire.close()


def _of_length(size: int) -> Callable[[Identity, bytes], bytes]:
    return _chosen(lambda der: len(der) == size)


def _of_first_byte(byte: int) -> Callable[[Identity, bytes], bytes]:
    """Choose a signature whose r has this first byte, after a zero byte for its sign."""
    return _chosen(lambda der: der[4 + (der[3] > _NUMBER)] == byte and der[3] >= _NUMBER)


def _chosen(fits: Callable[[bytes], bool]) -> Callable[[Identity, bytes], bytes]:
    def sign(own: Identity, text: bytes) -> bytes:
        while True:
            low = own.sign(text)
            for der in (low, byhand.other_s(low)):
                if fits(der):
                    return der

    return sign


@case("handshake", "identity-points", "HANDSHAKE-ORDER", deadline=60.0)
async def identity_points(peer: Peer) -> None:
    """An identity key that is not a point, or not the key of the signature, ends the connection."""
    for number, point in enumerate(peer.sample([*wrong_points(peer.settings.identity.public)])):
        if number and not await peer.again():
            return
        link = await peer.connect()
        await link.send_body(f"an identity key: {point.about}", link.introduction(shown=point.data))
        await link.expect_closed()
        await link.wire.close()


@case("handshake", "x25519-low-order", "HANDSHAKE-ORDER", deadline=60.0, needs=("handshake.x25519-zero",))
async def x25519_low_order(peer: Peer) -> None:
    """Each encoding of each X25519 key that gives the all-zero secret ends the connection."""
    for number, public in enumerate(peer.sample(LOW_ORDER)):
        if number and not await peer.again():
            return
        link = await peer.connect()
        await link.send_body(f"the X25519 key {public.hex()}", link.introduction(public=public))
        await link.expect_closed()
        await link.wire.close()
