"""What `jaccl-bootstrap up` is to do: one rank's part, and whom it trusts."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bootstrap.control.run import COMMAND_GRACE_SECONDS, check_timeout
from bootstrap.errors import ConfigError
from bootstrap.hostfile import Hostfile
from bootstrap.link.sessions import OnConfirmed, nothing
from bootstrap.plan import BackendChoice, Plan, check_backend, check_ip, elect, new_session_id
from bootstrap.trust import IdentityError, Pins, decode_public_key, load_identity
from wireproto.jaccl.topology import DeviceMatrix
from wireproto.messages import Revision
from wireproto.session.handshake import Pin, Signer, TrustAnyKey

LINK_PORT = 7777
MAX_SECONDS = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Up:
    """What one rank is to do. ConfigError for what cannot be."""

    rank: int
    ips: tuple[str, ...]
    """Of all ranks, in their order."""
    link_ports: tuple[int, ...] = (LINK_PORT,)
    """One for all ranks, or one for each. With a loopback address it stands for a host of its own."""
    coordinator_port: int = 29400
    revision: Revision = Revision.V2
    all_ips: tuple[tuple[str, ...], ...] = ()
    """Every address of each rank; by default the first ones."""
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    jaccl_ring: bool = False
    envs: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    """What runs once the group can be formed; the built-in worker where that is nothing."""
    restarts: int = 0
    """How often a lost link may be followed by another bootstrap."""
    extensions: bool = True
    """Whether to use what the protocol's extensions give, with peers that have them."""
    rehearse: bool = True
    timeout: float = 60.0
    """Until the group is there; from then on the pings tell whether the others are."""
    grace: float = COMMAND_GRACE_SECONDS
    """How long the command may take to end after SIGTERM."""
    finish_timeout: float | None = None
    """How long the other ranks may go on once this one has finished; None for ever."""
    session_id: str | None = None
    """Rank 0's name for the session; None for a new one for each bootstrap."""
    dry_run: bool = False

    def __post_init__(self) -> None:
        self.plan(self.coordinator_port, self.session_id or new_session_id())
        if len(self.link_ports) not in (1, self.size):
            raise ConfigError(f"give one link port, or one for each of the {self.size} ranks", code="bad-port")
        ports = [self.link_port(rank) for rank in range(self.size)]
        if len({*zip(self.ips, ports, strict=True)}) < self.size or any(
            self.ips.count(ip) > 1 and not check_ip(ip).is_loopback for ip in self.ips
        ):
            raise ConfigError("two ranks have the same address", code="bad-ip")
        for port in ports:
            if not 1 <= port <= 65535:
                raise ConfigError(f"link port {port} is wrong, use 1 to 65535", code="bad-port")
            if 0 <= port - self.coordinator_port < self.size:
                last = self.coordinator_port + self.size - 1
                raise ConfigError(
                    f"link port {port} is one of the group's ports, {self.coordinator_port} to {last}; use another",
                    code="bad-port",
                )
        for name, seconds in (("grace", self.grace), ("finish-timeout", self.finish_timeout)):
            if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
                raise ConfigError(
                    f"--{name} {seconds} is wrong, use 0 to {MAX_SECONDS:.0f} seconds", code="bad-timeout"
                )
        check_backend(self.backend)
        check_timeout(self.timeout)
        if self.restarts < 0:
            raise ConfigError(f"--restart {self.restarts} is wrong, use 0 or more", code="bad-restart")
        if self.command and shutil.which(self.command[0]) is None:
            raise ConfigError(f"the command {self.command[0]!r} is not on PATH; check its name", code="bad-command")
        if self.command and self.dry_run:
            raise ConfigError("a dry run starts no command; leave one of the two out", code="bad-command")

    @classmethod
    def of_pair(cls, own_ip: str, peer_ip: str, rank: str, **options: Any) -> Self:
        """Two ranks; `auto` makes the lower address rank 0. [BOOT-ELECTION]"""
        if rank not in ("auto", "0", "1"):
            raise ConfigError(f"rank {rank!r} is wrong, use 0, 1 or auto", code="bad-rank")
        check_ip(own_ip)
        check_ip(peer_ip)
        own_rank = elect(own_ip, peer_ip) if rank == "auto" else int(rank)
        return cls(rank=own_rank, ips=(own_ip, peer_ip) if own_rank == 0 else (peer_ip, own_ip), **options)

    @classmethod
    def of_hostfile(cls, hostfile: Hostfile, rank: str, **options: Any) -> Self:
        """All ranks of a hostfile; `auto` finds the own one by the own addresses."""
        if rank != "auto" and not (rank.isascii() and rank.isdecimal() and int(rank) < len(hostfile.ips)):
            last = len(hostfile.ips) - 1
            raise ConfigError(f"rank {rank!r} is wrong, use 0 to {last}, or auto", code="bad-rank")
        own_rank = hostfile.own_rank() if rank == "auto" else int(rank)
        options["backend"] = hostfile.backend_for(options["backend"])
        return cls(
            rank=own_rank,
            ips=hostfile.ips,
            all_ips=hostfile.all_ips,
            devices=hostfile.devices,
            jaccl_ring=hostfile.jaccl_ring,
            envs=hostfile.envs,
            **options,
        )

    @property
    def size(self) -> int:
        return len(self.ips)

    def link_port(self, rank: int) -> int:
        return self.link_ports[rank if len(self.link_ports) > 1 else 0]

    @property
    def own_ip(self) -> str:
        return self.ips[self.rank]

    @property
    def peer_ips(self) -> tuple[str, ...]:
        """Whom this rank has sessions with: rank 0 with all others, they with rank 0."""
        return self.ips[1:] if self.rank == 0 else self.ips[:1]

    def plan(self, port: int, session_id: str) -> Plan:
        return Plan(
            rank=self.rank,
            ips=self.ips,
            all_ips=self.all_ips,
            port=port,
            session_id=session_id,
            backend=self.backend,
            devices=self.devices,
            jaccl_ring=self.jaccl_ring,
            envs=self.envs,
        )


