"""Mutations that keep the structure of a stream: they repair lengths, re-seal boxes and re-sign hellos."""

import base64
import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Final

from cryptography.exceptions import InvalidTag

from wireproto.fuzzing.seeds import link_stream
from wireproto.messages import MAX_LINK_LENGTH
from wireproto.testing.fixed_keys import KNOWN, box, unbox
from wireproto.testing.mutations import Mutation, mutate_bytes, mutate_frame, random_frame

Mutate = Mutation
LENGTHS: Final = (0, 1, 28, 29, 64 * 1024, 64 * 1024 + 1, MAX_LINK_LENGTH, MAX_LINK_LENGTH + 1, 2**32, 2**63, 2**64 - 1)


def split_stream(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the bodies of the complete link frames, and the bytes after them."""
    bodies = []
    at = 0
    while len(data) - at >= 8:
        length = int.from_bytes(data[at : at + 8], "little")
        if not 0 < length <= len(data) - at - 8:
            break
        bodies.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return bodies, data[at:]


def mutate_link(random: Random, data: bytes, mutate_body: Mutate = mutate_frame) -> bytes:
    """Change a link stream: usually one body with its length, sometimes a length, the order, or any byte."""
    style = random.random()
    if style < 0.1:
        return mutate_bytes(random, data)
    bodies, tail = split_stream(data)
    if style < 0.2:
        length = random.choice(LENGTHS).to_bytes(8, "little")
        tail = random.choice((length, length + tail, length[: random.randint(0, 8)], b""))
    elif style < 0.35 or not bodies:
        bodies.insert(random.randint(0, len(bodies)), random_frame(random) or b"\x03")
    elif style < 0.5:
        _move(random, bodies)
    else:
        at = random.randrange(len(bodies))
        bodies[at] = mutate_body(random, bodies[at])
    return link_stream(*bodies) + tail


def _move(random: Random, bodies: list[bytes]) -> None:
    """Remove, repeat or move a body; rarely, repeat it so often that slow handling shows."""
    body = bodies.pop(random.randrange(len(bodies)))
    if random.random() < _RARELY:
        many = random.choice((body, body[:1]))
        bodies += [many] * (_MANY // (8 + len(many)))
    for _ in range(random.randrange(3)):
        bodies.insert(random.randint(0, len(bodies)), body)


_RARELY: Final = 0.01
_MANY: Final = 128 * 1024
"""Bytes of a stream with one body repeated many times."""


def mutate_sealed(key: bytes) -> Mutate:
    """Change a stream of boxes under this key: open a box, change its plaintext, and seal it again."""

    def mutate_box(random: Random, body: bytes) -> bytes:
        if random.random() < 0.2:
            return mutate_bytes(random, body)
        try:
            plain = unbox(key, body)
        except (InvalidTag, ValueError):
            plain = body
        nonce = body[:12] if len(body) >= 12 and random.random() < 0.3 else random.randbytes(12)
        return box(key, nonce, random_frame(random) if random.random() < 0.3 else mutate_frame(random, plain))

    return lambda random, data: mutate_link(random, data, mutate_box)


def mutate_introduction(random: Random, frame: bytes) -> bytes:
    """Change a hello or an ack: a field, then sign it again with the known key; or any byte."""
    if random.random() < 0.3:
        return mutate_frame(random, frame)
    try:
        payload = json.loads(frame[1:])
        fields = {name: base64.b64decode(payload[name], validate=True) for name in _FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return random.choice((KNOWN.hello, KNOWN.ack))
    name = random.choice(_FIELDS)
    fields[name] = random.choice(_CHANGES)(random, fields[name])
    if random.random() < 0.7:
        side, salt = (KNOWN.rank_0, b"") if frame[0] == 1 else (KNOWN.rank_1, KNOWN.rank_0.nonce)
        public, nonce = fields["ephemeralX25519PubKey"], fields["nonce"]
        fields["seSignature"] = side.sign(hashlib.sha256(salt + nonce + public if salt else public + nonce).digest())
    text = json.dumps({name: base64.b64encode(value).decode() for name, value in fields.items()})
    return frame[:1] + text.encode()


_FIELDS: Final = ("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature")
_LOW_ORDER: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
_CHANGES: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    mutate_bytes,
    lambda random, value: value[:-1],
    lambda random, value: value + b"\0",
    lambda random, value: random.randbytes(len(value)),
    lambda random, value: random.choice((KNOWN.rank_0, KNOWN.rank_1)).public_key,
    lambda random, value: random.choice(_LOW_ORDER),
)
