// Strict JSON: one pass from the front, which stops at the first byte that cannot be right.
//
// A value is read as: string, boolean, null, Numeral, Array, or Map. A *rule* judges the value of a known key. rule.kind
// is the kind of value, which its first byte shows. rule.check(value) gives what the value stands for, once it is read
// whole, or throws a Fault. rule.element is the rule of an array's elements.

import { WireError } from "./errors.mjs";

const MAX_DEPTH = 512; // [JSON-NESTING]

const [QUOTE, COMMA, MINUS, DOT, ZERO, COLON, BACKSLASH, LETTER_U] = Buffer.from('",-.0:\\u');
const [CLOSE_ARRAY, CLOSE_OBJECT] = Buffer.from("]}");
const WHITE_SPACE = new Set(Buffer.from(" \t\n\r"));
const EXPONENT = new Set(Buffer.from("eE"));
const SIGNS = new Set(Buffer.from("+-"));
const LITERALS = new Map(["true", "false", "null"].map((word) => [word.charCodeAt(0), word]));
const KINDS = new Map(
  Object.entries({ string: '"', object: "{", array: "[", number: "-0123456789", boolean: "tf", null: "n" }).flatMap(
    ([kind, bytes]) => [...Buffer.from(bytes)].map((byte) => [byte, kind]),
  ),
);
const SHORT_ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const ESCAPES = new Map(Object.entries(SHORT_ESCAPES));

/** A number as it is written: it may have more digits than a double holds. */
export class Numeral {
  constructor(text) {
    this.text = text;
  }
}

/** What a rule throws: the reader knows the offset. */
export class Fault extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const isDigit = (byte) => byte >= 0x30 && byte <= 0x39;
const hexDigit = (byte) => parseInt(String.fromCharCode(byte), 16);
const isHigh = (unit) => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit) => unit >= 0xdc00 && unit <= 0xdfff;

class Reader {
  constructor(bytes, start) {
    this.bytes = bytes;
    this.at = start;
  }

  fail(code, offset, message) {
    throw new WireError(code, offset, message);
  }

  syntax() {
    this.fail("json-syntax", this.at, `byte 0x${this.bytes[this.at].toString(16)} cannot stand here`);
  }

  /** The byte here, or some bytes ahead; at the end of the text, more of it could help. */
  peek(ahead = 0) {
    if (this.at + ahead >= this.bytes.length) this.fail("truncated", this.bytes.length, "the JSON text ends too early");
    return this.bytes[this.at + ahead];
  }

  expect(byte) {
    if (this.peek() !== byte) this.syntax();
    this.at += 1;
  }

  skipWhiteSpace() {
    while (WHITE_SPACE.has(this.bytes[this.at])) this.at += 1;
  }

  /** Members are the rules of the object's known keys; the depth is that of the value, 1 for the payload. */
  object(depth, members) {
    const values = new Map();
    for (let first = true; this.#goesOn(CLOSE_OBJECT, first); first = false) {
      const quote = this.at;
      if (this.peek() !== QUOTE) this.syntax();
      const key = this.string();
      if (values.has(key)) this.fail("json-duplicate-key", quote, `the key ${JSON.stringify(key)} stands twice`);
      this.skipWhiteSpace();
      this.expect(COLON);
      this.skipWhiteSpace();
      values.set(key, this.value(depth + 1, members?.get(key)));
    }
    for (const key of members?.keys() ?? []) {
      if (!values.has(key)) this.fail("field-missing", this.at - 1, `the field ${key} is missing`);
    }
    return values;
  }

  array(depth, element) {
    const values = [];
    for (let first = true; this.#goesOn(CLOSE_ARRAY, first); first = false) values.push(this.value(depth + 1, element));
    return values;
  }

  /** Whether an item follows: past the bracket or the comma before it, or past the bracket that closes. */
  #goesOn(close, first) {
    if (first) this.at += 1;
    this.skipWhiteSpace();
    if (this.peek() === close) {
      this.at += 1;
      return false;
    }
    if (!first) {
      this.expect(COMMA);
      this.skipWhiteSpace();
    }
    return true;
  }

  /** What kind of value starts here. */
  kind() {
    const kind = KINDS.get(this.peek());
    if (!kind) this.syntax();
    return kind;
  }

  value(depth, rule) {
    const start = this.at;
    const kind = this.kind();
    if (rule && kind !== rule.kind) this.fail("field-type", start, `a value of the kind ${kind}, not ${rule.kind}`);
    const value = this.#read(kind, depth, rule);
    try {
      return rule ? rule.check(value) : value;
    } catch (error) {
      if (error instanceof Fault) this.fail(error.code, start, error.message);
      throw error;
    }
  }

