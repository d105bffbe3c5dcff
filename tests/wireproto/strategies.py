"""What the tests feed to the codec: messages, their frames in every spelling, and frames that are almost right.

A message is drawn by hypothesis, and shrinks. How it is spelt, and how it is then broken, comes from a seeded `Random`:
thousands of small choices an example would be far too slow to draw one by one.
"""

import base64
import re
from collections.abc import Callable
from random import Random
from typing import Any, Final

from hypothesis import strategies as st

from tests.wireproto.payloads import JSON_CLASSES, JSON_FIELDS, TYPE_BYTE, canonical_frame, json_text, members
from wireproto import InferenceStep, InferenceToken, MemoryPressure, Message, Ping, SessionEnd

# -- messages ---------------------------------------------------------------------------------------------------------

_I64_ENDS = [0, 1, -1, 9, 10, -(2**63), 2**63 - 1, 2**53, -(2**53), 2**31, 2**32]

texts = st.one_of(
    st.text(max_size=12),
    st.uuids().map(str),
    st.sampled_from(
        ["", "/", "\\", '"', "\0", "\x1f\x7f", "é", "\u2028", "😀", "\ud7ff\ue000\uffff", "a" * 70, '","uid":"']
    ),
)
i64s = st.one_of(st.sampled_from(_I64_ENDS), st.integers(-(2**63), 2**63 - 1), st.integers(-20, 20))
_KINDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "str": texts,
    "bool": st.booleans(),
    "pressure": st.sampled_from(MemoryPressure),
    "u16": st.one_of(st.sampled_from([0, 9, 10, 29400, 65535]), st.integers(0, 65535)),
    "i64": i64s,
    "i64s": st.lists(i64s, max_size=6).map(tuple),
    "bytes": st.binary(max_size=40),
    "bytes32": st.binary(min_size=32, max_size=32),
    "bytes64": st.binary(min_size=64, max_size=64),
}

MESSAGES: Final[dict[type[Message], st.SearchStrategy[Message]]] = {
    cls: st.builds(cls, **{name: _KINDS[kind] for name, (_, kind) in fields.items()})
    for cls, fields in JSON_FIELDS.items()
} | {
    Ping: st.just(Ping()),
    SessionEnd: st.just(SessionEnd()),
    InferenceStep: st.builds(InferenceStep, st.binary(max_size=60)),
    InferenceToken: st.builds(InferenceToken, st.binary(max_size=60)),
}
any_message = st.one_of(*MESSAGES.values())
seeds = st.integers(0, 2**32 - 1).map(Random)

# -- foreign spellings ------------------------------------------------------------------------------------------------

_SHORT_ESCAPES: Final = {"\b": b"\\b", "\f": b"\\f", "\n": b"\\n", "\r": b"\\r", "\t": b"\\t", "/": b"\\/"}
_SHORT_ESCAPES_MUST: Final = {'"': b'\\"', "\\": b"\\\\"}


def respell_string(random: Random, text: str, escaped: float) -> bytes:
    """A JSON string for `text`; that share of its characters as escapes which need none."""
    return b'"' + b"".join(_respell_char(random, char, escaped) for char in text) + b'"'


def _respell_char(random: Random, char: str, escaped: float) -> bytes:
    must = char in '"\\' or char < " "
    if not must and random.random() >= escaped:
        return char.encode()
    short = _SHORT_ESCAPES.get(char) or _SHORT_ESCAPES_MUST.get(char)
    if short and random.random() < 0.6:
        return short
    units = char.encode("utf-16-be")
    digits = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
    return "".join("\\u" + (unit.upper() if random.random() < 0.5 else unit) for unit in digits).encode()


def space(random: Random) -> bytes:
    return b"" if random.random() < 0.7 else bytes(random.choices(b" \t\n\r", k=random.randint(1, 3)))


def any_value(random: Random, level: int = 0) -> bytes:
    """Some JSON value, for a key that nobody knows."""
    kind = random.randrange(6 if level < 3 else 4)
    if kind == 0:
        numbers = [b"0", b"-0", b"-1.5e+10", b"1E400", b"0.0e-0", b"123456789012345678901234567890", b"1e5"]
        return random.choice(numbers)
    if kind == 1:
        return random.choice([b"true", b"false", b"null"])
    if kind < 4:
        strings = ["", "uid", '"', "\ufeff", "a\0b", "é😀", "\\u0041", "}", "://"]
        return respell_string(random, random.choice(strings), 0.3)
    items = [any_value(random, level + 1) for _ in range(random.randint(0, 3))]
    if kind == 4:
        return b"[" + b",".join(space(random) + item + space(random) for item in items) + b"]"
    keys = random.sample(["", "uid", "port", "a", "é", "\0", "A"], len(items))
    return b"{" + b",".join(_member(random, k, v, 0.2) for k, v in zip(keys, items, strict=True)) + b"}"


