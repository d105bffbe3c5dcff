/** A fault in what the peer sent: one of the spec's error codes, and its offset, or null where it has none. */
export class WireError extends Error {
  constructor(code, offset, message) {
    super(message);
    this.code = code;
    this.offset = offset;
  }
}
