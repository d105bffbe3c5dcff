"""Hostfiles of mlx.launch: addresses, RDMA devices, backend and variables of all ranks.

    {"backend": "jaccl", "envs": ["NAME=value"],
     "hosts": [{"ssh": "name", "ips": ["169.254.1.1"], "rdma": [null, "rdma_en5"]}, …]}

or just the array of hosts. `mlx.distributed_config` writes such files. Every file that mlx.launch can run for 2 to 64
hosts has the same meaning here; other keys are ignored.
"""

import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any, Final, Literal

from bootstrap.errors import ConfigError
from bootstrap.files import read_file, write_file
from bootstrap.plan import VARIABLE, BackendChoice, Plan, check_backend, check_devices, check_ip, check_size
from bootstrap.system.network import holds
from wireproto.codec.json_scanner import Scanner
from wireproto.errors import WireError
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix

logger = logging.getLogger(__name__)

MAX_FILE: Final = 1024 * 1024
"""Bytes: mlx.distributed_config writes 130 KiB for a ring of 64 hosts, one line per entry."""

RESOLVE_SECONDS: Final = 5.0
"""Limit for resolving a host name."""

Resolve = Callable[[str], str]
"""Return the IPv4 address of a host name, or raise OSError."""

_NAME: Final = re.compile(r"(?!(?:.*\.)?\d+\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_RING_VARIABLES: Final = frozenset({"JACCL_RING", "MLX_JACCL_RING"})


@dataclass(frozen=True, kw_only=True)
class Hostfile:
    """The hosts in rank order."""

    ips: tuple[str, ...]
    """The first address of each host."""
    all_ips: tuple[tuple[str, ...], ...]
    """All addresses of each host: MLX's ring uses one connection per address."""
    devices: DeviceMatrix | None
    """None without any `rdma` entries."""
    backend: BackendChoice
    """`auto` if the file names none; `jaccl` for `jaccl-ring`."""
    jaccl_ring: bool = False
    """JACCL forms a ring even if it could form a mesh: the backend is `jaccl-ring`, or `envs` sets MLX_JACCL_RING."""
    envs: tuple[tuple[str, str], ...] = ()
    """Variables for every rank's process, as (name, value); of equal names the last one counts."""
    ssh: tuple[str | None, ...] = field(default=(), compare=False)
    """Each host for ssh, such as `user@name`; None if the file has none."""
    names: tuple[str, ...] = field(default=(), compare=False)
    """The names in `ssh` and `ips`, without users."""
    ignored_envs: tuple[str, ...] = ()
    """Elements of `envs` without a valid variable name; mlx.launch skips them too."""

    def plan(
        self,
        rank: int | Literal["auto"],
        backend: BackendChoice = "auto",
        envs: tuple[tuple[str, str], ...] = (),
        **options: Any,
    ) -> Plan:
        """Return one rank's plan; `auto` finds the rank by this host's addresses. Raise ConfigError.

        `envs` follow the file's own.
        """
        if rank != "auto" and not 0 <= rank < len(self.ips):
            raise ConfigError(f"rank {rank} is wrong, use 0 to {len(self.ips) - 1}, or auto", code="bad-rank")
        return Plan(
            rank=self.own_rank() if rank == "auto" else rank,
            ips=self.ips,
            all_ips=self.all_ips,
            devices=self.devices,
            backend=self.backend_for(backend),
            jaccl_ring=self.jaccl_ring,
            envs=self.envs + envs,
            **options,
        )

    def to_json(self) -> bytes:
        """Return the file in the format of mlx.distributed_config."""
        has_variable = any(name in _RING_VARIABLES for name, _ in self.envs)
        backend = "jaccl-ring" if self.jaccl_ring and not has_variable else self.backend
        rows = [[]] * len(self.ips) if self.devices is None else self.devices
        hosts = [
            {**({} if ssh is None else {"ssh": ssh}), "ips": ips, "rdma": row}
            for ssh, ips, row in zip(self.ssh or [None] * len(self.ips), self.all_ips, rows, strict=True)
        ]
        envs = [f"{name}={value}" for name, value in self.envs]
        content = {"backend": "" if backend == "auto" else backend, "envs": envs, "hosts": hosts}
        return json.dumps(content, indent=4).encode() + b"\n"

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all, readable only by its owner. Raise TopologyWriteError."""
        write_file(path, self.to_json())

    def own_rank(self) -> int:
        """Return the one rank with an address of this host. Raise ConfigError (`bad-rank`) for none or several."""
        own = [rank for rank, ips in enumerate(self.all_ips) if any(map(holds, ips))]
        if len(own) == 1:
            return own[0]
        which = (
            f"ranks {', '.join(map(str, own))} all have this host's addresses"
            if own
            else "no rank has an address of this host"
        )
        raise ConfigError(f"{which} in the hostfile; give --rank", code="bad-rank")

    def backend_for(self, requested: BackendChoice) -> BackendChoice:
        """Return the requested backend, else the file's. With neither and no devices it is ring, as in mlx.launch."""
        if requested != "auto":
            return requested
        return "ring" if self.backend == "auto" and self.devices is None else self.backend


def resolve_name(name: str) -> str:
    """Return the first IPv4 address of a host name. Raise OSError if there is none within RESOLVE_SECONDS."""
    found: list[str] = []
    failed: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            found.append(str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # getaddrinfo has no timeout and cannot be interrupted
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if found:
        return found[0]
    raise OSError(f"no answer within {RESOLVE_SECONDS:g} s" if not failed else str(failed[0]))


def read_hostfile(path: Path, resolve: Resolve = resolve_name) -> Hostfile:
    """Read a hostfile of 2 to 64 hosts. Raise ConfigError with the path in front."""
    try:
        data = read_file(path, MAX_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read the hostfile {path}: {error.strerror}", code="bad-hostfile") from error
    try:
        hostfile = parse_hostfile(data, resolve)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", code=error.code) from error
    for text in hostfile.ignored_envs:
        logger.warning("%s: ignored %r in `envs`, which is not a variable", path, text)
    return hostfile


def parse_hostfile(data: bytes, resolve: Resolve = resolve_name) -> Hostfile:
    """Return the hosts in `data`. Resolve host names if an address is missing.

    Raise ConfigError: `bad-hostfile`, or the code for a wrong number of hosts, address, backend or device.
    """
    content = _load(data)
    backend: object = None
    envs: object = []
    if isinstance(content, dict):
        backend, envs, content = content.get("backend"), content.get("envs", []), content.get("hosts")
    if not isinstance(content, list):
        raise _bad("the hosts must be an array, alone or as `hosts` of an object")
    if not isinstance(backend, str | None):
        raise _bad("`backend` must be a string")
    check_size(len(content))
    choice: BackendChoice
    choice, jaccl_ring = ("jaccl", True) if backend == "jaccl-ring" else (check_backend(backend or "auto"), False)
    variables, ignored = _envs(envs)
    jaccl_ring |= any(name in _RING_VARIABLES for name, _ in variables)
    devices = _devices([host.get("rdma") if isinstance(host, dict) else None for host in content], choice, jaccl_ring)
    all_ips = _addresses(content, resolve)
    ips = tuple(each[0] for each in all_ips)
    if any(ips.count(ip) > 1 and not IPv4Address(ip).is_loopback for ip in ips):
        raise _bad("two hosts have the same address; give each its own")
    return Hostfile(
        ips=ips,
        all_ips=all_ips,
        devices=devices,
        backend=choice,
        jaccl_ring=jaccl_ring,
        envs=variables,
        ssh=tuple(_ssh(host) for host in content),
        names=_names(content),
        ignored_envs=ignored,
    )


def _load(data: bytes) -> object:
    if len(data) > MAX_FILE:
        raise _bad(f"it has more than {MAX_FILE} bytes")
    try:
        scanner = Scanner(data)
        scanner.skip(level=1)
        scanner.end()
        return json.loads(data)
    except (WireError, ValueError) as error:  # the latter for an integer with thousands of digits
        raise _bad(f"it cannot be read: {error}") from error


# -- addresses ---------------------------------------------------------------------------------------------------------


def _addresses(hosts: list[object], resolve: Resolve) -> tuple[tuple[str, ...], ...]:
    """Return the addresses of each host: its `ips`, else the address of its `ssh` name."""
    all_ips, names = [], []
    for rank, host in enumerate(hosts):
        ips, name = _texts(rank, host)
        names.append(name)
        if name is not None:
            try:
                ips = [resolve(name)]
            except OSError as error:
                raise _no_address(rank, f"the name {name!r} has no IPv4 address ({error})") from error
        all_ips.append(tuple(_address(rank, ip, resolve) for ip in ips))
    loopback = [IPv4Address(ips[0]).is_loopback for ips in all_ips]
    for rank, name in enumerate(names):
        # A host's own name often resolves to a loopback address there, which no other host can reach.
        if name is not None and loopback[rank] and not all(loopback):
            raise _no_address(rank, f"{name!r} is the loopback address {all_ips[rank][0]} on this host")
    return tuple(all_ips)


def _texts(rank: int, host: object) -> tuple[list[object], str | None]:
    """Return a host's addresses as written in the file, else the name to resolve."""
    if not isinstance(host, dict):
        raise _bad(f"host {rank} must be an object")
    ips, ssh = host.get("ips"), host.get("ssh")
    if not isinstance(ips, list | None):
        raise _bad(f"`ips` of host {rank} must be an array")
    if ips:
        return ips, None
    name = ssh.rpartition("@")[2] if isinstance(ssh, str) else ""
    if _is_ip(name):
        return [name], None
    if not _NAME.fullmatch(name):
        raise _no_address(rank, f"{name!r} is not a host name")
    return [], name


def _ssh(host: object) -> str | None:
    ssh = host.get("ssh") if isinstance(host, dict) else None
    return ssh if isinstance(ssh, str) else None


def _names(hosts: list[object]) -> tuple[str, ...]:
    texts = [
        text.rpartition("@")[2]
        for host in hosts
        if isinstance(host, dict)
        for text in [host.get("ssh"), *(host.get("ips") or ())]
        if isinstance(text, str)
    ]
    return tuple(dict.fromkeys(text for text in texts if text and not _is_ip(text)))


def _address(rank: int, text: object, resolve: Resolve) -> str:
    """Return an address in `ips`. A host name there is resolved, as JACCL does."""
    if isinstance(text, str) and _NAME.fullmatch(text):
        try:
            text = resolve(text)
        except OSError as error:
            raise ConfigError(
                f"host {rank}: the name {text!r} in `ips` has no IPv4 address ({error}); write the address instead",
                code="bad-ip",
            ) from error
    return str(check_ip(text))  # type: ignore[arg-type]  # it refuses any other type


def _no_address(rank: int, why: str) -> ConfigError:
    return _bad(
        f"host {rank} has no `ips`, and {why}; add its address to `ips`, or for two hosts use --own-ip and --peer-ip"
    )


def _is_ip(text: str) -> bool:
    try:
        return bool(IPv4Address(text))
    except AddressValueError:
        return False


# -- devices and variables ---------------------------------------------------------------------------------------------


def _devices(rows: list[object], backend: BackendChoice, jaccl_ring: bool) -> DeviceMatrix | None:
    """Return the device matrix, or None without any row. For ring, wrong rows are ignored, as in mlx.launch."""
    if not any(rows):
        return None
    matrix = tuple(
        tuple(tuple(entry) if isinstance(entry, list) else entry for entry in row) if isinstance(row, list) else row
        for row in rows
    )
    if backend == "ring":
        return check_device_matrix(matrix).matrix  # type: ignore[arg-type]
    for rank, row in enumerate(rows):
        if not isinstance(row, list):
            raise _bad(f"`rdma` of host {rank} must be an array, as on the other hosts")
    check_devices(matrix, jaccl_ring)  # type: ignore[arg-type]
    return matrix  # type: ignore[return-value]


def _envs(value: object) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the variables, and the elements that are not variables: mlx.launch warns about those and continues."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _bad("`envs` must be an array of strings such as NAME=value")
    variables: dict[str, str] = {}
    ignored = []
    for text in value:
        name, _, content = text.partition("=")
        if not VARIABLE.fullmatch(name):
            ignored.append(text)
        elif "\0" in content:
            raise _bad(f"`envs`: the value of {name} has a NUL character, which a variable cannot hold")
        else:
            variables[name] = content
    return tuple(variables.items()), tuple(ignored)


def _bad(text: str) -> ConfigError:
    return ConfigError(text, code="bad-hostfile")
