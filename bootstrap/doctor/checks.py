"""The doctor's checks: system, MLX, Thunderbolt and RDMA, addresses, ports, peers, keys, leftovers."""

import errno
import os
import shlex
import signal
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from bootstrap.control.lock import holder
from bootstrap.doctor.macos import (
    parse_addresses,
    parse_arp,
    parse_bridges,
    parse_hardware_ports,
    parse_sw_vers,
    parse_thunderbolt,
)
from bootstrap.doctor.rdma import ACTIVE, RdmaPort, device_for, local_rdma_devices, parse_rdma_ctl, port_of, usable
from bootstrap.errors import BootstrapError, ConfigError, IdentityError
from bootstrap.plan import Backend, BackendChoice
from bootstrap.system.network import holds, interface_of, interfaces, reserved_ports
from bootstrap.tools import run_tool
from bootstrap.trust import Pins, load_identity
from wireproto.session.handshake import fingerprint

if TYPE_CHECKING:
    import psutil

Verdict = Literal["green", "yellow", "red", "skipped"]
MARKS: Final[dict[Verdict, tuple[str, str]]] = {
    "green": ("✓", "green"),
    "yellow": ("!", "yellow"),
    "red": ("✗", "red"),
    "skipped": ("–", "dim"),
}
"""The mark and colour of a verdict on a terminal."""

FIRST_MACOS: Final = (26, 2)
MLX_SECONDS: Final = 15.0  # the first import after an installation is slow
PEER_SECONDS: Final = 3.0
PROFILER_SECONDS: Final = 10.0
USE_RING: Final = "use --backend ring"
ANY: Final = "0.0.0.0"  # noqa: S104 - nothing listens there

# For a child process, since native code can crash. Only the last line counts: a library may print before. `inspect`
# cannot read the signature of a native function; its docstring starts with it.
_MLX_PROBE: Final = """
import json
import mlx.core as mx
print(json.dumps({
    "version": mx.__version__,
    "backends": [name for name in ("jaccl", "ring") if mx.distributed.is_available(name)],
    "gather_factory": "all_gather_factory" in (mx.distributed.init.__doc__ or ""),
}))
"""
_INSTALL: Final = "pip install --upgrade 'cluster-wireproto[bootstrap]'"
_REBOOT: Final = "sudo reboot"
_WEDGED: Final = "the driver of a port is wedged"
_LONGEST: Final = 300
_FIRST: Final = IPv4Address("169.254.1.0")  # the first and the last 256 of 169.254.0.0/16 are reserved
_COUNT: Final = 254 * 256


@dataclass(frozen=True)
class Check:
    """A result of the ladder. A red or yellow check has a likely `cause` and a `remedy`."""

    name: str
    verdict: Verdict
    evidence: str
    cause: str | None = None
    remedy: str | None = None

    def __post_init__(self) -> None:
        # One line, whatever a tool printed. A remedy is never cut: half a command can be harmful.
        line = "".join(c if c.isprintable() else " " for c in self.evidence)
        object.__setattr__(self, "evidence", " ".join(line.split())[:_LONGEST])


class Mlx(msgspec.Struct, frozen=True):
    """The capabilities of MLX, found out by a child process."""

    version: str
    backends: tuple[Backend, ...]
    gather_factory: bool


def platform(backend: BackendChoice) -> tuple[bool, Check]:
    """Check whether this is macOS and recent enough. Also return whether it is macOS."""
    name, uname = "platform", os.uname()
    told = run_tool(["sw_vers"])
    if told.status == "missing":
        system = f"{uname.sysname} {uname.release} {uname.machine}"
        if backend == "jaccl":
            return False, Check(name, "red", system, "JACCL needs macOS 26.2 or later", USE_RING)
        return False, Check(name, "green", system)
    version = parse_sw_vers(told.stdout)
    if version is None:
        cause = "sw_vers fails, hangs, or prints something unknown"
        return True, Check(name, "yellow", "the version of macOS is unknown", cause, "sw_vers")
    system = f"macOS {version[0]}.{version[1]} {uname.machine}"
    if version >= FIRST_MACOS or backend == "ring":
        return True, Check(name, "green", system)
    cause = "JACCL needs macOS 26.2 or later"
    if backend == "jaccl":
        return True, Check(name, "red", system, cause, "softwareupdate --list")
    return True, Check(name, "yellow", system, cause, "softwareupdate --list, or use --backend ring")


