"""Finds the cables and networks that join the hosts of a launch, and makes a hostfile from them.

On Macs each Thunderbolt port has a UUID, and lists the UUIDs of the ports that it leads to; mlx.distributed_config uses
these too. JACCL needs a cable for each pair (mesh), or for the neighbours in some order (ring). Addresses come from the
cable of a pair, else from an IPv4 network that all hosts share, else from the hosts' names for ssh.

Reports are claims of the hosts: a cable counts only if both ends list each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import Final, Literal, NamedTuple

from bootstrap.errors import ConfigError
from bootstrap.hostfile import Hostfile, Resolve, resolve_name
from bootstrap.launch.survey import DEVICE_PREFIX, HostReport, Interface
from bootstrap.plan import BackendChoice, check_backend, check_size
from wireproto.jaccl import MAX_MESH, MAX_WIRES
from wireproto.jaccl.topology import DeviceMatrix

MAX_STEPS: Final = 20_000
"""Limit of the search for a ring, which is exponential in the worst case."""

Shape = Literal["mesh", "ring", "network"]
"""The shape of the RDMA links; `network` without any."""


@dataclass(frozen=True, kw_only=True)
class Cabling:
    """How the hosts are connected."""

    hostfile: Hostfile
    order: tuple[int, ...]
    """For each rank, the index of its host in the reports: a ring may need another order."""
    shape: Shape
    remarks: tuple[str, ...] = ()
    """For the user: why this is slower than possible."""


class End(NamedTuple):
    """One end of a cable. `interface` is empty if the port has none."""

    host: int
    interface: str
    domain: str


class Cable(NamedTuple):
    """A Thunderbolt cable between two hosts, the lower index first, with its speed in Mb/s."""

    ends: tuple[End, End]
    speed: int


Wires = dict[tuple[int, int], list[str]]
"""For each ordered pair of hosts, the first one's RDMA devices. Both lists of a pair have the same order of cables."""


def find(
    reports: Sequence[HostReport],
    names: Sequence[str],
    backend: BackendChoice = "auto",
    resolve: Resolve = resolve_name,
) -> Cabling:
    """Return the best way to connect the hosts, whose names for ssh are `names`. Raise ConfigError if there is none.

    `auto` is jaccl if every host has RDMA devices, else ring. `resolve` may block, and is called only if the hosts
    share no network.
    """
    check_size(len(reports))
    check_backend(backend)
    check_distinct(reports, names)
    cables = find_cables(reports)
    remarks: list[str] = []
    order: tuple[int, ...] = tuple(range(len(reports)))
    devices: DeviceMatrix | None = None
    shape: Shape = "network"
    if backend == "jaccl" or (backend == "auto" and _has_rdma(reports, names, remarks)):
        order, devices, shape = _devices(reports, names, cables)
    ranked = [reports[host] for host in order]
    all_ips = _addresses(ranked, [names[host] for host in order], _in_order(cables, order), resolve)
    if shape == "network" and cables and not _over_thunderbolt(ranked, all_ips):
        remarks.append("MLX's ring does not use the Thunderbolt cables: the hosts share no IPv4 network over them")
    hostfile = Hostfile(
        ips=tuple(ips[0] for ips in all_ips),
        all_ips=all_ips,
        devices=devices,
        backend="ring" if devices is None else "jaccl",
        jaccl_ring=shape == "ring",
        ssh=tuple(names[host] for host in order),
        names=tuple(names[host].rpartition("@")[2] for host in order),
    )
    return Cabling(hostfile=hostfile, order=order, shape=shape, remarks=tuple(remarks))


def check_distinct(reports: Sequence[HostReport], names: Sequence[str]) -> None:
    """Raise ConfigError if two names lead to the same host, or to hosts with the same key."""
    for one, other in combinations(range(len(reports)), 2):
        if reports[one].key == reports[other].key:
            raise ConfigError(
                f"{names[one]} and {names[other]} have the same identity key; name each host once, "
                "or, if they are different hosts, remove identity.pem on one of them",
                code="host-repeated",
            )


