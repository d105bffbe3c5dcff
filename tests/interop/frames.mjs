// Cluster frames: a type byte and a payload. [FRAME-TYPE]

import { WireError } from "./errors.mjs";
import { Fault, readObject, writeJson } from "./json.mjs";

const INT64 = 1n << 63n;

const text = { kind: "string", check: (value) => value };

const flag = { kind: "boolean", check: (value) => value };

const oneOf = (...values) => ({
  kind: "string",
  check(value) {
    if (!values.includes(value)) throw new Fault("field-enum", `not one of ${values.join(", ")}`);
    return value;
  },
});

/** An integer, as a BigInt. [JSON-INTEGER] */
const integer = (lowest = -INT64, highest = INT64 - 1n) => ({
  kind: "number",
  check(value) {
    if (/[.eE]/.test(value.text)) throw new Fault("field-not-integer", "a fraction or an exponent");
    // Twenty characters are an int64 with its sign; a BigInt of a million digits would only cost time.
    const number = value.text.length <= 20 ? BigInt(value.text) : null;
    if (number === null || number < lowest || number > highest) {
      throw new Fault("field-range", `not from ${lowest} to ${highest}`);
    }
    return number;
  },
});

const integers = { kind: "array", element: integer(), check: (values) => values };

/** Base64, as a Buffer. Node decodes all sorts of base64, but writes only the standard one. [JSON-BASE64] */
const bytes = (length = null) => ({
  kind: "string",
  check(value) {
    const decoded = Buffer.from(value, "base64");
    if (decoded.toString("base64") !== value) throw new Fault("field-base64", "not standard, padded base64");
    if (length !== null && decoded.length !== length) throw new Fault("field-length", `not ${length} bytes`);
    return decoded;
  },
});

const HANDSHAKE = { sePubKeyRaw: bytes(64), ephemeralX25519PubKey: bytes(32), nonce: bytes(32), seSignature: bytes() };

const PONG = {
  modelLoaded: flag,
  inferenceInFlight: flag,
  memoryPressure: oneOf("normal", "warning", "critical"),
};

const EMPTY = "empty";
const OPAQUE = "opaque";

const KIB = 1024;

/** By revision, and by the rank that sends it: [type byte, name, payload, longest frame where the type has a limit of
 * its own]; a JSON payload by the rules of its fields. [PAYLOAD-LIMIT] */
const TABLE = [
  [
    [
      [0x01, "handshakeHello", HANDSHAKE, 4 * KIB],
      [0x03, "ping", EMPTY],
      [0x05, "inferenceStep", OPAQUE],
      [0x07, "jacclBootstrap", { port: integer(0n, 65535n), sessionID: text }, 64 * KIB],
      [0xff, "sessionEnd", EMPTY],
    ],
    [
      [0x02, "handshakeAck", HANDSHAKE, 4 * KIB],
      [0x04, "pong", PONG, 64 * KIB],
      [0x06, "inferenceToken", OPAQUE],
    ],
  ],
  [
    [
      [0x08, "promptTokens", { uid: text, tokens: integers, maxTokens: integer() }],
      [0x09, "stepToken", { uid: text, token: integer() }, 64 * KIB],
      [0x0a, "sessionStop", { uid: text }, 64 * KIB],
      [0x0b, "ppActivation", { uid: text, seqLen: integer(), sealedActivation: bytes() }],
      [0x0d, "ppSessionEnd", { uid: text }, 64 * KIB],
    ],
    [[0x0c, "ppToken", { uid: text, sealedToken: bytes() }, 64 * KIB]],
  ],
];

const TYPES = TABLE.flatMap((senders, index) =>
  senders.flatMap((rows, from) =>
    rows.map(([byte, name, payload, limit = Infinity]) => {
      const members = typeof payload === "string" ? null : new Map(Object.entries(payload));
      return { byte, name, from, payload, members, since: index + 1, limit };
    }),
  ),
);
export const BY_BYTE = new Map(TYPES.map((type) => [type.byte, type]));
export const BY_NAME = new Map(TYPES.map((type) => [type.name, type]));

/** The message {name, from, fields} in a frame. Unknown keys are dropped; an opaque payload is `fields.payload`. */
export function decodeFrame(frame, revision) {
  if (frame.length === 0) throw new WireError("truncated", 0, "a cluster frame without its type byte");
  const type = BY_BYTE.get(frame[0]);
  if (!type || type.since > revision) {
    throw new WireError("type-unknown", 0, `type 0x${frame[0].toString(16)} is not one of revision ${revision}`);
  }
  if (frame.length > type.limit) throw new WireError("payload-limit", 1, `more than ${type.limit} bytes`);
  return { name: type.name, from: type.from, fields: decodePayload(type, frame) };
}

function decodePayload({ name, payload, members }, frame) {
  if (payload === OPAQUE) return { payload: frame.subarray(1) };
  if (payload === EMPTY) {
    if (frame.length > 1) throw new WireError("payload-not-empty", 1, `${name} has no payload`);
    return {};
  }
  const values = readObject(frame, 1, members);
  return Object.fromEntries([...members.keys()].map((key) => [key, values.get(key)]));
}

/** The bytes of a message. That the protocol has its fields is the caller's duty. */
export function encodeFrame(name, fields) {
  const { byte, payload } = BY_NAME.get(name);
  const text = () => Buffer.from(writeJson(fields));
  const body = payload === OPAQUE ? fields.payload : payload === EMPTY ? Buffer.alloc(0) : text();
  return Buffer.concat([Buffer.of(byte), body]);
}
