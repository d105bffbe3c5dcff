"""The doctor's checks of what both backends need: system, MLX, address, ports, peers, keys, nothing left behind."""

import errno
import os
import shlex
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from bootstrap.addresses import holds, interface_of, interfaces
from bootstrap.control.lock import holder
from bootstrap.doctor.macos import parse_sw_vers
from bootstrap.doctor.system import run_tool
from bootstrap.errors import BootstrapError
from bootstrap.plan import Backend, BackendChoice
from bootstrap.ports import reserved_ports
from bootstrap.trust import IdentityError, Pins, load_identity
from wireproto.session.handshake import fingerprint

if TYPE_CHECKING:
    import psutil

Verdict = Literal["green", "yellow", "red", "skipped"]

FIRST_MACOS: Final = (26, 2)
MLX_SECONDS: Final = 15.0  # the first import after an installation reads much from the disk
PEER_SECONDS: Final = 3.0
USE_RING: Final = "use --backend ring"
ANY: Final = "0.0.0.0"  # noqa: S104 - nothing listens there

# For a child, since native code can crash. The last line counts: a library may print before. A native function has no
# signature that `inspect` could read; its docstring begins with it.
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
_LONGEST: Final = 300


@dataclass(frozen=True)
class Check:
    """One rung of the ladder. `cause` is the likely one, `mend` what to do; a red or yellow check has both."""

    name: str
    verdict: Verdict
    evidence: str
    cause: str | None = None
    mend: str | None = None

    def __post_init__(self) -> None:
        # One line, whatever a tool said. A remedy is never cut: half a command can do harm.
        line = "".join(c if c.isprintable() else " " for c in self.evidence)
        object.__setattr__(self, "evidence", " ".join(line.split())[:_LONGEST])


class Mlx(msgspec.Struct, frozen=True):
    """What a child process found out about MLX."""

    version: str
    backends: tuple[Backend, ...]
    gather_factory: bool


def platform(backend: BackendChoice) -> tuple[bool, Check]:
    """Whether this is macOS, and whether it is new enough."""
    name, uname = "platform", os.uname()
    told = run_tool(["sw_vers"])
    if told.status == "missing":
        system = f"{uname.sysname} {uname.release} {uname.machine}"
        if backend == "jaccl":
            return False, Check(name, "red", system, "JACCL is there on macOS 26.2 and later alone", USE_RING)
        return False, Check(name, "green", system)
    version = parse_sw_vers(told.stdout)
    if version is None:
        cause = "sw_vers fails, hangs, or speaks another language"
        return True, Check(name, "yellow", "the version of macOS cannot be told", cause, "sw_vers")
    system = f"macOS {version[0]}.{version[1]} {uname.machine}"
    if version >= FIRST_MACOS or backend == "ring":
        return True, Check(name, "green", system)
    cause = "JACCL needs macOS 26.2 or later"
    if backend == "jaccl":
        return True, Check(name, "red", system, cause, "softwareupdate --list")
    return True, Check(name, "yellow", system, cause, "softwareupdate --list, or use --backend ring")


def mlx(backend: BackendChoice) -> tuple[Mlx | None, Check]:
    """What MLX can do; None with a red check alone."""
    name = "mlx"
    told = run_tool([sys.executable, "-P", "-c", _MLX_PROBE], MLX_SECONDS)
    if told.status == "hung":
        evidence = f"import mlx.core takes more than {MLX_SECONDS:.0f} s"
        return None, Check(name, "red", evidence, "a slow disk, or native code that waits", _INSTALL)
    try:
        found = msgspec.json.decode(_last_line(told.stdout), type=Mlx)
    except msgspec.MsgspecError:
        if told.returncode is not None and told.returncode < 0:
            evidence = f"import mlx.core ended by signal {-told.returncode} ({signal.strsignal(-told.returncode)})"
            return None, Check(name, "red", evidence, "MLX is built for another processor or system", _INSTALL)
        evidence = f"import mlx.core failed: {_last_line(told.stderr)}"
        cause = "MLX is not installed, or in part: on Linux it is mlx[cpu], not mlx"
        return None, Check(name, "red", evidence, cause, _INSTALL)
    evidence = f"MLX {found.version} with {', '.join(found.backends) or 'neither jaccl nor ring'}"
    if not found.backends or (backend != "auto" and backend not in found.backends):
        mend = USE_RING if "ring" in found.backends else _INSTALL
        return None, Check(name, "red", evidence, "this build of MLX, or this system, is without that backend", mend)
    return found, Check(name, "green", evidence)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def address(ip: str | None, macos: bool) -> Check:
    """Whether this host holds its own address on the link."""
    name = "address"
    if ip is None:
        return Check(name, "skipped", "give --own-ip or --hostfile")
    if not holds(ip):
        there = ", ".join(f"{held} on {interface}" for interface, held in interfaces()) or "none"
        cause = "the cable is out, or a self-assigned address has changed or is not there yet, which can take minutes"
        show = "ifconfig" if macos else "ip -4 address"
        return Check(name, "red", f"this host does not hold {ip}; it holds {there}", cause, show)
    return Check(name, "green", f"{ip} on {interface_of(ip) or 'no interface that tells'}")


