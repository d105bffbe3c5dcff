"""Cluster frames of a script: numbers, texts and sizes at their limits, and faulty JSON."""

import base64
import json
import re
from functools import cache
from random import Random
from typing import Final

from msgspec import inspect

from wireproto.codec.fields import payload_fields
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.conformance.model.introductions import padded
from wireproto.messages import (
    MAX_LINK_LENGTH,
    REGISTRY,
    SPEC_BY_CLASS,
    JacclBootstrapPayload,
    Message,
    PayloadKind,
    Revision,
)
from wireproto.testing.encodings import canonical_members, join_members, random_message

SESSION_IDS: Final = ("6F9619FF-8B86-D011-B42D-00CF4FC964FF", "a", "x" * 128, "x" * 129, "", ".a", "a/b", "../x", "é")
_EDGES: Final = (0, 1, 29400, 65471, 65472, 65534, 65535)
_BEYOND: Final = (65536, -1, 65537, 131071)
_WIDTHS: Final = (16, 24, 31, 32, 48, 53, 63, 64)
_LETTER: Final = re.compile(r"\\u[0-9a-f]{4}|\\.|[^\\]", re.DOTALL)
"""A character of a JSON string, or an escape."""
_CHARACTERS: Final = (
    "\x7f\x80\x85\x9f\xa0\xad\u061c\u180e\u200b\u200e\u202e\u2028\u2029\u2060\u2066\ufeff\ufff9\ufffe\uffff\ud7ff\ue000"
    "\U0001d173\U000e0001\U0010ffff"
)
"""Formatting characters, noncharacters, and the neighbours of surrogates: JSON allows them unescaped."""

# -- numbers -----------------------------------------------------------------------------------------------------------


def port(random: Random) -> int:
    """Return a valid port number, often one at a limit."""
    return random.choice((*_EDGES, random.randint(1, 65471), 65535 - int(2 ** random.uniform(0, 15))))


def wrong_port(random: Random) -> int:
    """Return an invalid port number that may look valid in a narrow integer."""
    wrapped = 29400 + random.choice((-1, 1)) * 2 ** random.choice(_WIDTHS)
    return random.choice((*_BEYOND, 65535 + int(2 ** random.uniform(0, 15)), wrapped, wrapped))


def bootstrap(port: int, session_id: str = SESSION_IDS[0], **more: object) -> bytes:
    return b"\x07" + json.dumps({"port": port, "sessionID": session_id, **more}).encode()


# -- texts -------------------------------------------------------------------------------------------------------------


def has_free_text(cls: type[Message]) -> bool:
    """Return whether a message has a free text and no sealed tensor."""
    types = [field.type for field in payload_fields(cls).values()]
    return inspect.StrType() in types and not any(isinstance(each, inspect.BytesType) for each in types)


def text_with(random: Random, message: Message, inserted: bytes) -> bytes:
    """Return a frame of a message with an insertion at any place in one of its texts.

    Enumerated values and base64 count as texts, too.
    """
    members = canonical_members(message)
    at = random.choice([at for at, (_, value) in enumerate(members) if value.startswith(b'"')])
    key, value = members[at]
    letters = _LETTER.findall(value[1:-1].decode())
    place = random.choice((0, len(letters), random.randint(0, len(letters))))
    text = b"".join(("".join(letters[:place]).encode(), inserted, "".join(letters[place:]).encode()))
    members[at] = key, b'"%s"' % text
    return bytes([SPEC_BY_CLASS[type(message)].msg_type]) + join_members(members)


def harmless_character(random: Random) -> bytes:
    """Return the JSON of a character that a text can have, escaped or not."""
    if random.random() < 0.5:
        return rb"\u%04x" % random.randrange(0x20)
    character = random.choice(_CHARACTERS)
    return character.encode() if random.random() < 0.7 else json.dumps(character)[1:-1].encode()


# -- sizes -------------------------------------------------------------------------------------------------------------


@cache
def _limited(revision: Revision) -> list[type[Message]]:
    return [
        spec.payload
        for spec in REGISTRY
        if spec.revision <= revision and not spec.extension and spec.kind is PayloadKind.JSON
        and spec.max_length < MAX_LINK_LENGTH and spec.payload is not JacclBootstrapPayload
    ]  # fmt: skip


def sized(random: Random, revision: Revision, off: int) -> bytes:
    """Return a frame that exceeds the limit of its type by some bytes."""
    message = random_message(random, random.choice(_limited(revision)))
    spec = SPEC_BY_CLASS[type(message)]
    frame = bytes([spec.msg_type]) + join_members(canonical_members(message))
    return padded(random, frame, spec.max_length + off)


# -- faulty JSON -------------------------------------------------------------------------------------------------------


def key_twice(random: Random) -> bytes:
    """Repeat a key, known or not, at the top or at some depth of an unknown value."""
    key = random.choice(_keys())
    again = key if random.random() < 0.7 else f"\\u{ord(key[0]):04x}{key[1:]}"
    pair = [f'"{key}":{random.choice(_VALUES)}', f'"{again}":{random.choice(_VALUES)}']
    pair.insert(random.randrange(3), '"between":0')
    value = "{" + ",".join(pair) + "}"
    for _ in range(random.randrange(6)):
        value = f"[{value}]" if random.random() < 0.5 else f'{{"":{value}}}'
    return _with_unknown(random, value.encode())


def control_character(random: Random) -> bytes:
    """Put a control character into a string or an unknown key."""
    text = b'"' + b"a" * random.randrange(3) + bytes([random.randrange(0x20)]) + b"b" * random.randrange(3) + b'"'
    return _with_unknown(random, b"{%s:0}" % text if random.random() < 0.3 else text)


def wrong_base64(random: Random) -> bytes:
    """Put an invalid character into the base64 of a field."""
    text = base64.b64encode(random.randbytes(random.randrange(3, 9))).decode()
    at = random.randrange(len(text) + 1)
    value = json.dumps(text[:at] + random.choice(" \n\r\t*.,\0-_=\u00e9") + text[at:])
    kind, rest = random.choice(((0x0C, '"sealedToken"'), (0x0B, '"seqLen":1,"sealedActivation"')))
    return bytes([kind]) + f'{{"uid":"a",{rest}:{value}}}'.encode()


def deep(random: Random) -> bytes:
    """Nest a value just too deep, or nearly so."""
    levels = MAX_NESTING - 1 + random.choice((0, 1, random.randint(-64, 64)))  # the payload is the first level
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return _with_unknown(random, opening * levels + (b"0" if opening != b"[" else b"") + closing * levels)


def _with_unknown(random: Random, value: bytes) -> bytes:
    """Return a valid frame with one more member."""
    spec = random.choice([each for each in REGISTRY if each.kind is PayloadKind.JSON and not each.extension])
    frame = bytes([spec.msg_type]) + join_members(canonical_members(random_message(random, spec.payload)))
    member = b'"unknown":' + value
    return frame[:2] + member + b"," + frame[2:] if random.random() < 0.5 else frame[:-1] + b"," + member + b"}"


_VALUES: Final = ("0", '""', "[]", "{}", "true")


@cache
def _keys() -> list[str]:
    """The keys of payloads, and others."""
    specs = (spec for spec in REGISTRY if spec.kind is PayloadKind.JSON and not spec.extension)
    return ["x", "key", *dict.fromkeys(key for spec in specs for key in payload_fields(spec.payload))]
