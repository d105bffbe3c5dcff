"""Plans of groups: ranks, addresses, ports, backend, deadlines. All of it is checked here."""

import os
import re
import shutil
import sys
import uuid
from dataclasses import dataclass, field, fields
from importlib.machinery import PathFinder
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any, Final, Literal, Self, cast, get_args

import msgspec

from bootstrap.errors import ConfigError
from bootstrap.files import absolute
from bootstrap.system import current
from wireproto.jaccl import MAX_WIRES
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix, devices_of
from wireproto.messages import MAX_SIZE, MIN_SIZE, Program, Revision

Backend = Literal["jaccl", "ring"]
BackendChoice = Literal["auto", "jaccl", "ring"]
Runs = Literal["command", "module", "script"]
RestartOn = Literal["link", "exit", "any"]

DEFAULT_PORT = 29400
LINK_PORT = 7777
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0
MAX_SECONDS: Final = 7 * 86400.0
"""The longest `grace` and `finish_timeout`."""
MIN_RANKS, MAX_RANKS = MIN_SIZE, MAX_SIZE

VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SESSION_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


_TYPE_CODES: Final = {
    **dict.fromkeys(("ips", "all_ips"), "bad-ip"),
    **dict.fromkeys(("link_ports", "relay_port"), "bad-port"),
    **dict.fromkeys(("timeout", "grace", "finish_timeout"), "bad-timeout"),
    **dict.fromkeys(("command", "stdin", "dry_run"), "bad-command"),
    "jaccl_ring": "bad-devices",
    "envs": "bad-env",
    "directory": "bad-directory",
    "cwd": "bad-cwd",
    "revision": "bad-revision",
    "extensions": "bad-extensions",
    "restarts": "bad-restart",
}
"""The code for a field of a plan that has a wrong type."""


