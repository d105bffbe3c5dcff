"""What group to form: ranks, addresses, port, backend. Checked here, once, for everything that follows."""

import os
import re
import uuid
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Literal, cast, get_args

from bootstrap.errors import ConfigError
from wireproto.jaccl import MAX_SIZE, MAX_WIRES, MIN_SIZE
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix, devices_of

Backend = Literal["jaccl", "ring"]
BackendChoice = Literal["auto", "jaccl", "ring"]

DEFAULT_PORT = 29400
MIN_RANKS, MAX_RANKS = MIN_SIZE, MAX_SIZE

_SESSION_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


def new_session_id() -> str:
    """Return a new UUID, in upper case as the reference peer writes it."""
    return str(uuid.uuid4()).upper()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One rank's view of a group of 2 to 64 ranks. `ips` is in rank order."""

    rank: int
    ips: tuple[str, ...]
    """The first address of each rank."""
    all_ips: tuple[tuple[str, ...], ...] = ()
    """Every address of each rank, for the connections of MLX's ring; by default the first ones."""
    port: int = DEFAULT_PORT
    session_id: str = field(default_factory=new_session_id)
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    jaccl_ring: bool = False
    """JACCL forms a ring even if the devices make a mesh."""
    envs: tuple[tuple[str, str], ...] = ()
    """More variables for this rank's process, as (name, value)."""
    directory: str | None = None

    def __post_init__(self) -> None:
        check_size(len(self.ips))
        if not self.all_ips:
            object.__setattr__(self, "all_ips", tuple((ip,) for ip in self.ips))
        if tuple(ips[:1] for ips in self.all_ips) != tuple((ip,) for ip in self.ips):
            raise ConfigError("the addresses of each rank must start with its first one", code="bad-ip")
        if not _is_int(self.rank) or not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank!r} is wrong, use 0 to {self.size - 1}", code="bad-rank")
        for ip in (ip for ips in self.all_ips for ip in ips):
            check_ip(ip)
        check_port(self.port, self.size * self.connections)
        check_session_id(self.session_id)
        check_backend(self.backend)
        if self.devices is not None:
            check_devices(self.devices, self.jaccl_ring)
            if len(self.devices) != self.size:
                raise ConfigError(
                    f"the device matrix has {len(self.devices)} rows for {self.size} ranks, give one row per rank",
                    code="bad-devices",
                )

    @property
    def size(self) -> int:
        return len(self.ips)

    @property
    def connections(self) -> int:
        """How many connections to each neighbour MLX's ring makes: as many as every rank has addresses for."""
        return min(map(len, self.all_ips))

    @property
    def coordinator(self) -> str:
        """Return rank 0's `ip:port`, the same on every rank."""
        return f"{self.ips[0]}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """One rank's view of a group of two."""

    own_rank: int
    own_ip: str
    peer_ip: str
    port: int = DEFAULT_PORT
    session_id: str = field(default_factory=new_session_id)
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        ips = (self.peer_ip, self.own_ip) if self.own_rank == 1 else (self.own_ip, self.peer_ip)
        return Plan(
            rank=self.own_rank,
            ips=ips,
            port=self.port,
            session_id=self.session_id,
            backend=self.backend,
            devices=self.devices,
            directory=None if self.directory is None else os.fspath(self.directory),
        )


def check_size(size: int) -> None:
    if not MIN_RANKS <= size <= MAX_RANKS:
        raise ConfigError(f"{size} ranks cannot form a group, use {MIN_RANKS} to {MAX_RANKS}", code="bad-ranks")


def check_ip(ip: str) -> IPv4Address:
    """Return the address. Raise ConfigError unless it is a dotted IPv4 address that a host can have."""
    try:
        # IPv4Address would accept an integer or packed bytes too.
        address = IPv4Address(ip) if isinstance(ip, str) else None
    except AddressValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF:
        raise ConfigError(f"{ip!r} is not the IPv4 address of a host, use one such as 169.254.1.1", code="bad-ip")
    return address


def elect(own_ip: str, peer_ip: str) -> int:
    """Return this host's rank: the lower address, as a number, is rank 0. [BOOT-ELECTION]"""
    own, peer = check_ip(own_ip), check_ip(peer_ip)
    if own == peer:
        raise ConfigError(f"both addresses are {own}, so no rank can be elected; give --rank", code="bad-rank")
    return 0 if own < peer else 1


def check_port(port: int, count: int) -> None:
    """Check that all `count` ports from `port` on exist: MLX's ring listens on one for each rank and connection."""
    last = 65536 - count
    if not _is_int(port) or not 1 <= port <= last:
        raise ConfigError(f"port {port!r} is wrong, use 1 to {last} with {count} ranks", code="bad-port")


def check_session_id(session_id: str) -> None:
    """Check that a session ID is a plain file name."""
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        shown = repr(session_id)
        raise ConfigError(
            f"session ID {shown if len(shown) <= 60 else shown[:60] + '...'} is wrong, "
            "use 1 to 128 of A-Z a-z 0-9 . _ - and no dot in front",
            code="bad-session-id",
        )


def check_backend(backend: str) -> BackendChoice:
    if backend not in get_args(BackendChoice):
        raise ConfigError(f"backend {backend!r} is unknown, use auto, jaccl or ring", code="bad-backend")
    return cast(BackendChoice, backend)


def check_devices(devices: DeviceMatrix, jaccl_ring: bool = False) -> None:
    """Check a matrix here because JACCL accepts one of nulls or empty names, and then crashes.

    With `jaccl_ring` a neighbour has at most 4 devices: JACCL refuses more only after it has started.
    """
    verdict = check_device_matrix(devices)
    if verdict.faults:
        raise ConfigError(f"the device matrix cannot be used: {verdict.faults[0]}", code="bad-devices")
    if jaccl_ring and not verdict.ring and (too_many := _neighbours_over_limit(devices)):
        raise ConfigError(
            f"the device matrix cannot be used for jaccl-ring: {too_many} has more than {MAX_WIRES} devices; "
            "name fewer, or use jaccl",
            code="bad-devices",
        )


def _neighbours_over_limit(devices: DeviceMatrix) -> str | None:
    """Return the path of the first neighbour's entry that has too many devices for a ring, if all have equally many."""
    size = len(devices)
    counts = {
        (rank, peer): len(names)
        for rank in range(size)
        for peer, names in devices_of(devices, rank).items()
        if (peer - rank) % size in (1, size - 1)
    }
    equal = len(set(counts.values())) == 1  # JACCL makes a mesh of unequal ones
    return next((f"[{r}][{c}]" for (r, c), count in counts.items() if count > MAX_WIRES), None) if equal else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
