"""Mutations of a cluster frame, from a flipped bit to a repeated JSON member. All choices come from a `Random`."""

import re
from collections.abc import Callable
from random import Random
from typing import Final

from wireproto.codec.frame import encode_frame
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.messages import EXTENSIONS, REGISTRY, SPEC_BY_CLASS, SPEC_BY_TYPE, Message, PayloadKind, Revision
from wireproto.testing.encodings import (
    Members,
    any_value,
    canonical_members,
    foreign_frame,
    foreign_members,
    foreign_object,
    join_members,
    random_message,
)
from wireproto.testing.malformed import broken_frame

Mutation = Callable[[Random, bytes], bytes]

_MESSAGES: Final = [spec.payload for spec in REGISTRY for _ in range(3 if spec.kind is PayloadKind.JSON else 1)]
"""Every class, more often if it has more to get wrong."""

# -- bytes ------------------------------------------------------------------------------------------------------------

NUMBERS: Final = (
    b"1.0 1e3 01 -0 -1 65535 65536 70000 2147483647 2147483648 9007199254740993 9223372036854775807 "
    b"9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551616 1. .5 +1 - 0x10 1e 1e+ 1_0 00 "
    b"-01"
).split()
LITERALS: Final = (
    b'null true false "" "x" [] {} NaN Infinity -Infinity tru True nul 0 1 [1] {"a":1} [null] \'\' undefined'
).split()
STRING_FAULTS: Final = (
    b"\n", b"\0", b"\x1f", b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
    b"\x80", rb"\x", rb"\u12", rb"\u12g4", rb"\ud800", rb"\udc00", rb"\udc00\ud800", rb"\ud83d\u0041", rb"\ud83dx",
    rb"\'", rb"\U0001f600", b"\\", b'"', b"\\\n", b"\xe2\x82", rb"\u+123", rb"\u 123", b"\x7f", b"\xef\xbb\xbf",
    b"\xc2\x85", rb"\0", rb"\u0000", rb"\/", rb"\ud83d\ude00",
)  # fmt: skip
_APPENDED: Final = (
    b"\0", b"\x0c", b"\x0b", b"\xa0", b"\xc2\xa0", b"}", b"{}", b",", b" x", b"\n\0", b"//", b"null", b"\xff", b"#",
)  # fmt: skip
_LETTERS: Final = b'{}[],:"\\/ \t\n0123456789eE.+-u=AZaz_\0\x7f\x80\xff'


def _place(random: Random, data: bytes) -> int:
    return random.randrange(len(data)) if data else 0


def _some_byte(random: Random) -> bytes:
    return bytes([random.randrange(256) if random.random() < 0.2 else random.choice(_LETTERS)])


def flip_bit(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :] if data else data


def replace_byte(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + _some_byte(random) + data[at + 1 :]


def insert_byte(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + _some_byte(random) + data[at:]


def remove_byte(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + 1 :]


def duplicate_bytes(random: Random, data: bytes) -> bytes:
    start = _place(random, data)
    stop = min(len(data), start + random.choice([1, 1, 2, 5, 20]))
    return data[:stop] + data[start:stop] + data[stop:]


def swap_bytes(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + 1 : at + 2] + data[at : at + 1] + data[at + 2 :]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: _place(random, data)]


def append(random: Random, data: bytes) -> bytes:
    return data + random.choice(_APPENDED)


def interesting_number(random: Random, data: bytes) -> bytes:
    """Overwrite bytes with a binary integer at the edge of its range."""
    size = random.choice([1, 2, 4, 8])
    value = random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**28, 2**28 + 1, 2**63, 2**64 - 1))
    at = _place(random, data)
    return data[:at] + value.to_bytes(8, "little")[:size] + data[at + size :]


BYTE_MUTATIONS: Final[tuple[Mutation, ...]] = (
    flip_bit, replace_byte, insert_byte, remove_byte, duplicate_bytes, swap_bytes, truncate, append, interesting_number,
)  # fmt: skip


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Change any bytes in one to three places."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(BYTE_MUTATIONS)(random, data)
    return data


# -- text -------------------------------------------------------------------------------------------------------------


def other_type(random: Random, frame: bytes) -> bytes:
    return bytes([random.choice((*SPEC_BY_TYPE, 0, 0x0E, 0x44, 0xFE))]) + frame[1:]


def byte_order_mark(random: Random, frame: bytes) -> bytes:
    return frame[:1] + random.choice((b"\xef\xbb\xbf", b"\xef\xbb", b"\xff\xfe", b" \xef\xbb\xbf")) + frame[1:]


def other_encoding(random: Random, frame: bytes) -> bytes:
    codecs: tuple[str, ...] = (
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-le",
        "utf-32-be",
        "utf-7",
        "utf-8-sig",
    )
    text = frame[1:].decode("utf-8", "replace")
    return frame[:1] + text.encode(random.choice(codecs))


