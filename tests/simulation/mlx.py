"""MLX on all hosts: it forms a group from the variables and the file that it reads."""

import json
from collections.abc import Mapping

from tests.simulation import jaccl
from tests.simulation.groups import Groups
from tests.simulation.machine import SimulatedProcess
from tests.simulation.network import Address, Network
from tests.simulation.ring import Ring


class Mlx:
    def __init__(self, network: Network) -> None:
        self.groups = Groups()
        self._ring = Ring(network, self.groups)

    async def init(
        self,
        process: SimulatedProcess,
        variables: Mapping[str, str],
        content: bytes,
        session: str,
        *,
        by_gathers: bool = False,
        is_reference: bool = False,
    ) -> bool:
        """Form a group; False where that fails. `by_gathers`: over the socket that the process has inherited.

        A reference peer may meet another rank's later session.
        """
        rank, table = int(variables["MLX_RANK"]), json.loads(content)
        if "MLX_IBV_DEVICES" not in variables:
            rows = [[_address(text) for text in row] for row in table]
            return await self._ring.form(process, rows, rank, session, is_reference=is_reference)
        size, is_ring = len(table), "MLX_JACCL_RING" in variables
        try:
            if by_gathers:
                gather = await jaccl.asked(process)
            else:
                gather = await jaccl.native(self.groups, rank, size, _address(variables["MLX_JACCL_COORDINATOR"]))
        except (EOFError, OSError):
            return False
        process.kept = gather  # its connections stay open
        return await jaccl.form(self.groups, process, rank, size, session, gather, is_ring=is_ring)


def _address(text: str) -> Address:
    ip, _, port = text.rpartition(":")
    return ip, int(port)