# -- cables and RDMA devices -------------------------------------------------------------------------------------------


def find_cables(reports: Sequence[HostReport]) -> list[Cable]:
    """Return the Thunderbolt cables between the hosts, the fastest of each pair first."""
    ends: dict[str, End] = {}
    seen: dict[tuple[str, str], int] = {}
    repeated: set[str] = set()
    for host, report in enumerate(reports):
        for port in report.ports:
            if port.domain in ends:
                repeated.add(port.domain)
            ends[port.domain] = End(host, port.interface or "", port.domain)
            seen |= {(port.domain, link.domain): link.speed for link in port.links}
    for domain in repeated:  # the port is ambiguous
        del ends[domain]
    cables = [
        Cable((ends[here], ends[there]), min(speed, seen[there, here]))
        for (here, there), speed in seen.items()
        if here in ends and there in ends and (there, here) in seen and ends[here].host < ends[there].host
    ]
    return sorted(cables, key=lambda cable: (cable.ends[0].host, cable.ends[1].host, -cable.speed, cable.ends))


def _has_rdma(reports: Sequence[HostReport], names: Sequence[str], remarks: list[str]) -> bool:
    lacking = [name for name, report in zip(names, reports, strict=True) if not report.devices]
    if lacking and len(lacking) < len(reports):
        remarks.append(
            f"ring instead of jaccl: no RDMA device on {', '.join(lacking)}; see jaccl-bootstrap doctor there"
        )
    return not lacking


def _devices(
    reports: Sequence[HostReport], names: Sequence[str], cables: Sequence[Cable]
) -> tuple[tuple[int, ...], DeviceMatrix, Literal["mesh", "ring"]]:
    """Return the hosts in rank order, their device matrix, and its shape."""
    size = len(reports)
    for name, report in zip(names, reports, strict=True):
        if not report.devices:
            raise ConfigError(
                f"{name} lists no RDMA device (ibv_devices); run jaccl-bootstrap doctor --backend jaccl there, "
                "or use --backend ring",
                code="no-rdma-device",
            )
    wires = _wires(reports, cables)
    order = tuple(range(size))
    if size <= MAX_MESH and all(pair in wires for pair in combinations(order, 2)):
        return order, _matrix(wires, order, lambda one, other: one != other), "mesh"
    ring = _path(size, wires, closed=True)
    if ring is None:
        raise _not_joined(reports, names, cables, wires)
    matrix = _matrix(wires, ring, lambda one, other: (one - other) % size in (1, size - 1), MAX_WIRES)
    return ring, matrix, "ring"


def _wires(reports: Sequence[HostReport], cables: Sequence[Cable]) -> Wires:
    """Assign each pair its cables between RDMA devices, the usable ones if there are any.

    A port behind a hub leads to several hosts, but can serve only one. The pairs with the fewest cables choose first.
    """
    devices = [{device.name: device.usable for device in report.devices} for report in reports]
    candidates: dict[tuple[int, int], list[tuple[tuple[str, str], bool]]] = {}
    for cable in cables:
        one, other = cable.ends
        pair = (f"{DEVICE_PREFIX}{one.interface}", f"{DEVICE_PREFIX}{other.interface}")
        if pair[0] in devices[one.host] and pair[1] in devices[other.host]:
            usable = devices[one.host][pair[0]] and devices[other.host][pair[1]]
            candidates.setdefault((one.host, other.host), []).append((pair, usable))
    wires: Wires = {}
    taken: set[tuple[int, str]] = set()
    for spare in (False, True):  # one cable for each pair, then the rest
        for hosts in sorted(candidates, key=lambda hosts: len(candidates[hosts])):
            found = candidates[hosts]
            best = [pair for pair, usable in found if usable] or [pair for pair, _ in found]
            for pair in best:
                used = {(hosts[0], pair[0]), (hosts[1], pair[1])}
                if used & taken or (hosts in wires and not spare):
                    continue
                taken |= used
                wires.setdefault(hosts, []).append(pair[0])
                wires.setdefault(hosts[::-1], []).append(pair[1])
    return wires


