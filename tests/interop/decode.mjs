// Cluster frames in hex, a line each, on stdin; a JSON object a line with the message or the error on stdout: the contract
// of `wireproto codec`.
//
//     node decode.mjs [--revision 1|2]

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { WireError } from "./errors.mjs";
import { BY_NAME, decodeFrame } from "./frames.mjs";
import { writeJson } from "./json.mjs";

function answer(frame, revision) {
  try {
    const { name, fields } = decodeFrame(frame, revision);
    const { byte, members } = BY_NAME.get(name);
    return { ok: true, type: byte, payload: members ? fields : (fields.payload ?? null) };
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { ok: false, error: error.code, offset: error.offset };
  }
}

const { values } = parseArgs({ options: { revision: { type: "string", default: "2" } } });
for await (const line of createInterface({ input: process.stdin })) {
  console.log(writeJson(answer(Buffer.from(line, "hex"), Number(values.revision))));
}
