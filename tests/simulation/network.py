"""TCP in memory: connections with latency, pieces, windows, partitions and resets, as a program sees them."""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, Final, Protocol

from tests.simulation.loop import SimulatedLoop

Address = tuple[str, int]

WINDOW: Final = 64 * 1024
"""Bytes that may be in transit, or wait for a paused reader."""
HIGH_WATER: Final = 64 * 1024
VANISHED_SECONDS: Final = 25.0
"""Seconds without a packet from the other host after which TCP gives up, as links request. [SESSION-TCP]"""
SYN_SECONDS: Final = 127.0
SYN_AGAIN_SECONDS: Final = 1.0
"""From a request for a connection to the next one; the one after that comes twice as late, and so on."""
BUSY_PART: Final = 0.05
"""How often a process comes to read only after a while."""
BUSY_SECONDS: Final = 0.005
LOOPBACK: Final = "127.0.0.1"
LOOPBACK_SECONDS: Final = 0.00005
SOCKET: Final = SimpleNamespace(setsockopt=lambda *_: None)


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Cable(Protocol):
    """A cable that does not only pass on."""

    def carry(self, end: "End", data: bytes | None) -> None:
        """Take what arrives, and call `End.deliver` for it, or for something else."""

    def reset(self, end: "End") -> None:
        """Take a reset that arrives."""

    def connect(self, ip: str, port: int) -> float:
        """Take a request for a connection; return how many seconds later it passes."""

    def accepts(self, host: "Host", port: int) -> "Listener | None":
        """Return the listener that accepts a connection for a port on which the host does not listen, if any."""


class Network:
    """The wires between the hosts. `latency` is in seconds, one way."""

    def __init__(self, loop: SimulatedLoop, random: Random, latency: float) -> None:
        self.loop, self.random, self.latency = loop, random, latency
        self.hosts: dict[str, Host] = {}
        self.cut: dict[frozenset[str], float] = {}
        """Pairs of addresses between which nothing gets through, and since when."""
        self.ends: dict[End, None] = {}  # in the order in which they were made
        self.cable: Cable | None = None
        """Lies between all hosts."""

    def reaches(self, one: str, other: str) -> bool:
        is_cut = bool(self.cut) and frozenset((one, other)) in self.cut
        return not (is_cut or self.hosts[one].is_down or self.hosts[other].is_down)

    def delay(self, one: str, other: str) -> float:
        return (LOOPBACK_SECONDS if one == other else self.latency) * self.random.uniform(0.5, 1.5)

    def separate(self, one: str, other: str) -> None:
        self.cut.setdefault(frozenset((one, other)), self.loop.now)
        for end in list(self.ends):
            end.notice_silence()

    def join(self, one: str, other: str) -> None:
        """Let everything through. What was lost is sent again up to as long after that as nothing got through."""
        began = self.cut.pop(frozenset((one, other)), self.loop.now)
        for end in list(self.ends):
            end.resume_within(self.loop.now - began)

    def reset(self, one: str, other: str) -> None:
        """Reset the connections between two hosts."""
        for end in list(self.ends):
            if {end.own[0], end.peer[0]} == {one, other}:
                end.lose(refused(errno.ECONNRESET))


