"""Parses macOS's `sw_vers`, `system_profiler`, `networksetup`, `ifconfig` and `arp`; see `rdma` for RDMA's tools."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Literal, NamedTuple

_VERSION: Final = re.compile(r"^ProductVersion:\s+(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?$", re.ASCII | re.MULTILINE)
_RECEPTACLE: Final = re.compile(r"receptacle_\d+_tag", re.ASCII)
_UPSTREAM: Final = re.compile(r"receptacle_upstream\w*_tag", re.ASCII)
_SPEED: Final = re.compile(r"([^\d]*)(\d{1,4})(?:[.,]\d+)?\s*Gb/s(?:\s*[x×]\s*(\d{1,2}))?\s*", re.ASCII)
_HARDWARE_PORT: Final = re.compile(r"^Hardware Port: (.+)\nDevice: (\S+)$", re.MULTILINE)
_INTERFACE: Final = re.compile(r"^(\S+): flags=[0-9a-f]+<([A-Z0-9,]*)>", re.MULTILINE)
_MEMBER: Final = re.compile(r"^\s+member: (\S+)", re.MULTILINE)
_INET: Final = re.compile(r"^\s+inet (\d{1,3}(?:\.\d{1,3}){3})\b", re.ASCII | re.MULTILINE)
_ARP: Final = re.compile(r"\((\d{1,3}(?:\.\d{1,3}){3})\)", re.ASCII)


class Link(NamedTuple):
    """A link to another computer: its slowest `speed` in Gb/s, the computer's `name`, the UUID of its port."""

    speed: int
    name: str
    domain: str


class Port(NamedTuple):
    """A port of this Mac: its UUID, its number as in `Thunderbolt 1` (networksetup), and its links."""

    domain: str | None
    receptacle: str | None
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Thunderbolt:
    """The `generation` is 5 from 80 Gb/s, 4 below, None if unknown."""

    generation: Literal[4, 5] | None
    ports: tuple[Port, ...]

    @property
    def links(self) -> tuple[Link, ...]:
        """The links to other computers."""
        return tuple(link for port in self.ports for link in port.links)


def parse_sw_vers(text: str) -> tuple[int, int] | None:
    """Return the version of macOS: (26, 2) for 26.2.1."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2])) if match else None


def parse_thunderbolt(text: str) -> Thunderbolt | None:
    """Return the ports in `system_profiler SPThunderboltDataType -json`; None without any.

    A free port shows its maximum ("Up to 120 Gb/s"). A port in use shows only what both sides agreed on, so a slow link
    does not prove a slow Mac. Devices form a tree: another Mac may be behind hubs and docks, whose ports limit the
    speed of a link, but say nothing about this Mac.
    """
    try:
        buses = _objects(json.loads(text)["SPThunderboltDataType"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    own = {str(bus["domain_uuid_key"]) for bus in buses if "domain_uuid_key" in bus}
    able: list[int] = []
    ports: list[Port] = []
    for bus in buses:
        speeds = _speeds(bus, _RECEPTACLE)
        able += [speed.gbps for speed in speeds if speed.most or speed.gbps >= 80]
        if speeds:
            in_use = [speed.gbps for speed in speeds if not speed.free] or [speed.gbps for speed in speeds]
            links = tuple(_links(bus, max(in_use), own))
            ports.append(Port(_text(bus.get("domain_uuid_key")), _receptacle(bus), links))
    if not ports:
        return None
    generation: Literal[4, 5] | None = None if not able else 5 if max(able) >= 80 else 4
    return Thunderbolt(generation, tuple(ports))


def parse_hardware_ports(text: str) -> dict[str, str]:
    """Return the port of each device, such as `{"en1": "Thunderbolt 1"}`, from `networksetup -listallhardwareports`."""
    return {device: port for port, device in _HARDWARE_PORT.findall(text)}


def parse_bridges(text: str) -> dict[str, tuple[str, ...]]:
    """Return the members of each bridge that is up, from `ifconfig -a`, whatever the bridge is called."""
    starts = list(_INTERFACE.finditer(text))
    bridges = {}
    for match, following in zip_longest(starts, starts[1:]):
        end = len(text) if following is None else following.start()
        members = tuple(_MEMBER.findall(text, match.end(), end))
        if members and "UP" in match[2].split(","):
            bridges[match[1]] = members
    return bridges


def parse_addresses(text: str) -> frozenset[str]:
    """Return the IPv4 addresses in `ifconfig -a`."""
    return frozenset(_INET.findall(text))


def parse_arp(text: str) -> frozenset[str]:
    """Return the addresses in `arp -an`: hosts that this one has communicated with."""
    return frozenset(_ARP.findall(text))


class _Speed(NamedTuple):
    gbps: int
    most: bool
    """The port's maximum."""
    free: bool
    """Nothing is attached."""


def _speeds(device: dict[str, object], key: re.Pattern[str]) -> list[_Speed]:
    """Return the speeds of a device's ports, all lanes together: "40 Gb/s x2" is 80."""
    speeds = []
    for tag in (tag for name, tag in device.items() if key.fullmatch(name) and isinstance(tag, dict)):
        if match := _SPEED.fullmatch(str(tag.get("current_speed_key"))):
            most = bool(match[1].strip())
            free = "no_devices" in str(tag.get("receptacle_status_key", "no_devices" if most else ""))
            speeds.append(_Speed(int(match[2]) * int(match[3] or 1), most, free))
    return speeds


def _links(bus: dict[str, object], speed: int, own: set[str]) -> Iterator[Link]:
    """Find the other computers in a bus's tree. They have their own domain, unlike hubs and docks."""
    waiting = [(item, speed) for item in _objects(bus.get("_items"))][::-1]
    while waiting:
        item, above = waiting.pop()
        here = min([above, *(each.gbps for each in _speeds(item, _UPSTREAM) if not each.free)])
        domain = item.get("domain_uuid_key")
        if domain is not None and str(domain) not in own:
            name = item.get("device_name_key") or item.get("_name")
            yield Link(here, name if isinstance(name, str) else "another Mac", str(domain))
            continue
        # The tool does not say which port leads to which device, so assume the fastest one in use.
        down = [each.gbps for each in _speeds(item, _RECEPTACLE) if not each.free]
        below = min(here, max(down)) if down else here
        waiting += [(each, below) for each in _objects(item.get("_items"))][::-1]


def _receptacle(bus: dict[str, object]) -> str | None:
    """Return the number of a bus's port, as in the name of the hardware port `Thunderbolt 1`."""
    tags = [tag for name, tag in bus.items() if _RECEPTACLE.fullmatch(name) and isinstance(tag, dict)]
    return next((text for tag in tags if (text := _text(tag.get("receptacle_id_key")))), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _objects(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
