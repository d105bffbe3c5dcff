"""A host's report for a launch: its key, networks, RDMA devices and Thunderbolt ports.

`survey` runs on each host. The launcher does not trust the report: decoding `HostReport` bounds and checks every value.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Interface
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import msgspec

from bootstrap.doctor.macos import Port as ThunderboltPort
from bootstrap.doctor.macos import parse_hardware_ports, parse_thunderbolt
from bootstrap.doctor.rdma import local_rdma_devices, port_of, usable
from bootstrap.errors import ConfigError
from bootstrap.plan import check_ip
from bootstrap.system.network import networks
from bootstrap.tools import run_tool
from bootstrap.trust import decode_public_key, encode_public_key, load_identity

PROFILER_SECONDS: Final = 10.0
DEVICE_PREFIX: Final = "rdma_"
"""A device is named after its interface: `rdma_en5` for `en5`."""
MAX_INTERFACES: Final = 256
MAX_PORTS: Final = 64
"""Limit of Thunderbolt ports, computers behind one, and RDMA devices."""

MAX_SPEED: Final = 10_000_000

_NAME: Final = r"\A[A-Za-z0-9_.:-]{1,64}\Z"
_DEVICE: Final = r"\Ardma_[A-Za-z0-9_.:-]{1,59}\Z"
Name = Annotated[str, msgspec.Meta(pattern=_NAME)]
"""An interface, a device state, or a UUID."""
Speed = Annotated[int, msgspec.Meta(ge=0, le=MAX_SPEED)]
"""In Mb/s."""


class Interface(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An IPv4 address and its interface."""

    name: Name
    ip: Annotated[str, msgspec.Meta(max_length=15)]
    prefix: Annotated[int, msgspec.Meta(ge=0, le=32)]
    """Network bits."""
    thunderbolt: bool = False
    speed: Speed | None = None

    def __post_init__(self) -> None:
        check_ip(self.ip)

    @property
    def address(self) -> IPv4Interface:
        return IPv4Interface(f"{self.ip}/{self.prefix}")


class RdmaDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An RDMA device, `usable` if its port is up and has an IPv4 address."""

    name: Annotated[str, msgspec.Meta(pattern=_DEVICE)]
    state: Name | None = None
    """Such as PORT_ACTIVE; None if unknown."""
    usable: bool = False

    @property
    def interface(self) -> str:
        return self.name.removeprefix(DEVICE_PREFIX)


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A computer behind a port: the UUID of its port, and the speed of the slowest link in between."""

    domain: Name
    speed: Speed


class Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Thunderbolt port: its UUID, interface, and the computers behind it."""

    domain: Name
    interface: Name | None = None
    links: Annotated[tuple[Link, ...], msgspec.Meta(max_length=MAX_PORTS)] = ()


class HostReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="report"):
    """A host: its public identity key in base64, interfaces, devices and ports."""

    key: Annotated[str, msgspec.Meta(max_length=88)]
    interfaces: Annotated[tuple[Interface, ...], msgspec.Meta(max_length=MAX_INTERFACES)] = ()
    devices: Annotated[tuple[RdmaDevice, ...], msgspec.Meta(max_length=MAX_PORTS)] = ()
    ports: Annotated[tuple[Port, ...], msgspec.Meta(max_length=MAX_PORTS)] = ()

    def __post_init__(self) -> None:
        decode_public_key(self.key)

    @property
    def public_key(self) -> bytes:
        return decode_public_key(self.key)


def survey() -> HostReport:
    """Return this host's report, and create its identity key if there is none. Raise IdentityError.

    If a tool is missing, fails or hangs, its part of the report is empty; the doctor's ladder tells why.
    """
    hardware = parse_hardware_ports(run_tool(["networksetup", "-listallhardwareports"]).stdout)
    return HostReport(
        key=encode_public_key(load_identity().public_key),
        interfaces=tuple(islice(_interfaces(hardware), MAX_INTERFACES)),
        devices=tuple(islice(_devices(), MAX_PORTS)),
        ports=tuple(islice(_ports(hardware), MAX_PORTS)),
    )


def _interfaces(hardware: dict[str, str]) -> Iterator[Interface]:
    for name, address, speed in networks():
        if re.fullmatch(_NAME, name) and not address.ip.is_unspecified:
            yield Interface(
                name=name,
                ip=str(address.ip),
                prefix=address.network.prefixlen,
                thunderbolt="thunderbolt" in hardware.get(name, "").lower() or _has_thunderbolt_driver(name),
                speed=speed and min(speed, MAX_SPEED),
            )


def _has_thunderbolt_driver(interface: str) -> bool:
    """Whether it is an interface of Linux's driver for IP over Thunderbolt."""
    return Path(f"/sys/class/net/{interface}/device/driver").resolve().name == "thunderbolt-net"


def _devices() -> Iterator[RdmaDevice]:
    try:
        names = local_rdma_devices()
    except ConfigError:  # ibv_devices hangs
        return
    hangs = False
    for name in names:
        if not re.fullmatch(_DEVICE, name):
            continue
        port = None
        if not hangs:
            try:
                port = port_of(name)
            except ConfigError as error:
                hangs = error.code == "rdma-query-hangs"  # the next query would hang too
        yield RdmaDevice(
            name=name,
            state=None if port is None or not re.fullmatch(_NAME, port.state) else port.state,
            usable=port is not None and usable(port) is None,
        )


def _ports(hardware: dict[str, str]) -> Iterator[Port]:
    told = run_tool(["system_profiler", "SPThunderboltDataType", "-json"], PROFILER_SECONDS)
    found = parse_thunderbolt(told.stdout)
    interfaces = {port: device for device, port in hardware.items()}
    for port in () if found is None else found.ports:
        if port.domain is not None and re.fullmatch(_NAME, port.domain):
            interface = interfaces.get(f"Thunderbolt {port.receptacle}", "")
            yield Port(
                domain=port.domain,
                interface=interface if re.fullmatch(_NAME, interface) else None,
                links=tuple(islice(_links(port), MAX_PORTS)),
            )


def _links(port: ThunderboltPort) -> Iterator[Link]:
    for gbps, _, domain in port.links:
        if re.fullmatch(_NAME, domain):
            yield Link(domain=domain, speed=min(gbps * 1000, MAX_SPEED))