def _matrix(
    wires: Wires, order: Sequence[int], joined: Callable[[int, int], bool], most: int | None = None
) -> DeviceMatrix:
    """Return a row per rank, with the same number of devices for each joined pair: JACCL uses no more."""
    ranks = range(len(order))
    rows = {(r, c): wires[order[r], order[c]] for r in ranks for c in ranks if joined(r, c)}
    count = min([len(devices) for devices in rows.values()] + ([] if most is None else [most]))
    return tuple(
        tuple(None if (r, c) not in rows else rows[r, c][0] if count == 1 else tuple(rows[r, c][:count]) for c in ranks)
        for r in ranks
    )


def _path(size: int, wires: Wires, *, closed: bool) -> tuple[int, ...] | None:
    """Return all hosts in an order in which neighbours are joined, the given order if possible; None if there is none.

    With `closed` the last and the first are joined too. The search gives up after MAX_STEPS.
    """
    steps = 0
    for first in [0] if closed else range(size):
        path = [first]
        choices = [iter([host for host in range(size) if (first, host) in wires])]
        while choices:
            steps += 1
            if steps > MAX_STEPS:
                return None
            following = next((host for host in choices[-1] if host not in path), None)
            if following is None:
                choices.pop()
                path.pop()
                continue
            path.append(following)
            if len(path) == size and (not closed or (following, first) in wires):
                return tuple(path)
            choices.append(iter([host for host in range(size) if (following, host) in wires]))
    return None


def _not_joined(
    reports: Sequence[HostReport], names: Sequence[str], cables: Sequence[Cable], wires: Wires
) -> ConfigError:
    """Return an error about a pair that needs a cable: the ends of a line, else the first pair without a cable."""
    size = len(reports)
    line = _path(size, wires, closed=False) or (0, 1)
    pairs = [(min(line[0], line[-1]), max(line[0], line[-1])), *combinations(range(size), 2)]
    one, other = next(pair for pair in pairs if pair not in wires)
    between = [cable for cable in cables if (cable.ends[0].host, cable.ends[1].host) == (one, other)]
    remedy = "connect them" if size == 2 else "connect them for a ring, or each pair for a mesh"
    if not between:
        what = f"no Thunderbolt cable joins {names[one]} and {names[other]}"
    else:
        what, remedy = _unusable(reports, names, between[0]), "run jaccl-bootstrap doctor --backend jaccl there"
    return ConfigError(f"{what}; {remedy}, or use --backend ring", code="no-cable")


def _unusable(reports: Sequence[HostReport], names: Sequence[str], cable: Cable) -> str:
    """Return why JACCL cannot use a cable."""
    one, other = (names[end.host] for end in cable.ends)
    for end in cable.ends:
        if not end.interface:
            return f"the cable between {one} and {other} is at a port of {names[end.host]} without an interface"
        device = f"{DEVICE_PREFIX}{end.interface}"
        if device not in [each.name for each in reports[end.host].devices]:
            return (
                f"the cable between {one} and {other} is at {end.interface} of {names[end.host]}, which has no {device}"
            )
    return f"the ports of the cable between {one} and {other} also lead to other hosts, through a hub"


# -- addresses ---------------------------------------------------------------------------------------------------------


def _in_order(cables: Sequence[Cable], order: Sequence[int]) -> list[Cable]:
    """Return the cables with ranks instead of host indexes."""
    ranks = {host: rank for rank, host in enumerate(order)}
    moved = []
    for cable in cables:
        one, other = sorted(end._replace(host=ranks[end.host]) for end in cable.ends)
        moved.append(Cable((one, other), cable.speed))
    return moved


