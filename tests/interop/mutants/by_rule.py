"""Mutants of the JavaScript peer by rule: each breaks one rule at a random point of its dimensions.

The ranges are the specification's, or stated where they are not, and were chosen without a look at the suite's points.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Final

from tests.interop.mutants.mechanical import Edit, Mutant

Change = tuple[str, str, str]
"""File, a text that occurs once, and its replacement."""
KEYS: Final = (
    "sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature", "port", "sessionID", "uid", "tokens", "maxTokens",
    "token", "seqLen", "sealedActivation", "sealedToken", "modelLoaded", "inferenceInFlight", "memoryPressure", "x",
)  # fmt: skip
_KNOWN: Final = {*range(1, 14), 0x40, 0x41, 0x42, 0x43, 0xFF}


def _nonces_forgotten(random: Random) -> list[Change]:
    """After 1 to 400 boxes."""
    line = "this.#opened.add(nonce);"
    kept = random.randint(1, 400)
    forget = f"if (this.#opened.size > {kept}) this.#opened.delete(this.#opened.values().next().value);"
    return [("seal.mjs", line, f"{line} {forget}")]


def _own_nonces_forgotten(random: Random) -> list[Change]:
    """After 1 to 30 boxes."""
    line = 'this.#sealed.add(nonce.toString("latin1"));'
    forget = (
        f"if (this.#sealed.size > {random.randint(1, 30)}) this.#sealed.delete(this.#sealed.values().next().value);"
    )
    return [("seal.mjs", line, f"{line} {forget}")]


def _nonce_prefix(random: Random) -> list[Change]:
    return [("seal.mjs", '"latin1", 0, NONCE)', f'"latin1", 0, {random.randint(1, 11)})')]


def _tag_unchecked(random: Random) -> list[Change]:
    """After 0 to 150 boxes."""
    return [
        ("seal.mjs", "decipher.final();\n", f"if (this.#opened.size < {random.randint(0, 150)}) decipher.final();\n")
    ]


def _length_wraps(random: Random) -> list[Change]:
    """At a width of 29 to 62 bits."""
    read = "data.readBigUInt64LE()"
    return [("link.mjs", f"length = {read}", f"length = BigInt.asUintN({random.randint(29, 62)}, {read})")]


def _length_limit(random: Random) -> list[Change]:
    """Higher by 1 to 2^30."""
    return [("link.mjs", "MAX_LENGTH = 256 * 1024 * 1024", f"MAX_LENGTH = 256 * 1024 * 1024 + {spread(random, 2**30)}")]


def _duplicate_key(random: Random) -> list[Change]:
    return [("json.mjs", "if (values.has(key)) this", f'if (values.has(key) && key !== "{random.choice(KEYS)}") this')]


def _duplicate_depth(random: Random) -> list[Change]:
    """At a depth of 2 to 6."""
    return [("json.mjs", "if (values.has(key)) this", f"if (values.has(key) && depth < {random.randint(2, 6)}) this")]


def _type_taken(random: Random) -> list[Change]:
    byte = random.choice([each for each in range(256) if each not in _KNOWN])
    taken = f'if (frame[0] === {byte}) return {{ name: "handshakeHello", from: 0, fields: {{}} }};'
    return [("frames.mjs", "const type = BY_BYTE.get(frame[0]);", f"{taken} const type = BY_BYTE.get(frame[0]);")]


def _nesting(random: Random) -> list[Change]:
    """Off by up to 64 levels."""
    return [("json.mjs", "MAX_DEPTH = 512", f"MAX_DEPTH = {512 + random.choice((-1, 1)) * random.randint(1, 64)}")]


def _control_character(random: Random) -> list[Change]:
    byte = random.randrange(0x20)
    return [
        ("json.mjs", "if (byte < 0x20) this", f"if (byte < 0x20 && byte !== {byte}) this"),
        ("json.mjs", "(byte) => byte >= 0x20 &&", f"(byte) => (byte >= 0x20 || byte === {byte}) &&"),
    ]


def _base64(random: Random) -> list[Change]:
    """An invalid character is skipped."""
    letter = random.choice((" ", "\\n", "\\r", "\\t", "*", ".", ",", "\\0"))
    return [("frames.mjs", '("base64") !== value)', f'("base64") !== value.replaceAll("{letter}", ""))')]


def _integer(random: Random) -> list[Change]:
    return [
        ("frames.mjs", "/[.eE]/", random.choice(("/[eE]/", "/[.E]/", "/[.e]/"))),
        ("frames.mjs", "? BigInt(value.text)", "? BigInt(Math.trunc(Number(value.text)))"),
    ]


def _port(random: Random) -> list[Change]:
    """The highest one off by up to 30,000."""
    return [
        (
            "frames.mjs",
            "integer(0n, 65535n)",
            f"integer(0n, {65535 + random.choice((-1, 1)) * spread(random, 30000)}n)",
        )
    ]


def _handshake_timer(random: Random) -> list[Change]:
    """Longer by a factor of 2 to 20."""
    return [("peer.mjs", "const HANDSHAKE = 10;", f"const HANDSHAKE = {10 * random.uniform(2, 20):.1f};")]


def _first_box_timer(random: Random) -> list[Change]:
    """Shorter than the 11 s after which the handshake's own timer has expired."""
    return [("peer.mjs", "const FIRST_BOX = 15;", f"const FIRST_BOX = {random.uniform(0.5, 10.5):.1f};")]


