"""Payloads: strict JSON, and the fields of each type.

A rank 1 gets the faults in a jacclBootstrap, a rank 0 in a pong.
"""

import json
from collections.abc import Callable

from wireproto.conformance.case import BOTH, RANK_0, RANK_1, V2, case
from wireproto.conformance.frames import BOOTSTRAP, PONG
from wireproto.conformance.peer import Peer
from wireproto.session import Role

Change = Callable[[bytes], bytes]
"""Replaces the valid JSON text by another."""


def _with(member: str) -> Change:
    """Add a member at the end."""
    return lambda text: text[:-1] + b"," + member.encode() + b"}"


def _vehicle(peer: Peer, change: Change) -> bytes:
    good = BOOTSTRAP if peer.role is Role.RESPONDER else PONG
    return good[:1] + change(good[1:])


def _refused(name: str, rule: str, what: str, change: Change, roles: tuple[Role, ...] = BOTH) -> None:
    @case("payload", name, rule, roles=roles, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send(what, _vehicle(peer, change))
        await link.expect_closed()


def _taken(name: str, rule: str, what: str, change: Change) -> None:
    @case("payload", name, rule, about=f"{what} is accepted.")
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send(what, _vehicle(peer, change))
        await link.expect_alive("that it is accepted")


def _reordered(text: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(text).items()))).encode()


def _spaced(text: bytes) -> bytes:
    return b" \t\r\n" + text.replace(b":", b" :\n\t").replace(b",", b"\r ,  ") + b"\n"


def _escaped(text: bytes) -> bytes:
    """Encode every letter of keys and strings as `\\uXXXX`."""
    inside = False
    out = bytearray()
    for byte in text:
        inside ^= byte == ord('"')
        out += f"\\u{byte:04X}".encode() if inside and chr(byte).isalpha() else bytes([byte])
    return bytes(out)


def _nested(depth: int) -> Change:
    """Return arrays of some depth, counting the payload as the first level."""
    return _with('"x":' + "[" * (depth - 1) + "]" * (depth - 1))


_refused("bom", "JSON-TEXT", "A byte-order mark", lambda text: b"\xef\xbb\xbf" + text)
_refused("utf-16", "JSON-TEXT", "UTF-16", lambda text: text.decode().encode("utf-16-le"))
_refused("not-utf-8", "JSON-TEXT", "A string that is not UTF-8", lambda text: text[:-1] + b',"x":"\xff"}')
_refused(
    "utf-8-overlong",
    "JSON-TEXT",
    "A / in a two-byte UTF-8 sequence",
    lambda text: text[:-1] + b',"x":"\xc0\xaf"}',
    roles=RANK_1,
)
_refused("no-payload", "JSON-TEXT", "No payload at all", lambda _: b"")
_refused("array", "JSON-TEXT", "An array around the object", lambda text: b"[" + text + b"]")
_refused("null", "JSON-TEXT", "null instead of the object", lambda _: b"null", roles=RANK_1)
_refused("trailing-bytes", "JSON-TEXT", "A byte after the object", lambda text: text + b"x")
_refused("trailing-zero", "JSON-TEXT", "A zero byte after the object", lambda text: text + b"\0", roles=RANK_1)
_refused("two-objects", "JSON-TEXT", "A second object after the first", lambda text: text + text, roles=RANK_1)
_refused("form-feed", "JSON-TEXT", "A form feed as white space", lambda text: b"\f" + text, roles=RANK_1)
_refused("cut-short", "JSON-TEXT", "An object without its last brace", lambda text: text[:-1])
_refused("trailing-comma", "JSON-TEXT", "A comma after the last member", lambda text: text[:-1] + b",}", roles=RANK_1)
_refused("single-quotes", "JSON-TEXT", "Single quotes", lambda text: text.replace(b'"', b"'"), roles=RANK_1)
_refused("comment", "JSON-TEXT", "A comment", lambda text: text[:-1] + b"/* */}", roles=RANK_1)
_refused("nan", "JSON-TEXT", "NaN as the value of an unknown key", _with('"x":NaN'))
_refused("leading-zero", "JSON-TEXT", "A number with a leading zero in an unknown key", _with('"x":01'), roles=RANK_1)
_refused("control-character", "JSON-STRING", "A line feed inside a string", _with('"x":"a\nb"'))
_refused("bad-escape", "JSON-STRING", "An escape that JSON does not define", _with('"x":"\\x41"'))
_refused("lone-surrogate", "JSON-STRING", "Half a surrogate pair", _with('"x":"\\ud800"'))
_refused("duplicate-unknown-key", "JSON-DUPLICATE-KEY", "A repeated unknown key", _with('"x":1,"x":1'))
_refused(
    "duplicate-nested-key",
    "JSON-DUPLICATE-KEY",
    "A repeated key in an inner object",
    _with('"x":{"a":1,"a":2}'),
    roles=RANK_1,
)
_refused("nesting-513", "JSON-NESTING", "Nesting of 513 levels", _nested(513))