def _addresses(
    reports: Sequence[HostReport], names: Sequence[str], cables: Sequence[Cable], resolve: Resolve
) -> tuple[tuple[str, ...], ...]:
    """Return the addresses of each rank: from the cables of a pair, else the best common network, else the names."""
    if len(reports) == 2 and (pairs := list(_cable_addresses(reports, cables))):
        return tuple(zip(*pairs, strict=True))
    networks = list(_networks(reports))
    if networks:
        return tuple((ip,) for ip in max(networks, key=lambda network: network.rating).ips)
    return _named(reports, names, resolve)


def _cable_addresses(reports: Sequence[HostReport], cables: Sequence[Cable]) -> Iterator[tuple[str, str]]:
    """Yield the addresses at both ends of each cable between two hosts."""
    held: list[dict[str, list[Interface]]] = []
    for report in reports:
        held.append({})
        for interface in report.interfaces:
            held[-1].setdefault(interface.name, []).append(interface)
    for cable in cables:
        one, other = (held[end.host].get(end.interface, []) for end in cable.ends)
        yield from [
            (a.ip, b.ip) for a in one for b in other if a.address.network == b.address.network and a.ip != b.ip
        ][:1]


class _Network(NamedTuple):
    """A network that all hosts share: their addresses and its rating."""

    rating: tuple[bool, int, bool]
    """Whether it is over Thunderbolt, its speed, and whether its addresses are permanent."""
    ips: tuple[str, ...]


def _networks(reports: Sequence[HostReport]) -> Iterator[_Network]:
    """Find the networks that all hosts share.

    The same address on two hosts means different networks with the same number, as with containers. So does a second
    interface in 169.254.0.0/16, where each interface assigns itself an address.
    """
    members: list[dict[tuple[IPv4Network, bool], list[Interface]]] = []
    for report in reports:
        members.append({})
        for interface in report.interfaces:
            if not interface.address.is_loopback:
                over_thunderbolt = interface.address.is_link_local and interface.thunderbolt
                members[-1].setdefault((interface.address.network, over_thunderbolt), []).append(interface)
    for key in members[0]:
        if all(key in own for own in members[1:]):
            found = [own[key] for own in members]
            first = [own[0] for own in found]
            ips = tuple(own.ip for own in first)
            alone = all(len({each.name for each in own}) == 1 for own in found)
            if len({*ips}) == len(ips) and (alone or not first[0].address.is_link_local):
                over_thunderbolt = all(own.thunderbolt for own in first)
                speed = min(own.speed or 0 for own in first)
                yield _Network((over_thunderbolt, speed, not first[0].address.is_link_local), ips)


def _named(reports: Sequence[HostReport], names: Sequence[str], resolve: Resolve) -> tuple[tuple[str, ...], ...]:
    """Return the addresses of the hosts' names, which the hosts must have, and of which all or none may be loopback."""
    found: list[str] = []
    for rank, (report, name) in enumerate(zip(reports, names, strict=True)):
        try:
            ip = resolve(name.rpartition("@")[2])
        except OSError as error:
            raise _no_network(names, rank, f"the name {names[rank]} has no IPv4 address ({error})") from error
        if not IPv4Address(ip).is_loopback and ip not in [each.ip for each in report.interfaces]:
            raise _no_network(names, rank, f"{names[rank]} does not have {ip}, the address of its name")
        found.append(ip)
    loopback = [IPv4Address(ip).is_loopback for ip in found]
    if any(loopback) and not all(loopback):
        rank = loopback.index(True)
        raise _no_network(names, rank, f"the name {names[rank]} has the loopback address {found[rank]}")
    return tuple((ip,) for ip in found)


def _no_network(names: Sequence[str], rank: int, why: str) -> ConfigError:
    one, other = sorted((rank, 0 if rank else 1))
    return ConfigError(
        f"{names[one]} and {names[other]} share no IPv4 network, and {why}; connect them, or give the addresses in a "
        "--hostfile",
        code="no-common-network",
    )


def _over_thunderbolt(reports: Sequence[HostReport], all_ips: Sequence[Sequence[str]]) -> bool:
    return all(
        any(each.ip == ips[0] and each.thunderbolt for each in report.interfaces)
        for report, ips in zip(reports, all_ips, strict=True)
    )