def _member(random: Random, key: str, text: bytes, escaped: float) -> bytes:
    return b"".join(
        (space(random), respell_string(random, key, escaped), space(random), b":", space(random), text, space(random))
    )


def respell_value(random: Random, value: object, escaped: float) -> bytes:
    match value:
        case str():
            return respell_string(random, value, escaped)
        case bytes():
            return respell_string(random, base64.b64encode(value).decode(), escaped)
        case MemoryPressure():
            return respell_string(random, value.value, escaped)
        case tuple():
            return b"[" + b",".join(space(random) + json_text(item) + space(random) for item in value) + b"]"
        case 0 if value is not False and random.random() < 0.3:
            return b"-0"
        case _:
            return json_text(value)


def foreign_members(random: Random, message: Message, escaped: float) -> list[tuple[str, bytes]]:
    """The members of a payload as a stranger might write them: any order, keys that we do not know."""
    items = [
        (key, respell_value(random, getattr(message, name), escaped))
        for name, (key, _) in JSON_FIELDS[type(message)].items()
    ]
    unknown = random.sample(["", "UID", "uid ", "extra", "é", "\0", "Port", "sessionId"], random.choice([0, 0, 1, 2]))
    items += [(key, any_value(random)) for key in unknown]
    random.shuffle(items)
    return items


def foreign_frame(random: Random, message: Message) -> bytes:
    """A frame that means the same as the canonical one, in another spelling."""
    escaped = random.choice([0.0, 0.1, 0.9])
    return _foreign(random, message, foreign_members(random, message, escaped), escaped)


def _foreign(random: Random, message: Message, items: list[tuple[str, bytes]], escaped: float) -> bytes:
    inside = b",".join(_member(random, key, text, escaped) for key, text in items) or space(random)
    return bytes([TYPE_BYTE[type(message)]]) + space(random) + b"{" + inside + b"}" + space(random)


# -- nearly valid frames ----------------------------------------------------------------------------------------------

_NUMBERS = b"1.0 1e3 01 -0 -1 65536 70000 9223372036854775808 -9223372036854775809 1. .5 +1 -  0x10 1e 1e+ 1_0 00 -01"
_LITERALS = b'null true false "" "x" [] {} NaN Infinity -Infinity tru True nul 0 1 [1] {"a":1} [null] \'\' undefined'
_STRING_FAULTS: Final = [
    b"\n", b"\0", b"\x1f", b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
    b"\x80", rb"\x", rb"\u12", rb"\u12g4", rb"\ud800", rb"\udc00", rb"\udc00\ud800", rb"\ud83d\u0041", rb"\ud83dx",
    rb"\'", rb"\U0001f600", b"\\", b'"', b"\\\n", b"\xe2\x82", rb"\u+123", rb"\u 123", b"\x7f", b"\xef\xbb\xbf",
    b"\xc2\x85", rb"\0",
]  # fmt: skip
_APPENDED: Final = [
    b"\0", b"\x0c", b"\x0b", b"\xa0", b"\xc2\xa0", b"}", b"{}", b",", b" x", b"\n\0", b"//", b"null", b"\xff", b"#",
]  # fmt: skip

_Mutation = Callable[[Random, bytes], bytes]


def _place(random: Random, frame: bytes) -> int:
    return random.randrange(len(frame)) if frame else 0


def flip_bit(random: Random, frame: bytes) -> bytes:
    at = _place(random, frame)
    return frame[:at] + bytes([frame[at] ^ (1 << random.randrange(8))]) + frame[at + 1 :]


def replace_byte(random: Random, frame: bytes) -> bytes:
    at = _place(random, frame)
    return frame[:at] + _some_byte(random) + frame[at + 1 :]


def insert_byte(random: Random, frame: bytes) -> bytes:
    at = random.randint(0, len(frame))
    return frame[:at] + _some_byte(random) + frame[at:]


def _some_byte(random: Random) -> bytes:
    if random.random() < 0.2:
        return bytes([random.randrange(256)])
    return bytes([random.choice(b'{}[],:"\\/ \t\n0123456789eE.+-u=AZaz_\0\x7f\x80\xff')])


