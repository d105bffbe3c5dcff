"""A cable between two ranks on loopback that recognises link frames, and damages them."""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from random import Random

from tests.bootstrap.ranks import SHORT, Cable, Rank

PULSE = 0.02
"""Seconds between checks for requests."""

Strike = Callable[[], None]


class Relay(Cable):
    """Calls `strike` once, with traffic paused, at the moment named `stage`: see `moments`.

    What is asked for by `harm` is done to the next link frame, or to the connections.
    """

    def __init__(self, zero: Rank, one: Rank, stage: str, strike: Strike, random: Random) -> None:
        self._stage, self._strike, self._random = stage, strike, random
        self._struck = False
        self._asked = threading.Lock()
        self._harm = ""
        self._ending = ""
        self._slow_until = 0.0
        self._silent_until = 0.0
        super().__init__(zero, one)

    def harm(self, fault: str, seconds: float) -> None:
        """`drop`, `duplicate`, `truncate`, `flip` the next frame; `close`, `reset` now; or, for some time, the rest."""
        with self._asked:
            if fault in ("close", "reset"):
                self._ending = fault
            elif fault == "delay":
                self._slow_until = time.monotonic() + seconds
            elif fault == "partition":
                self._silent_until = time.monotonic() + seconds
            else:
                self._harm = fault

    def _reach(self, moment: str) -> None:
        with self._asked:
            due = moment == self._stage and not self._struck
            self._struck |= due
        if due:
            self._strike()

    def _pass_on(self, near: socket.socket, far: socket.socket, moment: str) -> None:
        with near, far, selectors.DefaultSelector() as selector, suppress(OSError):
            stage_of = moments()
            next(stage_of)
            self._reach("connect")
            for source, target in ((near, far), (far, near)):
                selector.register(source, selectors.EVENT_READ, (target, bytearray()))
            while True:
                if self._is_to_end(near, far):
                    return
                if time.monotonic() < self._silent_until:
                    time.sleep(PULSE)
                    continue
                for key, _ in selector.select(PULSE):
                    source, (target, buffer) = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        target.sendall(buffer)
                        return
                    buffer += data
                    for frame in frames(buffer):
                        self._reach(stage_of.send((source is near, len(frame))))
                        while time.monotonic() < self._silent_until:
                            time.sleep(PULSE)
                        target.sendall(self._harmed(frame))
                        if self._is_to_end(near, far):
                            return

    def _harmed(self, frame: bytes) -> bytes:
        with self._asked:
            harm, self._harm = self._harm, ""
        if time.monotonic() < self._slow_until:
            time.sleep(self._random.uniform(0.05, 0.4))
        if harm == "truncate":
            self._ending = "close"
        return harmed(frame, harm, self._random)

    def _is_to_end(self, near: socket.socket, far: socket.socket) -> bool:
        """Whether this connection must end now, closed or reset."""
        with self._asked:
            ending, self._ending = self._ending, ""
        if ending == "reset":
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return bool(ending)


def harmed(frame: bytes, harm: str, random: Random) -> bytes:
    """Return what passes in place of a frame."""
    if harm == "drop":
        return b""
    if harm == "duplicate":
        return frame * 2
    if harm == "truncate":
        return frame[: len(frame) // 2]
    if harm == "flip":
        at = random.randrange(len(frame))
        return frame[:at] + bytes([frame[at] ^ 1 << random.randrange(8)]) + frame[at + 1 :]
    return frame


def moments() -> Generator[str, tuple[bool, int]]:
    """Gets the sender and length of each frame; returns the stage that it opens, if any."""
    seen = {True: 0, False: 0}
    bootstrapped = False
    moment = ""
    while True:
        from_zero, length = yield moment
        seen[from_zero] += 1
        moment = ""
        if seen[from_zero] == 1:
            moment = "hello" if from_zero else "ack"
        elif from_zero and length > SHORT + 8 and not bootstrapped:
            bootstrapped, moment = True, "bootstrap"
        elif from_zero and seen[from_zero] == 2:
            moment = "confirmed"
        elif not from_zero and bootstrapped:
            bootstrapped, moment = True, "ports"


def frames(buffer: bytearray) -> Iterator[bytes]:
    """Takes complete link frames; after an endless one, all available bytes."""
    while len(buffer) >= 8:
        size = 8 + int.from_bytes(buffer[:8], "little")
        if len(buffer) < size and size < 1 << 20:
            return
        frame = bytes(buffer[:size])
        del buffer[:size]
        yield frame
