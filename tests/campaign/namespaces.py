"""Two hosts as network namespaces, and a cable that passes Ethernet frames and damages them by a seed.

The cable is two TAP devices, one in each namespace, and a thread that passes on what comes in at the other end's. So it
can do what `tc netem` does, with two differences: it does the same again from the same seed, and it works on a kernel
that was built without netem. [SESSION-ROLES] is as on two Macs: rank 0 connects to rank 1's link-local address.
"""

import fcntl
import heapq
import os
import selectors
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from typing import NamedTuple

from tests.bootstrap.ranks import COORDINATOR_PORT, LINK_PORT, SHORT

ADDRESSES = ("169.254.77.1", "169.254.77.2")
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
DEVICE = "cable0"
SECONDS = 20.0
"""Seconds for one call of `ip`."""
PULSE = 0.02
LONGEST = 65536

Strike = Callable[[], None]


class Host:
    """A namespace with one interface, with its other side at `descriptor`."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.descriptor = -1
        self._first = f"t{name}"[:15]

    def make(self) -> None:
        ip("netns", "add", self.name)
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.descriptor, TUNSETIFF, struct.pack("16sH", self._first.encode(), IFF_TAP | IFF_NO_PI))
        ip("link", "set", self._first, "netns", self.name, "name", DEVICE)
        self.ip("addr", "add", f"{self.address}/16", "dev", DEVICE)
        self.ip("link", "set", "lo", "up")
        self.plug()

    def plug(self) -> None:
        self.ip("link", "set", DEVICE, "up")

    def unplug(self) -> None:
        """Like a Mac with its cable pulled: there is no route."""
        self.ip("link", "set", DEVICE, "down")

    def listeners(self) -> list[int]:
        """Return the ports with a listener."""
        lines = ip("netns", "exec", self.name, "cat", "/proc/net/tcp").splitlines()[1:]
        rows = [line.split() for line in lines]
        return [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"]

    def remove(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.name)

    def ip(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=SECONDS)
    return done.stdout


class Wire:
    """Relays frames between two hosts, in a thread. Calls `strike` once, at the moment named `stage`."""

    def __init__(self, hosts: tuple[Host, Host], stage: str, strike: Strike, random: Random) -> None:
        self._hosts = hosts
        self._stage, self._strike, self._random = stage, strike, random
        self._struck = False
        self._passing = Passing()
        self._harm, self._until = "", 0.0
        self.deaf: int | None = None
        """The side whose frames are dropped."""
        self._due: list[tuple[float, int, int, bytes]] = []  # time, order, side, frame
        self._numbers = count()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def harm(self, fault: str, seconds: float) -> None:
        """Damage some frames, for some time."""
        self._harm, self._until = fault, time.monotonic() + seconds

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for side, host in enumerate(self._hosts):
                selector.register(host.descriptor, selectors.EVENT_READ, side)
            while not self._ended.is_set():
                for key, _ in selector.select(PULSE):
                    with suppress(BlockingIOError):
                        self._take(key.data, os.read(key.fd, LONGEST))
                while self._due and self._due[0][0] <= time.monotonic():
                    _, _, side, frame = heapq.heappop(self._due)
                    with suppress(OSError):  # the interface is down
                        os.write(self._hosts[1 - side].descriptor, frame)

    def _take(self, side: int, frame: bytes) -> None:
        if not self._struck and self._passing.moment(frame) == self._stage:
            self._struck = True
            self._strike()
        now = time.monotonic()
        harm = self._harm if now < self._until else ""
        late = 0.0
        if side == self.deaf or harm == "partition" or (harm == "drop" and self._random.random() < 0.3):
            return
        if harm == "delay":
            late = self._random.uniform(0.01, 0.3)
        if harm == "flip" and self._random.random() < 0.3:
            at = self._random.randrange(14, len(frame))  # after the Ethernet addresses
            frame = frame[:at] + bytes([frame[at] ^ 1 << self._random.randrange(8)]) + frame[at + 1 :]
        copies = 2 if harm == "duplicate" and self._random.random() < 0.5 else 1
        for _ in range(copies):
            heapq.heappush(self._due, (now + late, next(self._numbers), side, frame))


class Segment(NamedTuple):
    """The header of a TCP packet."""

    to: int
    source: int
    begins: bool
    payload: int


def segment(frame: bytes) -> Segment | None:
    """Return the TCP segment in an Ethernet frame, None for anything else."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    start = 14 + (frame[14] & 15) * 4
    if len(frame) < start + 20:
        return None
    source, to = struct.unpack_from(">HH", frame, start)
    total = int.from_bytes(frame[16:18], "big")
    payload = total - (start - 14) - (frame[start + 12] >> 4) * 4
    return Segment(to, source, bool(frame[start + 13] & 2), payload)


class Passing:
    """Follows the stream, to find the stage that a packet opens."""

    def __init__(self) -> None:
        self._seen = {True: 0, False: 0}
        self._bootstrapped = False

    def moment(self, frame: bytes) -> str:
        passing = segment(frame)
        if passing is None:
            return ""
        if passing.begins and passing.to in (LINK_PORT, COORDINATOR_PORT):
            return "connect" if passing.to == LINK_PORT else "ports"
        if passing.payload <= 0 or LINK_PORT not in (passing.to, passing.source):
            return ""
        from_zero = passing.to == LINK_PORT
        self._seen[from_zero] += 1
        if self._seen[from_zero] == 1:
            return "hello" if from_zero else "ack"
        if from_zero and passing.payload > SHORT + 8 and not self._bootstrapped:
            self._bootstrapped = True
            return "bootstrap"
        return "confirmed" if from_zero and self._seen[from_zero] == 2 else ""