def remove_byte(random: Random, frame: bytes) -> bytes:
    at = _place(random, frame)
    return frame[:at] + frame[at + 1 :]


def duplicate_bytes(random: Random, frame: bytes) -> bytes:
    start = _place(random, frame)
    stop = min(len(frame), start + random.choice([1, 1, 2, 5, 20]))
    return frame[:stop] + frame[start:stop] + frame[stop:]


def swap_bytes(random: Random, frame: bytes) -> bytes:
    at = _place(random, frame)
    return frame[:at] + frame[at + 1 : at + 2] + frame[at : at + 1] + frame[at + 2 :]


def truncate(random: Random, frame: bytes) -> bytes:
    return frame[: _place(random, frame)]


def append(random: Random, frame: bytes) -> bytes:
    return frame + random.choice(_APPENDED)


def other_type(random: Random, frame: bytes) -> bytes:
    return bytes([random.choice([*TYPE_BYTE.values(), 0, 0x0E, 0xFE])]) + frame[1:]


def byte_order_mark(random: Random, frame: bytes) -> bytes:
    return frame[:1] + random.choice([b"\xef\xbb\xbf", b"\xef\xbb", b"\xff\xfe", b" \xef\xbb\xbf"]) + frame[1:]


def other_encoding(random: Random, frame: bytes) -> bytes:
    codec = random.choice(
        ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-7", "utf-8-sig"]
    )
    return frame[:1] + frame[1:].decode("utf-8", "replace").encode(codec)


def respell_number(random: Random, frame: bytes) -> bytes:
    return _substitute(random, frame, rb"(?<=[:,\[ ])-?\d+", random.choice(_NUMBERS.split()))


def replace_value(random: Random, frame: bytes) -> bytes:
    value = random.choice([*_LITERALS.split(), *_NUMBERS.split()])
    return _substitute(random, frame, rb'(?<=:)\s*("(?:[^"\\]|\\.)*"|-?\d+|true|false|\[[^\]]*\])', value)


def break_string(random: Random, frame: bytes) -> bytes:
    """A fault, or half of one, inside a string."""
    return _substitute(random, frame, rb'(?<=[^,:{\[\s])(?=[^"{}\[\]]*")', random.choice(_STRING_FAULTS))


def break_base64(random: Random, frame: bytes) -> bytes:
    fault = random.randrange(6)
    if fault == 0:  # stray bits in the padding
        letter = random.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        return _substitute(random, frame, rb"[A-Za-z0-9+/](?==)", bytes([letter]))
    if fault == 1:  # padding gone, or too much
        return _substitute(random, frame, rb"=+", random.choice([b"", b"=", b"==", b"==="]))
    if fault == 2:  # padding where none belongs
        return _substitute(
            random, frame, rb'(?<=[A-Za-z0-9+/])(?=")', random.choice([b"=", b"==", b"A", b"AAAA", b"AA=="])
        )
    letters = [b"-", b"_", b" ", b"\\n", b"\\r\\n", b"=", b"*", b"\xc3\xa9", b"\\u00e9", b"\\u0041", b"\\/"]
    return _substitute(random, frame, rb"[A-Za-z0-9+/](?=[A-Za-z0-9+/]*=*\")", random.choice(letters))


def _substitute(random: Random, frame: bytes, pattern: bytes, by: bytes) -> bytes:
    matches = list(re.finditer(pattern, frame[1:]))
    if not matches:
        return insert_byte(random, frame)
    start, stop = random.choice(matches).span()
    return frame[: start + 1] + by + frame[stop + 1 :]


BYTE_MUTATIONS: Final[tuple[_Mutation, ...]] = (
    flip_bit, replace_byte, insert_byte, remove_byte, duplicate_bytes, swap_bytes, truncate, append, other_type,
    byte_order_mark, other_encoding, respell_number, replace_value, break_string, break_base64,
)  # fmt: skip


