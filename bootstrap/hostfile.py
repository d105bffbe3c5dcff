"""mlx.launch's hostfile, which users have already: the ranks' addresses, and their RDMA devices.

    {"backend": "jaccl", "hosts": [{"ssh": "name", "ips": ["169.254.1.1"], "rdma": [null, "rdma_en5"]}, …]}

or the bare array of hosts. What `mlx.launch` needs besides (ssh, cwd, envs, …) is left alone.
"""

import json
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final

from bootstrap.addresses import holds
from bootstrap.errors import ConfigError
from bootstrap.files import read_file
from bootstrap.plan import BackendChoice, check_backend, check_devices, check_ip, check_size
from wireproto.codec.json_scanner import Scanner
from wireproto.errors import WireError
from wireproto.jaccl.topology import DeviceMatrix

MAX_FILE: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Hostfile:
    """The hosts in rank order."""

    ips: tuple[str, ...]
    """The first address of each."""
    all_ips: tuple[tuple[str, ...], ...]
    devices: DeviceMatrix | None
    """None where no host has an `rdma` row."""
    backend: BackendChoice
    """`auto` where the file names none."""

    def own_rank(self) -> int:
        """The rank of this host: the only one of whose addresses this host has. ConfigError if that is not one."""
        own = [rank for rank, ips in enumerate(self.all_ips) if any(map(holds, ips))]
        if len(own) == 1:
            return own[0]
        which = f"ranks {', '.join(map(str, own))} are all this host" if own else "this host has no rank's address"
        raise ConfigError(f"{which} in the hostfile; give --rank", code="bad-rank")


def read_hostfile(path: Path) -> Hostfile:
    """Read a hostfile of 2 to 8 hosts. ConfigError for one that cannot be."""
    try:
        data = read_file(path, MAX_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read the hostfile {path}: {error.strerror}", code="bad-hostfile") from error
    try:
        return parse_hostfile(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", code=error.code) from error


def parse_hostfile(data: bytes) -> Hostfile:
    """The hosts that `data` names. ConfigError: `bad-hostfile`, or what is wrong with an address, backend or device."""
    if len(data) > MAX_FILE:
        raise _bad(f"a hostfile has at most {MAX_FILE} bytes")
    try:
        scanner = Scanner(data)
        scanner.skip(level=1)
        scanner.end()
        content = json.loads(data)
    except (WireError, ValueError) as error:  # the latter for a number of thousands of digits
        raise _bad(f"it cannot be read: {error}") from error
    backend: object = "auto"
    if isinstance(content, dict):
        backend, content = content.get("backend", "auto"), content.get("hosts")
    if not isinstance(content, list):
        raise _bad("the hosts have to be an array, alone or as `hosts` of an object")
    if not isinstance(backend, str):
        raise _bad("`backend` has to be a string")
    check_size(len(content))
    all_ips = tuple(_ips(rank, host) for rank, host in enumerate(content))
    ips = tuple(each[0] for each in all_ips)
    if any(ips.count(ip) > 1 and not IPv4Address(ip).is_loopback for ip in ips):
        raise _bad("two hosts have the same address")
    rows = [host.get("rdma") for host in content]
    devices = None
    if any(row is not None for row in rows):
        devices = _devices(rows)
    return Hostfile(ips=ips, all_ips=all_ips, devices=devices, backend=check_backend(backend))


def _ips(rank: int, host: object) -> tuple[str, ...]:
    """The addresses of a host; `ssh`, if that is one, for a host without `ips`."""
    if not isinstance(host, dict):
        raise _bad(f"host {rank} has to be an object")
    ips = host.get("ips", [])
    if not isinstance(ips, list):
        raise _bad(f"`ips` of host {rank} has to be an array")
    if not ips and _is_ip(host.get("ssh")):
        ips = [host["ssh"]]
    if not ips:
        raise _bad(f"host {rank} has no `ips`, and the link needs an address of each rank")
    for ip in ips:
        check_ip(ip)
    return tuple(ips)


def _devices(rows: list[object]) -> DeviceMatrix:
    for rank, row in enumerate(rows):
        if not isinstance(row, list):
            raise _bad(f"`rdma` of host {rank} has to be an array, as the others have one")
    matrix = tuple(tuple(tuple(e) if isinstance(e, list) else e for e in row) for row in rows if isinstance(row, list))
    check_devices(matrix)
    return matrix


def _is_ip(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(IPv4Address(text))
    except AddressValueError:
        return False


def _bad(text: str) -> ConfigError:
    return ConfigError(text, code="bad-hostfile")
