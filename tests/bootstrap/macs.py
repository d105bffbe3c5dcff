"""Macs joined by Thunderbolt cables, hubs and docks, and the output of their tools, key by key as on a real Mac.

Written after outputs that owners of Macs have published, and after what mlx.distributed_config reads. Names, addresses
and identifiers are made up.
"""

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest

from bootstrap.launch.survey import HostReport, survey
from bootstrap.system.tools import ToolResult
from bootstrap.tools import tools_run_by

INTERFACES = tuple(f"en{number}" for number in range(2, 60))
"""Ports in the order of their numbers. A Mac has six at most; the tests of hostfiles use more."""

Cables = Sequence[tuple[int, int]]


def mesh(size: int, count: int = 1) -> Cables:
    return [pair for pair in combinations(range(size), 2) for _ in range(count)]


def line(size: int) -> Cables:
    return [(host, host + 1) for host in range(size - 1)]


def ring(size: int, count: int = 1) -> Cables:
    return [(host, (host + 1) % size) for host in range(size) for _ in range(count)]


class End(NamedTuple):
    """A port of a Mac, counted from 0."""

    mac: int
    port: int


class Macs:
    """A cluster. `hub` puts one hub, or a chain of several, on each cable; `star` joins all Macs by one hub."""

    def __init__(
        self,
        names: Sequence[str],
        cables: Cables,
        *,
        hubs: int = 0,
        star: bool = False,
        speed: str = "80 Gb/s",
        rdma: bool = True,
        addresses: Callable[[End], str | None] = lambda end: None,
        lan: Callable[[int], str | None] = lambda mac: f"10.0.0.{mac + 1}",
    ) -> None:
        self.names = names
        self.hubs, self.speed = hubs, speed
        self.rdma = [rdma] * len(names)
        self.addresses, self.lan = addresses, lan
        self.down: set[End] = set()
        self._leads: list[dict[int, list[End]]] = [{} for _ in names]  # by port
        for cable in cables:
            ends = [End(mac, len(self._leads[mac])) for mac in cable]
            for end, other in (ends, ends[::-1]):
                self._leads[end.mac][end.port] = [other]
        if star:
            ends = [End(mac, len(self._leads[mac])) for mac in range(len(names))]
            for end in ends:
                self._leads[end.mac][end.port] = [other for other in ends if other != end]
            self.hubs = max(self.hubs, 1)

    def joined(self, one: End, other: End) -> bool:
        return other in self._leads[one.mac].get(one.port, [])

    def reports(self, home: Path) -> list[HostReport]:
        """Survey all of them, like the launcher. Each has its identity key in a directory below `home`."""
        return [self.report(mac, home) for mac in range(len(self.names))]

    def report(self, mac: int, home: Path) -> HostReport:
        with pytest.MonkeyPatch.context() as patch, tools_run_by(lambda argv, seconds: self.run(mac, argv)):
            patch.setenv("XDG_CONFIG_HOME", str(home / str(mac)))
            patch.setattr(psutil, "net_if_addrs", lambda: self.net_if_addrs(mac))
            patch.setattr(psutil, "net_if_stats", lambda: self.net_if_stats(mac))
            return msgspec.json.decode(msgspec.json.encode(survey()), type=HostReport)

    def run(self, mac: int, argv: Sequence[str]) -> ToolResult:
        text = self.answer(mac, " ".join(argv))
        return ToolResult(status="missing") if text is None else ToolResult(status="ok", stdout=text, returncode=0)

    def answer(self, mac: int, command: str) -> str | None:
        match command.split():
            case ["system_profiler", "SPThunderboltDataType", "-json"]:
                return json.dumps({"SPThunderboltDataType": [self._bus(mac, port) for port in self._ports(mac)[::-1]]})
            case ["networksetup", "-listallhardwareports"]:
                return self._hardware(mac)
            case ["ibv_devices"]:
                rows = [f"    rdma_{INTERFACES[port]}        \te0c57900000000{port:02x}\n" for port in self._ports(mac)]
                return "    device          \t   node GUID\n    ------          \t----------------\n" + "".join(
                    rows if self.rdma[mac] else []
                )
            case ["ibv_devinfo", "-v", "-d", device]:
                return self._devinfo(End(mac, INTERFACES.index(device.removeprefix("rdma_"))))
            case ["ipconfig", "getifaddr", interface]:
                ip = self.lan(mac)
                return f"{ip}\n" if ip is not None and interface == "en0" else ""
        return None

    def net_if_addrs(self, mac: int) -> dict[str, list[Any]]:
        held = {"lo0": ("127.0.0.1", "255.0.0.0"), "en0": (self.lan(mac), "255.255.255.0")}
        held |= {INTERFACES[port]: (self.addresses(End(mac, port)), "255.255.0.0") for port in self._ports(mac)}
        return {name: [Address(ip, mask)] for name, (ip, mask) in held.items() if ip is not None}

    def net_if_stats(self, mac: int) -> dict[str, Any]:
        return {name: Stats(True, 1000 if name == "en0" else 0) for name in self.net_if_addrs(mac)}

    def _ports(self, mac: int) -> range:
        return range(max(3, len(self._leads[mac])))

    def _uuid(self, end: End) -> str:
        return f"{end.mac:08X}-0000-4000-8000-{end.port:012X}"

    def _bus(self, mac: int, port: int) -> dict[str, object]:
        others = self._leads[mac].get(port, [])
        items: list[dict[str, object]] = [self._mac(end) for end in others]
        for number in range(self.hubs if others else 0):
            items = [self._hub(number, items)]
        bus: dict[str, object] = {"_items": items} if items else {}
        return bus | {
            "_name": f"thunderboltusb4_bus_{port}",
            "device_name_key": "Mac Studio",
            "domain_uuid_key": self._uuid(End(mac, port)),
            "receptacle_1_tag": {
                "current_speed_key": self.speed if others else "Up to 120 Gb/s",
                "link_status_key": "0x2" if others else "0x100",
                "receptacle_id_key": str(port + 1),
                "receptacle_status_key": "receptacle_connected" if others else "receptacle_no_devices_connected",
            },
            "route_string_key": "0",
            "switch_uid_key": f"0x{mac:08X}{port:08X}",
            "vendor_name_key": "Apple Inc.",
        }

    def _mac(self, end: End) -> dict[str, object]:
        return {
            "_name": "Mac Studio",
            "device_id_key": "0xA",
            "device_name_key": "Mac16,9",
            "domain_uuid_key": self._uuid(end),
            "services_title": [{"_name": "service_ip", "protocol_id_key": 1}],
            "vendor_id_key": "0x0A27",
            "vendor_name_key": "Apple Inc.",
        }

    def _hub(self, number: int, items: list[dict[str, object]]) -> dict[str, object]:
        status = {"link_status_key": "0x2", "receptacle_status_key": "receptacle_connected"}
        return {
            "_items": items,
            "_name": "Thunderbolt 5 Hub",
            "device_id_key": f"0x{number:X}",
            "device_name_key": "Thunderbolt 5 Hub",
            "mode_key": "usb_four_v2",
            "receptacle_2_tag": {"current_speed_key": self.speed, **status},
            "receptacle_upstream_ambiguous_tag": {"current_speed_key": self.speed, **status},
            "route_string_key": "1",
            "switch_uid_key": f"0xFFFF{number:012X}",
            "vendor_name_key": "Maker",
        }

    def _hardware(self, mac: int) -> str:
        ports = [("Ethernet", "en0"), ("Wi-Fi", "en1"), ("Thunderbolt Bridge", "bridge0")]
        ports += [(f"Thunderbolt {port + 1}", INTERFACES[port]) for port in self._ports(mac)]
        texts = [
            f"\nHardware Port: {port}\nDevice: {device}\nEthernet Address: 02:00:00:00:00:01\n"
            for port, device in ports
        ]
        return "".join(texts) + "\nVLAN Configurations\n===================\n"

    def _devinfo(self, end: End) -> str:
        up = end.port in self._leads[end.mac] and end not in self.down
        ip = self.addresses(end)
        gids = ["fe80::347c:94ff:fecd:45c4", *([f"::ffff:{ip}"] if ip is not None else [])]
        rows = [
            f"state:\t\t\t{'PORT_ACTIVE (4)' if up else 'PORT_DOWN (1)'}",
            "active_mtu:\t\t4096 (5)",
            "link_layer:\t\tThunderbolt",
            *(f"GID[  {index}]:\t\t{gid}" for index, gid in enumerate(gids)),
        ]
        return f"hca_id:\trdma_{INTERFACES[end.port]}\n\t\tport:\t1\n" + "".join(f"\t\t\t{row}\n" for row in rows)


class Address(NamedTuple):
    """In the format of psutil."""

    address: str
    netmask: str
    family: int = 2


class Stats(NamedTuple):
    """In the format of psutil."""

    isup: bool
    speed: int
