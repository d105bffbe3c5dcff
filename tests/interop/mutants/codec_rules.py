"""Mutants of the JavaScript codec by rule: each breaks one rule of frames and their JSON, at a random point.

As in `by_rule`, the ranges are the specification's, or stated, and were chosen without a look at the suite's points.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from tests.interop.mutants import by_rule
from tests.interop.mutants.by_rule import Change, spread

_FIELDS: Final = by_rule.KEYS[:-1]


def _rounded(random: Random) -> list[Change]:
    """Integers of 17, 18 or 19 characters, as doubles."""
    text = f"value.text.length === {random.randint(17, 19)} ? Number(value.text) : value.text"
    return [("frames.mjs", "? BigInt(value.text)", f"? BigInt({text})")]


def _integer_wraps(random: Random) -> list[Change]:
    return [("frames.mjs", "BigInt(value.text)", f"BigInt.asIntN({random.randint(33, 63)}, BigInt(value.text))")]


def _integer_ends(random: Random) -> list[Change]:
    """Off by up to 2^40, at one end."""
    off = spread(random, 2**40)
    one = random.choice((("lowest = -INT64", f"lowest = -INT64 + {off}n"), ("INT64 - 1n", f"INT64 - 1n - {off}n")))
    return [("frames.mjs", *one)]


def _minus_zero(random: Random) -> list[Change]:
    return [("frames.mjs", "/[.eE]/", random.choice(("/[.eE]|^-0/", "/[.eE]|^-0$/")))]


def _normalised(random: Random) -> list[Change]:
    form = random.choice(("NFC", "NFD", "NFKC"))
    where = random.choice(
        (("if (values.has(key)) this", f'if (values.has(key.normalize("{form}"))) this'),
         ('return parts.join("");', f'return parts.join("").normalize("{form}");'))
    )  # fmt: skip
    return [("json.mjs", *where)]


def _text_cut(random: Random) -> list[Change]:
    """After 16 to 60,000 UTF-16 units."""
    return [("json.mjs", 'return parts.join("");', f'return parts.join("").slice(0, {15 + spread(random, 60_000)});')]


def _text_refused(random: Random) -> list[Change]:
    """Of more than 32 to 60,000 UTF-16 units."""
    line = 'return parts.join("");'
    return [("json.mjs", line, f'if (parts.join("").length > {31 + spread(random, 60_000)}) this.syntax(); {line}')]


def _lead_refused(random: Random) -> list[Change]:
    """One lead byte of UTF-8."""
    line = "const size = lead < 0xe0"
    lead = random.randint(0xC2, 0xF4)
    return [("json.mjs", line, f"if (lead === {lead}) this.syntax(); {line}")]


def _utf_8(random: Random) -> list[Change]:
    change = random.choice(
        (("lead < 0xc2", "lead < 0xc0"), ("lead > 0xf4", f"lead > {random.randint(0xF5, 0xF7)}"),
         ("lead === 0xe0 ? 0xa0 : ", ""), ("lead === 0xf0 ? 0x90 : ", ""), ("lead === 0xed ? 0x9f : ", ""),
         ("lead === 0xf4 ? 0x8f : ", ""), ("] = [0x80, 0xbf]", f"] = [0x80, {random.randint(0xC0, 0xFF)}]"),
         ("] = [0x80, 0xbf]", f"] = [{random.randint(0x20, 0x7F)}, 0xbf]"))
    )  # fmt: skip
    return [("json.mjs", *change)]


def _hex_digit(random: Random) -> list[Change]:
    """One more character as a digit, or one digit fewer."""
    letter = random.choice("+- _gGoOlxX:/@`")
    digit = random.choice("0123456789abcdefABCDEF")
    more = f"byte === {ord(letter)} ? 0 : "
    fewer = f"byte === {ord(digit)} ? NaN : "
    return [("json.mjs", "=> parseInt(", f"=> {random.choice((more, fewer))}parseInt(")]


def _surrogates(random: Random) -> list[Change]:
    """One end of one half off by up to 512."""
    off = spread(random, 512)
    end = random.choice(("unit >= 0xd800", "unit <= 0xdbff", "unit >= 0xdc00", "unit <= 0xdfff"))
    return [("json.mjs", end, f"{end} {'+' if '>' in end else '-'} {off}")]


def _depth_stays(random: Random) -> list[Change]:
    """The depth never decreases: 512 to 4,000 objects and arrays are too many."""
    count = f"(this.nested = (this.nested ?? 0) + 1) > {random.randint(512, 4000)}"
    return [("json.mjs", "if (depth > MAX_DEPTH)", f"if (depth > MAX_DEPTH || {count})")]


def _keys_forgotten(random: Random) -> list[Change]:
    """All but the last 1 to 3,000."""
    last = f"[...values.keys()].slice(-{spread(random, 3000)}).includes(key)"
    return [("json.mjs", "if (values.has(key)) this", f"if ({last}) this")]


def _keys_refused(random: Random) -> list[Change]:
    """More than 8 to 3,000 in one object."""
    most = 7 + spread(random, 3000)
    return [("json.mjs", "if (values.has(key)) this", f"if (values.has(key) || values.size > {most}) this")]


def _elements_refused(random: Random) -> list[Change]:
    """More than 4 to 60,000 in one array."""
    line = "values.push(this.value(depth + 1, element));"
    most = f"if (values.length > {3 + spread(random, 60_000)}) this.syntax(); else {line}"
    return [("json.mjs", line, most)]


def _opaque_cut(random: Random) -> list[Change]:
    """After 16 to 65,535 bytes."""
    return [("frames.mjs", "frame.subarray(1)", f"frame.subarray(1, {16 + spread(random, 65_520)})")]


def _base64_lenient(random: Random) -> list[Change]:
    """The other alphabet, no padding after two or three digits, stray bits, too much padding."""
    loose = random.choice((
        'value.replaceAll("-", "+")', 'value.replaceAll("_", "/")',
        'value + "=".repeat(value.length % 4 === 3 ? 1 : 0)', 'value + "=".repeat(value.length % 4 === 2 ? 2 : 0)',
        'value.replace(/===+$/, "==")', 'value.slice(0, decoded.toString("base64").length)',
        'value.replace(/.=+$/, decoded.toString("base64").slice(value.search(/.=+$/)))',
    ))  # fmt: skip
    return [("frames.mjs", '("base64") !== value)', f'("base64") !== {loose})')]


def _slow(random: Random) -> list[Change]:
    """Quadratic in white space, in the elements of an array, in the keys of an object, or in escapes."""
    push = "values.push(this.value(depth + 1, element));"
    change = random.choice((
        ("has(this.bytes[this.at])) this.at += 1;",
         'has(this.bytes[this.at])) this.bytes.toString("latin1", 0, (this.at += 1));'),
        (push, f"values.splice(0, values.length, ...[...values], {push[12:-2]});"),
        ("if (values.has(key)) this", "if ([...values.keys()].includes(key)) this"),
        ("parts.push(byte", 'parts.join(""); parts.push(byte'),
    ))  # fmt: skip
    return [("json.mjs", *change)]


def _enum(random: Random) -> list[Change]:
    also = random.choice(("value.trim()", "value.toLowerCase()", 'value.replace("low", "normal")', "value.slice(0, 8)"))
    return [("frames.mjs", "values.includes(value)", f"values.includes({also})")]


def _limit(random: Random) -> list[Change]:
    """That of one type off by up to 2,000 bytes."""
    name, limit = random.choice(
        [(name, "4") for name in ("handshakeHello", "handshakeAck")]
        + [(name, "64") for name in ("pong", "stepToken", "sessionStop", "ppToken", "ppSessionEnd")]
    )
    off = random.choice(("+", "-")) + str(spread(random, 2000))
    line = "rows.map(([byte, name, payload, limit = Infinity]) => {"
    return [("frames.mjs", line, f'{line} if (name === "{name}") limit = {limit} * KIB {off};')]


def _empty(random: Random) -> list[Change]:
    """Up to 1 to 64 bytes are taken, or one byte."""
    byte = random.randrange(256)
    return [("frames.mjs", "if (frame.length > 1)", random.choice(
        (f"if (frame.length > {1 + random.randint(1, 64)})", f"if (frame.length > 1 && frame[1] !== {byte})")
    ))]  # fmt: skip


def _optional(random: Random) -> list[Change]:
    line = "if (!values.has(key)) this"
    return [("json.mjs", line, f'if (!values.has(key) && key !== "{random.choice(_FIELDS)}") this')]


def _key_loose(random: Random) -> list[Change]:
    """Keys are trimmed, or compared without case, or up to a NUL."""
    loose = random.choice((".trim()", '.split("\\0")[0]', '.replace(/^U/, "u")', '.replace(/_/g, "")'))
    return [("json.mjs", "const key = this.string();", f"const key = this.string(){loose};")]


def _escape_added(random: Random) -> list[Change]:
    after = "const ESCAPES = new Map(Object.entries(SHORT_ESCAPES));"
    letter = random.choice("aevxU0'N s")
    return [("json.mjs", after, f'{after} ESCAPES.set("{letter}", "?");')]


def _numbers(random: Random) -> list[Change]:
    change = random.choice(
        (("if (this.peek() === ZERO) this.at += 1;\n    else this.digits();", "this.digits();"),
         ("if (this.bytes[this.at] === DOT) {\n      this.at += 1;\n      this.digits();",
          "if (this.bytes[this.at] === DOT) {\n      this.at += 1;\n      if (isDigit(this.peek())) this.digits();"),
         ("if (SIGNS.has(this.peek())) this.at += 1;", "while (SIGNS.has(this.peek())) this.at += 1;"),
         ('Buffer.from("eE")', random.choice(('Buffer.from("e")', 'Buffer.from("E")', 'Buffer.from("eEdD")'))),
         ('const SIGNS = new Set(Buffer.from("+-"));', f'const SIGNS = new Set(Buffer.from("{random.choice("+-")}"));'))
    )  # fmt: skip
    return [("json.mjs", *change)]


def _literal(random: Random) -> list[Change]:
    """Its first 1 to 3 letters suffice."""
    first = random.randint(1, 3)
    line = "of Buffer.from(word)) this.expect(byte);"
    return [("json.mjs", line, f"{line[:20]}.subarray(0, {first}){line[20:]} this.at += word.length - {first};")]


def _trailing(random: Random) -> list[Change]:
    """One byte after the object is accepted, or a few."""
    byte = random.choice((0, 0x0B, 0x0C, 0xA0, 0x1A, ord("}"), ord(","), ord(";")))
    line = "if (reader.at < bytes.length) reader"
    return [("json.mjs", line, random.choice((
        f"if (reader.at < bytes.length - {random.randint(1, 8)}) reader",
        f"if (reader.at < bytes.length && bytes[reader.at] !== {byte}) reader",
    )))]  # fmt: skip


def _length(random: Random) -> list[Change]:
    """The keys and the nonce may be longer, shorter, or any multiple of 2 to 16."""
    multiple = f"decoded.length % {random.choice((2, 4, 8, 16))}"
    loose = random.choice(("decoded.length < length", "decoded.length > length", multiple))
    return [("frames.mjs", "decoded.length !== length", loose)]


def _comma_last(random: Random) -> list[Change]:
    """In arrays or in objects."""
    line = "this.expect(COMMA);\n      this.skipWhiteSpace();"
    close = random.choice(("CLOSE_ARRAY", "CLOSE_OBJECT"))
    taken = f"if (close === {close} && this.peek() === close) {{ this.at += 1; return false; }}"
    return [("json.mjs", line, f"{line} {taken}")]


def _recursion(random: Random) -> list[Change]:
    """Its process ends if a too deeply nested text ends with 1 to 64 opening brackets."""
    line = "if (depth > MAX_DEPTH)"
    opened = '(this.bytes.toString("latin1").match(/[\\[{]+$/) ?? [""])[0].length'
    dies = f"if (depth > MAX_DEPTH && {opened} >= {random.randint(1, 64)}) process.exit(70);"
    return [("json.mjs", line, f"{dies} {line}")]


RULES: Final[Mapping[Callable[[Random], list[Change]], tuple[str, ...]]] = {
    **by_rule.OF_FRAMES,
    _rounded: ("JSON-INTEGER",),
    _integer_wraps: ("JSON-INTEGER", "PAYLOAD-PROMPT", "PAYLOAD-STEP-TOKEN", "PAYLOAD-PP-ACTIVATION"),
    _integer_ends: ("JSON-INTEGER", "PAYLOAD-PROMPT", "PAYLOAD-STEP-TOKEN", "PAYLOAD-PP-ACTIVATION"),
    _minus_zero: ("JSON-INTEGER", "PAYLOAD-BOOTSTRAP"),
    _normalised: ("JSON-DUPLICATE-KEY", "JSON-STRING", "PAYLOAD-UID"),
    _text_cut: ("JSON-STRING", "PAYLOAD-UID"),
    _text_refused: ("JSON-STRING", "PAYLOAD-UID"),
    _lead_refused: ("JSON-TEXT", "JSON-STRING"),
    _utf_8: ("JSON-TEXT", "JSON-STRING"),
    _hex_digit: ("JSON-STRING",),
    _surrogates: ("JSON-STRING",),
    _depth_stays: ("JSON-NESTING",),
    _keys_forgotten: ("JSON-DUPLICATE-KEY",),
    _keys_refused: ("JSON-UNKNOWN-KEY", "JSON-DUPLICATE-KEY"),
    _elements_refused: ("PAYLOAD-PROMPT", "JSON-UNKNOWN-KEY"),
    _opaque_cut: ("PAYLOAD-OPAQUE",),
    _base64_lenient: ("JSON-BASE64",),
    _slow: (),
    _enum: ("PAYLOAD-PONG",),
    _limit: ("PAYLOAD-LIMIT",),
    _empty: ("PAYLOAD-EMPTY",),
    _optional: ("JSON-KEYS",),
    _key_loose: ("JSON-KEYS", "JSON-DUPLICATE-KEY"),
    _escape_added: ("JSON-STRING",),
    _numbers: ("JSON-TEXT", "JSON-UNKNOWN-KEY"),
    _literal: ("JSON-TEXT",),
    _trailing: ("JSON-TEXT",),
    _length: ("PAYLOAD-HELLO",),
    _comma_last: ("JSON-TEXT",),
    _recursion: ("JSON-NESTING",),
}