  #read(kind, depth, rule) {
    if (kind === "string") return this.string();
    if (kind === "number") return this.number();
    if (kind !== "array" && kind !== "object") return this.literal();
    if (depth > MAX_DEPTH) this.fail("json-nesting", this.at, `nested more than ${MAX_DEPTH} deep`);
    return kind === "array" ? this.array(depth, rule?.element) : this.object(depth);
  }

  literal() {
    const word = LITERALS.get(this.peek());
    for (const byte of Buffer.from(word)) this.expect(byte);
    return JSON.parse(word);
  }

  number() {
    const start = this.at;
    if (this.bytes[this.at] === MINUS) this.at += 1;
    if (this.peek() === ZERO) this.at += 1;
    else this.digits();
    if (this.bytes[this.at] === DOT) {
      this.at += 1;
      this.digits();
    }
    if (EXPONENT.has(this.bytes[this.at])) {
      this.at += 1;
      if (SIGNS.has(this.peek())) this.at += 1;
      this.digits();
    }
    this.peek(); // a number is complete only with the byte after it
    return new Numeral(this.bytes.toString("latin1", start, this.at));
  }

  digits() {
    if (!isDigit(this.peek())) this.syntax();
    while (isDigit(this.bytes[this.at])) this.at += 1;
  }

  string() {
    const parts = [];
    this.at += 1;
    for (let byte = this.peek(); byte !== QUOTE; byte = this.peek()) {
      if (byte < 0x20) this.fail("json-control-character", this.at, "a control character that is not escaped");
      parts.push(byte === BACKSLASH ? this.escape() : this.plain());
    }
    this.at += 1;
    return parts.join("");
  }

  /** A run of bytes up to a quote, a backslash, a control character, or the end. */
  plain() {
    const start = this.at;
    const isPlain = (byte) => byte >= 0x20 && byte !== QUOTE && byte !== BACKSLASH;
    for (let byte = this.bytes[start]; isPlain(byte); byte = this.bytes[this.at]) {
      if (byte < 0x80) this.at += 1;
      else this.sequence(byte);
    }
    return this.bytes.toString("utf8", start, this.at);
  }

  /** Past one UTF-8 sequence of two to four bytes. */
  sequence(lead) {
    const start = this.at;
    if (lead < 0xc2 || lead > 0xf4) this.fail("json-utf8", start, "no UTF-8 sequence starts so");
    const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    let lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    let highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf; // below the surrogates, up to U+10FFFF
    for (this.at += 1; this.at < start + size; this.at += 1) {
      const byte = this.peek();
      if (byte < lowest || byte > highest) this.fail("json-utf8", start, "no UTF-8 sequence");
      [lowest, highest] = [0x80, 0xbf];
    }
  }

  escape() {
    const start = this.at;
    const unit = this.#escapedUnit();
    if (typeof unit === "string") return unit;
    if (isLow(unit)) this.fail("json-surrogate", start, "the second half of a surrogate pair without the first");
    if (!isHigh(unit)) return String.fromCharCode(unit);
    const lone = "the first half of a surrogate pair without the second";
    for (const [ahead, byte] of [BACKSLASH, LETTER_U].entries()) {
      if (this.peek(ahead) !== byte) this.fail("json-surrogate", start, lone);
    }
    const second = this.#escapedUnit();
    if (!isLow(second)) this.fail("json-surrogate", start, lone);
    return String.fromCharCode(unit, second);
  }

  /** Past one escape: the character of a short one, the UTF-16 unit of a \uXXXX. */
  #escapedUnit() {
    const start = this.at;
    this.at += 1;
    const letter = String.fromCharCode(this.peek());
    if (letter !== "u" && !ESCAPES.has(letter)) this.fail("json-escape", start, "an escape that JSON does not have");
    this.at += 1;
    if (letter !== "u") return ESCAPES.get(letter);
    let unit = 0;
    for (let digit = 0; digit < 4; digit += 1, this.at += 1) {
      const value = hexDigit(this.peek());
      if (Number.isNaN(value)) this.fail("json-escape", this.at, "no hex digit");
      unit = unit * 16 + value;
    }
    return unit;
  }
}

/** The members, a Map, of the one JSON object that stands from `start` to the end. [JSON-TEXT] */
export function readObject(bytes, start, members) {
  const reader = new Reader(bytes, start);
  if (bytes.indexOf("\ufeff", start) === start) reader.fail("json-bom", start, "a byte-order mark");
  reader.skipWhiteSpace();
  if (reader.kind() !== "object") reader.fail("payload-not-object", reader.at, "the payload is no JSON object");
  const payload = reader.object(1, members);
  reader.skipWhiteSpace();
  if (reader.at < bytes.length) reader.fail("trailing-data", reader.at, "bytes after the JSON object");
  return payload;
}

/** Compact JSON; a BigInt keeps its digits, bytes are base64. */
export function writeJson(value) {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Uint8Array) return JSON.stringify(Buffer.from(value).toString("base64"));
  if (Array.isArray(value)) return `[${value.map(writeJson).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const members = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${writeJson(item)}`);
  return `{${members.join(",")}}`;
}
