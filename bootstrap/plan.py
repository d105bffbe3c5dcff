"""What is to be formed: ranks, addresses, port, backend. Checked here, once, for all that follows."""

import os
import re
import uuid
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Literal, cast, get_args

from bootstrap.errors import ConfigError
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix

Backend = Literal["jaccl", "ring"]
BackendChoice = Literal["auto", "jaccl", "ring"]

DEFAULT_PORT = 29400
MIN_RANKS, MAX_RANKS = 2, 8  # a JACCL mesh takes no more than 8

_SESSION_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


def new_session_id() -> str:
    """Return a new UUID, in upper case as the reference peer writes it."""
    return str(uuid.uuid4()).upper()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One rank's view of a group of 2 to 8 ranks. `ips` is in rank order."""

    rank: int
    ips: tuple[str, ...]
    port: int = DEFAULT_PORT
    session_id: str = field(default_factory=new_session_id)
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    directory: str | None = None

    def __post_init__(self) -> None:
        check_size(len(self.ips))
        if not _is_int(self.rank) or not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank!r} is wrong, use 0 to {self.size - 1}", code="bad-rank")
        for ip in self.ips:
            check_ip(ip)
        check_port(self.port, self.size)
        check_session_id(self.session_id)
        check_backend(self.backend)
        if self.devices is not None:
            check_devices(self.devices)
            if len(self.devices) != self.size:
                raise ConfigError(
                    f"the device matrix has {len(self.devices)} rows for {self.size} ranks, give one row a rank",
                    code="bad-devices",
                )

    @property
    def size(self) -> int:
        return len(self.ips)

    @property
    def coordinator(self) -> str:
        """Rank 0's `ip:port`: the same on every rank."""
        return f"{self.ips[0]}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """Two ranks, as one of them sees them."""

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
    """Return the address; ConfigError unless it is a dotted IPv4 address that one host can have."""
    try:
        # IPv4Address would take an integer or packed bytes too.
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


def check_port(port: int, size: int) -> None:
    """The ring backend listens on `port + rank`, so the whole range has to exist."""
    last = 65536 - size
    if not _is_int(port) or not 1 <= port <= last:
        raise ConfigError(f"port {port!r} is wrong, use 1 to {last} with {size} ranks", code="bad-port")


def check_session_id(session_id: str) -> None:
    """A session ID names a file, so nothing else than a plain name passes."""
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


def check_devices(devices: DeviceMatrix) -> None:
    """JACCL takes a matrix of nulls or empty names as valid and then crashes, so it is vetted here."""
    if faults := check_device_matrix(devices).faults:
        raise ConfigError(f"the device matrix cannot be used: {faults[0]}", code="bad-devices")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
