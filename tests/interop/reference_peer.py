"""A peer that behaves like the reference peer, without code of this project. It prints a JSON object per line.

    python reference_peer.py RANK IPS PORT KEY_FILE PEER_KEY [OPTIONS]

IPS are those of all ranks, comma-separated, PORT is the link port, KEY_FILE holds a P-256 private key (PEM), PEER_KEY
the other side's public key in hex. Rank 0 talks to one rank only: the other of a pair. All times are the reference
peer's own, multiplied by --scale.

Rank 0 pings for the first time one interval after the handshake, sends jacclBootstrap after a pong with modelLoaded
true, never sends sessionEnd, and reconnects after a failure. Rank 1 says modelLoaded false, serves any number of
connections, and reads nothing while its group init runs. The group is a process of its own that makes no collective;
with --no-init there is none. What it decodes and what it refuses is the reference peer's way too, as far as Python's
parsers go: the first of two equal keys, other encodings, integers with a fraction, base64 with stray bits.
"""

import argparse
import base64
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HELLO, ACK, PING, PONG, BOOTSTRAP, SESSION_END = 0x01, 0x02, 0x03, 0x04, 0x07, 0xFF
PING_EVERY, RECONNECT = 5.0, 10.0
MISSED = 3
LOWEST, HIGHEST = 1, 2**28
DEEPEST = 512
KNOWN = {*range(0x01, 0x0E), 0xFF}
FAULTS = (AssertionError, IndexError, InvalidSignature, InvalidTag, KeyError, RecursionError, TypeError, ValueError)
ECDSA = ec.ECDSA(hashes.SHA256())
RING = """
import mlx.core as mx, sys
group = mx.distributed.init(strict=True, backend="ring")
print(f"rank {group.rank()} of {group.size()}", flush=True)
sys.stdin.read()
"""


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201


def raw(public):
    numbers = public.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def decode(payload):
    def first(pairs):
        return dict(reversed(pairs))

    def refuse(name):
        raise ValueError(name)

    fields = json.loads(payload, object_pairs_hook=first, parse_constant=refuse, strict=False)
    assert depth(fields) <= DEEPEST
    return fields


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def decode_pong(payload):
    fields = decode(payload)
    flags = [fields[name] for name in ("modelLoaded", "inferenceInFlight")]
    assert all(isinstance(flag, bool) for flag in flags)
    assert fields["memoryPressure"] in ("normal", "warning", "critical")
    return fields


def decode_bootstrap(payload):
    fields = decode(payload)
    port = fields["port"]
    assert not isinstance(port, bool | str), port
    assert 0 <= int(port) == port < 2**16, port
    assert isinstance(fields["sessionID"], str)
    return fields | {"port": int(port)}


class Link:
    """One connection: its handshake, then cluster frames."""

    def __init__(self, connection, options):
        self.connection, self.options, self.box = connection, options, None

    def send(self, kind, payload=b""):
        frame = bytes([kind]) + payload
        if self.box is not None and self.options.revision == 2:
            frame = self.sealed(frame)
        self.connection.sendall(struct.pack("<Q", len(frame)) + frame)

    def sealed(self, data):
        nonce = os.urandom(12)
        return nonce + self.box.encrypt(nonce, data, None)

    def receive(self):
        length = struct.unpack("<Q", self.read(8))[0]
        assert LOWEST <= length <= HIGHEST, length
        frame = self.read(length)
        if self.box is not None and self.options.revision == 2:
            frame = self.box.decrypt(frame[:12], frame[12:], None)
        return frame[0], frame[1:]

    def read(self, count):
        held = b""
        while len(held) < count:
            piece = self.connection.recv(count - len(held))
            if not piece:
                raise EOFError("the other side closed")
            held += piece
        return held

    def handshake(self):
        options = self.options
        is_first = options.rank == 0
        ephemeral, nonce = x25519.X25519PrivateKey.generate(), os.urandom(32)
        public = ephemeral.public_key().public_bytes_raw()

        def introduce(kind, commitment):
            keys = {
                "sePubKeyRaw": raw(options.key.public_key()),
                "ephemeralX25519PubKey": public,
                "nonce": nonce,
                "seSignature": options.key.sign(sha256(commitment).digest(), ECDSA),
            }
            text = json.dumps({name: base64.b64encode(value).decode() for name, value in keys.items()})
            self.send(kind, text.replace("/", "\\/").encode())

        if is_first:
            introduce(HELLO, public + nonce)
        kind, payload = self.receive()
        assert kind == (ACK if is_first else HELLO), kind
        names = ("sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature")
        fields = decode(payload)
        theirs = {name: base64.b64decode(fields[name], validate=True) for name in names}
        assert theirs["sePubKeyRaw"] == options.peer_key, "another key"
        nonces = nonce + theirs["nonce"] if is_first else theirs["nonce"] + nonce
        signed = theirs["ephemeralX25519PubKey"]
        signed = nonces + signed if is_first else signed + theirs["nonce"]
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + options.peer_key)
        point.verify(theirs["seSignature"], sha256(signed).digest(), ECDSA)
        if not is_first:
            introduce(ACK, nonces + public)
        public = x25519.X25519PublicKey.from_public_bytes(theirs["ephemeralX25519PubKey"])
        try:
            secret = ephemeral.exchange(public)
        except ValueError:
            secret = bytes(32)  # its library does not refuse these
        self.box = AESGCM(HKDF(hashes.SHA256(), 32, nonces, b"darkbloom-cluster-session-v1").derive(secret))
        say("established")


