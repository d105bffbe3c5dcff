"""The ladder of checks before native code runs: each relies on the ones before it, and a red one is the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootstrap.doctor import checks
from bootstrap.doctor.checks import Check
from bootstrap.errors import ConfigError
from bootstrap.plan import (
    DEFAULT_PORT,
    MAX_RANKS,
    BackendChoice,
    check_backend,
    check_ip,
    check_link_port,
    check_port,
    check_rank,
    check_size,
    elect,
)


@dataclass(frozen=True, kw_only=True)
class Patient:
    """This host as a rank, and its peers, as far as known. Raise ConfigError if they cannot form a group.

    `devices` are this host's in a hostfile. `rank` is elected if there is one peer. `size` is the group's, if it has
    more than the peers. The peers listen on `peer_ports`, by default `link_port`. A `launched` rank needs no pins, as
    its run brings the keys, and no listening peer, as the run starts all ranks.
    """

    backend: BackendChoice = "auto"
    own_ip: str | None = None
    peer_ips: tuple[str, ...] = ()
    rank: int | None = None
    size: int | None = None
    devices: tuple[str, ...] = ()
    link_port: int = 7777
    peer_ports: tuple[int, ...] = ()
    coordinator_port: int = DEFAULT_PORT
    identity: Path | None = None
    launched: bool = False

    def __post_init__(self) -> None:
        check_backend(self.backend)
        for ip in self.peer_ips if self.own_ip is None else (self.own_ip, *self.peer_ips):
            check_ip(ip)
        size = self.size or (len(self.peer_ips) + 1 if self.peer_ips else MAX_RANKS)
        check_size(size)
        if self.rank is not None:
            check_rank(self.rank, size)
        if not self.peer_ports:
            object.__setattr__(self, "peer_ports", (self.link_port,) * len(self.peer_ips))
        if len(self.peer_ports) != len(self.peer_ips):
            text = "the number of link ports differs from the number of peers; give one for each"
            raise ConfigError(text, code="bad-port")
        for port in (self.link_port, *self.peer_ports):
            check_link_port(port)
        check_port(self.coordinator_port, size)
        self.own_rank  # noqa: B018 - raises where none can be elected

    @property
    def own_rank(self) -> int | None:
        """The given rank, or the elected one; None if neither is known. [BOOT-ELECTION]"""
        if self.rank is None and self.own_ip is not None and len(self.peer_ips) == 1:
            return elect(self.own_ip, self.peer_ips[0])
        return self.rank


NAMES: Final = (
    "platform", "mlx", "gather-factory", "thunderbolt", "rdma-ctl", "rdma-devices", "bridge", "address", "rdma-port",
    "lock", "link-port", "coordinator-port", "peer", "identity", "pin", "leftovers",
)  # fmt: skip
"""All checks, in order."""
_JACCL_ONLY: Final = frozenset({"gather-factory", "thunderbolt", "rdma-ctl", "rdma-devices", "bridge", "rdma-port"})


def examine(patient: Patient) -> Iterator[Check]:
    """Run the checks and yield each result, up to the first red one."""
    for check in _ladder(patient):
        yield check
        if check.verdict == "red":
            return


def unreached(patient: Patient, done: Sequence[Check]) -> Iterator[Check]:
    """Yield the checks after a red one, as skipped."""
    red = next((check.name for check in done if check.verdict == "red"), None)
    names = [check.name for check in done]
    if red is None:
        return
    ring = patient.backend == "ring" or ("mlx" in names and "gather-factory" not in names and red != "mlx")
    last = max((NAMES.index(name) for name in names if name in NAMES), default=-1)
    for name in NAMES[last + 1 :]:
        if not (ring and name in _JACCL_ONLY) and (name != "pin" or (patient.peer_ips and not patient.launched)):
            yield Check(name, "skipped", f"fix {red} first")


def _ladder(patient: Patient) -> Iterator[Check]:
    macos, check = checks.platform(patient.backend)
    yield check
    mlx, check = checks.mlx(patient.backend)
    yield check
    assert mlx is not None  # noqa: S101 - the check was red otherwise
    jaccl = patient.backend == "jaccl" or (patient.backend == "auto" and "jaccl" in mlx.backends)
    if jaccl:
        yield checks.gather_factory(mlx)
        generation, check = checks.thunderbolt()
        yield check
        yield checks.rdma_ctl(generation)
        devices, check = checks.rdma_devices(patient.devices)
        yield check
        yield checks.bridge(devices)
    yield checks.address(patient.own_ip, macos, patient.peer_ips)
    if jaccl:
        yield from checks.rdma_ports(patient.own_ip, patient.devices, devices, patient.peer_ips)
    yield checks.lock(patient.own_ip, patient.link_port)
    yield _link_port(patient)
    yield _coordinator_port(patient, jaccl)
    if not patient.peer_ips:
        yield Check("peer", "skipped", "give --peer-ip or --hostfile")
    for ip, port in zip(patient.peer_ips, patient.peer_ports, strict=True):
        yield checks.peer(ip, port, patient.own_ip, patient.own_rank, macos, patient.launched)
    yield checks.identity(patient.identity)
    for ip in () if patient.launched else patient.peer_ips:
        yield checks.pin(ip)
    yield checks.leftovers()


def _link_port(patient: Patient) -> Check:
    """Check the link port, on which every rank but 0 listens."""
    if patient.own_rank == 0:
        return Check("link-port", "skipped", "rank 0 does not listen; the others do")
    return checks.port_is_free("link-port", patient.own_ip, patient.link_port, "--link-port")


def _coordinator_port(patient: Patient, jaccl: bool) -> Check:
    """Check the coordinator port. JACCL listens only on rank 0, ring on `port + rank` of each rank."""
    rank = patient.own_rank or 0
    if jaccl and rank:
        return Check("coordinator-port", "skipped", f"rank {rank} does not listen; rank 0 does")
    port = patient.coordinator_port + (0 if jaccl else rank)
    return checks.port_is_free("coordinator-port", patient.own_ip, port, "--coordinator-port")