def respell_number(random: Random, frame: bytes) -> bytes:
    return _substitute(random, frame, _NUMBER, random.choice(NUMBERS))


def replace_value(random: Random, frame: bytes) -> bytes:
    return _substitute(random, frame, _VALUE, random.choice((*LITERALS, *NUMBERS)))


def break_string(random: Random, frame: bytes) -> bytes:
    """Put a fault, or half of one, into a string."""
    return _substitute(random, frame, _IN_STRING, random.choice(STRING_FAULTS))


def break_base64(random: Random, frame: bytes) -> bytes:
    fault = random.randrange(4)
    if fault == 0:  # stray bits in the padding
        letter = random.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        return _substitute(random, frame, _BEFORE_PADDING, bytes([letter]))
    if fault == 1:  # padding removed, or too much
        return _substitute(random, frame, _PADDING, random.choice((b"", b"=", b"==", b"===")))
    if fault == 2:  # unexpected padding
        return _substitute(random, frame, _BASE64_END, random.choice((b"=", b"==", b"A", b"AAAA", b"AA==")))
    letters = (b"-", b"_", b" ", b"\\n", b"\\r\\n", b"=", b"*", b"\xc3\xa9", b"\\u00e9", b"\\u0041", b"\\/")
    return _substitute(random, frame, _BASE64_DIGIT, random.choice(letters))


_NUMBER: Final = re.compile(rb"(?<=[:,\[ ])-?\d+")
_VALUE: Final = re.compile(rb'(?<=:)\s*("(?:[^"\\]|\\.)*"|-?\d+|true|false|\[[^\]]*\])')
_IN_STRING: Final = re.compile(rb'(?<=[^,:{\[\s])(?=[^"{}\[\]]{0,100}")')
_BEFORE_PADDING: Final = re.compile(rb"[A-Za-z0-9+/](?==)")
_PADDING: Final = re.compile(rb"=+")
_BASE64_END: Final = re.compile(rb'(?<=[A-Za-z0-9+/])(?=")')
_BASE64_DIGIT: Final = re.compile(rb'[A-Za-z0-9+/](?=[A-Za-z0-9+/]{0,100}=*")')
_MOST: Final = 2000
"""Bytes searched for a place: patterns with look-ahead are too slow on more."""


def _substitute(random: Random, frame: bytes, pattern: re.Pattern[bytes], by: bytes) -> bytes:
    end = min(len(frame), _MOST)
    match = pattern.search(frame, random.randint(1, max(end, 1)), end) or pattern.search(frame, 1, end)
    if not match:
        return insert_byte(random, frame)
    start, stop = match.span()
    return frame[:start] + by + frame[stop:]


def nest_to_the_limit(random: Random, frame: bytes) -> bytes:
    """Add brackets up to the nesting limit or just past it, under an unknown key; closed, or cut after the last one."""
    levels = random.choice((MAX_NESTING - 1, MAX_NESTING, MAX_NESTING + 1))
    opening, closing = random.choice(((b"[", b"]"), (b'{"":', b"}")))
    # The payload's own brace is the first level.
    opened = frame[:1] + b'{"x":' + opening * (levels - 2) + random.choice((b"[", b"{"))
    if random.random() < 0.5:
        return opened
    last = {b"[": b"]", b"{": b"}"}[opened[-1:]]
    return opened + last + closing * (levels - 2) + (b"," + frame[2:] if frame[1:2] == b"{" else b"}")


def cut_after_structure(random: Random, frame: bytes) -> bytes:
    """Cut a frame right after one of JSON's structural characters."""
    places = [at for at, byte in enumerate(frame[:_MOST]) if byte in b'{}[],:"\\']
    return frame[: random.choice(places) + 1] if places else frame


TEXT_MUTATIONS: Final[tuple[Mutation, ...]] = (
    other_type, byte_order_mark, other_encoding, respell_number, replace_value, break_string, break_base64,
    nest_to_the_limit, cut_after_structure,
)  # fmt: skip

# -- members ----------------------------------------------------------------------------------------------------------


def broken_members(random: Random, members: Members) -> Members:
    """Repeat, remove, rename or replace a member, or add an unknown value that breaks a rule."""
    if not members:
        return [("unknown", any_value(random))]
    key, text = random.choice(members)
    fault = random.randrange(9)
    if fault > 5:
        wrong = random.choice((*NUMBERS, *LITERALS, b'"AA"', b'"AB=="', b'"AAAA"', b'"Normal"'))
        return [(name, wrong if name == key else value) for name, value in members]
    if fault == 0:
        return [*members, (key, text)]
    if fault == 1:
        return [(key, random.choice((text, b"0", b'""', b"null"))), *members]
    if fault == 2:
        return [each for each in members if each[0] != key]
    if fault == 3:
        other = random.choice((key.upper(), key.lower(), key + " ", key[:-1], key + "\0"))
        return [(other if name == key else name, value) for name, value in members]
    if fault == 4:
        depth = random.choice((3, 510, 511, 512, 600))
        nested = b"[" * depth + b"]" * depth if random.random() < 0.5 else b'{"":' * depth + b"0" + b"}" * depth
        return [("deep", nested), *members]
    unknown = (
        b'{"a":1,"b":2,"a":3}', rb'[{"a":1,"\u0061":3}]', b'"\xff"', rb'"\ud800"', b"[1,]", b'{"a":}', b"01", b"nan",
        b"1e",
    )  # fmt: skip
    return [*members, ("unknown", random.choice(unknown))]