def new_session_id() -> str:
    """Return a new UUID in upper case, like the reference peer."""
    return str(uuid.UUID(bytes=current().random(16), version=4)).upper()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One rank's part in a group of 2 to 64 ranks. Raise ConfigError if it cannot work. Times are in seconds."""

    rank: int
    ips: tuple[str, ...]
    """The first address of each rank, in rank order."""
    all_ips: tuple[tuple[str, ...], ...] = ()
    """All addresses of each rank, for the connections of MLX's ring; by default only the first ones."""
    port: int = DEFAULT_PORT
    """The coordinator port; on a ring the ranks' ports count up from it."""
    relay_port: int | None = None
    """A loopback port for native JACCL's side channel, instead of the coordinator port."""
    link_ports: tuple[int, ...] = (LINK_PORT,)
    """The ports that the ranks listen on for links: one for all, or one per rank; empty for a group without links.

    A loopback address with a link port counts as a host of its own."""
    session_id: str = field(default_factory=new_session_id)
    """The ID of rank 0's first bootstrap. The other ranks use the one in jacclBootstrap."""
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    jaccl_ring: bool = False
    """JACCL forms a ring even if the devices form a mesh."""
    envs: tuple[tuple[str, str], ...] = ()
    """Additional variables for this rank's process, as (name, value)."""
    directory: str | None = None
    """For MLX's file; by default the directory for temporary files."""
    command: tuple[str, ...] = ()
    """The user's program and its arguments; empty to hold the group."""
    runs: Runs = "command"
    """How `command` runs: in a process that forms the group itself; or, as a Python module or script, in the process
    that has formed it."""
    revision: Revision = Revision.V2
    extensions: bool = True
    """Use protocol extensions with peers that offer them."""
    timeout: float = 60.0
    """Until the group is up; 0 for no limit."""
    grace: float = 5.0
    """From SIGTERM to SIGKILL for the command, which may have data to save."""
    finish_timeout: float | None = None
    """How long the other ranks may take to finish after this one; None for no limit."""
    restarts: int = 0
    """How many restarts are allowed per hour."""
    restart_on: RestartOn = "link"
    """After what: a lost link, a failed program on any rank, or any failure except a stop or a deadline."""
    cwd: str | None = None
    """The program's working directory; by default this process's."""
    stdin: bool = False
    """Rank 0's program reads this process's standard input; other ranks never do."""
    dry_run: bool = False
    """Do everything but form the group."""

    def __post_init__(self) -> None:
        self._check_types()
        check_size(len(self.ips))
        if not self.all_ips:
            object.__setattr__(self, "all_ips", tuple((ip,) for ip in self.ips))
        if tuple(ips[:1] for ips in self.all_ips) != tuple((ip,) for ip in self.ips):
            raise ConfigError("the addresses of each rank must start with its first one", code="bad-ip")
        check_rank(self.rank, self.size)
        for ip in (ip for ips in self.all_ips for ip in ips):
            check_ip(ip)
        check_port(self.port, self.size * self.connections)
        if self.relay_port is not None:
            check_port(self.relay_port, 1)
        check_session_id(self.session_id)
        check_backend(self.backend)
        if self.devices is not None:
            check_devices(self.devices, self.jaccl_ring)
            if len(self.devices) != self.size:
                text = f"the device matrix has {len(self.devices)} rows for {self.size} ranks, give one row per rank"
                raise ConfigError(text, code="bad-devices")
        if self.link_ports:
            self._check_links()
        if self.timeout != 0:
            check_timeout(self.timeout)
        for name, seconds in (("grace", self.grace), ("finish-timeout", self.finish_timeout)):
            if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
                text = f"--{name} {seconds} is wrong, use 0 to {MAX_SECONDS:.0f} seconds"
                raise ConfigError(text, code="bad-timeout")
        if self.restarts < 0:
            raise ConfigError(f"--restart {_shown(self.restarts)} is wrong, use 0 or more", code="bad-restart")
        if self.restart_on not in get_args(RestartOn):
            text = f"--restart-on {_shown(self.restart_on)} is wrong, use {', '.join(get_args(RestartOn))}"
            raise ConfigError(text, code="bad-restart")
        for name, _ in self.envs:
            if not VARIABLE.fullmatch(name):
                raise ConfigError(f"{name!r} is not a variable name, use letters, digits and _", code="bad-env")
        if self.cwd is not None and not Path(self.cwd).is_dir():
            raise ConfigError(f"--cwd {self.cwd} is not a directory; create it, or use another one", code="bad-cwd")
        self._check_command()
        self._check_texts()

    def _check_types(self) -> None:
        """Convert lists to tuples and numbers to members; the fields without a code here have checks of their own."""
        for each in fields(self):
            if (code := _TYPE_CODES.get(each.name)) is not None:
                try:
                    value = msgspec.convert(getattr(self, each.name), each.type)
                except ValueError as error:
                    raise ConfigError(f"{each.name} is wrong, use another: {error}", code=code) from error
                object.__setattr__(self, each.name, value)

    def _check_texts(self) -> None:
        """Refuse texts that no process can get: a worker gets them in JSON, a command as C strings."""
        encode = os.fsencode if self.program is Program.COMMAND else str.encode
        texts = {
            "bad-command": self.command,
            "bad-env": tuple(value for _, value in self.envs),
            "bad-cwd": (self.cwd or "",),
            "bad-directory": (self.directory or "",),
        }
        for code, text in ((code, text) for code, each in texts.items() for text in each):
            try:
                is_usable = b"\0" not in encode(text)
            except UnicodeEncodeError:
                is_usable = False
            if not is_usable:
                shown = ascii(text if len(text) <= 60 else text[:60] + "...")
                raise ConfigError(f"{shown} has a character that no process can get; remove it", code=code)

    def _check_command(self) -> None:
        if self.runs not in get_args(Runs):
            raise ConfigError(f"runs={_shown(self.runs)} is wrong, use command, module or script", code="bad-command")
        if not self.command:
            return
        if self.dry_run:
            raise ConfigError("a dry run starts no program; leave out --dry-run or the program", code="bad-command")
        name = self.command[0]
        match self.runs:
            case "command" if shutil.which(name) is None and not (self.cwd and shutil.which(Path(self.cwd, name))):
                raise ConfigError(f"the command {name!r} is not on PATH; check its name", code="bad-command")
            case "module" if not has_module(name, self.cwd):
                text = f"{sys.executable} has no module {name!r}; install it there, or check its name"
                raise ConfigError(text, code="bad-command")
            case "script" if not Path(self.cwd or "", name).is_file():
                raise ConfigError(f"the script {name!r} does not exist; check its name", code="bad-command")

    def _check_links(self) -> None:
        if len(self.link_ports) not in (1, self.size):
            text = f"{len(self.link_ports)} link ports are given; use one, or one for each of the {self.size} ranks"
            raise ConfigError(text, code="bad-port")
        ports = [self.link_port(rank) for rank in range(self.size)]
        if len({*zip(self.ips, ports, strict=True)}) < self.size or any(
            self.ips.count(ip) > 1 and not check_ip(ip).is_loopback for ip in self.ips
        ):
            raise ConfigError("two ranks have the same address; give each its own", code="bad-ip")
        for port in ports:
            check_link_port(port)
            if 0 <= port - self.port < self.size:
                last = self.port + self.size - 1
                text = f"link port {port} is one of the group's ports, {self.port} to {last}; use another"
                raise ConfigError(text, code="bad-port")

    @classmethod
    def of_pair(cls, own_ip: str, peer_ip: str, rank: int | Literal["auto"], **options: Any) -> Self:
        """Return one rank's plan for a group of two; `auto` makes the lower address rank 0. [BOOT-ELECTION]"""
        own_rank = elect(own_ip, peer_ip) if rank == "auto" else rank
        return cls(rank=own_rank, ips=(peer_ip, own_ip) if own_rank == 1 else (own_ip, peer_ip), **options)

    @property
    def size(self) -> int:
        return len(self.ips)

    @property
    def program(self) -> Program:
        """This rank's action once the group can be formed, as in its versions."""
        if self.dry_run:
            return Program.DRY_RUN
        if not self.command:
            return Program.HOLD
        return Program.COMMAND if self.runs == "command" else Program.MODULE

    @property
    def has_worker(self) -> bool:
        """Whether a worker forms the group, to hold it or to run a module or script in it."""
        return self.program in (Program.HOLD, Program.MODULE)

    @property
    def own_ip(self) -> str:
        return self.ips[self.rank]

    @property
    def reads_stdin(self) -> bool:
        """Whether this rank's program reads this process's standard input."""
        return self.stdin and self.rank == 0

    @property
    def peers(self) -> tuple[int, ...]:
        """The ranks that this one has a session with: rank 0 with all others, the others with rank 0."""
        return tuple(range(1, self.size)) if self.rank == 0 else (0,)

    def link_port(self, rank: int) -> int:
        return self.link_ports[rank if len(self.link_ports) > 1 else 0]

    @property
    def connections(self) -> int:
        """The number of connections to each neighbour in MLX's ring: every rank has an address for each."""
        return min(map(len, self.all_ips))

    @property
    def coordinator(self) -> str:
        """The `ip:port` of JACCL's side channel: rank 0's, or this host's if it is relayed."""
        return f"{self.ips[0]}:{self.port}" if self.relay_port is None else f"127.0.0.1:{self.relay_port}"

    def ring_addresses(self, rank: int) -> tuple[tuple[str, int], ...]:
        """Return where a rank listens in MLX's ring, one address per connection.

        Ports count up from the plan's, as in mlx.launch, so that ranks can share a host. MLX needs the same number of
        addresses from each rank, so surplus ones are left out.
        """
        count = self.connections
        return tuple((ip, self.port + rank * count + index) for index, ip in enumerate(self.all_ips[rank][:count]))


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """One rank's part in a group of two without a link: both ranks know all of it."""

    own_rank: int
    own_ip: str
    peer_ip: str
    port: int = DEFAULT_PORT
    session_id: str = field(default_factory=new_session_id)
    backend: BackendChoice = "auto"
    devices: DeviceMatrix | None = None
    directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        directory = None if self.directory is None else os.fspath(self.directory)
        given = {name: getattr(self, name) for name in ("port", "session_id", "backend", "devices")}
        return Plan.of_pair(self.own_ip, self.peer_ip, self.own_rank, link_ports=(), directory=directory, **given)


