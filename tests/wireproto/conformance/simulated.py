"""The suite and the peers of this process on a simulated clock and network: waiting takes no time, nor is it late."""

from collections.abc import Coroutine
from random import Random
from typing import Any, Final, TypeVar

from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.network import Network
from tests.wireproto.conformance.trying import HOST

LATENCY: Final = 0.0002
T = TypeVar("T")


class Steady(Random):
    """Chance for a network like loopback: nothing unlikely happens, so no bytes are split or joined."""

    def random(self) -> float:
        return 0.2 + 0.6 * super().random()


def simulated(main: Coroutine[Any, Any, T]) -> T:
    """Do as `asyncio.run`."""
    loop = SimulatedLoop(Random(1))
    machine = Machine(loop, Network(loop, Steady(2), LATENCY), Random(3), HOST)
    found: list[T] = []

    async def run(process: SimulatedProcess) -> int:
        found.append(await main)
        return 0

    process = machine.spawn(run)
    loop.run_until_complete(process.ended.wait())
    loop.clear()
    if process.error is not None:
        raise process.error
    return found[0]
