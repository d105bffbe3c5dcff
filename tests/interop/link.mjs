// Link frames: u64 LE length, then so many bytes. [LINK-LAYOUT]

import { WireError } from "./errors.mjs";

const HEADER = 8;

/** The limit once the handshake is done. [LINK-LEN-MAX] */
export const MAX_LENGTH = 256 * 1024 * 1024;

/** The limit before the handshake is done. */
export const HANDSHAKE_MAX_LENGTH = 64 * 1024; // [SESSION-LEN-MAX]

export function encodeLinkFrame(body) {
  const header = Buffer.alloc(HEADER);
  header.writeBigUInt64LE(BigInt(body.length));
  return Buffer.concat([header, body]);
}

/** Cuts a stream into bodies, in whatever pieces it comes. [LINK-CHUNKS] */
export class LinkDecoder {
  #pieces = []; // what has arrived, never room for what is announced [LINK-MEMORY]
  #held = 0; // bytes in the pieces
  #needed = HEADER; // bytes without which there is nothing new to see
  #taken = 0; // bytes of the stream before the pieces
  maxLength;

  constructor(maxLength = HANDSHAKE_MAX_LENGTH) {
    this.maxLength = maxLength;
  }

  feed(piece) {
    this.#pieces.push(piece);
    this.#held += piece.length;
  }

  /** The next body, or null where its bytes are not all there. `maxLength` may change between two calls. */
  next() {
    if (this.#held < this.#needed) return null;
    const data = Buffer.concat(this.#pieces);
    const length = data.readBigUInt64LE();
    if (length === 0n) throw new WireError("link-length-zero", this.#taken, "a link frame of length 0");
    if (length > BigInt(this.maxLength)) {
      throw new WireError("link-length-limit", this.#taken, `a link frame of ${length} bytes, over ${this.maxLength}`);
    }
    const size = HEADER + Number(length);
    this.#needed = size;
    if (this.#held < size) return null;
    this.#pieces = [data.subarray(size)];
    this.#held -= size;
    this.#needed = HEADER;
    this.#taken += size;
    return data.subarray(HEADER, size);
  }

  /** The stream has ended, and all whole frames are taken: what is left is a lost frame. [LINK-EOF] */
  finish() {
    if (this.#held > 0) throw new WireError("truncated", this.#taken + this.#held, "the stream ends inside a link frame");
  }
}
