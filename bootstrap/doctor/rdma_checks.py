"""The doctor's checks of what JACCL alone needs: Thunderbolt 5, RDMA enabled, a port that is up and has an address."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from bootstrap.doctor.checks import USE_RING, Check, Mlx
from bootstrap.doctor.macos import parse_bridge, parse_hardware_ports, parse_thunderbolt
from bootstrap.doctor.rdma import ACTIVE, device_for, local_rdma_devices, parse_rdma_ctl, port_of, usable
from bootstrap.doctor.system import run_tool
from bootstrap.errors import ConfigError

PROFILER_SECONDS: Final = 10.0
_REBOOT: Final = "sudo reboot"
_WEDGED: Final = "the driver of a port is wedged"


def gather_factory(mlx: Mlx) -> Check:
    name = "gather-factory"
    if mlx.gather_factory:
        return Check(name, "green", "MLX can be given another side channel (all_gather_factory)")
    cause = "MLX before 0.32.1: its side channel is a TCP port that trusts every byte"
    return Check(name, "yellow", f"MLX {mlx.version} knows no all_gather_factory", cause, "pip install --upgrade mlx")


def thunderbolt() -> tuple[Literal[4, 5] | None, Check]:
    """The generation of this Mac's ports. It comes before all advice to enable what the hardware may not have."""
    name = "thunderbolt"
    told = run_tool(["system_profiler", "SPThunderboltDataType", "-json"], PROFILER_SECONDS)
    found = parse_thunderbolt(told.stdout)
    if found is None or (found.generation is None and not found.links):
        cause = "system_profiler fails, hangs, or knows no Thunderbolt port"
        return None, Check(
            name, "yellow", "the Thunderbolt ports cannot be told", cause, "system_profiler SPThunderboltDataType"
        )
    if found.generation == 4:
        cause = "the ports of this Mac are Thunderbolt 4 or older (40 Gb/s), where no setting gives RDMA"
        return 4, Check(name, "red", "no port does more than 40 Gb/s", cause, USE_RING)
    own = "Thunderbolt 5" if found.generation else "ports of unknown speed"
    if not found.links:
        cause = "no cable, or the other Mac is off or asleep"
        return found.generation, Check(name, "yellow", f"{own}, no other Mac attached", cause, "connect the two Macs")
    evidence = f"{own}, linked at {', '.join(f'{speed} Gb/s' for speed in found.links)}"
    if max(found.links) < 80:
        cause = "the cable or the other Mac is Thunderbolt 4 or older"
        return found.generation, Check(name, "yellow", evidence, cause, "use a Thunderbolt 5 cable (80 Gb/s)")
    return found.generation, Check(name, "green", evidence)


def rdma_ctl(generation: Literal[4, 5] | None) -> Check:
    name = "rdma-ctl"
    told = run_tool(["rdma_ctl", "status"])
    state = parse_rdma_ctl(told.stdout)
    if state == "enabled":
        return Check(name, "green", "RDMA is enabled")
    if state == "disabled":
        only = "" if generation == 5 else "on a Mac with Thunderbolt 5, "
        mend = f"{only}restart into macOS Recovery, open Utilities, Terminal, and run: rdma_ctl enable"
        return Check(name, "red", "RDMA is disabled", "it is so until it is enabled once from Recovery", mend)
    said = (told.stdout or told.stderr).strip() or "nothing"
    evidence = "rdma_ctl status hangs" if told.status == "hung" else f"rdma_ctl status says: {said}"
    return Check(name, "yellow", evidence, "another macOS than this check knows", "rdma_ctl status")


def rdma_devices(named: Sequence[str]) -> tuple[list[str], Check]:
    """The devices that are there, and whether each is that a hostfile names for this host."""
    name = "rdma-devices"
    try:
        devices = local_rdma_devices()
    except ConfigError:
        return [], Check(name, "red", "ibv_devices hangs", _WEDGED, _REBOOT)
    if not devices:
        cause = "RDMA is not enabled, or this Mac has no Thunderbolt 5"
        return [], Check(name, "red", "ibv_devices lists none", cause, USE_RING)
    there = ", ".join(devices)
    missing = [device for device in named if device not in devices]
    if missing:
        evidence = f"the hostfile names {', '.join(missing)} for this host; there is {there}"
        cause = "names differ from Mac to Mac, and can change after a reboot"
        return devices, Check(name, "red", evidence, cause, "correct this host's `rdma` in the hostfile")
    return devices, Check(name, "green", there)


def bridge() -> Check:
    name = "bridge"
    ports = parse_hardware_ports(run_tool(["networksetup", "-listallhardwareports"]).stdout)
    for device in (device for device, port in ports.items() if port == "Thunderbolt Bridge"):
        members = parse_bridge(run_tool(["ifconfig", device]).stdout)
        if members:
            cause = "macOS makes it by itself; it takes the ports that RDMA needs"
            evidence = f"{device} is up, with {', '.join(members)}"
            return Check(name, "yellow", evidence, cause, f"sudo ifconfig {device} down")
    return Check(name, "green", "no Thunderbolt bridge is up")


def rdma_ports(own_ip: str | None, named: Sequence[str], there: Sequence[str]) -> Iterator[Check]:
    """The ports that this rank would use: those named, else that of its own address, else any that is good."""
    if not named and own_ip is None:
        checks = [_port(device, None) for device in there]
        yield next((check for check in checks if check.verdict == "green"), checks[0])
        return
    try:
        devices = named or [device_for(str(own_ip))]
    except ConfigError as error:
        what, _, mend = str(error).removeprefix("jaccl: ").partition("; ")
        cause = "the address is not on a Thunderbolt port that RDMA can use"
        yield Check("rdma-port", "red", what, cause, mend)
        return
    for device in devices:
        yield _port(device, own_ip)


def _port(device: str, own_ip: str | None) -> Check:
    name = "rdma-port"
    try:
        port = port_of(device)
    except ConfigError as error:
        if error.code == "rdma-query-hangs":
            return Check(name, "red", f"ibv_devinfo -v -d {device} hangs", _WEDGED, _REBOOT)
        return Check(name, "red", str(error).removeprefix("jaccl: "), "the port cannot be asked", _REBOOT)
    reason = usable(port)
    if reason is None:
        told = [port.state, port.link_layer, f"MTU {port.active_mtu}", *(f"::ffff:{ip}" for ip in port.ipv4)]
        return Check(name, "green", f"{device}: {', '.join(str(each) for each in told)}")
    if port.state != ACTIVE:
        cause = "no cable, or RDMA is not enabled on the other Mac"
        return Check(
            name, "red", reason, cause, f"on the other Mac: jaccl-bootstrap doctor; here: ibv_devinfo -d {device}"
        )
    interface = device.removeprefix("rdma_")
    cause = "a self-assigned address is not there yet, which can take minutes, or the bridge has taken the port"
    mend = f"sudo ifconfig {interface} inet {own_ip or '169.254.1.1'} netmask 255.255.0.0 alias"
    return Check(name, "red", reason, cause, mend)
