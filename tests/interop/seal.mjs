// Sealed boxes: nonce ‖ ciphertext ‖ tag, AES-256-GCM. [SEAL-LAYOUT]

import { createCipheriv, createDecipheriv } from "node:crypto";

import { WireError } from "./errors.mjs";

const NONCE = 12;
const TAG = 16;

/** Boxes sealed and opened together; a JavaScript Set holds no more nonces, either. [SEAL-LIMIT-LOWER] */
const MAX_BOXES = 2 ** 24;

/** One session's key and the nonces used with it. */
export class Seal {
  #key;
  #random;
  #maxBoxes;
  #sealed = new Set();
  #opened = new Set();

  constructor(key, random, maxBoxes = MAX_BOXES) {
    this.#key = key;
    this.#random = random;
    this.#maxBoxes = maxBoxes;
  }

  seal(plaintext) {
    this.#spend();
    const nonce = this.#random(NONCE);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce);
    const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    this.#sealed.add(nonce.toString("latin1"));
    return Buffer.concat([nonce, ciphertext, cipher.getAuthTag()]);
  }

  /** A refused box changes nothing for the next. [SEAL-REFUSED] */
  open(box) {
    if (box.length < NONCE + TAG) throw new WireError("truncated", box.length, "a box has at least 28 bytes");
    this.#spend();
    const nonce = box.toString("latin1", 0, NONCE);
    if (this.#sealed.has(nonce)) throw new WireError("seal-reflection", 0, "this side sealed that box");
    if (this.#opened.has(nonce)) throw new WireError("seal-replay", 0, "that box has come before");
    const plaintext = this.#decrypt(box);
    this.#opened.add(nonce);
    return plaintext;
  }

  #decrypt(box) {
    const decipher = createDecipheriv("aes-256-gcm", this.#key, box.subarray(0, NONCE), { authTagLength: TAG });
    decipher.setAuthTag(box.subarray(-TAG));
    const plaintext = decipher.update(box.subarray(NONCE, -TAG));
    try {
      decipher.final();
    } catch {
      throw new WireError("seal-tag", 0, "the box does not open with this key");
    }
    return plaintext;
  }

  #spend() {
    if (this.#sealed.size + this.#opened.size >= this.#maxBoxes) {
      throw new WireError("seal-exhausted", 0, `the key has reached its limit of ${this.#maxBoxes} boxes`);
    }
  }
}
