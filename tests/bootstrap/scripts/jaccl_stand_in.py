"""A replacement for native JACCL, run as the command of `up --backend jaccl`: its whole init except the queue pairs.

It is no JACCL: it opens no device and moves no tensor. It reads the variables as JACCL does (the first name that is
found; a rank that is no number is 0; the port modulo 65536), reads the device file, asks `ibv_devices` whether its
devices exist and `ibv_devinfo` for an address, and speaks the side channel over TCP as the native root and workers do.
Then it prints what it is, and how it would reach each peer.

$STAND_IN has a fault and the stage at which it happens, such as `crash gather`. Faults: `hang` as native code does,
without notice of SIGTERM; `crash` with SIGSEGV; `slow`, by a second. Stages: `devices`, `connect`, `gather`, `ready`.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from ipaddress import IPv6Address
from pathlib import Path

from wireproto.jaccl import OWN_ENTRY, Destination, Root, Worker, mapped_gid, mesh_init, ring_init

TRIES = (0, 1, 2, 4)
"""Seconds to wait before each attempt to connect."""


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def first_of(*names):
    return next((os.environ[name] for name in names if name in os.environ), None)


def number(text):
    """Parse like C's atoi."""
    return int((re.match(r"\s*[+-]?\d+", text or "") or ["0"])[0])


def stage(name):
    fault, _, where = os.environ.get("STAND_IN", "").partition(" ")
    if where != name:
        return
    say(f"{fault} at {name}")
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    time.sleep(1)


def printed(*tool):
    return subprocess.run(tool, capture_output=True, text=True, check=True).stdout


def names_in(entry):
    return [] if entry is None else [entry] if isinstance(entry, str) else entry


def connect(rank, host, port):
    for wait in TRIES:
        time.sleep(wait)
        try:
            return socket.create_connection((host, port))
        except ConnectionRefusedError:
            pass
    sys.exit("Couldn't connect (error: 61)")


def side_channel(rank, size, host, port):
    """Connect all ranks; return a function that makes one gather."""
    if rank == 0:
        root, connections = Root(size), {}
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(size)
            while len(connections) < size - 1:
                accepted, _ = listener.accept()
                connections[root.connect()] = accepted
        return lambda own: gather_as_root(root, connections, own)
    channel, connection = Worker(rank, size), connect(rank, host, port)
    connection.sendall(channel.start())
    return lambda own: gather_as_worker(channel, connection, own)


def gather_as_root(root, connections, own):
    while len(root.workers) < root.size - 1:
        for worker, connection in connections.items():
            if worker.rank is None:
                worker.receive(connection.recv(4))
    root.gather(own)
    for worker, connection in connections.items():
        while worker.waiting < len(own):
            worker.receive(connection.recv(len(own) - worker.waiting) or sys.exit("Recv failed with errno=2"))
    result = root.result()
    for connection in connections.values():
        connection.sendall(result)
    return result


def gather_as_worker(channel, connection, own):
    connection.sendall(channel.gather(own))
    while (result := channel.receive(connection.recv(65536) or sys.exit("Recv failed with errno=2"))) is None:
        pass
    return result


def run(init, gather):
    own = next(init)
    while True:
        try:
            own = init.send(gather(own))
        except StopIteration as done:
            return done.value


rank = number(first_of("JACCL_RANK", "MLX_RANK"))
host, _, port = first_of("JACCL_COORDINATOR", "MLX_JACCL_COORDINATOR").partition(":")
matrix = json.loads(Path(first_of("JACCL_IBV_DEVICES", "MLX_IBV_DEVICES")).read_text())
size = len(matrix)
is_ring = first_of("JACCL_RING", "MLX_JACCL_RING") is not None

stage("devices")
there = re.findall(r"^\s*(\w+)\s+[0-9a-f]{16}$", printed("ibv_devices"), re.MULTILINE)
own_names = [name for entry in matrix[rank] for name in names_in(entry)]
for name in own_names:
    if name not in there:
        sys.exit(f"Couldn't find device {name}, {len(there)} available")

told = printed("ibv_devinfo", "-v", "-d", own_names[0])
gid = mapped_gid(re.search(r"GID\[ *\d+\]:\s+::ffff:(\S+)", told)[1])

stage("connect")
gather = side_channel(rank, size, host, number(port) % 65536)

stage("gather")
if is_ring:
    to_left, to_right = Destination(1, rank * 10 + 1, gid=gid), Destination(1, rank * 10 + 2, gid=gid)
    lefts, rights = run(ring_init(rank, size, [to_left], [to_right]), gather)
    left, right = (rank - 1) % size, (rank + 1) % size
    peers = {left: rights[left][0], right: lefts[right][0]}
else:
    own = [OWN_ENTRY if peer == rank else Destination(1, rank * 10 + peer, gid=gid) for peer in range(size)]
    lists = run(mesh_init(rank, size, own), gather)
    peers = {peer: lists[peer][rank] for peer in range(size) if peer != rank}

stage("ready")
say(f"rank {rank} of a {'ring' if is_ring else 'mesh'} of {size} over {' '.join(own_names)}")
for peer, destination in sorted(peers.items()):
    say(f"rank {peer}: queue pair {destination.queue_pair_number} at {IPv6Address(destination.gid).ipv4_mapped}")