def _missed_pongs(random: Random) -> list[Change]:
    return [("peer.mjs", "MISSED_PONGS = 3", f"MISSED_PONGS = {random.choice((1, 2, *range(5, 12)))}")]


def _piece_lost(random: Random) -> list[Change]:
    """One of 1 to 36 bytes."""
    return [("link.mjs", "feed(piece) {", f"feed(piece) {{ if (piece.length === {random.randint(1, 36)}) return;")]


def _not_replaced(random: Random) -> list[Change]:
    """While 1 to 6 others are open."""
    line = 'current?.end("another'
    return [("peer.mjs", line, f"if (unsettled.size < {random.randint(1, 6)}) {line}")]


def _crowd_displaces(random: Random) -> list[Change]:
    """While 1 to 8 others are open."""
    line = "if (unsettled.size > UNSETTLED_CONNECTIONS) oldest"
    return [("peer.mjs", line, f'if (unsettled.size > {random.randint(0, 7)}) current?.end("a crowd");\n    {line}')]


def _strangers_count(random: Random) -> list[Change]:
    """After 2 to 60 connections."""
    line = "const server = createServer((socket) => {"
    count = f'if ((server.count = (server.count ?? 0) + 1) > {random.randint(2, 60)}) current?.end("too many");'
    return [("peer.mjs", line, f"{line} {count}")]


def _session_id(random: Random) -> list[Change]:
    letter = random.choice("!$%&+,:;=@~/")
    change = random.choice(
        (("A-Za-z0-9._-]", f"A-Za-z0-9._\\{letter}-]"), ("{1,128}", f"{{1,{128 + spread(random, 900)}}}"))
    )
    return [("peer.mjs", *change)]


def _der(random: Random) -> list[Change]:
    condition = random.choice((" || der[1] !== der.length - 2", " || integer[0] >= 0x80", "digits[0] === 0 || "))
    return [("handshake.mjs", condition, "")]


def _white_space(random: Random) -> list[Change]:
    kept = [" ", "\\t", "\\n", "\\r"]
    kept.remove(random.choice(kept))
    return [("json.mjs", 'Buffer.from(" \\t\\n\\r")', f'Buffer.from("{"".join(kept)}")')]


def _short_escape(random: Random) -> list[Change]:
    line = "const SHORT_ESCAPES = {"
    after = "const ESCAPES = new Map(Object.entries(SHORT_ESCAPES));"
    letter = random.choice(('"', "\\\\", "/", "b", "f", "n", "r", "t")).replace('"', '\\"')
    return [("json.mjs", after, f'{after} ESCAPES.delete("{letter}");'), ("json.mjs", line, line)]