def has_module(name: str, cwd: str | None = None) -> bool:
    """Whether `python -m` in a directory would find the module's top-level package or module."""
    first, path = name.partition(".")[0], [str(absolute(Path(cwd or ""))), *sys.path]
    return first in sys.builtin_module_names or PathFinder.find_spec(first, path) is not None


def check_timeout(seconds: float) -> None:
    """Raise ConfigError for a deadline that is too short or too long."""
    if not MIN_TIMEOUT <= seconds <= MAX_TIMEOUT:
        text = f"timeout {seconds} is wrong, use {MIN_TIMEOUT} to {MAX_TIMEOUT:.0f} seconds"
        raise ConfigError(text, code="bad-timeout")


def check_size(size: int) -> None:
    if not MIN_RANKS <= size <= MAX_RANKS:
        raise ConfigError(f"{size} ranks cannot form a group, use {MIN_RANKS} to {MAX_RANKS}", code="bad-ranks")


def check_ip(ip: str) -> IPv4Address:
    """Return the address. Raise ConfigError unless it is an IPv4 address that a host can have."""
    try:
        # IPv4Address also accepts integers and packed bytes.
        address = IPv4Address(ip) if isinstance(ip, str) else None
    except AddressValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF:
        raise ConfigError(f"{_shown(ip)} is not the IPv4 address of a host, use one such as 169.254.1.1", code="bad-ip")
    return address


