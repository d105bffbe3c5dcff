// A peer of the cluster link, without extensions, made from spec/protocol.md alone. It prints a JSON object a line for
// each event.
//
//     node peer.mjs listen  --identity KEY.pem --peer-key BASE64 [--host H] [--port P] [--revision 1|2]
//     node peer.mjs connect --identity KEY.pem --peer-key BASE64 [--host H] [--port P] [--revision 1|2]
//                           [--coordinator-port P] [--session-id ID]
//
// The peer key is X ‖ Y, 64 bytes. `listen` is rank 1, and serves connection after connection. `connect` is rank 0: it
// goes through one session, and exits with 0 if it went well. Where no address is given, it is that of CONFORM_HOST and
// CONFORM_PORT.

import { createPrivateKey, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { parseArgs } from "node:util";

import { writeJson } from "./json.mjs";
import { Session } from "./session.mjs";

// Seconds. [SESSION-TIMES]
const HANDSHAKE = 10; // for rank 0 from the start of the connection on
const FIRST_BOX = 15;
const SEND = 10;
const PONG = 3; // [SESSION-MISSED]
const PING_INTERVAL = 5; // [SESSION-PING]
const KEEP_ALIVE_IDLE = 10; // Node sets neither the interval nor the number of probes. [SESSION-TCP]

const SECOND = 1e3; // milliseconds

const MISSED_PONGS = 3; // [SESSION-MISSED]
const UNSETTLED_CONNECTIONS = 8; // [SESSION-CROWD]

const after = (seconds, act) => setTimeout(act, seconds * SECOND).unref(); // sockets alone keep the process alive
const print = (event) => console.log(writeJson(event));

/** A socket and its session. `uses` has a function for some events, and for some types of messages. */
class Connection {
  static #count = 0;

  constructor(socket, settings, rank, uses) {
    this.socket = socket;
    this.number = Connection.#count += 1;
    this.session = new Session({
      ...settings,
      rank,
      write: (bytes) => this.#write(bytes),
      report: (event) => this.#report(event),
    });
    this.uses = uses;
    this.expect(HANDSHAKE, "no session key in time");
    socket.setNoDelay(true); // [SESSION-TCP]
    socket.setKeepAlive(true, KEEP_ALIVE_IDLE * SECOND); // [SESSION-TCP]
    socket.on("data", (piece) => this.session.receive(piece));
    socket.on("error", (error) => this.session.abandon(error.code ?? error.message));
    socket.on("close", () => this.session.finish());
  }

  /** The one wait that this connection is in, instead of the one before. */
  wait(seconds, act) {
    this.settle();
    this.waiting = after(seconds, act);
  }

  expect(seconds, reason) {
    this.wait(seconds, () => this.end(reason));
  }

  settle() {
    clearTimeout(this.waiting);
  }

  /** Without another word. [SESSION-SILENT] */
  end(reason) {
    this.socket.destroy(new Error(reason));
  }

  #write(bytes) {
    const stalled = after(SEND, () => this.end("the peer does not take what is sent"));
    this.socket.write(bytes, () => clearTimeout(stalled));
  }

  #report({ event, ...details }) {
    print({ event, connection: this.number, ...details });
    if (event === "error" || event === "closed") this.#leave();
    this.uses[event === "message" ? details.type : event]?.(this, details.fields);
  }

  /** Bytes that are not read would reset the connection, and our last frame be lost: read on until the peer closes. */
  #leave() {
    this.expect(SEND, "the peer does not close");
    this.socket.end();
  }
}

/** Rank 1: any number of connections, of which one at a time is the peer's. */
function listen(settings, host, port) {
  const unsettled = new Set();
  let current = null;

  function settle(connection) {
    unsettled.delete(connection);
    connection.settle();
    if (settings.revision === 1) return; // nothing shows who it is: it lives beside the others [SESSION-NEWCOMER]
    current?.end("another connection has taken its place"); // [SESSION-REPLACE]
    current = connection;
  }

  const uses = {
    established(connection) {
      if (settings.revision === 1) settle(connection);
      else connection.expect(FIRST_BOX, "no box in time");
    },
    confirmed: settle,
    ping(connection) {
      connection.session.send("pong", { modelLoaded: true, inferenceInFlight: false, memoryPressure: "normal" });
    },
    jacclBootstrap: refuseUnusable,
    error: forget,
    closed: forget,
  };

  function forget(connection) {
    unsettled.delete(connection); // [SESSION-CROWD]
  }

  const server = createServer((socket) => {
    unsettled.add(new Connection(socket, settings, 1, uses));
    const [oldest] = unsettled;
    if (unsettled.size > UNSETTLED_CONNECTIONS) oldest.end("too many connections"); // [SESSION-CROWD]
  });
  server.listen({ host, port }, () => print({ event: "listening", host, port: server.address().port }));
}

/** [BOOT-REFUSE] */
function refuseUnusable(connection, { port, sessionID }) {
  // The port after it is rank 1's.
  if (port === 0n || port >= 65535n) connection.end(`a bootstrap with port ${port}`);
  if (!/^(?!\.)[A-Za-z0-9._-]{1,128}$/.test(sessionID)) connection.end("a bootstrap whose session ID is no file name");
}

/** Rank 0: handshake, ping, bootstrap, pong, sessionEnd. */
function converse(settings, host, port, bootstrap) {
  function ping(connection, number) {
    connection.session.send("ping");
    if (number === MISSED_PONGS) connection.expect(PONG, "no pongs");
    else connection.wait(PING_INTERVAL, () => ping(connection, number + 1)); // [SESSION-MISSED]
  }

  const uses = {
    established(connection) {
      ping(connection, 1); // [SESSION-MISSED]
      connection.session.send("jacclBootstrap", bootstrap); // [BOOT-ESTABLISHED]
    },
    pong(connection) {
      process.exitCode = 0;
      connection.session.send("sessionEnd");
    },
  };

  process.exitCode = 1;
  const socket = connect({ host, port });
  const connection = new Connection(socket, settings, 0, uses);
  socket.on("connect", () => connection.session.start());
}

function identityFile(path) {
  const key = createPrivateKey(readFileSync(path));
  if (key.asymmetricKeyDetails.namedCurve !== "prime256v1") throw new Error(`${path} holds no P-256 key`);
  return key;
}

function peerKey(text) {
  const key = Buffer.from(text, "base64");
  if (key.length !== 64 || key.toString("base64") !== text) throw new Error("the peer key is no base64 of 64 bytes");
  return key;
}

function main() {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      host: { type: "string" },
      port: { type: "string" },
      identity: { type: "string" },
      "peer-key": { type: "string" },
      revision: { type: "string", default: "2" },
      "coordinator-port": { type: "string", default: "29400" },
      "session-id": { type: "string", default: randomUUID().toUpperCase() },
    },
  });
  if (!["1", "2"].includes(values.revision)) throw new Error("the revision is 1 or 2");
  const settings = {
    revision: Number(values.revision),
    identity: identityFile(values.identity),
    pin: peerKey(values["peer-key"]),
  };
  const { CONFORM_HOST, CONFORM_PORT } = process.env;
  const host = values.host ?? CONFORM_HOST ?? "127.0.0.1";
  const port = Number(values.port ?? CONFORM_PORT ?? 7777);
  const bootstrap = { port: BigInt(values["coordinator-port"]), sessionID: values["session-id"] };
  const [role] = positionals;
  if (role === "listen") listen(settings, host, port);
  else if (role === "connect") converse(settings, host, port, bootstrap);
  else throw new Error("a role is needed: listen or connect");
}

main();