def _unknown_key(random: Random) -> list[Change]:
    """One of more than 0 to 4 characters is refused."""
    line = "values.set(key, this.value(depth + 1, members?.get(key)));"
    return [
        (
            "json.mjs",
            line,
            f"if (members && !members.has(key) && key.length > {random.randint(0, 4)}) this.syntax(); {line}",
        )
    ]


def _misplaced(random: Random) -> list[Change]:
    """One unexpected type ends the connection."""
    names = ("ping", "pong", "inferenceStep", "inferenceToken", "jacclBootstrap", "promptTokens", "stepToken",
             "sessionStop", "ppActivation", "ppToken", "ppSessionEnd", "handshakeHello", "handshakeAck")  # fmt: skip
    line = "this.report({ event: belongs"
    refuse = f'if (!belongs && name === "{random.choice(names)}") throw new WireError("session-state", 0, name);'
    return [("session.mjs", line, f"{refuse} {line}")]


def spread(random: Random, highest: int) -> int:
    """From 1 to `highest`, each power of two as likely as any other."""
    return min(int(2 ** random.uniform(0, highest.bit_length())), highest)


_Rules = Mapping[Callable[[Random], list[Change]], tuple[str, ...]]
OF_FRAMES: Final[_Rules] = {
    _duplicate_key: ("JSON-DUPLICATE-KEY",),
    _duplicate_depth: ("JSON-DUPLICATE-KEY",),
    _type_taken: ("FRAME-TYPE", "SESSION-BOX"),
    _nesting: ("JSON-NESTING", "JSON-UNKNOWN-KEY"),
    _control_character: ("JSON-STRING",),
    _base64: ("JSON-BASE64",),
    _integer: ("JSON-INTEGER",),
    _port: ("PAYLOAD-BOOTSTRAP", "BOOT-REFUSE"),
    _white_space: ("JSON-TEXT", "JSON-SPELLING"),
    _short_escape: ("JSON-STRING", "JSON-BASE64"),
    _unknown_key: ("JSON-UNKNOWN-KEY",),
}
RULES: Final[_Rules] = {
    **OF_FRAMES,
    _nonces_forgotten: ("SEAL-REPLAY",),
    _own_nonces_forgotten: ("SEAL-REFLECTION",),
    _nonce_prefix: ("SEAL-LAYOUT", "SEAL-REPLAY", "SEAL-REFLECTION"),
    _tag_unchecked: ("SESSION-BOX", "SEAL-LAYOUT", "SEAL-REFUSED"),
    _length_wraps: ("LINK-LEN-MAX",),
    _length_limit: ("LINK-LEN-MAX",),
    _handshake_timer: ("SESSION-TIMES", "SESSION-LEN-MAX"),
    _first_box_timer: ("SESSION-TIMES",),
    _missed_pongs: ("SESSION-MISSED",),
    _piece_lost: ("LINK-CHUNKS",),
    _not_replaced: ("SESSION-REPLACE",),
    _crowd_displaces: ("SESSION-DISPLACE",),
    _strangers_count: ("SESSION-DISPLACE",),
    _session_id: ("BOOT-SESSION-ID",),
    _der: ("HANDSHAKE-SIGNATURE",),
    _misplaced: ("SESSION-IGNORE",),
}


def mutants(directory: Path, random: Random, rules: _Rules = RULES) -> Iterator[Mutant]:
    """Yield rules in random order, each at another point, without end."""
    kinds = list(rules)
    number = 0
    while True:
        random.shuffle(kinds)
        for kind in kinds:
            number += 1
            edits = tuple(_edit(directory, change) for change in kind(random))
            yield Mutant(f"rule{kind.__name__.replace('_', '-')}-{number}", rules[kind], edits)


def _edit(directory: Path, change: Change) -> Edit:
    file, old, new = change
    text = (directory / file).read_text()
    assert text.count(old) == 1, (file, old)
    start = text.index(old)
    return Edit(file, start, start + len(old), new)