def nearly_valid_frame(random: Random, message: Message) -> bytes:
    """Return a frame that usually has one fault: sometimes the change is harmless, sometimes it makes two."""
    spec = SPEC_BY_CLASS[type(message)]
    if spec.kind is not PayloadKind.JSON:
        return mutate_frame(random, encode_frame(message, Revision.V2, EXTENSIONS))
    escaped = random.choice((0.0, 0.0, 0.1, 0.9))
    is_canonical = random.random() < 0.4
    members = canonical_members(message) if is_canonical else foreign_members(random, message, escaped)
    if broken := random.random() < 0.3:
        members = broken_members(random, members)
    text = join_members(members) if is_canonical else foreign_object(random, members, escaped)
    frame = bytes([spec.msg_type]) + text
    return frame if broken and random.random() < 0.8 else mutate_frame(random, frame)


# -- new frames, and mutated ones -------------------------------------------------------------------------------------

_TOKENS: Final = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'\\"', b"\\u00", b"61", b"0", b"1", b"-", b".", b"e", b"+",
    b"true", b"false", b"null", b" ", b"\n", b'"uid"', b'"port"', b'"sessionID":', b'"":', b'{"a":', b'"x"', b"\xc3",
    b"\xa9", b"\0", b"A", b"==", b'"nonce":"', rb'"\u0075id":', rb"\ud83d", rb"\ude00",
)  # fmt: skip
_SOME_MEMBERS: Final = (
    b'"uid":"a"', b'"uid":""', rb'"\u0075id":"b"', b'"uid":null', b'"token":1', b'"token":1.0', b'"tokens":[1,2]',
    b'"tokens":[]', b'"tokens":[1,]', b'"maxTokens":-1', b'"port":1', b'"port":65536', b'"port":01',
    b'"sessionID":""', b'"sessionID":"\\/"', b'"modelLoaded":true', b'"inferenceInFlight":false',
    b'"memoryPressure":"normal"', b'"memoryPressure":"low"', b'"sealedToken":"AA=="', b'"sealedToken":"AB=="',
    b'"seqLen":-1', b'"sealedActivation":""', b'"sealedActivation":"AAA"', b'"nonce":"AA=="', b'"":0',
    b'"extensions":[]', b'"extensions":["a/1"]', b'"extensions":["a/1","a/1"]', b'"extensions":["A"]', b'"rank":0',
    b'"state":"ready"', b'"stage":""', b'"code":""', b'"message":""', b'"package":""', b'"mlx":""', b'"backend":""',
    b'"devices":""', b'"devices":"0"', b'"program":"hold"', b'"program":"dry_run"', b'"program":null',
    b'"x":[{"y":1,"y":2}]', b'"x":{"y":{}}', b'"":""',
)  # fmt: skip
_JSON_TYPES: Final = [spec.msg_type.value for spec in REGISTRY if spec.kind is PayloadKind.JSON]
TOKENS: Final = (*_TOKENS, *_SOME_MEMBERS)
"""Pieces of JSON payloads, also used in dictionaries."""


def token_soup(random: Random) -> bytes:
    """Return random pieces of JSON in a row, more often grammatical than arbitrary bytes."""
    head = bytes([random.choice(_JSON_TYPES)])
    style = random.random()
    if style < 0.4:
        return head + b"{" + b",".join(random.choices(_SOME_MEMBERS, k=random.randint(0, 5))) + b"}"
    body = b"".join(random.choices(TOKENS, k=random.randint(0, 12)))
    return head + (b"{" + body + b"}" if style < 0.8 else body)


def random_frame(random: Random) -> bytes:
    """Return a new frame: valid, with one violation, nearly valid, or random pieces."""
    style = random.random()
    if style < 0.1:
        return token_soup(random)
    message = random_message(random, random.choice(_MESSAGES))
    if style < 0.4:
        return foreign_frame(random, message)
    if style < 0.7:
        return broken_frame(random, message).frame
    return nearly_valid_frame(random, message)


def mutate_frame(random: Random, frame: bytes) -> bytes:
    """Change a cluster frame in one to three places, as bytes or as text."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        frame = random.choice(_ALL)(random, frame)
    return frame


_ALL: Final = BYTE_MUTATIONS + TEXT_MUTATIONS
