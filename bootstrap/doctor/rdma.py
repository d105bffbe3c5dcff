"""RDMA devices, from `rdma_ctl status`, `ibv_devices` and `ibv_devinfo`."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final, Literal

from bootstrap.errors import ConfigError
from bootstrap.system.network import interface_of
from bootstrap.system.tools import ToolResult
from bootstrap.tools import SECONDS, run_tool

ACTIVE: Final = "PORT_ACTIVE"
_DEVICE_LINE: Final = re.compile(r"\s*([\w.:-]+)\s+[0-9a-f]{16}\b", re.ASCII)
_FIELD: Final = re.compile(r"\s*(state|active_mtu|link_layer):\s+(\S+)", re.ASCII)
_GID: Final = re.compile(r"\s*GID\[\s*\d+\]:\s+([0-9A-Fa-f:.]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RdmaPort:
    """The first port of a device: `state` such as PORT_ACTIVE, `link_layer` such as Thunderbolt, the MTU in bytes."""

    device: str
    state: str
    link_layer: str | None = None
    active_mtu: int | None = None
    gids: tuple[IPv6Address, ...] = ()

    @property
    def ipv4(self) -> tuple[str, ...]:
        """The addresses in IPv4-mapped GIDs (`::ffff:a.b.c.d`), the only GIDs that JACCL uses."""
        return tuple(str(gid.ipv4_mapped) for gid in self.gids if gid.ipv4_mapped is not None)


def local_rdma_devices() -> list[str]:
    """Return the names that `ibv_devices` lists; none if the tool is missing or fails."""
    result = _answer("ibv_devices")
    return parse_ibv_devices(result.stdout) if result.status == "ok" else []


def device_for(ip: str) -> str:
    """Return the RDMA device of the interface with address `ip`: `rdma_en5` for `en5`."""
    interface = interface_of(ip)
    if interface is None:
        text = f"jaccl: no interface of this host has the address {ip}; use one that `ifconfig` shows"
        raise ConfigError(text, code="no-interface")
    if interface.startswith("bridge"):
        raise ConfigError(
            f"jaccl: {ip} is on {interface}, which is not an RDMA device; take the Thunderbolt bridge down "
            f"(sudo ifconfig {interface} down) and use an address of the port itself",
            code="bridge-interface",
        )
    device, names = f"rdma_{interface}", local_rdma_devices()
    if not names:
        text = "jaccl: this host lists no RDMA device (ibv_devices); use --backend ring"
        raise ConfigError(text, code="no-rdma-device")
    if device not in names:
        raise ConfigError(
            f"jaccl: {ip} is on {interface}, but there is no device {device} among {', '.join(names)}; "
            "use the address of a Thunderbolt port",
            code="device-missing",
        )
    return device


def port_of(device: str) -> RdmaPort:
    """Ask `ibv_devinfo -v` for the port of `device`. Raise ConfigError (`rdma-query-failed`) if it names none."""
    result = _answer("ibv_devinfo", "-v", "-d", device)
    # Ignore its exit status: it fails at the end of a long GID table.
    port = parse_ibv_devinfo(device, result.stdout)
    if port is None:
        said = result.stderr.strip().partition("\n")[0] or "nothing about a port"
        raise ConfigError(f"jaccl: ibv_devinfo -v -d {device} says: {said}", code="rdma-query-failed")
    return port


def usable(port: RdmaPort) -> str | None:
    """Return why JACCL cannot use the port; None if it can."""
    if port.state != ACTIVE:
        return f"{port.device} is {port.state}, not {ACTIVE}"
    if not port.ipv4:
        return f"{port.device} has no IPv4-mapped GID (::ffff:), as its interface has no IPv4 address"
    return None


def parse_ibv_devices(text: str) -> list[str]:
    """Return the device names in the output of `ibv_devices`: `name  guid` lines after two header lines."""
    return [match[1] for line in text.splitlines() if (match := _DEVICE_LINE.match(line))]


def parse_ibv_devinfo(device: str, text: str) -> RdmaPort | None:
    """Return the first port in the output of `ibv_devinfo -v`, or None."""
    ports = re.split(r"^\s*port:", text, maxsplit=2, flags=re.MULTILINE)
    lines = ports[1].splitlines() if len(ports) > 1 else []
    fields = {match[1]: match[2] for line in lines if (match := _FIELD.match(line))}
    if "state" not in fields:
        return None
    mtu = fields.get("active_mtu", "")
    return RdmaPort(
        device=device,
        state=fields["state"],
        link_layer=fields.get("link_layer"),
        active_mtu=int(mtu) if re.fullmatch("[0-9]{1,6}", mtu) else None,
        gids=tuple(gid for line in lines if (match := _GID.match(line)) and (gid := _ipv6(match[1])) is not None),
    )


def parse_rdma_ctl(text: str) -> Literal["enabled", "disabled"] | None:
    """Return the state in the output of `rdma_ctl status`; None if it is unclear."""
    said = set(re.findall(r"\bnot enabled\b|\benabled\b|\bdisabled\b", text.lower()))
    if said == {"enabled"}:
        return "enabled"
    return "disabled" if said and "enabled" not in said else None


def _ipv6(text: str) -> IPv6Address | None:
    try:
        return IPv6Address(text)
    except AddressValueError:
        return None


def _answer(*argv: str) -> ToolResult:
    result = run_tool(argv)
    if result.status == "hung":
        text = f"jaccl: {argv[0]} hangs ({SECONDS:.0f} s); reboot this host, or use --backend ring"
        raise ConfigError(text, code="rdma-query-hangs")
    return result
