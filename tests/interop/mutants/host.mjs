// Runs a peer again and again in one process, each time as in one of its own: to start node costs more than most cases.
//
// A line of JSON on standard input starts a peer, {file, args, host, port}, or stops it, "stop". A line on standard
// output says "stopped", or "ended STATUS" where a process would have ended by itself. What no peer catches ends this
// process, too.

import { syncBuiltinESMExports } from "node:module";
import net from "node:net";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const MUCH = 64 * 1024 * 1024;

const sockets = new Set();
const servers = new Set();
const timers = new Set();
let running = false;
let started = null;
let count = 0;

const say = (line) => process.stdout.write(`${line}\n`);
console.log = () => {}; // its events

function keep(socket) {
  sockets.add(socket);
  socket.once("close", () => sockets.delete(socket));
  return socket;
}

const { connect, createServer } = net;
net.connect = (...args) => keep(connect(...args));
net.createServer = (...args) => {
  const server = createServer(...args);
  server.prependListener("connection", keep);
  servers.add(server);
  return server;
};
syncBuiltinESMExports();

for (const name of ["setTimeout", "setInterval"]) {
  const set = globalThis[name];
  globalThis[name] = (...args) => {
    const timer = set(...args);
    timers.add(timer);
    return timer;
  };
}

function start({ file, args, host, port }) {
  process.argv.splice(1, Infinity, file, ...args);
  Object.assign(process.env, { CONFORM_HOST: host, CONFORM_PORT: String(port) });
  process.exitCode = undefined;
  running = true;
  process.stdin.unref(); // the peer alone keeps the process alive
  started = import(`${pathToFileURL(file)}?${(count += 1)}`);
}

/** As a signal would: nothing of the peer runs any more. */
async function stop() {
  process.stdin.ref();
  await started;
  running = false;
  for (const socket of sockets) {
    socket.removeAllListeners();
    socket.on("error", () => {});
    socket.destroy();
  }
  const closed = [...servers].map((server) => new Promise((done) => server.close(done)));
  for (const timer of timers) clearTimeout(timer);
  for (const kept of [sockets, servers, timers]) kept.clear();
  await Promise.all(closed);
  if (process.memoryUsage().arrayBuffers > MUCH) gc();
  say("stopped");
}

process.on("beforeExit", () => {
  if (running) say(`ended ${process.exitCode ?? 0}`);
  running = false;
  process.exitCode = undefined;
  process.stdin.ref();
});

createInterface({ input: process.stdin })
  .on("line", (line) => (line === '"stop"' ? stop() : start(JSON.parse(line))))
  .on("close", () => process.exit());
