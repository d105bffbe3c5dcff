"""A replacement for `mlx.core` with a JACCL backend, for the built-in worker: its group only gathers.

Its init makes the gathers of JACCL's mesh init, by the function that it is given in place of JACCL's own side channel.
"""

import json
import os
from pathlib import Path

from wireproto.jaccl import OWN_ENTRY, Destination, mapped_gid, mesh_init

__version__ = "0.32.4"
int32 = "int32"


class Group:
    def __init__(self, rank, size, gather):
        self._rank, self._size, self.gather = rank, size, gather

    def rank(self):
        return self._rank

    def size(self):
        return self._size


class Array:
    def __init__(self, values, kind):
        self.values = values

    def item(self):
        return self.values[0]


array = Array


class distributed:  # noqa: N801 - as MLX has it
    @staticmethod
    def is_available(name):
        return name == "jaccl"

    @staticmethod
    def init(strict=False, backend="any", *, all_gather_factory=None):
        """init(strict: bool = False, backend: str = 'any', *, all_gather_factory: Callable | None = None) -> Group"""
        rank = int(os.environ["MLX_RANK"])
        size = len(json.loads(Path(os.environ["MLX_IBV_DEVICES"]).read_text()))
        gather = all_gather_factory(rank, size)
        reached = Destination(1, rank, gid=mapped_gid("169.254.1.1"))
        init = mesh_init(rank, size, [OWN_ENTRY if peer == rank else reached for peer in range(size)])
        own = next(init)
        try:
            while True:
                own = init.send(gather(own, len(own)))
        except StopIteration:
            return Group(rank, size, gather)

    @staticmethod
    def all_sum(array, group):
        return Array([sum(group.gather(bytes(array.values), 1))], int32)
