// Who the peer is, and the session key. Rank 0: makeHello, then takeAck. Rank 1: answerHello.

import { createHash, createPrivateKey, createPublicKey, diffieHellman, hkdfSync, sign, verify } from "node:crypto";

import { WireError } from "./errors.mjs";
import { decodeFrame, encodeFrame } from "./frames.mjs";

const INFO = "darkbloom-cluster-session-v1";
const SIZE = 32; // bytes of an X25519 key, a nonce, a coordinate, and a session key
const X25519_PKCS8 = Buffer.from("302e020100300506032b656e04220420", "hex"); // what stands before the 32 bytes

const base64url = (bytes) => bytes.toString("base64url");
const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
/** A coordinate of a key, private or public. */
const rawPart = (key, name) => Buffer.from(key.export({ format: "jwk" })[name], "base64url");

/** What one side draws for one handshake. [HANDSHAKE-FRESH] */
export function drawSecrets(random) {
  const key = Buffer.concat([X25519_PKCS8, random(SIZE)]);
  const ephemeral = createPrivateKey({ key, format: "der", type: "pkcs8" });
  return { ephemeral, x25519: rawPart(ephemeral, "x"), nonce: random(SIZE) };
}

function fields(identity, secrets, commitment) {
  return {
    sePubKeyRaw: Buffer.concat([rawPart(identity, "x"), rawPart(identity, "y")]),
    ephemeralX25519PubKey: secrets.x25519,
    nonce: secrets.nonce,
    seSignature: sign("sha256", commitment, identity),
  };
}

export function makeHello(identity, secrets) {
  const commitment = sha256(secrets.x25519, secrets.nonce); // [HANDSHAKE-HELLO]
  return encodeFrame("handshakeHello", fields(identity, secrets, commitment));
}

/** Rank 1's side: the ack, and the session key. Nothing is signed before the hello has passed. */
export function answerHello(frame, { identity, pin, secrets, revision }) {
  const hello = takeFrame(frame, "handshakeHello", revision);
  const shared = checkPeer(hello, pin, sha256(hello.ephemeralX25519PubKey, hello.nonce), secrets);
  const commitment = sha256(hello.nonce, secrets.nonce, secrets.x25519); // [HANDSHAKE-ACK]
  const ack = encodeFrame("handshakeAck", fields(identity, secrets, commitment));
  return { ack, key: sessionKey(shared, hello.nonce, secrets.nonce) };
}

/** Rank 0's side: the session key. */
export function takeAck(frame, { pin, secrets, revision }) {
  const ack = takeFrame(frame, "handshakeAck", revision);
  const commitment = sha256(secrets.nonce, ack.nonce, ack.ephemeralX25519PubKey);
  return sessionKey(checkPeer(ack, pin, commitment, secrets), secrets.nonce, ack.nonce);
}

function takeFrame(frame, expected, revision) {
  let message;
  try {
    message = decodeFrame(frame, revision);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    throw new WireError(
      error.code === "field-length" ? "handshake-length" : "handshake-malformed",
      error.offset,
      `${error.code}: ${error.message}`,
    );
  }
  if (message.name !== expected) throw new WireError("handshake-unexpected", 0, `${message.name} before ${expected}`);
  return message.fields;
}

/** The checks from the pin on, in this order; then the shared secret. [HANDSHAKE-ORDER] */
function checkPeer({ sePubKeyRaw, ephemeralX25519PubKey, seSignature }, pin, commitment, secrets) {
  if (!pin?.equals(sePubKeyRaw)) {
    throw new WireError(pin ? "handshake-wrong-pin" : "handshake-no-pin", null, "that is no identity key of a peer");
  }
  const signature = plainSignature(seSignature);
  const key = pointOf(sePubKeyRaw);
  if (!signature || !verify("sha256", commitment, { key, dsaEncoding: "ieee-p1363" }, signature)) {
    throw new WireError("handshake-signature", null, "the signature is not the peer's over this handshake");
  }
  return sharedSecret(secrets.ephemeral, ephemeralX25519PubKey);
}

function pointOf(raw) {
  const jwk = { kty: "EC", crv: "P-256", x: base64url(raw.subarray(0, SIZE)), y: base64url(raw.subarray(SIZE)) };
  try {
    return createPublicKey({ key: jwk, format: "jwk" });
  } catch {
    throw new WireError("handshake-point", null, "the peer's identity key is not a point on P-256");
  }
}

/** r ‖ s of a signature in DER, or null where it is no such DER. [HANDSHAKE-SIGNATURE] */
function plainSignature(der) {
  if (der[0] !== 0x30 || der[1] !== der.length - 2) return null;
  const numbers = [];
  let at = 2;
  while (at < der.length) {
    const size = der[at + 1];
    const integer = der.subarray(at + 2, at + 2 + size);
    if (der[at] !== 0x02 || integer.length !== size || integer[0] >= 0x80) return null;
    const digits = integer[0] === 0 && integer[1] >= 0x80 ? integer.subarray(1) : integer; // the zero is for the sign
    if (digits[0] === 0 || digits.length > SIZE) return null; // not the shortest form, or too long
    numbers.push(Buffer.concat([Buffer.alloc(SIZE - digits.length), digits]));
    at += 2 + size;
  }
  return numbers.length === 2 ? Buffer.concat(numbers) : null; // from 1 to n - 1 is what `verify` checks
}

function sharedSecret(privateKey, raw) {
  const publicKey = createPublicKey({ key: { kty: "OKP", crv: "X25519", x: base64url(raw) }, format: "jwk" });
  try {
    return diffieHellman({ privateKey, publicKey });
  } catch {
    throw new WireError("handshake-shared-secret", null, "the peer's X25519 key gives an all-zero secret");
  }
}

/** [HANDSHAKE-KEY] */
function sessionKey(shared, nonce0, nonce1) {
  return Buffer.from(hkdfSync("sha256", shared, Buffer.concat([nonce0, nonce1]), INFO, SIZE));
}