def _broken_members(random: Random, items: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """A member twice, gone, with another key or another value, or an unknown value that breaks a rule."""
    key, text = random.choice(items)
    fault = random.randrange(9)
    if fault > 5:
        wrong = random.choice([*_NUMBERS.split(), *_LITERALS.split(), b'"AA"', b'"AB=="', b'"AAAA"', b'"Normal"'])
        return [(item[0], wrong if item[0] == key else item[1]) for item in items]
    if fault == 0:
        return [*items, (key, text)]
    if fault == 1:
        return [(key, random.choice([text, b"0", b'""', b"null"])), *items]
    if fault == 2:
        return [item for item in items if item[0] != key]
    if fault == 3:
        other = random.choice([key.upper(), key.lower(), key + " ", key[:-1], key + "\0"])
        return [(other if item[0] == key else item[0], item[1]) for item in items]
    if fault == 4:
        depth = random.choice([3, 510, 511, 512, 600])
        nested = b"[" * depth + b"]" * depth if random.random() < 0.5 else b'{"":' * depth + b"0" + b"}" * depth
        return [("deep", nested), *items]
    value = random.choice(
        [
            b'{"a":1,"b":2,"a":3}',
            rb'[{"a":1,"\u0061":3}]',
            b'"\xff"',
            rb'"\ud800"',
            b"[1,]",
            b'{"a":}',
            b"01",
            b"nan",
            b"1e",
        ]
    )
    return [*items, ("unknown", value)]


def nearly_valid_frame(random: Random, message: Message) -> bytes:
    """A frame with one thing wrong, most of the time: sometimes the change does no harm, sometimes it takes two."""
    escaped = random.choice([0.0, 0.0, 0.1, 0.9])
    style = random.random()
    if type(message) not in JSON_FIELDS:
        frame = canonical_frame(message)
    else:
        items = members(message) if style < 0.4 else foreign_members(random, message, escaped)
        if broken := random.random() < 0.3:
            items = _broken_members(random, items)
        if style < 0.4:
            inside = b",".join(b"%s:%s" % (respell_string(random, key, escaped), text) for key, text in items)
            frame = bytes([TYPE_BYTE[type(message)]]) + b"{" + inside + b"}"
        else:
            frame = _foreign(random, message, items, escaped)
        if broken and random.random() < 0.8:
            return frame
    for _ in range(random.choice([1, 1, 1, 2])):
        if frame:
            frame = random.choice(BYTE_MUTATIONS)(random, frame)
    return frame


# -- arbitrary frames -------------------------------------------------------------------------------------------------

_TYPES = st.sampled_from(sorted({*TYPE_BYTE.values(), 0x00, 0x0E, 0x80, 0xFE}))
arbitrary_frames = st.one_of(
    st.builds(lambda head, rest: bytes([head]) + rest, _TYPES, st.binary(max_size=60)), st.binary(max_size=30)
)

_TOKENS: Final = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'\\"', b"\\u00", b"61", b"0", b"1", b"-", b".", b"e", b"+",
    b"true", b"false", b"null", b" ", b"\n", b'"uid"', b'"port"', b'"sessionID":', b'"":', b'{"a":', b'"x"', b"\xc3",
    b"\xa9", b"\0", b"A", b"==", b'"nonce":"', rb'"\u0075id":', rb"\ud83d", rb"\ude00",
]  # fmt: skip
_MEMBERS: Final = [
    b'"uid":"a"', b'"uid":""', rb'"\u0075id":"b"', b'"uid":null', b'"token":1', b'"token":1.0', b'"tokens":[1,2]',
    b'"tokens":[]', b'"tokens":[1,]', b'"maxTokens":-1', b'"port":1', b'"port":65536', b'"port":01',
    b'"sessionID":""', b'"sessionID":"\\/"', b'"modelLoaded":true', b'"inferenceInFlight":false',
    b'"memoryPressure":"normal"', b'"memoryPressure":"low"', b'"sealedToken":"AA=="', b'"sealedToken":"AB=="',
    b'"seqLen":-1', b'"sealedActivation":""', b'"sealedActivation":"AAA"', b'"nonce":"AA=="', b'"":0',
    b'"x":[{"y":1,"y":2}]', b'"x":{"y":{}}', b'"":""',
]  # fmt: skip


def token_soup(random: Random) -> bytes:
    """Pieces of JSON in a row: more of it is grammatical than of arbitrary bytes."""
    head = bytes([TYPE_BYTE[random.choice(JSON_CLASSES)]])
    style = random.random()
    if style < 0.4:
        body = b"{" + b",".join(random.choices(_MEMBERS, k=random.randint(0, 5))) + b"}"
    else:
        body = b"".join(random.choices(_TOKENS + _MEMBERS, k=random.randint(0, 12)))
        body = b"{" + body + b"}" if style < 0.8 else body
    return random.choice(BYTE_MUTATIONS)(random, head + body) if random.random() < 0.3 else head + body
