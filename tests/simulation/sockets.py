"""Sockets that the event loop does not read yet: connected ones, pairs, and listeners to accept from."""

import asyncio
from collections import deque
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.network import Address, End, Listener

if TYPE_CHECKING:
    from tests.simulation.machine import Machine, SimulatedProcess

_DESCRIPTORS: Final = count(100)


class SimulatedSocket(asyncio.Protocol):
    """A connected one. A process may inherit it; the connection lasts as long as one of the two has it."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._descriptor = next(_DESCRIPTORS)
        self._data = bytearray()
        self._has_ended = self._is_passed = False
        self._news = asyncio.Event()
        end.start(self)

    def fileno(self) -> int:
        return self._descriptor

    def setblocking(self, flag: bool) -> None: ...

    def getpeername(self) -> Address:
        return self._end.peer

    def close(self) -> None:
        if self._descriptor != -1:
            self._descriptor = -1
            self._end.is_held = False
            if self._is_passed and not self._end.owner.is_dead:
                return
            self._end.close()

    def pass_to(self, process: "SimulatedProcess") -> None:
        """Let a process inherit it."""
        self._end.owner = process
        self._end.is_held = self._is_passed = True

    async def receive(self, most: int) -> bytes:
        while not self._data and not self._has_ended:
            self._news.clear()
            await self._news.wait()
        data = bytes(self._data[:most])
        del self._data[:most]
        return data

    def hand_over(self, protocol: asyncio.BaseProtocol) -> End:
        """Let a protocol read it from now on."""
        self._end.start(protocol)
        if isinstance(protocol, asyncio.Protocol) and self._data:
            protocol.data_received(bytes(self._data))
        if self._has_ended:
            self._end.read_end()
        return self._end

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._news.set()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._news.set()


class ListeningSocket:
    """One that listens on its host."""

    def __init__(self, machine: "Machine", port: int, owner: "SimulatedProcess", context: Context) -> None:
        self._descriptor = next(_DESCRIPTORS)
        self._address = (machine.ip, port)
        self._accepted: deque[SimulatedSocket] = deque()
        self._news = asyncio.Event()
        self._listener: Listener = machine.host.listen(self._accept, port, owner, context)

    def _accept(self) -> Any:
        return _Accepting(self)

    def came(self, end: End) -> None:
        self._accepted.append(SimulatedSocket(end))
        self._news.set()

    def fileno(self) -> int:
        return self._descriptor

    def getsockname(self) -> Address:
        return self._address

    def close(self) -> None:
        self._descriptor = -1
        self._listener.close()
        for each in self._accepted:
            each.close()

    async def accept(self) -> tuple[SimulatedSocket, Address]:
        while not self._accepted:
            self._news.clear()
            await self._news.wait()
        accepted = self._accepted.popleft()
        return accepted, accepted.getpeername()


class _Accepting(asyncio.Protocol):
    def __init__(self, listener: ListeningSocket) -> None:
        self._listener = listener

    def connection_made(self, transport: Any) -> None:
        self._listener.came(transport)


def pair(machine: "Machine", owner: "SimulatedProcess", context: Context) -> tuple[SimulatedSocket, SimulatedSocket]:
    """Return two sockets of a process that are connected."""
    here = (machine.ip, 0)
    near, far = (End(machine.host.network, here, here, owner, context) for _ in range(2))
    near.other, far.other = far, near
    return SimulatedSocket(near), SimulatedSocket(far)
