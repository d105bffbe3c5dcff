// Goes through a file of test vectors: cluster frames, link streams, handshakes, boxes or sessions. It prints a JSON
// object a line for each test, with its id and verdict: "agrees", "disagrees" (with what was expected and found), or
// "skipped", where it takes a peer that has extensions.
//
//     node vectors.mjs FILE

import { createECDH, createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { isDeepStrictEqual } from "node:util";

import { WireError } from "./errors.mjs";
import { BY_BYTE, BY_NAME, decodeFrame } from "./frames.mjs";
import { answerHello, drawSecrets, takeAck } from "./handshake.mjs";
import { writeJson } from "./json.mjs";
import { LinkDecoder, MAX_LENGTH } from "./link.mjs";
import { Seal } from "./seal.mjs";
import { Session } from "./session.mjs";

const hex = (text) => Buffer.from(text, "hex");
const located = ({ code, offset = null }) => ({ code, offset });
const withError = (found, error) => (error ? { ...found, error: located(error) } : found);

/** What `act` gives, or the error that it ends with. */
function outcome(act) {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { error: located(error) };
  }
}

/** A decoded message as the vectors write it. JSON.parse rounds integers beyond ±2^53 in them, and so here. */
function asInVectors(name, fields) {
  const { byte, payload } = BY_NAME.get(name);
  const value = payload === "empty" ? null : payload === "opaque" ? fields.payload : fields;
  return { type: byte, payload: JSON.parse(writeJson(value)) };
}

/** A message of the vectors without the key that a plain peer ignores. */
function plain(message) {
  if (!message?.payload?.extensions) return message;
  const { extensions, ...payload } = message.payload;
  return { ...message, payload };
}

function clusterFrame({ frame, revision, message, error }) {
  const found = outcome(() => {
    const { name, fields } = decodeFrame(hex(frame), revision);
    return { message: asInVectors(name, fields) };
  });
  return { expected: withError(message ? { message: plain(message) } : {}, error), found };
}

function linkStream({ stream, bodies, error, maxLength = MAX_LENGTH }) {
  const bytes = hex(stream);
  const cutBy = (size) => {
    const decoder = new LinkDecoder(maxLength);
    const found = [];
    const { error } = outcome(() => {
      for (let at = 0; at < bytes.length; at += size) {
        decoder.feed(bytes.subarray(at, at + size));
        for (let body = decoder.next(); body !== null; body = decoder.next()) found.push(body.toString("hex"));
      }
      decoder.finish();
      return {};
    });
    return withError({ bodies: found }, error);
  };
  const expected = withError({ bodies }, error);
  return { expected: [expected, expected], found: [cutBy(bytes.length + 1), cutBy(1)] };
}

/** Draws what it is told, in this order. */
const drawing = (drawn) => () => hex(drawn.shift());

function identity(scalar) {
  const curve = createECDH("prime256v1");
  curve.setPrivateKey(hex(scalar));
  const point = curve.getPublicKey();
  const [d, x, y] = [hex(scalar), point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
  return createPrivateKey({ key: { kty: "EC", crv: "P-256", d, x, y }, format: "jwk" });
}

function side({ role, secrets }) {
  return {
    rank: role === "rank 0" ? 0 : 1,
    identity: identity(secrets.identityPrivate),
    pin: secrets.pin ? hex(secrets.pin) : null,
  };
}

function handshake(test) {
  const secrets = drawSecrets(drawing([test.secrets.ephemeralPrivate, test.secrets.nonce]));
  const settings = { ...side(test), revision: 2, secrets };
  const found = outcome(() => {
    const key = settings.rank === 0 ? takeAck(hex(test.ack), settings) : answerHello(hex(test.hello), settings).key;
    return { key: key.toString("hex") };
  });
  return { expected: withError(test.derived ? { key: test.derived.sessionKey } : {}, test.error), found };
}

function seal({ key, steps }) {
  const used = new Seal(hex(key), drawing(steps.filter((step) => step.nonce).map((step) => step.nonce)));
  const found = steps.map((step) =>
    outcome(() => {
      if (step.do === "seal") return { box: used.seal(hex(step.plaintext)).toString("hex") };
      return { plaintext: used.open(hex(step.box)).toString("hex") };
    }),
  );
  const expected = steps.map(({ do: action, box, plaintext, error }) => {
    if (error) return withError({}, error);
    return action === "seal" ? { box } : { plaintext };
  });
  return { expected, found };
}

/** Compares the events of each step, the bytes of each message that is sent, and how it ends. */
function session(test) {
  const { steps, secrets, revision, state, error } = test;
  const nonces = steps.filter((step) => step.nonce).map((step) => step.nonce);
  let events;
  let sent;
  const tried = new Session({
    ...side(test),
    revision,
    random: drawing([secrets.ephemeralPrivate, secrets.nonce, ...nonces]),
    write: (bytes) => (sent = bytes.toString("hex")),
    report: (event) => events.push(event),
  });
  const acts = {
    start: () => tried.start(),
    receive: ({ bytes }) => tried.receive(hex(bytes)),
    send: ({ message: { type, payload } }) => {
      const fields = typeof payload === "string" ? { payload: Buffer.from(payload, "base64") } : (payload ?? {});
      tried.send(BY_BYTE.get(type).name, fields);
    },
    end: () => tried.finish(),
  };
  const found = [];
  for (const step of steps) {
    events = [];
    acts[step.do](step);
    const told = events.filter(({ event }) => COMPARED.has(event));
    found.push(told.map(({ event, type, fields }) => ({ event, ...(type && { message: asInVectors(type, fields) }) })));
    if (step.do === "send") found.push(sent);
  }
  const expected = steps.flatMap((step) => {
    const told = (step.events ?? []).filter(({ event }) => COMPARED.has(event));
    const stripped = told.map(({ event, message }) => (message ? { event, message: plain(message) } : { event }));
    return step.do === "send" ? [stripped, step.bytes] : [stripped];
  });
  const fault = events.find(({ event }) => event === "error");
  return {
    expected: withError({ steps: expected, state }, error),
    found: withError({ steps: found, state: tried.state }, fault),
  };
}

const COMPARED = new Set(["established", "confirmed", "message", "ignored"]);

function needsExtensions({ extensions, requirements, result }) {
  const refused = ["EXT-NAMES", "EXT-NOT-OFFERED"]; // by those who know them
  return Boolean(extensions) || (result === "invalid" && requirements.some((id) => refused.includes(id)));
}

function verdict(run, test) {
  if (needsExtensions(test)) return { verdict: "skipped" };
  const { expected, found } = run(test);
  return isDeepStrictEqual(found, expected) ? { verdict: "agrees" } : { verdict: "disagrees", expected, found };
}

const RUNS = {
  "cluster_frame.json": clusterFrame,
  "link_stream.json": linkStream,
  "handshake.json": handshake,
  "seal.json": seal,
  "session.json": session,
};

const [, , path] = process.argv;
for (const { tests } of JSON.parse(readFileSync(path, "utf8")).groups) {
  for (const test of tests) console.log(JSON.stringify({ id: test.id, ...verdict(RUNS[basename(path)], test) }));
}