class Host:
    """One host's part: its listeners, and the ends of its connections."""

    def __init__(self, network: Network, ip: str) -> None:
        self.network, self.ip = network, ip
        self.is_down = False
        self.is_unplugged = False
        """Whether it has no route to any other host."""
        self.listeners: dict[int, Listener] = {}
        self._ports = 40000
        network.hosts[ip] = self

    def listen(self, factory: Callable[[], Any], port: int, owner: Any, context: Context) -> "Listener":
        if port in self.listeners:
            raise refused(errno.EADDRINUSE)
        listener = self.listeners[port] = Listener(self, port, factory, owner, context)
        return listener

    async def connect(self, factory: Callable[[], Any], ip: str, port: int, owner: Any) -> tuple[Any, Any]:
        """Connect to a port of another host, or of this one. Raise OSError like the system."""
        network, loop, context = self.network, self.network.loop, copy_context()
        if self.is_unplugged:
            raise refused(errno.ENETUNREACH)
        if ip == LOOPBACK:
            ip = self.ip
        done: asyncio.Future[End] = loop.create_future()
        self._ports += 1
        own = (self.ip, self._ports)

        def settle(error: int | None, end: "End | None" = None) -> None:
            if done.done() or owner.is_dead:
                if end is not None:
                    end.abort()
            else:  # a stopped process sees it only when it goes on, with what else is due by then
                loop.call_soon(take, error, end, context=context)

        def take(error: int | None, end: "End | None") -> None:
            if done.done():
                if end is not None:
                    end.abort()
            elif error is not None:
                done.set_exception(refused(error))
            else:
                done.set_result(end)

        def pass_cable() -> None:
            cable = network.cable
            late = 0.0 if cable is None or ip == self.ip else cable.connect(ip, port)
            loop.call_later(late, arrive, context=Context())

        def arrive(again: float = SYN_AGAIN_SECONDS) -> None:
            if done.done():
                return
            if not network.reaches(self.ip, ip):  # nobody answers
                loop.call_later(again, arrive, 2 * again, context=Context())
                return
            listener = network.hosts[ip].listeners.get(port)
            if listener is None and network.cable is not None and ip != self.ip:
                listener = network.cable.accepts(network.hosts[ip], port)
            if listener is None:
                loop.call_later(network.delay(self.ip, ip), settle, errno.ECONNREFUSED, context=Context())
                return
            near, far = End(network, own, (ip, port), owner, context), listener.accept(own)
            near.other, far.other = far, near
            loop.call_later(network.delay(self.ip, ip), settle, None, near, context=Context())

        if ip in network.hosts:
            loop.call_later(network.delay(self.ip, ip), pass_cable, context=Context())
        loop.call_later(SYN_SECONDS, settle, errno.ETIMEDOUT, context=Context())
        try:
            end = await done
        except asyncio.CancelledError:
            if done.done() and not done.cancelled() and done.exception() is None:
                done.result().abort()
            raise
        protocol = factory()
        end.start(protocol)
        return end, protocol


