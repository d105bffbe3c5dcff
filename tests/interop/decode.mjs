// Cluster frames in hex, a line each, on stdin; a JSON object a line with the message or the error on stdout.
//
//     node decode.mjs [--revision 1|2]

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { WireError } from "./errors.mjs";
import { decodeFrame } from "./frames.mjs";
import { writeJson } from "./json.mjs";

function verdict(frame, revision) {
  try {
    const { name, fields } = decodeFrame(frame, revision);
    return { ok: true, type: name, fields };
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { ok: false, code: error.code, offset: error.offset };
  }
}

const { values } = parseArgs({ options: { revision: { type: "string", default: "2" } } });
for await (const line of createInterface({ input: process.stdin })) {
  console.log(writeJson(verdict(Buffer.from(line, "hex"), Number(values.revision))));
}
