// Plays scripts to the session of a peer, without a socket or a clock, and prints a digest of what the other side sees:
// what it wrote, and when it closed. The fields of a jacclBootstrap belong to it, since they decide about that, too.
//
//     node outputs.mjs FOLDER IDENTITY.pem PIN < scripts, each a line of JSON: {rank, revision, pieces}
//
// A piece is hex, or the number of one of the peer's own boxes, which goes back to it. What the peer draws as random
// depends on the line's number alone.

import { createHash, createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, identityFile, pinned] = process.argv.slice(2);
const { Session } = await import(pathToFileURL(`${folder}/session.mjs`));
const { writeJson } = await import(pathToFileURL(`${folder}/json.mjs`));
const identity = createPrivateKey(readFileSync(identityFile));
const pin = Buffer.from(pinned, "base64");
const BOOTSTRAP = { port: 29400n, sessionID: "6F9619FF-8B86-D011-B42D-00CF4FC964FF" };

/** What can be seen of a hello or an ack: its signature is another one each time. */
function introduction(bytes) {
  const { seSignature, ...others } = JSON.parse(bytes.subarray(9).toString());
  return `${bytes[8]}${JSON.stringify(others)}${typeof seSignature}`;
}

function play({ rank, revision, pieces }, number) {
  const told = [];
  const boxes = [];
  let draws = 0;
  const random = (size) => createHash("sha256").update(`${number}/${(draws += 1)}`).digest().subarray(0, size);
  const isOver = () => told.includes("closed") || told.includes("the end");
  const write = (bytes) => {
    if (isOver()) return; // no one can see it
    if (told.some((each) => each.startsWith("wrote"))) boxes.push(bytes);
    told.push(`wrote ${boxes.length ? bytes.toString("hex") : introduction(bytes)}`);
  };
  const answer = ({ event, type, fields }) => {
    if (event === "message" && type === "jacclBootstrap") told.push(writeJson(fields));
    if ((event === "error" || event === "closed") && !isOver()) told.push("closed");
    if (event === "established" && rank === 0) {
      session.send("ping");
      session.send("jacclBootstrap", BOOTSTRAP);
    }
    if (event === "message" && type === "ping") {
      session.send("pong", { modelLoaded: true, inferenceInFlight: false, memoryPressure: "normal" });
    }
    if (event === "message" && type === "pong") session.send("sessionEnd");
  };
  const session = new Session({ rank, revision, identity, pin, random, write, report: answer });
  try {
    if (rank === 0) session.start();
    for (const piece of pieces) {
      told.push("piece"); // after which one it closes is seen, too
      if (typeof piece === "string") session.receive(Buffer.from(piece, "hex"));
      else if (boxes.length) session.receive(boxes[piece % boxes.length]);
    }
    told.push("the end");
    session.finish();
  } catch (error) {
    told.push(`crashed ${error.name}`);
  }
  return createHash("sha256").update(told.join("\n")).digest("base64");
}

let number = 0;
for await (const line of createInterface({ input: process.stdin })) {
  console.log(play(JSON.parse(line), number));
  number += 1;
}
