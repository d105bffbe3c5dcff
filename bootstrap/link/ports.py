"""Checks the ports that native code will open to the network: free on this host, reachable on the next.

Only MLX's ring, and JACCL with a peer without extensions, listen on the network. [EXT-OUTCOME-TURN]
"""

import asyncio
import errno
from typing import Final

from bootstrap.errors import BootstrapError, system_reason
from bootstrap.plan import Backend, Plan
from bootstrap.system import current

REACH_SECONDS: Final = 2.0
"""How long a neighbour's host may take to answer."""
TRIES: Final = 2
"""In that time. A process that was stopped for longer finds its time over before it sees the answer to the first."""


class PortError(BootstrapError):
    """A port cannot be used; no native code has run."""

    stage = "ports"


def check_own_ports(plan: Plan, backend: Backend) -> None:
    """Raise PortError unless the ports on which this rank's native code will listen are free."""
    if backend == "ring":
        for ip, port in plan.ring_addresses(plan.rank):
            _check_free(ip, port, "ring", taken="ring-port-taken", refused="ring-port-refused")
    elif plan.rank == 0 and plan.relay_port is None:
        codes = {"taken": "coordinator-port-taken", "refused": "coordinator-port-refused"}
        _check_free(plan.ips[0], plan.port, "coordinator", **codes)


async def check_neighbour(plan: Plan) -> None:
    """Raise PortError unless the next rank of MLX's ring can be reached."""
    rank = (plan.rank + 1) % plan.size
    await asyncio.gather(*(_reach(rank, ip, port) for ip, port in plan.ring_addresses(rank)))


def _check_free(ip: str, port: int, what: str, *, taken: str, refused: str) -> None:
    try:
        current().network.check_free(ip, port)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if in_use else system_reason(error)
        text = f"the {what} port at {ip}:{port} cannot be used: {reason}"
        raise PortError(text, code=taken if in_use else refused) from error


async def _reach(rank: int, ip: str, port: int) -> None:
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(REACH_SECONDS / TRIES):
                _, writer = await asyncio.open_connection(ip, port)
        except ConnectionRefusedError:
            return  # the host is there; MLX does not listen yet
        except TimeoutError:
            continue
        except OSError as error:
            text = f"rank {rank}'s ring port at {ip}:{port} cannot be reached: {system_reason(error)}"
            raise PortError(text, code="ring-unreachable") from error
        writer.transport.abort()
        return
    text = f"rank {rank}'s ring port at {ip}:{port} does not answer (waited {REACH_SECONDS:g} s)"
    raise PortError(text, code="ring-unreachable")
