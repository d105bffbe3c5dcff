// Link frames: u64 LE length, then so many bytes. [LINK-LAYOUT]

import { WireError } from "./errors.mjs";

const HEADER = 8;

/** The limit once the handshake is done. [LINK-LEN-MAX] */
export const MAX_LENGTH = 256 * 1024 * 1024;

/** The limit before the handshake is done. [SESSION-LEN-MAX] */
export const HANDSHAKE_MAX_LENGTH = 64 * 1024;

export function encodeLinkFrame(body) {
  if (body.length < 1 || body.length > MAX_LENGTH) throw new RangeError(`no link frame has ${body.length} bytes`);
  const header = Buffer.alloc(HEADER);
  header.writeBigUInt64LE(BigInt(body.length));
  return Buffer.concat([header, body]);
}

/** Cuts a stream into bodies, in whatever pieces it comes. [LINK-CHUNKS] */
export class LinkDecoder {
  #buffer = Buffer.alloc(0); // grows with what has arrived, never with what is announced [LINK-MEMORY]
  #start = 0;
  #end = 0;
  #taken = 0; // bytes of the stream before #start
  maxLength;

  constructor(maxLength = HANDSHAKE_MAX_LENGTH) {
    this.maxLength = maxLength;
  }

  feed(piece) {
    const held = this.#end - this.#start;
    if (this.#end + piece.length > this.#buffer.length) {
      const roomy = held + piece.length > this.#buffer.length ? Buffer.alloc(2 * (held + piece.length)) : this.#buffer;
      this.#buffer.copy(roomy, 0, this.#start, this.#end);
      this.#buffer = roomy;
      this.#start = 0;
      this.#end = held;
    }
    piece.copy(this.#buffer, this.#end);
    this.#end += piece.length;
  }

  /** The next body, or null where its bytes are not all there. `maxLength` may change between two calls. */
  next() {
    const held = this.#end - this.#start;
    if (held < HEADER) return null;
    const length = this.#buffer.readBigUInt64LE(this.#start);
    if (length === 0n) throw new WireError("link-length-zero", this.#taken, "a link frame of length 0");
    if (length > BigInt(this.maxLength)) {
      throw new WireError("link-length-limit", this.#taken, `a link frame of ${length} bytes, over ${this.maxLength}`);
    }
    const size = HEADER + Number(length);
    if (held < size) return null;
    const body = Buffer.from(this.#buffer.subarray(this.#start + HEADER, this.#start + size));
    this.#start += size;
    this.#taken += size;
    if (this.#start === this.#end) {
      this.#buffer = Buffer.alloc(0);
      this.#start = this.#end = 0;
    }
    return body;
  }

  /** The stream has ended, and all whole frames are taken: what is left is a lost frame. [LINK-EOF] */
  finish() {
    const held = this.#end - this.#start;
    if (held > 0) throw new WireError("truncated", this.#taken + held, "the stream ends inside a link frame");
  }
}