class Listener:
    """The server that `loop.create_server` returns."""

    def __init__(self, host: Host, port: int, factory: Callable[[], Any], owner: Any, context: Context) -> None:
        self.owner = owner
        self._host, self._port, self._factory, self._context = host, port, factory, context
        self.sockets = (SimpleNamespace(getsockname=lambda: (host.ip, port)),)

    def accept(self, peer: Address) -> "End":
        end = End(self._host.network, (self._host.ip, self._port), peer, self.owner, self._context)
        self._host.network.loop.call_soon(self._begin, end, context=self._context.copy())
        return end

    def _begin(self, end: "End") -> None:
        if not end.is_lost:
            end.start(self._factory())

    def close(self) -> None:
        if self._host.listeners.get(self._port) is self:
            del self._host.listeners[self._port]

    async def wait_closed(self) -> None: ...

    async def __aenter__(self) -> "Listener":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class End(asyncio.Transport):
    """One end of a connection: the transport of its process, and what the kernel keeps for it."""

    other: "End"

    def __init__(self, network: Network, own: Address, peer: Address, owner: Any, context: Context) -> None:
        super().__init__({"socket": SOCKET, "sockname": own, "peername": peer})
        self.own, self.peer, self.owner = own, peer, owner
        self.is_lost = False
        self._network, self._context = network, context
        self._protocol: Any = None
        self._again: deque[bytes | None] = deque()  # was in transit, and did not arrive
        self._out: deque[bytes] = deque()  # written, but not sent
        self._waiting = 0  # bytes of it
        self._under_way = 0  # bytes on the wire, or in the other end's kernel
        self._due = 0.0  # when the last piece on the wire arrives
        self._in: deque[bytes | None] = deque()  # arrived, but not read; None for the end of the stream
        self._is_paused = self._is_closing = self._is_done = self._is_full = self._is_reading = False
        self._has_ended = self._has_told_end = self._was_reset = self._waits_to_resend = False
        self.is_held = False
        """Whether another process has it as well."""
        self._silence: asyncio.TimerHandle | None = None
        network.ends[self] = None
        self.notice_silence()

    # -- for its process -----------------------------------------------------------------------------------------------

    def start(self, protocol: Any) -> None:
        self._protocol = protocol
        self._context = copy_context()
        protocol.connection_made(self)
        self._read_soon()

    def is_closing(self) -> bool:
        return self._is_ending() or self.owner.is_dead or self._network.loop.is_closed()

    def write(self, data: Any) -> None:
        if self._is_ending():
            return
        self._out.append(bytes(data))
        self._waiting += len(data)
        self._transmit()
        if self._waiting > HIGH_WATER and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(each) for each in list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._waiting

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._finish()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._read_soon()

    def is_reading(self) -> bool:
        return not self._is_paused

    def close(self) -> None:
        if self._is_ending():
            return
        self._is_closing = True
        if any(self._in):
            self.lose(None)  # unread data turns the close into a reset
        else:
            self._finish()

    def abort(self) -> None:
        self._is_closing = True
        self.lose(None)

    # -- the kernel's --------------------------------------------------------------------------------------------------

    def _is_ending(self) -> bool:
        return self._is_closing or self.is_lost

    def die(self) -> None:
        """The process has exited: it gets no more calls, and the connection is closed."""
        self._is_done = True
        self.close()

    def lose(self, error: OSError | None) -> None:
        """The connection is gone here, and the other host is told if it can be reached."""
        if not self.is_lost:
            self._gone(error)
            self._reset_other()

    def _reset_other(self) -> None:
        """Send a reset, behind what is on the wire."""
        self._due = max(self._due + 1e-6, self._network.loop.now + self._delay())
        cable = self._network.cable
        told = self.other.told_of_reset if cable is None else partial(cable.reset, self.other)
        self._later(self._due - self._network.loop.now, told)

    def told_of_reset(self) -> None:
        if not self.is_lost and self._network.reaches(self.own[0], self.peer[0]):
            self._was_reset = True
            if not self._in or self._protocol is None or self._is_ending():  # otherwise arrived data is read first
                self._gone(refused(errno.ECONNRESET))

    def _gone(self, error: OSError | None) -> None:
        self.is_lost = True
        self._network.ends.pop(self, None)
        if self._silence is not None:
            self._silence.cancel()
        self._done(error)

    def _done(self, error: OSError | None) -> None:
        if not self._is_done and self._protocol is not None:
            self._tell(self._protocol.connection_lost, error)
        self._is_done = True

    def notice_silence(self) -> None:
        """Give up after a time without contact to the other host."""
        if self.is_lost or self._silence is not None or self._network.reaches(self.own[0], self.peer[0]):
            return
        self._silence = self._later(VANISHED_SECONDS, self._be_silent)

    def resume_within(self, seconds: float) -> None:
        """Resume at the next time at which TCP sends again."""
        self._waits_to_resend = bool(self._again or self._out)
        if self._waits_to_resend:
            self._later(self._network.random.uniform(0.0, seconds), self.resume)
        else:
            self.resume()

    def resume(self) -> None:
        """The other host is reachable again: resend unacknowledged data."""
        if not self.is_lost and self._network.reaches(self.own[0], self.peer[0]):
            self._waits_to_resend = False
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None
            self._transmit()
            if self.other.is_lost:
                self._probe()

    def _probe(self) -> None:
        """Find out, by what keeps a silent connection alive, that the other end is gone: it answers with a reset."""
        self._later(self._network.random.uniform(0.0, VANISHED_SECONDS), self.told_of_reset)

    def _be_silent(self) -> None:
        if self._waits_to_resend or not self._network.reaches(self.own[0], self.peer[0]):
            self._gone(refused(errno.ETIMEDOUT))
            if not self.other.is_lost:
                self.other._probe()

    def _finish(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._transmit()

    def _transmit(self) -> None:
        """Send as much as the other end has room for."""
        network = self._network
        if self.is_lost or self._waits_to_resend or not network.reaches(self.own[0], self.peer[0]):
            return
        while self._again:
            self._send(self._again.popleft())
        while self._out and self._under_way < WINDOW:
            data = self._out.popleft()
            count = min(len(data), WINDOW - self._under_way)
            if count > 1 and network.random.random() < 0.1:
                count = network.random.randrange(1, count)
            if count < len(data):
                self._out.appendleft(data[count:])
            self._waiting -= count
            self._under_way += count
            self._send(data[:count])
        if self._is_full and self._waiting <= HIGH_WATER // 4:
            self._is_full = False
            if not self._is_done:
                self._tell(self._protocol.resume_writing)
        if self._has_ended and not self._out and not self._has_told_end:
            self._has_told_end = True
            self._send(None)
            if self._is_closing:
                self._done(None)

    def _send(self, data: bytes | None) -> None:
        self._due = max(self._due + 1e-6, self._network.loop.now + self._delay())
        self._later(self._due - self._network.loop.now, self.other._arrive, data)

    def _arrive(self, data: bytes | None) -> None:
        if not self._network.reaches(self.own[0], self.peer[0]):
            self.other._again.append(data)
        elif self._network.cable is not None and self.own[0] != self.peer[0]:
            self._network.cable.carry(self, data)
        else:
            self.deliver(data)

    def deliver(self, data: bytes | None) -> None:
        """Take bytes, or None for the end of the stream, as if they came from the other end."""
        if self.is_lost:
            self._reset_other()
        elif not self._is_closing:
            self._in.append(data)
            self._read_soon()
        elif data is not None:  # closed by its process, which no longer reads
            self.lose(None)
        elif self._has_told_end:  # both ends are closed
            self.is_lost = True
            self._network.ends.pop(self, None)

    def read_end(self) -> None:
        """Tell the protocol of the end of the stream, which one before it has read."""
        self._in.appendleft(None)
        self._read_soon()

    def _delay(self) -> float:
        return self._network.delay(self.own[0], self.peer[0])

    def _read_soon(self) -> None:
        if self._protocol is not None and not self._is_reading and not self._is_paused and self._in:
            self._is_reading = True
            random = self._network.random
            if random.random() < BUSY_PART:  # more may arrive meanwhile
                self._later(random.uniform(0.0, BUSY_SECONDS), self._tell, self._read)
            else:
                self._tell(self._read)

    def _read(self) -> None:
        self._is_reading = False
        if self._is_ending() or self._is_paused or not self._in:
            return
        data = self._in.popleft()
        while data is not None and self._in and self._in[0] is not None:
            data += self._in.popleft()  # type: ignore[operator]
        if data is None:
            if not self._protocol.eof_received():
                self.close()
            return
        self.other._under_way -= len(data)
        self._later(self._delay(), self.other._transmit)
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            while data and not self._is_ending():
                view = self._protocol.get_buffer(len(data))
                count = min(len(view), len(data))
                view[:count] = data[:count]
                self._protocol.buffer_updated(count)
                data = data[count:]
        else:
            self._protocol.data_received(data)
        if self._was_reset and not self._in:
            self._gone(refused(errno.ECONNRESET))
        self._read_soon()

    def _tell(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._network.loop.call_soon(call, *arguments, context=self._context)

    def _later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
        return self._network.loop.call_later(seconds, call, *arguments, context=Context())