def mlx(backend: BackendChoice) -> tuple[Mlx | None, Check]:
    """Check what MLX can do. It is None only with a red check."""
    name = "mlx"
    told = run_tool([sys.executable, "-P", "-c", _MLX_PROBE], MLX_SECONDS)
    if told.status == "hung":
        evidence = f"import mlx.core takes more than {MLX_SECONDS:.0f} s"
        return None, Check(name, "red", evidence, "a slow disk, or native code that hangs", _INSTALL)
    try:
        found = msgspec.json.decode(_last_line(told.stdout), type=Mlx)
    except msgspec.MsgspecError:
        if told.returncode is not None and told.returncode < 0:
            evidence = f"import mlx.core ended by signal {-told.returncode} ({signal.strsignal(-told.returncode)})"
            return None, Check(name, "red", evidence, "MLX was built for another processor or system", _INSTALL)
        evidence = f"import mlx.core failed: {_last_line(told.stderr)}"
        cause = "MLX is not installed, or only partly: Linux needs mlx[cpu], not mlx"
        return None, Check(name, "red", evidence, cause, _INSTALL)
    evidence = f"MLX {found.version} with {', '.join(found.backends) or 'neither jaccl nor ring'}"
    if not found.backends or (backend != "auto" and backend not in found.backends):
        remedy = USE_RING if "ring" in found.backends else _INSTALL
        return None, Check(name, "red", evidence, "this build of MLX or this system lacks that backend", remedy)
    return found, Check(name, "green", evidence)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


# -- Thunderbolt and RDMA ----------------------------------------------------------------------------------------------


def gather_factory(mlx: Mlx) -> Check:
    name = "gather-factory"
    if mlx.gather_factory:
        return Check(name, "green", "MLX accepts another side channel (all_gather_factory)")
    cause = "MLX before 0.32.1 has only its own side channel, a TCP port that trusts every byte"
    return Check(name, "yellow", f"MLX {mlx.version} has no all_gather_factory", cause, "pip install --upgrade mlx")


def thunderbolt() -> tuple[Literal[4, 5] | None, Check]:
    """Check the generation of this Mac's ports, before advising to enable what the hardware may lack."""
    name = "thunderbolt"
    told = run_tool(["system_profiler", "SPThunderboltDataType", "-json"], PROFILER_SECONDS)
    found = parse_thunderbolt(told.stdout)
    if found is None or (found.generation is None and not found.links):
        cause = "system_profiler fails, hangs, or lists no Thunderbolt port"
        return None, Check(
            name, "yellow", "the Thunderbolt ports are unknown", cause, "system_profiler SPThunderboltDataType"
        )
    if found.generation == 4:
        cause = "the ports of this Mac are Thunderbolt 4 or older (40 Gb/s), which have no RDMA"
        return 4, Check(name, "red", "no port is faster than 40 Gb/s", cause, USE_RING)
    own = "Thunderbolt 5" if found.generation else "ports of unknown speed"
    if not found.links:
        cause = "no cable, or the other Mac is off or asleep"
        return found.generation, Check(name, "yellow", f"{own}, no other Mac attached", cause, "connect the two Macs")
    speeds = [f"{speed} Gb/s" + (f" to {name}" if len(found.links) > 1 else "") for speed, name, _ in found.links]
    evidence = f"{own}, linked at {', '.join(speeds)}"
    slow = [name for speed, name, _ in found.links if speed < 80]
    if slow:
        which = f" to {', '.join(slow)}" if len(found.links) > 1 else ""
        cause = f"the cable{which}, a dock in between, or the other Mac is Thunderbolt 4 or older"
        remedy = f"use a Thunderbolt 5 cable (80 Gb/s){which}, and no slower dock"
        return found.generation, Check(name, "yellow", evidence, cause, remedy)
    return found.generation, Check(name, "green", evidence)


def rdma_ctl(generation: Literal[4, 5] | None) -> Check:
    name = "rdma-ctl"
    told = run_tool(["rdma_ctl", "status"])
    state = parse_rdma_ctl(told.stdout)
    if state == "enabled":
        return Check(name, "green", "RDMA is enabled")
    if state == "disabled":
        only = "" if generation == 5 else "on a Mac with Thunderbolt 5, "
        remedy = f"{only}restart into macOS Recovery, open Utilities, Terminal, and run: rdma_ctl enable"
        return Check(name, "red", "RDMA is disabled", "it must be enabled once from macOS Recovery", remedy)
    said = (told.stdout or told.stderr).strip() or "nothing"
    evidence = "rdma_ctl status hangs" if told.status == "hung" else f"rdma_ctl status says: {said}"
    return Check(name, "yellow", evidence, "this check does not know this version of macOS", "rdma_ctl status")


