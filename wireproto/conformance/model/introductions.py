"""The contents of our hello or ack: one part drawn at random, valid or not.

The model decides whether it must be accepted.
"""

import hashlib
from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from wireproto.codec.frame import decode_frame
from wireproto.conformance.byhand import Identity
from wireproto.conformance.side import Side
from wireproto.messages import SPEC_BY_TYPE
from wireproto.session import Role
from wireproto.testing.encodings import foreign_frame
from wireproto.testing.malformed import broken_frame
from wireproto.testing.mutations import flip_bit, insert_byte, mutate_frame, remove_byte, replace_byte
from wireproto.testing.signatures import LOW_ORDER, read_laxly, wrong_points, wrong_signatures

_SUBTLE: Final = 0.6
"""Share of the wrong signatures in which a lax reader finds the right numbers."""
_X25519_PRIME: Final = 2**255 - 19
_FIELDS: Final = {"identity": 64, "x25519": 32, "nonce": 32}


class Content(NamedTuple):
    """A hello or an ack."""

    about: str
    frame: bytes


Draw = Callable[[Random, Side], Content]


def introduce(side: Side, part: str, way: int) -> Content:
    """Return our hello or ack with this part drawn from a seed. May change the nonce of `side`."""
    return PARTS[part](Random(way), side)


# -- the signature -----------------------------------------------------------------------------------------------------


def _wrong_signature(random: Random, side: Side) -> Content:
    r, s = _numbers(random, side)
    ways = list(wrong_signatures(r, s))
    if random.random() < _SUBTLE:
        ways = [each for each in ways if read_laxly(each.data) == (r, s)]
    about, data = random.choice(ways)
    return Content(f"signature: {about}", side.introduction(sign=lambda *_: data))


def _changed_signature(random: Random, side: Side) -> Content:
    """Return DER with a byte changed, added or removed."""
    der = encode_dss_signature(*_numbers(random, side))
    change = random.choice((flip_bit, replace_byte, insert_byte, remove_byte))
    data = change(random, der)
    return Content(f"signature: {change.__name__}", side.introduction(sign=lambda *_: data))


def _good_signature(random: Random, side: Side) -> Content:
    der = encode_dss_signature(*_numbers(random, side))
    return Content(f"a signature of {len(der)} bytes", side.introduction(sign=lambda *_: der))


def _numbers(random: Random, side: Side) -> tuple[int, int]:
    commitment = side.commitment(side.public, side.nonce)
    return side.identity.numbers(commitment, long_r=random.random() < 0.5, long_s=random.random() < 0.5)


def _wrong_commitment(random: Random, side: Side) -> Content:
    """Sign other values, in another order, or with another number of hashes."""
    values = {"x25519": side.public, "nonce": side.nonce, "identity": side.identity.public}
    right = ["x25519", "nonce"]
    if side.theirs is not None:
        values["their nonce"] = side.theirs.nonce
        right = ["their nonce", "nonce", "x25519"]
    names, hashes = right, 2
    while (names, hashes) == (right, 2):
        names = random.choice((right, random.choices(list(values), k=random.randint(0, len(right) + 1))))
        hashes = random.choice((1, 2, 2, 3))
    text = b"".join(values[name] for name in names)
    for _ in range(max(hashes - 1, 1)):
        text = hashlib.sha256(text).digest()
    sign = Identity.sign_once if hashes == 1 else Identity.sign
    about = f"signed over {' ‖ '.join(names) or 'nothing'}, hashed {hashes} times"
    return Content(about, side.introduction(commit=lambda *_: text, sign=sign))


# -- nonces and keys ---------------------------------------------------------------------------------------------------


def _good_nonce(random: Random, side: Side) -> Content:
    """Use a nonce that looks like something else."""
    fresh = random.randbytes(32)
    beginnings = {"zeros": bytes(8), "ones": b"\xff" * 8, "text": b"\r\n{}\"'%00", "our key": side.public[:31]}
    if side.theirs is not None:
        beginnings["their nonce"] = side.theirs.nonce[:31]
    name, beginning = random.choice(list(beginnings.items()))
    side.nonce = beginning + fresh[len(beginning) :]
    return Content(f"a nonce that starts with {name}", side.introduction())


