"""Cases with all contents of a kind that a peer must refuse: each key repeated, each character where it is not allowed.

A rank 0 that must be restarted for each gets the first few in the standard profile, and all of them with `--full`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wireproto.conformance.case import BOTH, RANK_1, V2, case
from wireproto.conformance.cases.bootstrap import NO_FILE
from wireproto.conformance.frames import BOOTSTRAP, PONG
from wireproto.conformance.peer import Peer
from wireproto.conformance.verdicts import Undecided, Verdict
from wireproto.messages import MAX_LINK_LENGTH, SPEC_BY_TYPE, Revision
from wireproto.session import Role
from wireproto.testing.faults import GRAMMAR, STRINGS

_DEPTHS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 200)
_Content = tuple[str, bytes]
"""A description, and the cluster frame."""

_TO_RANK_1: Final = (
    b'\x08{"uid":"a","tokens":[1,2],"maxTokens":3}',
    b'\x09{"uid":"a","token":1}',
    b'\x0a{"uid":"a"}',
    b'\x0b{"uid":"a","seqLen":1,"sealedActivation":"AAECAwQF"}',
    b'\x0d{"uid":"a"}',
)
_TO_RANK_0: Final = (b'\x0c{"uid":"a","sealedToken":"AAECAwQF"}',)
"""Valid and expected frames of revision 2."""


def _good(peer: Peer) -> tuple[bytes, ...]:
    first, others = (BOOTSTRAP, _TO_RANK_1) if peer.role is Role.RESPONDER else (PONG, _TO_RANK_0)
    return (first, *others) if peer.settings.revision is Revision.V2 else (first,)


def _with(frame: bytes, member: str) -> bytes:
    """Return the frame with one more member."""
    return frame[:-1] + f",{member}}}".encode()


def _keys_twice(peer: Peer) -> Iterator[_Content]:
    for frame in _good(peer):
        for key, value in json.loads(frame[1:]).items():
            text = json.dumps(value)
            yield f"{key} repeated", _with(frame, f'"{key}":{text}')
            yield f"{key} repeated, once escaped", _with(frame, f'"\\u{ord(key[0]):04x}{key[1:]}":{text}')


def _keys_twice_within(peer: Peer) -> Iterator[_Content]:
    for depth in _DEPTHS:
        inner = '{"a":' * (depth - 1) + '{"b":1,"b":1}' + "}" * (depth - 1)
        yield f"a repeated key, {depth} objects deep", _with(_good(peer)[0], f'"x":{inner}')
        inner = '[{"a":' * (depth - 1) + '[{"b":1,"b":1}]' + "}]" * (depth - 1)
        yield f"a repeated key, {depth} arrays of objects deep", _with(_good(peer)[0], f'"x":{inner}')


def _grammar(peer: Peer) -> Iterator[_Content]:
    yield "a bracket in place of the first brace", _good(peer)[0].replace(b"{", b"[", 1)
    for text in GRAMMAR:
        yield f"{text!r} as a value", _good(peer)[0][:-1] + b',"x":' + text + b"}"


def _strings(fault: str) -> Callable[[Peer], Iterator[_Content]]:
    def contents(peer: Peer) -> Iterator[_Content]:
        for text in STRINGS[fault][1]:
            yield f"{text!r} in a string", _good(peer)[0][:-1] + b',"x":"a%sb"}' % text

    return contents


def _integer_forms(peer: Peer) -> Iterator[_Content]:
    for frame in _good(peer):
        text = frame[1:].decode()
        for number in ("29400", "[1,2", '"maxTokens":3', '"token":1', '"seqLen":1'):
            if number in text:
                for form in (".0", "e0", "E0", ".0e0", ".0E0", "e+0", "E-0", "0e-1", "0E-1"):
                    yield f"{number}{form}", frame[:1] + text.replace(number, number + form).encode()


def _base64_characters(peer: Peer) -> Iterator[_Content]:
    frame = next(each for each in _good(peer) if b"AAECAwQF" in each)
    texts = [chr(code) for code in range(0x80) if not chr(code).isalnum() and chr(code) not in "+/"]
    for text in (*texts, "\u00a0", "\u2028", "\ufeff"):
        yield f"base64 with {text!r} in it", frame.replace(b"AAEC", f"AA{json.dumps(text)[1:-1]}EC".encode())


def _all(peer: Peer) -> Iterator[bytes]:
    """Return a valid JSON frame of each type but hello and ack, in whichever direction it is sent."""
    yield from (BOOTSTRAP, PONG)
    if peer.settings.revision is Revision.V2:
        yield from (*_TO_RANK_1, *_TO_RANK_0)


@case("payload", "limits", "PAYLOAD-LIMIT", deadline=240.0)
async def limits(peer: Peer) -> None:
    """A frame that is as long as its type may be is accepted, and one byte more ends the connection."""
    limited = [each for each in _all(peer) if SPEC_BY_TYPE[each[0]].max_length < MAX_LINK_LENGTH]
    points = [(each, over) for each in limited for over in (0, 1)]
    async for link, (frame, over) in peer.sessions(peer.sample(points)):
        size = SPEC_BY_TYPE[frame[0]].max_length + over
        await link.send(f"{size} bytes of the type 0x{frame[0]:02x}", frame + b" " * (size - len(frame)))
        if over:
            await link.expect_closed()
        else:
            await link.expect_alive(f"that {size} bytes are accepted")


def _session_ids(peer: Peer) -> Iterator[_Content]:
    for text in (chr(code) for code in range(0x80) if not chr(code).isalnum() and chr(code) not in "._-"):
        for name in (f"a{text}b", f"a{text}"):
            yield f"the session ID {name!r}", b"\x07" + json.dumps({"port": 29400, "sessionID": name}).encode()


def _refused(
    name: str,
    rules: Sequence[str],
    about: str,
    contents: Callable[[Peer], Iterator[_Content]],
    *,
    roles: tuple[Role, ...] = BOTH,
    revisions: tuple[Revision, ...] = tuple(Revision),
    needs: tuple[str, ...] = (),
    step: int = 1,
) -> None:
    """Define a case. The standard profile takes one content in `step`."""
    section, _, name = name.rpartition(".")

    @case(section, name, *rules, roles=roles, revisions=revisions, about=about, needs=needs, deadline=240.0)
    async def script(peer: Peer) -> None:
        if rules[0] == "BOOT-SESSION-ID" and not peer.settings.names_file:
            raise Undecided(Verdict.SKIPPED, NO_FILE)
        async for link, (what, frame) in peer.sessions(peer.sample(list(contents(peer)), step)):
            await link.send(what, frame)
            await link.expect_closed()


_DUPLICATE: Final = ("JSON-DUPLICATE-KEY",)
_refused("payload.each-key-twice", _DUPLICATE, "Each key of each payload, repeated, ends the connection.", _keys_twice)
_refused(
    "payload.key-twice-at-each-depth",
    _DUPLICATE,
    "A repeated key ends the connection, however deep it is.",
    _keys_twice_within,
    needs=("payload.duplicate-unknown-key",),
)
_refused(
    "payload.each-fault-of-grammar",
    ("JSON-TEXT",),
    "Each value that JSON does not have ends the connection.",
    _grammar,
    needs=("payload.nan",),
    step=2,
)
for _name, _fault, _rules, _what, _need, _step in (
    (
        "control-character",
        "control-character",
        ("JSON-STRING",),
        "control character in a string",
        "control-character",
        1,
    ),
    ("escape", "escape-unknown", ("JSON-STRING",), "escape that JSON does not define", "bad-escape", 8),
    ("half-surrogate-pair", "half-surrogate-pair", ("JSON-STRING",), "half of a surrogate pair", "lone-surrogate", 4),
    ("fault-of-utf-8", "not-utf-8", ("JSON-STRING", "JSON-TEXT"), "ill-formed UTF-8 sequence", "not-utf-8", 4),
):
    _refused(
        f"payload.each-{_name}",
        _rules,
        f"Each {_what} ends the connection.",
        _strings(_fault),
        needs=(f"payload.{_need}",),
        step=_step,
    )
_refused(
    "payload.each-integer-form",
    ("JSON-INTEGER",),
    "Each integer with a fraction or an exponent ends the connection, even if its value is whole.",
    _integer_forms,
    roles=RANK_1,
)
_refused(
    "payload.each-base64-character",
    ("JSON-BASE64",),
    "Base64 with a character outside its alphabet ends the connection.",
    _base64_characters,
    revisions=V2,
    needs=("payload.base64-white-space",),
)
_refused(
    "bootstrap.session-id-characters",
    ("BOOT-SESSION-ID", "BOOT-REFUSE"),
    "A session ID with any character outside its rule ends the connection.",
    _session_ids,
    roles=RANK_1,
    needs=("bootstrap.session-id-path",),
)
