// The JSON of one cluster frame, given in hex. For each line with a number, parses it that many times, and writes the
// processor time in microseconds.
//
//     node parse.mjs FRAME

import { createInterface } from "node:readline";

const frame = Buffer.from(process.argv[2], "hex");
let parsed;
for await (const line of createInterface({ input: process.stdin })) {
  const start = process.cpuUsage();
  for (let left = Number(line); left > 0; left--) parsed = JSON.parse(frame.toString("utf8", 1));
  const { user, system } = process.cpuUsage(start);
  console.log(user + system);
}