@dataclass(frozen=True)
class Trust:
    """Who this rank is, and whom it takes for its peers."""

    signer: Signer
    pins: dict[str, Pin]
    """By the peer's IP."""
    on_confirmed: OnConfirmed = nothing


def trust(up: Up, identity: Path | None, peer_key: str | None, first_use: bool) -> Trust:
    """Own key from the file `identity`; the peer's as given, or as pinned, or any that is shown and then pinned.

    Raises IdentityError, and ConfigError for what cannot be.
    """
    if peer_key is not None and first_use:
        raise ConfigError("give --peer-key or --trust-first-use, not both", code="bad-trust")
    if peer_key is not None and len(up.peer_ips) > 1:
        raise ConfigError("--peer-key is for one peer; pin the keys of several", code="bad-trust")
    if first_use and up.revision is Revision.V1:
        raise ConfigError("revision 1 proves no key at the start, so give --peer-key, or pin it", code="bad-trust")
    if peer_key is not None:
        key = decode_public_key(peer_key)  # before an identity is made
        return Trust(load_identity(identity), {up.peer_ips[0]: key})
    stored = Pins()
    pins: dict[str, Pin] = {}
    for ip in up.peer_ips:
        pinned = stored.get(ip)
        if pinned is None and not first_use:
            raise IdentityError(
                f"no key is pinned for {ip}; run 'jaccl-bootstrap identity' there, "
                f"then 'jaccl-bootstrap pin {ip} KEY' here",
                code="not-pinned",
            )
        pins[ip] = TrustAnyKey() if pinned is None else pinned

    def pin_new(ip: str, key: bytes) -> None:
        if isinstance(pins.get(ip), TrustAnyKey):
            stored.add(ip, key)

    return Trust(load_identity(identity), pins, pin_new)
