// One connection from its first byte to its last, for either rank, without a socket and without a clock.

import { randomBytes } from "node:crypto";

import { WireError } from "./errors.mjs";
import { decodeFrame, encodeFrame } from "./frames.mjs";
import { answerHello, drawSecrets, makeHello, takeAck } from "./handshake.mjs";
import { encodeLinkFrame, LinkDecoder, MAX_LENGTH } from "./link.mjs";
import { Seal } from "./seal.mjs";

const HANDSHAKE = new Set(["handshakeHello", "handshakeAck"]);

/**
 * `write(bytes)` takes what goes on the wire, `report(event)` what has come of what arrived: established, confirmed,
 * message, ignored, error, closed. `pin` is the peer's identity key, X ‖ Y, or null; `random(n)` draws n bytes.
 */
export class Session {
  state = "idle";
  #link = new LinkDecoder();
  #seal = null;

  constructor({ rank, revision, identity, pin, write, report, random = randomBytes }) {
    Object.assign(this, { rank, revision, identity, pin, write, report, random });
    this.secrets = drawSecrets(random);
  }

  /** Whether cluster frames come and go. */
  get open() {
    return this.state === "established" || this.state === "confirmed";
  }

  get over() {
    return this.state === "closed" || this.state === "failed";
  }

  /** Rank 0 says hello. [HANDSHAKE-FIRST] */
  start() {
    this.state = "hello sent";
    this.write(encodeLinkFrame(makeHello(this.identity, this.secrets)));
  }

  /** A message that rank and state allow: that is the caller's duty. [SESSION-STATE] */
  send(name, fields = {}) {
    const frame = encodeFrame(name, fields);
    this.write(encodeLinkFrame(this.revision === 1 ? frame : this.#seal.seal(frame)));
    if (name === "sessionEnd") this.#close("sessionEnd");
  }

  /** Bytes of the stream, in any pieces. */
  receive(piece) {
    if (this.over) return;
    this.#link.feed(piece);
    this.#guard(() => {
      for (let body = this.#link.next(); body !== null; body = this.over ? null : this.#link.next()) this.#take(body);
    });
  }

  /** The stream has ended. */
  finish() {
    if (this.over) return;
    this.#guard(() => {
      this.#link.finish();
      this.#close("end of the stream");
    });
  }

  /** The session is given up, for a reason that is no fault in the bytes that came. */
  abandon(reason) {
    if (this.over) return;
    this.state = "failed";
    this.report({ event: "closed", reason });
  }

  #guard(act) {
    try {
      act();
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.state = "failed";
      this.report({ event: "error", code: error.code, offset: error.offset, reason: error.message });
    }
  }

  #close(reason) {
    this.state = "closed";
    this.report({ event: "closed", reason });
  }

  #take(body) {
    if (this.open) this.#takeMessage(this.revision === 1 ? body : this.#unseal(body));
    else if (this.rank === 0) this.#establish(takeAck(body, this));
    else {
      const { ack, key } = answerHello(body, this);
      this.write(encodeLinkFrame(ack));
      this.#establish(key);
    }
  }

  #establish(key) {
    this.#seal = new Seal(key, this.random);
    this.#link.maxLength = MAX_LENGTH;
    this.state = "established";
    this.report({ event: "established" });
  }

  #unseal(box) {
    const frame = this.#seal.open(box);
    if (this.state === "established") {
      this.state = "confirmed"; // [SESSION-CONFIRM]
      this.report({ event: "confirmed" });
    }
    return frame;
  }

  #takeMessage(frame) {
    const { name, from, fields } = decodeFrame(frame, this.revision);
    const belongs = from !== this.rank && !HANDSHAKE.has(name);
    this.report({ event: belongs ? "message" : "ignored", type: name, fields }); // [SESSION-IGNORE]
    if (belongs && name === "sessionEnd") this.#close("sessionEnd"); // [SESSION-END]
  }
}