def elect(own_ip: str, peer_ip: str) -> int:
    """Return this host's rank: the lower address, as a number, is rank 0. [BOOT-ELECTION]"""
    own, peer = check_ip(own_ip), check_ip(peer_ip)
    if own == peer:
        raise ConfigError(f"both addresses are {own}, so they do not determine the ranks; give --rank", code="bad-rank")
    return 0 if own < peer else 1


def check_rank(rank: int, size: int) -> None:
    if not _is_int(rank) or not 0 <= rank < size:
        raise ConfigError(f"rank {_shown(rank)} is wrong, use 0 to {size - 1}", code="bad-rank")


def check_link_port(port: int) -> None:
    if not _is_int(port) or not 1 <= port <= 65535:
        raise ConfigError(f"link port {_shown(port)} is wrong, use 1 to 65535", code="bad-port")


def check_port(port: int, count: int) -> None:
    """Check that `count` ports starting at `port` exist: MLX's ring uses one per rank and connection."""
    last = 65536 - count
    if not _is_int(port) or not 1 <= port <= last:
        raise ConfigError(f"port {_shown(port)} is wrong, use 1 to {last} with {count} ranks", code="bad-port")


def check_session_id(session_id: str) -> None:
    """Check that a session ID is safe as part of a file name."""
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        text = f"session ID {_shown(session_id)} is wrong, use 1 to 128 of A-Z a-z 0-9 . _ - without a leading dot"
        raise ConfigError(text, code="bad-session-id")


def check_backend(backend: str) -> BackendChoice:
    if backend not in get_args(BackendChoice):
        raise ConfigError(f"backend {_shown(backend)} is unknown, use auto, jaccl or ring", code="bad-backend")
    return cast(BackendChoice, backend)


def check_devices(devices: DeviceMatrix, jaccl_ring: bool = False) -> None:
    """Check a matrix that JACCL itself might accept and then crash on, such as one of nulls or empty names.

    With `jaccl_ring` a neighbour may have at most 4 devices: JACCL does not refuse more until it has started.
    """
    verdict = check_device_matrix(devices)
    if verdict.faults:
        raise ConfigError(f"the device matrix cannot be used: {verdict.faults[0]}", code="bad-devices")
    if jaccl_ring and not verdict.ring and (too_many := _neighbours_over_limit(devices)):
        raise ConfigError(
            f"the device matrix cannot be used for jaccl-ring: {too_many} has more than {MAX_WIRES} devices; "
            "name fewer, or use jaccl",
            code="bad-devices",
        )


def _neighbours_over_limit(devices: DeviceMatrix) -> str | None:
    """Return the path of the first entry with too many devices for a ring, if all neighbours have equally many."""
    size = len(devices)
    counts = {
        (rank, peer): len(names)
        for rank in range(size)
        for peer, names in devices_of(devices, rank).items()
        if (peer - rank) % size in (1, size - 1)
    }
    equal = len(set(counts.values())) == 1  # JACCL forms a mesh of unequal ones
    return next((f"[{r}][{c}]" for (r, c), count in counts.items() if count > MAX_WIRES), None) if equal else None


def _shown(value: object) -> str:
    """Return a value for a message, cut to 60 characters. Python refuses to print a number of more than 4300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The control process's order to a worker. Times are of the system's monotonic clock."""

    plan: Plan
    """With its `directory`, which the worker creates and removes: all ranks may share one host."""
    origin: float
    deadline: float | None
    """None for no limit."""
    side_channel: bool = False
    """JACCL's gathers go over the link."""
    no_sum: str = ""
    """Why the group is not checked with a sum; "" if it is. [PLAIN-SUM]"""
    output: tuple[int, int] | None = None
    """The descriptors that become stdout and stderr of the plan's module or script."""
    stdin: int | None = None
    """The descriptor that becomes its stdin; None for /dev/null."""
    python_path: str | None = None
    """The user's PYTHONPATH."""