def rdma_devices(named: Sequence[str]) -> tuple[list[str], Check]:
    """Check which devices exist, and whether they include those in the hostfile."""
    name = "rdma-devices"
    try:
        devices = local_rdma_devices()
    except ConfigError:
        return [], Check(name, "red", "ibv_devices hangs", _WEDGED, _REBOOT)
    if not devices:
        cause = "RDMA is not enabled, or this Mac has no Thunderbolt 5"
        return [], Check(name, "red", "ibv_devices lists no device", cause, USE_RING)
    there = ", ".join(devices)
    missing = [device for device in named if device not in devices]
    if missing:
        evidence = f"the hostfile names {', '.join(missing)} for this host, which has {there}"
        cause = "device names differ between Macs, and can change after a reboot"
        return devices, Check(name, "red", evidence, cause, "correct this host's `rdma` in the hostfile")
    return devices, Check(name, "green", there)


def bridge(there: Sequence[str]) -> Check:
    """Check whether a bridge holds a Thunderbolt port or the interface of an RDMA device in `there`."""
    name = "bridge"
    ports = {device.removeprefix("rdma_") for device in there}
    hardware = parse_hardware_ports(run_tool(["networksetup", "-listallhardwareports"]).stdout)
    ports.update(device for device, port in hardware.items() if "thunderbolt" in port.lower())
    holding = {
        device: (members, [member for member in members if member in ports])
        for device, members in parse_bridges(run_tool(["ifconfig", "-a"]).stdout).items()
        if ports.intersection(members)
    }
    if not holding:
        return Check(name, "green", "no bridge holds a Thunderbolt port")
    evidence = "; ".join(f"{device} is up, with {', '.join(members)}" for device, (members, _) in holding.items())
    # Internet Sharing and virtual machines need the rest of their bridge.
    remedy = "; ".join(
        f"sudo ifconfig {device} down"
        if device == "bridge0"
        else "; ".join(f"sudo ifconfig {device} deletem {member}" for member in members)
        for device, (_, members) in holding.items()
    )
    cause = "macOS, Internet Sharing or a virtual machine made it; it blocks RDMA on those ports"
    return Check(name, "yellow", evidence, cause, remedy)


def rdma_ports(
    own_ip: str | None, named: Sequence[str], there: Sequence[str], peer_ips: Sequence[str] = ()
) -> Iterator[Check]:
    """Check the ports that this rank would use: the named ones, else that of its own address, else any usable one."""
    if not named and own_ip is None:
        found = [_port(device) for device in there]
        good = next((each for each in found if each[0].verdict == "green"), found[0])
        yield from _with_addresses([good], peer_ips)
        return
    try:
        devices = list(dict.fromkeys(named)) or [device_for(str(own_ip))]
    except ConfigError as error:
        what, _, remedy = str(error).removeprefix("jaccl: ").partition("; ")
        cause = "the address is not on a Thunderbolt port that RDMA can use"
        yield Check("rdma-port", "red", what, cause, remedy)
        return
    yield from _with_addresses([_port(device) for device in devices], peer_ips)


def _with_addresses(found: Sequence[tuple[Check, RdmaPort | None]], peer_ips: Sequence[str]) -> Iterator[Check]:
    """Yield the checks. Ports that lack only an address share the last one, which suggests an address for each."""
    lacking = [port for _, port in found if port is not None]
    yield from (check for check, port in found if port is None)
    if lacking:
        addresses = link_local([port.device.removeprefix("rdma_") for port in lacking], peer_ips)
        remedy = "; ".join(
            f"sudo ifconfig {interface} inet {ip} netmask 255.255.0.0 alias" for interface, ip in addresses.items()
        )
        cause = "macOS has not assigned an address yet, which can take minutes, or the bridge holds the port"
        yield Check("rdma-port", "red", "; ".join(str(usable(port)) for port in lacking), cause, remedy)