def _wrong_length(random: Random, side: Side) -> Content:
    """Use a field of another length, and sign it."""
    field, length = random.choice(list(_FIELDS.items()))
    size = random.choice((0, 1, length - 1, length + 1, 2 * length))
    values = {"identity": side.identity.public, "x25519": side.public, "nonce": side.nonce}
    if random.random() < 0.3:
        joined = side.public + side.nonce
        at = random.choice((0, 31, 33, 64))
        frame = side.introduction(public=joined[:at], nonce=joined[at:])
        return Content(f"an x25519 of {at} bytes, the nonce the rest", frame)
    prefix = b"\x04" if field == "identity" and random.random() < 0.5 else b""  # like a point in its long form
    values[field] = (prefix + values[field] + bytes(length))[:size]
    frame = side.introduction(shown=values["identity"], public=values["x25519"], nonce=values["nonce"])
    return Content(f"{field} of {size} bytes", frame)


def _wrong_identity(random: Random, side: Side) -> Content:
    other = Identity()
    ways: list[tuple[str, bytes]] = [*wrong_points(side.identity.public)]
    ways += [("a bit changed", flip_bit(random, side.identity.public)), ("another's", other.public)]
    if side.theirs is not None:
        ways.append(("the peer's own", side.theirs.identity))
    about, public = random.choice(ways)
    signer = other if public == other.public else side.identity
    return Content(f"identity: {about}", side.introduction(identity=signer, shown=public))


def _low_order(random: Random, side: Side) -> Content:
    public = random.choice(LOW_ORDER)
    return Content(f"x25519 of low order: {public.hex()}", side.introduction(public=public))


def _top_bit(_: Random, side: Side) -> Content:
    """Set the top bit of the X25519 key, which is ignored."""
    public = side.public[:31] + bytes([side.public[31] | 0x80])
    return Content("x25519 with its top bit set", side.introduction(public=public))


def _reduced(random: Random, side: Side) -> Content:
    """Use a number that is reduced to a small one, whose secret we do not know."""
    number = _X25519_PRIME + random.randint(2, 18) + (random.random() < 0.5) * 2**255
    return Content(f"x25519 to be reduced: {number:x}", side.introduction(public=number.to_bytes(32, "little")))


# -- the text ----------------------------------------------------------------------------------------------------------


def _good_text(random: Random, side: Side) -> Content:
    return Content("JSON in any form", foreign_frame(random, decode_frame(side.introduction())))


def _wrong_text(random: Random, side: Side) -> Content:
    name, _, frame = broken_frame(random, decode_frame(side.introduction()))
    return Content(name, frame)


def _changed_text(random: Random, side: Side) -> Content:
    return Content("a changed frame", mutate_frame(random, side.introduction()) or b"\0")


def _size(random: Random, side: Side) -> Content:
    """Add white space or an unknown key up to the limit of the frame, or over it."""
    frame = side.introduction()
    size = SPEC_BY_TYPE[frame[0]].max_length + random.choice((-1, 0, 0, 1, 1, int(2 ** random.uniform(0, 14))))
    return Content(f"a frame of {size} bytes", padded(random, frame, size))


def padded(random: Random, frame: bytes, size: int) -> bytes:
    """Return a JSON frame of some length with the same meaning."""
    around = len(b'"":"",')
    missing = size - len(frame)
    if missing > around + 1 and random.random() < 0.5:
        key = b"x" * random.choice((1, missing - around))
        return frame[:2] + b'"%s":"%s",' % (key, b"y" * (missing - around - len(key))) + frame[2:]
    at = random.choice((1, 2, len(frame) - 1, len(frame)))
    return frame[:at] + b" " * missing + frame[at:]


PARTS: Final[dict[str, Draw]] = {
    "wrong signature": _wrong_signature,
    "changed signature": _changed_signature,
    "good signature": _good_signature,
    "wrong commitment": _wrong_commitment,
    "good nonce": _good_nonce,
    "wrong length": _wrong_length,
    "wrong identity": _wrong_identity,
    "low order": _low_order,
    "top bit": _top_bit,
    "reduced": _reduced,
    "good text": _good_text,
    "wrong text": _wrong_text,
    "changed text": _changed_text,
    "size": _size,
}
"""All parts of a hello or an ack."""
BLIND: Final = "reduced"
"""The part that gives the peer a session key unknown to us."""
RULES: Final = {
    "good signature": "HANDSHAKE-SIGNATURE",
    "good nonce": "PAYLOAD-HELLO",
    "top bit": "HANDSHAKE-KEY",
    "reduced": "HANDSHAKE-KEY",
    "good text": "JSON-SPELLING",
    "size": "PAYLOAD-LIMIT",
}
"""The rule by which a valid part must be accepted."""


def commitment_rule(role: Role) -> str:
    """Return the rule for the contents of our signature, for a peer of this role."""
    return "HANDSHAKE-HELLO" if role is Role.RESPONDER else "HANDSHAKE-ACK"