@case("payload", "nesting-513-last", "JSON-NESTING")
async def nesting_513_last(peer: Peer) -> None:
    """A payload that ends at its 513th opening bracket ends the connection, without a crash."""
    link = await peer.session()
    await link.send("513 opening brackets", _vehicle(peer, lambda _: b'{"x":' + b"[" * 512))
    await link.expect_closed()
    if peer.role is Role.RESPONDER:
        await (await peer.session()).ping()


_taken("keys-reordered", "JSON-KEYS", "An object with its keys in another order", _reordered)
_taken("white-space", "JSON-TEXT", "White space wherever it is allowed", _spaced)
_taken("escapes", "JSON-STRING", "Keys and strings with \\uXXXX escapes", _escaped)
_taken("escaped-solidus", "JSON-STRING", "\\/ in a string", _with('"x":"a\\/b"'))
_taken("surrogate-pair", "JSON-STRING", "A surrogate pair in escapes", _with('"x":"\\ud83d\\ude00"'))
_taken("unknown-key", "JSON-UNKNOWN-KEY", "An unknown key", _with('"x":{"y":[1,null,true,"z"]}'))
_taken(
    "unknown-number",
    "JSON-UNKNOWN-KEY",
    "Any number in an unknown key",
    _with('"x":[0,-0,10,-1.5e3,123456789012345678901,0.0,9.09e+5,1E-09,1e0]'),
)
_taken("nesting-512", "JSON-NESTING", "Nesting of 512 levels", _nested(512))

# -- jacclBootstrap, to rank 1 -----------------------------------------------------------------------------------------


def _bootstrap(name: str, rule: str, what: str, old: str, new: str) -> None:
    assert old.encode() in BOOTSTRAP  # noqa: S101 - this very table
    _refused(name, rule, what, lambda text: text.replace(old.encode(), new.encode()), RANK_1)


_bootstrap("port-string", "PAYLOAD-BOOTSTRAP", "A port that is a string", "29400", '"29400"')
_bootstrap("port-true", "PAYLOAD-BOOTSTRAP", "A port that is true", "29400", "true")
_bootstrap("port-null", "PAYLOAD-BOOTSTRAP", "A port that is null", "29400", "null")
_bootstrap("port-negative", "PAYLOAD-BOOTSTRAP", "A negative port", "29400", "-29400")
_bootstrap("port-65536", "PAYLOAD-BOOTSTRAP", "A port of 65,536", "29400", "65536")
_bootstrap("port-2-to-64", "PAYLOAD-BOOTSTRAP", "A port whose low 64 bits are 29400", "29400", "18446744073709581016")
_bootstrap("port-fraction", "JSON-INTEGER", "A port of 29400.0", "29400", "29400.0")
_bootstrap("port-exponent", "JSON-INTEGER", "A port of 2.94e4", "29400", "2.94e4")
_bootstrap("port-leading-zero", "JSON-TEXT", "A port of 029400", "29400", "029400")
_bootstrap("port-missing", "JSON-KEYS", "A jacclBootstrap without a port", '"port":29400,', "")
_bootstrap(
    "session-id-missing", "JSON-KEYS", "A jacclBootstrap with sessionId instead of sessionID", "sessionID", "sessionId"
)
_bootstrap(
    "session-id-number",
    "PAYLOAD-BOOTSTRAP",
    "A sessionID that is a number",
    '"6F9619FF-8B86-D011-B42D-00CF4FC964FF"',
    "6",
)
_bootstrap("duplicate-port", "JSON-DUPLICATE-KEY", "A repeated port", "29400", '29400,"port":29401')
_bootstrap(
    "duplicate-escaped-port",
    "JSON-DUPLICATE-KEY",
    "A repeated port, once in escapes",
    "29400",
    '29400,"p\\u006frt":29401',
)