def lock(ip: str | None) -> Check:
    """Whether another group is up: JACCL is safe with one a host."""
    name, running = "lock", holder(ip or ANY)
    if running is None:
        return Check(name, "green", "no other group is up on this host")
    who = f"process {running.pid}" if running.pid else "another process"
    mend = "wait for its end" + (f", or: kill {running.pid}" if running.pid else "")
    return Check(name, "red", f"{who} runs a group on this host", "one group a host is the limit", mend)


def coordinator_port(ip: str | None, port: int) -> Check:
    """Whether MLX can have the port: a stranger that set SO_REUSEPORT would share it, and mix two groups up."""
    name, host = "coordinator-port", ip or ANY
    try:
        with reserved_ports(host, 1, port):
            return Check(name, "green", f"{host}:{port} is free")
    except BootstrapError as error:
        if error.code == "port-in-use":
            cause = "another program, or another group, listens there"
            return Check(name, "red", f"{host}:{port} is in use", cause, f"lsof -nP -iTCP:{port}")
        return Check(name, "red", str(error).partition(";")[0], "the system keeps it", "use another --coordinator-port")


def peer(ip: str, port: int, own_ip: str | None, own_rank: int | None, macos: bool) -> Check:
    """Whether TCP reaches the peer from this very interpreter, since privacy settings can differ by program."""
    name, where = "peer", f"{ip}:{port}"
    try:
        source = None if own_ip is None else (own_ip, 0)
        socket.create_connection((ip, port), PEER_SECONDS, source).close()
    except ConnectionRefusedError as error:
        evidence = f"{ip} is there, and refuses port {port} (errno {error.errno})"
        if own_rank:
            return Check(name, "green", f"{evidence}, where rank 0 does not listen")
        return Check(name, "yellow", evidence, "nobody listens there yet", f"on {ip}: jaccl-bootstrap up")
    except TimeoutError as error:
        evidence = f"{where} does not answer" + (
            f" (errno {error.errno})" if error.errno else f" in {PEER_SECONDS:g} s"
        )
        cause = "a firewall or a VPN drops it" + (", or Local Network privacy" if macos else "")
        return Check(name, "red", evidence, cause, _let_through(ip, macos))
    except OSError as error:
        evidence = f"{where} cannot be reached: {error.strerror} (errno {error.errno})"
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
            cause = "no route: the cable is out, or the peer has no address in this network"
            cause += ", or Local Network privacy forbids it" if macos else ""
            return Check(name, "red", evidence, cause, _let_through(ip, macos))
        return Check(name, "red", evidence, "this system does not let it out", f"ping -c 3 {ip}")
    return Check(name, "green", f"{where} accepts")


def _let_through(ip: str, macos: bool) -> str:
    privacy = "; if that answers, allow this terminal in System Settings, Privacy & Security, Local Network"
    return f"ping -c 3 {ip}" + (privacy if macos else "")


def identity(path: Path | None) -> Check:
    name = "identity"
    try:
        return Check(name, "green", f"own key {fingerprint(load_identity(path, create=False).public_key)}")
    except IdentityError as error:
        what, _, mend = str(error).partition("; ")
        if error.code == "no-identity":
            return Check(name, "yellow", what, "none was made yet, so no peer can have pinned it", mend)
        return Check(name, "red", what, "the key must be a P-256 key in a file for its owner alone", mend)


def pin(ip: str) -> Check:
    name = "pin"
    try:
        key = Pins().get(ip)
    except IdentityError as error:
        what, _, mend = str(error).partition("; ")
        return Check(name, "red", what, "the pins must be JSON in a file for their owner alone", mend)
    if key is None:
        mend = f"jaccl-bootstrap pin {ip} KEY, with the key that jaccl-bootstrap identity shows there"
        return Check(name, "yellow", f"no key is pinned for {ip}", "the two hosts have not met yet", mend)
    return Check(name, "green", f"{ip} is pinned to {fingerprint(key)}")


def leftovers() -> Check:
    """Workers whose launcher is gone, and directories that no running worker can have made."""
    import psutil

    name, orphans, running = "leftovers", [], False
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and "bootstrap.worker" in process.cmdline():
                running = True
                if _is_orphan(process):
                    orphans.append(str(process.pid))
    if orphans:
        evidence = f"without a launcher: worker {', '.join(orphans)}"
        cause = "the launcher was killed, and native code takes no notice; memory stays taken"
        return Check(name, "yellow", evidence, cause, f"kill -KILL {' '.join(orphans)}")
    directories = [] if running else _directories()
    if directories:
        cause = "a run was killed together with its guard"
        return Check(
            name, "yellow", f"{len(directories)} directories of earlier runs", cause, f"rm -r {shlex.join(directories)}"
        )
    return Check(name, "green", "nothing of an earlier run")


def _is_orphan(process: "psutil.Process") -> bool:
    """A launcher runs the same interpreter; whoever adopts an orphan does not."""
    import psutil

    parent = process.parent()
    try:
        return parent is None or parent.exe() != process.exe()
    except (psutil.Error, OSError):
        return True  # somebody else's, or gone


def _directories() -> list[str]:
    with os.scandir(tempfile.gettempdir()) as entries:
        return sorted(entry.path for entry in entries if entry.name.startswith("jaccl-bootstrap-") and _is_mine(entry))


def _is_mine(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False  # gone meanwhile
