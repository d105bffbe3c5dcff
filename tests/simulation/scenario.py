"""The properties of a world."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Self

from bootstrap.plan import Plan
from tests.simulation.faults import LAUNCH_FAULTS, Fault, random_fault, random_ssh_fault
from tests.simulation.reference import Reference
from tests.simulation.remembered import remembered
from wireproto.jaccl.topology import DeviceMatrix
from wireproto.messages import Revision

LATE_SECONDS: Final = 700.0
"""When a user stops a launch that should have ended long before."""


@dataclass
class Scenario:
    """The properties of a world decided by a seed, except for the order of events."""

    plans: list[Plan]
    starts: list[float]
    """When each rank is started."""
    stop: float
    """When the user stops the group, if it is still there."""
    stops: int
    """The rank that the user stops."""
    latency: float
    """Seconds, one way."""
    faults: list[Fault]
    reference: Reference | None = None
    """The rank that is a reference peer, if one is."""
    is_launched: bool = False
    """Whether a launcher starts the ranks, over ssh."""
    is_local: bool = False
    """Whether it runs on the host of rank 0."""
    owns_process: bool = False
    """Whether a run handles the signals of its process, and ends all that has been started there."""

    @classmethod
    @remembered()
    def of(cls, seed: int) -> Self:
        random = Random(seed)
        size = random.choice((2, 2, 2, 2, 2, 2, 3, 3, 4, random.randrange(2, 9)))
        ips = tuple(ip(rank) for rank in range(size))
        kind = random.choice(("hold", "hold", "module", "command"))
        backend = random.choice(("ring", "ring", "ring", "ring", "jaccl", "auto"))
        is_ring = random.random() < 0.3
        has_reference = random.random() < 0.2
        is_old = size == 2 and random.random() < (0.5 if has_reference else 0.05)
        common: dict[str, Any] = {
            "ips": ips,
            "link_ports": (7777,) * size,
            "backend": backend,
            "devices": None if backend == "ring" else matrix(size, is_ring=is_ring),
            "jaccl_ring": backend != "ring" and is_ring,
            "timeout": random.choice((10.0, 30.0, 60.0)),
            "restarts": random.choice((0, 0, 0, 1, 2)),
            "restart_on": random.choice(("link", "exit", "any")),
            "finish_timeout": random.choice((None, None, 5.0, 30.0)),
            "grace": random.choice((1.0, 5.0)),
            "command": {"hold": (), "module": ("this",), "command": ("true",)}[kind],
            "runs": "module" if kind == "module" else "command",
            "revision": Revision.V1 if is_old else Revision.V2,
        }
        plain = random.randrange(size) if random.random() < 0.1 else None
        reference = Reference.of(random, size, common["revision"]) if has_reference else None
        plans = [
            Plan(
                rank=rank,
                extensions=rank != plain,
                session_id=f"{seed}-{rank}",
                dry_run=kind == "hold" and random.random() < 0.03,
                **common,
            )
            for rank in range(size)
        ]
        faults = [random_fault(random, size) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3)))]
        is_launched = reference is None and random.random() < 0.15
        if is_launched and faults:
            faults[0] = replace(faults[0], kind=random.choice(LAUNCH_FAULTS))
        close = random.random() < 0.6
        made = cls(
            plans=plans,
            starts=[random.uniform(0.0, 0.5 if close else 20.0) for _ in ips],
            stop=random.choice((random.uniform(5.0, 30.0), random.uniform(30.0, 120.0))),
            stops=next(
                rank
                for rank in iter(lambda: random.choice((0, random.randrange(size))), None)
                if reference is None or rank != reference.rank
            ),
            latency=random.choice((0.0001, 0.001, 0.02, 0.2)),
            faults=faults,
            is_launched=is_launched,
            reference=reference,
            owns_process=random.random() < 0.3,
        )
        if is_launched:
            made._be_launched(Random(f"launched {seed}"))
        return made

    def _be_launched(self, random: Random) -> None:
        """Take what all ranks of a launch have in common, and faults of ssh."""
        self.plans = [replace(plan, extensions=True, dry_run=False, revision=Revision.V2) for plan in self.plans]
        self.starts = [0.0 for _ in self.starts]
        if random.random() < 0.6:
            more = random_ssh_fault(random, len(self.plans))
            self.faults = [more] if random.random() < 0.6 else [more, *self.faults]
            if random.random() < 0.3:
                self.stop = LATE_SECONDS
        self.is_local = random.random() < 0.4


def matrix(size: int, *, is_ring: bool) -> DeviceMatrix:
    """Return the devices that join the ranks: each with all others, or with its neighbours."""

    def entry(rank: int, peer: int) -> str | None:
        is_joined = not is_ring or (rank - peer) % size in (1, size - 1)
        return f"rdma_en{peer + 1}" if rank != peer and is_joined else None

    return tuple(tuple(entry(rank, peer) for peer in range(size)) for rank in range(size))


def ip(rank: int) -> str:
    return f"10.0.0.{rank + 1}"