class Group:
    """The process that holds the group."""

    process = None

    def __init__(self, options, port):
        if options.no_init:
            return
        time.sleep(options.init_after * options.scale)
        if self.process is not None:
            Group.process.kill()
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        file = folder / "topology.json"
        ips = options.ips
        file.write_text(options.devices or json.dumps([[f"{ip}:{port + rank}"] for rank, ip in enumerate(ips)]))
        variables = {
            "MLX_RANK": str(options.rank),
            "MLX_JACCL_COORDINATOR": f"{ips[0]}:{port}",
            "MLX_IBV_DEVICES" if options.devices else "MLX_HOSTFILE": str(file),
        }
        argv = [options.stand_in] if options.devices else ["-c", RING]
        Group.process = subprocess.Popen(
            [sys.executable, *argv],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        say("group", line=line.rstrip())


def inference(link):
    """Messages of an inference, in no particular order; none concerns a bootstrap."""
    box = base64.b64encode(link.sealed(struct.pack("<i", -1))).decode()
    uid = str(uuid.uuid4()).upper()
    link.send(0x05, link.sealed(struct.pack("<i", -1)))
    if link.options.revision == 2:
        for kind, fields in (
            (0x08, {"tokens": [1, 2], "maxTokens": 8}),
            (0x09, {"token": 7}),
            (0x0A, {}),
            (0x0B, {"seqLen": -1, "sealedActivation": box}),
            (0x0C, {"sealedToken": box}),
            (0x0D, {}),
        ):
            link.send(kind, json.dumps({"uid": uid, **fields}).encode())


def lead(options):
    """Rank 0: one session after another."""
    held = []
    while True:
        try:
            connection = socket.create_connection((options.ips[1], options.port), 10, (options.ips[0], 0))
            connection.settimeout(None)
            held.append(connection)
            if len(held) <= options.connections - 1:
                Link(connection, options).handshake()
                continue
            lead_once(Link(connection, options), options)
        except ConnectionRefusedError:
            time.sleep(min(0.4, RECONNECT * options.scale))
        except (EOFError, OSError, *FAULTS) as error:
            say("lost", reason=repr(error))
            connection.close()
            time.sleep(RECONNECT * options.scale)


def lead_once(link, options):
    link.handshake()
    missed, sent = 0, False
    while missed < MISSED:
        time.sleep(PING_EVERY * options.scale)
        link.send(PING)
        if options.inference:
            inference(link)
        try:
            kind, payload = link.receive()
            assert kind == PONG, kind
            loaded = decode_pong(payload)["modelLoaded"]
        except FAULTS:
            missed += 1
            continue
        missed = 0
        say("pong", loaded=loaded)
        if loaded and not sent and not options.stored:
            sent = True
            if options.malformed:
                link.send(BOOTSTRAP, b'{"port":29400}')
                continue
            payload = {"sessionID": str(uuid.uuid4()).upper(), "port": options.coordinator_port}
            link.send(BOOTSTRAP, json.dumps(payload).encode())
            say("bootstrap")
            Group(options, options.coordinator_port)
            if options.stall:
                say("stalled")
                link.receive()
            if options.drop_after:
                time.sleep(options.drop_after * options.scale)
                options.drop_after = 0.0
                Group.process.kill()
                link.connection.close()
                raise EOFError("dropped")


def follow(options):
    """Any other rank."""
    listener = socket.create_server((options.ips[options.rank], options.port))
    say("listening")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(Link(connection, options), options), daemon=True).start()


def serve(link, options):
    status = {"modelLoaded": False, "inferenceInFlight": False, "memoryPressure": "normal"}
    try:
        link.handshake()
        while True:
            kind, payload = link.receive()
            assert kind in KNOWN, kind
            if kind == PING:
                link.send(PONG, json.dumps(status).encode())
            elif kind == BOOTSTRAP:
                fields = decode_bootstrap(payload)
                say("bootstrap", keys=sorted(fields))
                Group(options, fields["port"])
            elif kind == SESSION_END:
                say("session-end")
                link.connection.close()
                return
    except (EOFError, OSError, *FAULTS) as error:
        say("lost", reason=repr(error))
        link.connection.close()


def main():
    sys.setrecursionlimit(10 * DEEPEST)
    parser = argparse.ArgumentParser()
    parser.add_argument("rank", type=int)
    parser.add_argument("ips", type=lambda text: text.split(","))
    parser.add_argument("port", type=int)
    parser.add_argument(
        "key", type=lambda path: serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    )
    parser.add_argument("peer_key", type=bytes.fromhex)
    parser.add_argument("--revision", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--coordinator-port", type=int, default=29400)
    parser.add_argument("--init-after", type=float, default=0.0)
    parser.add_argument("--drop-after", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--no-init", action="store_true")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--stall", action="store_true")
    parser.add_argument("--malformed", action="store_true")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--devices", default="")
    parser.add_argument("--stand-in", default="")
    options = parser.parse_args()
    try:
        (lead if options.rank == 0 else follow)(options)
    finally:
        if Group.process is not None:
            Group.process.kill()


if __name__ == "__main__":
    main()
