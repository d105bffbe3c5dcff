"""The campaign's two cables, the relay on loopback and the wire between namespaces, in a simulated world."""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from random import Random
from types import SimpleNamespace
from typing import Any, Final

from tests.bootstrap.ranks import COORDINATOR_PORT, LINK_PORT
from tests.campaign.plan import STREAM, Case
from tests.campaign.relay import PULSE, frames, harmed, moments
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import SYN_AGAIN_SECONDS, End, Host, Listener, Network

RESEND_SECONDS: Final = 0.2
"""From a lost packet to the first time it is sent again; each further time takes twice as long."""
LOST_PART: Final = 0.3
"""How many packets a damaged network between namespaces loses, or changes so that TCP drops them."""
LOST_CONNECT_PART: Final = 1 - (1 - LOST_PART) ** 2
"""How many requests for a connection it loses, or the answers to them."""
REFUSAL_SECONDS: Final = 0.05
"""The longest time that the relay takes to find that there is no listener."""
UNREAD_PART: Final = 0.3
"""How often the relay has not read all that came when it ends a connection."""


class Cable:
    """Recognises link frames, damages them, and calls `strike` once: see `tests.campaign.relay` and `namespaces`."""

    def __init__(self, network: Network, case: Case, strike: Callable[[], None], random: Random) -> None:
        self._loop: SimulatedLoop = network.loop
        self._network, self._shape, self._random = network, case.shape, random
        self._stage, self._strike = case.stage, strike
        self._choices = case.cable_random  # as the real cable's: the same bit is changed
        self._struck = False
        self._harm = self._ending = self._lateness = ""
        self._late_until = self._silent_until = self._due = 0.0
        self._moments: dict[End, Generator[str, tuple[bool, int]]] = {}
        self._buffers: dict[End, bytearray] = {}
        self._closed: set[End] = set()
        _, self._one = network.hosts  # rank 1's address
        self._owner = SimpleNamespace(is_dead=False)
        network.cable = self

    def harm(self, fault: str, seconds: float) -> None:
        until = self._loop.now + seconds
        if fault in STREAM:
            self._ending = fault
            self._loop.call_later(self._random.uniform(0.0, PULSE), self._end, context=Context())
        elif fault == "partition":
            self._silent_until = until
        elif fault == "delay" or self._shape == "namespaces":
            self._lateness, self._late_until = fault, until
        else:
            self._harm = fault

    def reset(self, end: End) -> None:
        if self._shape == "loopback" and end in self._buffers:
            self._hang_up(end)
        else:
            end.told_of_reset()

    def connect(self, ip: str, port: int) -> float:
        if ip == self._one and port == LINK_PORT:
            self._reach("connect")
        elif self._shape == "loopback":
            return 0.0
        elif port == COORDINATOR_PORT:
            self._reach("ports")
        return max(self._silent_until - self._loop.now, self._lateness_of_one(SYN_AGAIN_SECONDS, LOST_CONNECT_PART))

    def accepts(self, host: Host, port: int) -> Listener | None:
        """On loopback, the cable accepts a connection before it finds that there is no listener."""
        if self._shape == "namespaces" or (host.ip, port) != (self._one, LINK_PORT):
            return None
        return Listener(host, port, self._refusal, self._owner, Context())

    def _refusal(self) -> "Refusal":
        return Refusal(self._random.uniform(0.0, REFUSAL_SECONDS))

    def carry(self, end: End, data: bytes | None) -> None:
        if LINK_PORT not in (end.own[1], end.peer[1]) or self._owner in (end.owner, end.other.owner):
            end.deliver(data)
            return
        if end not in self._buffers:
            self._moments[end] = self._moments[end.other] = moments()
            next(self._moments[end])
            self._buffers[end], self._buffers[end.other] = bytearray(), bytearray()
            self._end()
        buffer = self._buffers[end]
        if data is None:
            self._send(end, bytes(buffer))
            self._send(end, None)
            return
        buffer += data
        for frame in frames(buffer):
            if end in self._closed:
                return
            moment = self._moments[end].send((end.own[1] == LINK_PORT, len(frame)))
            if moment != "ports" or self._shape == "loopback":
                self._reach(moment)
            self._send(end, self._harmed(frame))
            self._end()

    def _reach(self, moment: str) -> None:
        if moment == self._stage and not self._struck:
            self._struck = True
            self._strike()

    def _send(self, end: End, data: bytes | None) -> None:
        self._due = max(self._due + 1e-6, self._silent_until, self._loop.now + self._lateness_of_one())
        if data != b"":
            self._loop.call_at(self._due, end.deliver, data, context=Context())

    def _lateness_of_one(self, again: float = RESEND_SECONDS, lost: float = LOST_PART) -> float:
        random = self._random
        if self._loop.now >= self._late_until or self._lateness == "duplicate":
            return 0.0
        if self._lateness == "delay":
            return random.uniform(0.05, 0.4) if self._shape == "loopback" else random.uniform(0.01, 0.3)
        late = 0.0
        while self._loop.now + late < self._late_until and random.random() < lost:
            late += again
            again *= 2
        return late

    def _harmed(self, frame: bytes) -> bytes:
        harm, self._harm = self._harm, ""
        if harm == "truncate":
            self._ending = "close"
        return harmed(frame, harm, self._choices)

    def _end(self) -> None:
        """End the connections, after what has passed, if that is asked for."""
        ends = [end for end in self._buffers if end in self._network.ends and end not in self._closed]
        if not self._ending or not ends:
            return
        for end in ends:
            self._closed.add(end)
            self._hang_up(end, is_reset=self._ending == "reset")
        self._ending = ""

    def _hang_up(self, end: End, *, is_reset: bool = False) -> None:
        """End a connection here. The relay on loopback resets it if it has not read all that came."""
        if is_reset or self._random.random() < UNREAD_PART:
            self._loop.call_at(self._due, end.told_of_reset, context=Context())
        else:
            self._send(end, None)


class Refusal(asyncio.Protocol):
    """Closes its connection after a while; reads nothing, so that this is a reset once something has come."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def connection_made(self, transport: Any) -> None:
        transport.pause_reading()
        asyncio.get_running_loop().call_later(self._seconds, transport.close)