def link_local(interfaces_: Sequence[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Return a different link-local address for each interface, none of `others` and none seen in use.

    They depend on the host name, so that the two hosts of a cable choose different ones.
    """
    used = {str(address) for _, address in interfaces()} | {*others}
    used |= parse_addresses(run_tool(["ifconfig", "-a"]).stdout) | parse_arp(run_tool(["arp", "-an"]).stdout)
    seed = zlib.crc32(socket.gethostname().encode())
    chosen: dict[str, str] = {}
    for interface in interfaces_:
        number = zlib.crc32(interface.encode(), seed)
        while (ip := str(_FIRST + number % _COUNT)) in used:
            number += 1
        used.add(ip)
        chosen[interface] = ip
    return chosen


def _port(device: str) -> tuple[Check, RdmaPort | None]:
    """Check a port. Also return the port if it lacks only an address."""
    name = "rdma-port"
    try:
        port = port_of(device)
    except ConfigError as error:
        if error.code == "rdma-query-hangs":
            return Check(name, "red", f"ibv_devinfo -v -d {device} hangs", _WEDGED, _REBOOT), None
        what = str(error).removeprefix("jaccl: ")
        return Check(name, "red", what, "the port cannot be queried", _REBOOT), None
    reason = usable(port)
    if reason is None:
        told = [port.state, port.link_layer, f"MTU {port.active_mtu}", *(f"::ffff:{ip}" for ip in port.ipv4)]
        return Check(name, "green", f"{device}: {', '.join(str(each) for each in told)}"), None
    if port.state != ACTIVE:
        cause = "no cable, or RDMA is not enabled on the other Mac"
        remedy = f"on the other Mac: jaccl-bootstrap doctor; here: ibv_devinfo -d {device}"
        return Check(name, "red", reason, cause, remedy), None
    return Check(name, "red", reason, "no address", "see below"), port


# -- address, ports, peers ---------------------------------------------------------------------------------------------


def address(ip: str | None, macos: bool, peer_ips: Sequence[str] = ()) -> Check:
    """Check whether this host has its address on the link, and peers can reach it."""
    name = "address"
    if ip is None:
        return Check(name, "skipped", "give --own-ip or --hostfile")
    if not holds(ip):
        there = ", ".join(f"{held} on {interface}" for interface, held in interfaces()) or "none"
        cause = "the cable is out, or a self-assigned address has changed or is still missing, which can take minutes"
        show = "ifconfig" if macos else "ip -4 address"
        return Check(name, "red", f"this host does not have {ip}; it has {there}", cause, show)
    if IPv4Address(ip).is_loopback and (far := [peer for peer in peer_ips if not IPv4Address(peer).is_loopback]):
        cause = f"other hosts cannot connect to a loopback address, and {far[0]} is another host"
        return Check(name, "red", f"{ip} is a loopback address", cause, "use the address of the link as --own-ip")
    return Check(name, "green", f"{ip} on {interface_of(ip) or 'an unknown interface'}")


def lock(ip: str | None, link_port: int) -> Check:
    """Check whether another group is up: JACCL allows one per host."""
    name, running = "lock", holder(ip or ANY, link_port)
    if running is None:
        return Check(name, "green", "no other group is up on this host")
    who = f"process {running.pid}" if running.pid else "another process"
    remedy = "wait until it ends" + (f", or: kill {running.pid}" if running.pid else "")
    return Check(name, "red", f"{who} runs a group on this host", "a host can run one group at a time", remedy)


def port_is_free(name: str, ip: str | None, port: int, option: str) -> Check:
    """Check whether a port is free. A program with SO_REUSEPORT would share it, and mix up two groups."""
    host = ip or ANY
    try:
        with reserved_ports(host, 1, port):
            return Check(name, "green", f"{host}:{port} is free")
    except BootstrapError as error:
        if error.code == "port-in-use":
            cause = "another program or group listens there"
            return Check(name, "red", f"{host}:{port} is in use", cause, f"lsof -nP -iTCP:{port}")
        return Check(name, "red", str(error).partition(";")[0], "the system reserves it", f"use another {option}")


def peer(ip: str, port: int, own_ip: str | None, own_rank: int | None, macos: bool, launched: bool = False) -> Check:
    """Check whether TCP reaches the peer from this interpreter: privacy settings can differ by program."""
    name, where = "peer", f"{ip}:{port}"
    try:
        source = None if own_ip is None else (own_ip, 0)
        socket.create_connection((ip, port), PEER_SECONDS, source).close()
    except ConnectionRefusedError as error:
        evidence = f"{ip} is up and refuses port {port} (errno {error.errno})"
        if own_rank:
            return Check(name, "green", f"{evidence}, as rank 0 does not listen")
        if launched:
            return Check(name, "green", f"{evidence}, as no rank is started yet")
        return Check(name, "yellow", evidence, "no rank is started there yet", f"on {ip}: jaccl-bootstrap up")
    except TimeoutError as error:
        evidence = f"{where} does not answer" + (
            f" (errno {error.errno})" if error.errno else f" in {PEER_SECONDS:g} s"
        )
        cause = "a firewall or VPN drops packets" + (", or Local Network privacy" if macos else "")
        return Check(name, "red", evidence, cause, _let_through(ip, macos))
    except OSError as error:
        evidence = f"{where} cannot be reached: {error.strerror} (errno {error.errno})"
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
            cause = "no route: the cable is out, or the peer has no address in this network"
            cause += ", or Local Network privacy blocks it" if macos else ""
            return Check(name, "red", evidence, cause, _let_through(ip, macos))
        return Check(name, "red", evidence, "this system blocks the connection", f"ping -c 3 {ip}")
    return Check(name, "green", f"{where} accepts")


def _let_through(ip: str, macos: bool) -> str:
    privacy = "; if that answers, allow this terminal in System Settings, Privacy & Security, Local Network"
    return f"ping -c 3 {ip}" + (privacy if macos else "")


def identity(path: Path | None) -> Check:
    name = "identity"
    try:
        return Check(name, "green", f"own key {fingerprint(load_identity(path, create=False).public_key)}")
    except IdentityError as error:
        what, _, remedy = str(error).partition("; ")
        if error.code == "no-identity":
            return Check(name, "yellow", what, "none was created yet, so no peer has pinned it", remedy)
        return Check(name, "red", what, "the key must be a P-256 key in a private file", remedy)


def pin(ip: str) -> Check:
    name = "pin"
    try:
        pinned = Pins().at(ip)
    except IdentityError as error:
        what, _, remedy = str(error).partition("; ")
        return Check(name, "red", what, "the pins must be JSON in a private file", remedy)
    if pinned is None:
        remedy = f"jaccl-bootstrap pin {ip} KEY, with the key that jaccl-bootstrap identity prints there"
        remedy += "; or up --peer NAME, if jaccl-bootstrap pin lists that peer"
        cause = "its key was never pinned here, or its address has changed"
        return Check(name, "yellow", f"no key is pinned for {ip}", cause, remedy)
    return Check(name, "green", f"{ip} is pinned to {fingerprint(pinned.key)}")


def leftovers() -> Check:
    """Check for workers without a launcher, and for directories of runs that are gone."""
    import psutil

    name, orphans, oldest = "leftovers", [], float("inf")
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and (kind := _kind(process.cmdline())):
                oldest = min(oldest, process.create_time())
                if kind == "worker" and _is_orphan(process):
                    orphans.append(str(process.pid))
    if orphans:
        evidence = f"worker {', '.join(orphans)} has no launcher"
        cause = "the launcher was killed, which native code does not notice; it still uses memory"
        return Check(name, "yellow", evidence, cause, f"kill -KILL {' '.join(orphans)}")
    directories = _directories(before=oldest - 1.0)
    if directories:
        cause = "a run was killed together with its guard"
        return Check(
            name,
            "yellow",
            f"{len(directories)} directories of earlier runs are left",
            cause,
            f"rm -r {shlex.join(directories)}",
        )
    return Check(name, "green", "nothing is left of earlier runs")


def _kind(arguments: Sequence[str]) -> Literal["worker", "run", None]:
    """Return a process's part in a live run: a worker, or the run itself or its guard."""
    if "bootstrap.worker" in arguments:
        return "worker"
    names = [argument.rpartition("/")[2] for argument in arguments]
    for name, following in pairwise(names):
        if name in ("jaccl-bootstrap", "bootstrap") and following in ("up", "demo"):
            return "run"
    return "run" if any(argument.endswith("bootstrap/system/guard.py") for argument in arguments) else None


def _is_orphan(process: "psutil.Process") -> bool:
    """Whether a worker's parent is no launcher: a launcher runs the same interpreter, an adopter does not."""
    import psutil

    parent = process.parent()
    try:
        return parent is None or parent.exe() != process.exe()
    except (psutil.Error, OSError):
        return True  # another user's, or gone


def _directories(before: float) -> list[str]:
    """Return this user's run directories from before that time: those of live runs are later."""
    with os.scandir(tempfile.gettempdir()) as entries:
        return sorted(
            entry.path for entry in entries if entry.name.startswith("jaccl-bootstrap-") and _is_mine(entry, before)
        )


def _is_mine(entry: "os.DirEntry[str]", before: float) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
        return entry.is_dir(follow_symlinks=False) and status.st_uid == os.getuid() and status.st_ctime < before
    except OSError:
        return False  # gone meanwhile
