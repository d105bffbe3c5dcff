"""What macOS's own tools say: `sw_vers`, `system_profiler`, `networksetup`, `ifconfig`."""

import json
import re
from dataclasses import dataclass
from typing import Final, Literal

_VERSION: Final = re.compile(r"^ProductVersion:\s+(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?$", re.ASCII | re.MULTILINE)
_RECEPTACLE: Final = re.compile(r"receptacle_\d+_tag", re.ASCII)
_SPEED: Final = re.compile(r"(Up to )?(\d{1,4}) Gb/s", re.ASCII)
_HARDWARE_PORT: Final = re.compile(r"^Hardware Port: (.+)\nDevice: (\S+)$", re.MULTILINE)
_FLAGS: Final = re.compile(r"\S+: flags=[0-9a-f]+<([A-Z0-9,]*)>")
_MEMBER: Final = re.compile(r"^\s+member: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Thunderbolt:
    """`generation`: 5 from 80 Gb/s, 4 below, None where no port tells; `links`: Gb/s to each other computer."""

    generation: Literal[4, 5] | None
    links: tuple[int, ...]


def parse_sw_vers(text: str) -> tuple[int, int] | None:
    """The version of macOS, (26, 2) of 26.2.1."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2])) if match else None


def parse_thunderbolt(text: str) -> Thunderbolt | None:
    """What `system_profiler SPThunderboltDataType -json` tells of this Mac's own ports, None where of none.

    A free port tells the most that it can do ("Up to 120 Gb/s"), one in use only what the two sides agreed on, so
    a slow link is no proof of a slow Mac. The ports of what is attached stand deeper and do not count.
    """
    try:
        buses = json.loads(text)["SPThunderboltDataType"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    able: list[int] = []
    links: list[int] = []
    ports = 0
    for bus in _objects(buses):
        for free, speed in _ports(bus):
            ports += 1
            if free or speed >= 80:
                able.append(speed)
            if not free and any("domain_uuid_key" in item for item in _objects(bus.get("_items"))):
                links.append(speed)
    if not ports:
        return None
    generation: Literal[4, 5] | None = None if not able else 5 if max(able) >= 80 else 4
    return Thunderbolt(generation, tuple(links))


def parse_hardware_ports(text: str) -> dict[str, str]:
    """Port by device, `{"en1": "Thunderbolt 1"}`, of `networksetup -listallhardwareports`."""
    return {device: port for port, device in _HARDWARE_PORT.findall(text)}


def parse_bridge(text: str) -> tuple[str, ...]:
    """The members of a bridge that is up, of `ifconfig bridge0`; none of one that is down."""
    flags = _FLAGS.match(text)
    return tuple(_MEMBER.findall(text)) if flags and "UP" in flags[1].split(",") else ()


def _objects(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _ports(bus: dict[str, object]) -> list[tuple[bool, int]]:
    """Whether it is free, and its Gb/s, of each of a bus's ports."""
    tags = [tag for key, tag in bus.items() if _RECEPTACLE.fullmatch(key) and isinstance(tag, dict)]
    speeds = [_SPEED.fullmatch(str(tag.get("current_speed_key"))) for tag in tags]
    return [(speed[1] is not None, int(speed[2])) for speed in speeds if speed]
