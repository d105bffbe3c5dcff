"""A rank's host as a launcher finds it: the command `host` there, and what the system and its tools say."""

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address, IPv4Interface
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from bootstrap.capabilities import own_version
from bootstrap.cli.host import SILENCE_SECONDS
from bootstrap.doctor import checks
from bootstrap.doctor.checks import MLX_SECONDS, Check
from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.launch import asking, launched, pairing, requests, ssh, survey
from bootstrap.launch.left import what_is_left
from bootstrap.launch.requests import PULSE, Look, decode_request, encode, replies
from bootstrap.system import current
from bootstrap.system.network import Network
from bootstrap.system.tools import RunTool, ToolResult
from tests.simulation.keys import signer
from tests.simulation.loop import CONTROL
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.programs import WITHOUT_GATHERS, Habits
from tests.simulation.remembered import Place, patched
from tests.simulation.ssh import Sshd, name_of

if TYPE_CHECKING:
    from tests.simulation.world import World

MISSING: Final = ToolResult(status="missing", stderr="No such file or directory")
LINK_SPEED: Final = 10_000


async def host_command(channel: Sshd, process: SimulatedProcess) -> int:
    """`jaccl-bootstrap host`: what it does blocks it, and here takes as long."""
    machine = process.machine
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                line = (await channel.reader.readuntil(b"\n")).removesuffix(b"\n")
        except (TimeoutError, EOFError):
            return 0
        if not line:
            continue
        for each in replies(await _looked(line)):
            await asyncio.sleep(machine.random.uniform(0.0, 0.005) + machine.take_owed())
            channel.say(each)


async def _looked(line: bytes) -> bytes:
    """Wait as a request to look would block, and return the same request without that."""
    try:
        request = decode_request(line)
    except ConfigError:
        return line
    if not isinstance(request, Look):
        return line
    limit = current().clock() + request.seconds
    while what_is_left(request.run, request.ip, request.link_port) and current().clock() < limit:  # noqa: ASYNC110
        await asyncio.sleep(PULSE)
    _machine().looked_at = current().clock()
    return encode(structs.replace(request, seconds=0.0)).removesuffix(b"\n")


# -- tools -------------------------------------------------------------------------------------------------------------


def tools(machine: Machine, rank: int, peers: tuple[int, ...], habits: Habits) -> RunTool:
    """Return what runs the tools of a host: of a Mac with a cable to each of `peers`, if it has JACCL."""
    with_rdma = machine.run_tool

    def run(argv: Sequence[str], seconds: float) -> ToolResult:
        if argv[1:2] == ["-P"]:
            return _mlx(machine, habits, seconds)
        if not machine.has_jaccl:
            return MISSING
        told = with_rdma(argv, seconds)
        text = _told(argv[0], rank, peers) if told.status == "missing" else None
        return told if text is None else ToolResult(status="ok", stdout=text)

    return run


def _mlx(machine: Machine, habits: Habits, seconds: float) -> ToolResult:
    machine.owed += min(habits.import_seconds, seconds)
    if habits.import_seconds > MLX_SECONDS:
        return ToolResult(status="hung")
    found = {
        "version": habits.mlx,
        "backends": ["jaccl", "ring"] if machine.has_jaccl else ["ring"],
        "gather_factory": habits.mlx != WITHOUT_GATHERS,
    }
    return ToolResult(status="ok", stdout=json.dumps(found), returncode=0)


@cache
def _told(tool: str, rank: int, peers: tuple[int, ...]) -> str | None:
    """Return what a Mac's tool prints."""
    match tool:
        case "sw_vers":
            return "ProductName:\t\tmacOS\nProductVersion:\t\t26.2\n"
        case "rdma_ctl":
            return "enabled\n"
        case "networksetup":
            return "\n".join(f"Hardware Port: Thunderbolt {peer + 1}\nDevice: en{peer + 1}\n" for peer in peers)
        case "system_profiler":
            return json.dumps({"SPThunderboltDataType": [_bus(rank, peer) for peer in peers]})
    return None


def _bus(rank: int, peer: int) -> dict[str, Any]:
    """Return a port, and the host at the other end of its cable."""
    tag = {"receptacle_id_key": f"{peer + 1}", "current_speed_key": "80 Gb/s", "receptacle_status_key": "connected"}
    other = {"domain_uuid_key": f"port-{peer}-{rank}", "device_name_key": name_of(peer)}
    return {"domain_uuid_key": f"port-{rank}-{peer}", "receptacle_1_tag": tag, "_items": [other]}


# -- the system --------------------------------------------------------------------------------------------------------


def _machine() -> Machine:
    return CONTROL.get().process.machine  # type: ignore[union-attr, no-any-return]


@cache
def _networks(ip: str) -> list[Network]:
    return [
        Network("lo0", IPv4Interface("127.0.0.1/8"), None),
        Network("en0", IPv4Interface(f"{ip}/24"), LINK_SPEED),
    ]


def _interface_of(ip: str) -> str | None:
    return next((each.interface for each in _networks(_machine().ip) if str(each.address.ip) == ip), None)


def _interfaces() -> list[tuple[str, IPv4Address]]:
    return [(each.interface, each.address.ip) for each in _networks(_machine().ip)]


@contextmanager
def _reserved_ports(host: str, count: int, port: int) -> Iterator[int]:
    if port in _machine().host.listeners:
        raise BootstrapError(f"port {port} on {host} is in use", code="port-in-use")
    yield port


def _create_connection(address: tuple[str, int], seconds: float, source: object) -> Any:
    """Try to connect, which blocks."""
    machine, (ip, port) = _machine(), address
    network = machine.host.network
    if not network.reaches(machine.ip, ip):
        machine.owed += seconds
        raise TimeoutError("timed out")
    machine.owed += 2 * network.latency
    if port not in network.hosts[ip].listeners:
        raise ConnectionRefusedError(61, "Connection refused")
    return SimpleNamespace(close=lambda: None)


def _load_identity(path: object = None, *, create: bool = True) -> Any:
    return signer(_machine().number)


class SimulatedPins:
    """The pins of a host, see `bootstrap.trust.Pins`."""

    def add(self, name: str, key: bytes, address: str | None = None) -> None:
        _machine().pins[name] = key


class _Socket:
    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    create_connection = staticmethod(_create_connection)


_VERSION: Final = cache(own_version)
_PLACES: Final[list[Place]] = [
    *((module, "own_version", _VERSION) for module in (asking, launched, requests, ssh)),
    *((module, "load_identity", _load_identity) for module in (checks, launched, survey)),
    (requests, "Pins", SimulatedPins),
    (survey, "networks", lambda: _networks(_machine().ip)),
    (survey, "_has_thunderbolt_driver", lambda interface: False),
    (checks, "holds", lambda ip: current().network.holds(ip)),
    (checks, "interface_of", _interface_of),
    (checks, "interfaces", _interfaces),
    (checks, "reserved_ports", _reserved_ports),
    (checks, "socket", _Socket()),
    (checks, "leftovers", lambda: Check("leftovers", "green", "nothing is left of earlier runs")),
]


@contextmanager
def real_launcher(world: "World") -> Iterator[None]:
    """Have all of a launch run inside the block on simulated hosts."""
    with patched([*_PLACES, (pairing, "can_ask", lambda: world.has_terminal)]):
        yield