# -- pong, to rank 0 ---------------------------------------------------------------------------------------------------


def _pong(name: str, rule: str, what: str, old: str, new: str) -> None:
    assert old.encode() in PONG  # noqa: S101 - this very table
    _refused(name, rule, what, lambda text: text.replace(old.encode(), new.encode(), 1), RANK_0)


_pong("pong-number", "PAYLOAD-PONG", "A modelLoaded of 0", '"modelLoaded":true', '"modelLoaded":0')
_pong(
    "pong-string",
    "PAYLOAD-PONG",
    'An inferenceInFlight of "false"',
    '"inferenceInFlight":false',
    '"inferenceInFlight":"false"',
)
_pong("pong-pressure", "PAYLOAD-PONG", "An unknown memoryPressure", '"normal"', '"high"')
_pong("pong-pressure-case", "PAYLOAD-PONG", "A memoryPressure in capitals", '"normal"', '"NORMAL"')
_pong("pong-missing", "JSON-KEYS", "A pong without memoryPressure", ',"memoryPressure":"normal"', "")
_pong("pong-null", "PAYLOAD-PONG", "A modelLoaded of null", '"modelLoaded":true', '"modelLoaded":null')
_pong("pong-duplicate", "JSON-DUPLICATE-KEY", "A repeated modelLoaded", "true,", 'true,"modelLoaded":false,')

# -- the types of inference --------------------------------------------------------------------------------------------


def _inference(name: str, rule: str, what: str, frame: bytes, role: tuple[Role, ...]) -> None:
    @case("payload", name, rule, roles=role, revisions=V2, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.session()
        await link.send(what, frame)
        await link.expect_closed()


def _frame(first: int, **fields: object) -> bytes:
    return bytes([first]) + json.dumps(fields).encode()


_inference(
    "prompt-tokens",
    "PAYLOAD-PROMPT",
    "A promptTokens with a token that is a string",
    _frame(8, uid="a", tokens=["1"], maxTokens=1),
    RANK_1,
)
_inference(
    "prompt-token-range",
    "JSON-INTEGER",
    "A promptTokens with a token of 2^63",
    _frame(8, uid="a", tokens=[2**63], maxTokens=1),
    RANK_1,
)
_inference("step-token", "PAYLOAD-STEP-TOKEN", "A stepToken without a token", _frame(9, uid="a"), RANK_1)
_inference("session-stop", "PAYLOAD-UID", "A sessionStop with a uid that is a number", _frame(10, uid=1), RANK_1)
_inference(
    "pp-activation", "PAYLOAD-PP-ACTIVATION", "A ppActivation without a box", _frame(11, uid="a", seqLen=1), RANK_1
)
_inference("pp-session-end", "PAYLOAD-UID", "A ppSessionEnd without a uid", _frame(13), RANK_1)
_inference("pp-token", "PAYLOAD-PP-TOKEN", "A ppToken without a box", _frame(12, uid="a"), RANK_0)

for _name, _what, _text in (
    ("url-safe", "in the URL-safe alphabet", "-_8="),
    ("no-padding", "without its padding", "AAECAw"),
    ("white-space", "with a line feed", "AAEC\nAwQF"),
    ("padding-bits", "with non-zero bits in the padding", "AAECAx=="),
):
    _inference(
        f"base64-{_name}",
        "JSON-BASE64",
        f"Base64 {_what}",
        _frame(11, uid="a", seqLen=1, sealedActivation=_text),
        RANK_1,
    )
    _inference(f"base64-{_name}", "JSON-BASE64", f"Base64 {_what}", _frame(12, uid="a", sealedToken=_text), RANK_0)
