"""This host's IPv4 addresses and interfaces, and ports reserved until MLX binds them."""

import errno
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from bootstrap.errors import BootstrapError

LOWEST, HIGHEST = 20000, 31999  # below the ports that systems hand out to clients
BACKLOG = 128
"""Connections that may wait in the listen queue."""
_ATTEMPTS = 100


def holds(ip: str) -> bool:
    """Whether this host can bind an IPv4 address, on Linux also any in 127.0.0.0/8."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((str(IPv4Address(ip)), 0))  # IPv4Address, so that no name is resolved
        except OSError:
            return False
    return True


def interface_of(ip: str) -> str | None:
    """Return the interface with an IPv4 address, for 127.0.0.0/8 the loopback one; None if there is none."""
    wanted, held = IPv4Address(ip), interfaces()
    exact = [name for name, address in held if address == wanted]
    loopback = [name for name, address in held if address.is_loopback and wanted.is_loopback]
    return next(iter(exact + loopback), None)


def interfaces() -> list[tuple[str, IPv4Address]]:
    """Return this host's IPv4 addresses, each after its interface."""
    import psutil  # here, so that importing the package needs no extra

    return [
        (name, IPv4Address(entry.address))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    ]


class Network(NamedTuple):
    """An interface that is up, one of its addresses with the network, and its speed in Mb/s if known."""

    interface: str
    address: IPv4Interface
    speed: int | None


def networks() -> list[Network]:
    """Return this host's IPv4 networks by interface."""
    import psutil

    stats = psutil.net_if_stats()
    return [
        Network(name, IPv4Interface(f"{entry.address}/{entry.netmask or 32}"), stats[name].speed or None)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and name in stats and stats[name].isup
    ]


@contextmanager
def reserved_ports(host: str, count: int, port: int | None = None) -> Iterator[int]:
    """Hold `count` consecutive ports starting at `port`, by default a free one, and yield the first.

    Each is bound exclusively, and only then opened to SO_REUSEPORT: MLX sets that option and can bind it too, but
    another demo cannot bind it first. MLX alone would share a port with another program and mix up two groups.
    """
    with ExitStack() as held:
        if port is not None:
            _hold(host, port, count, held)
            yield port
            return
        for attempt in range(_ATTEMPTS):
            base = LOWEST + secrets.randbelow(HIGHEST - LOWEST - count + 2)
            try:
                _hold(host, base, count, held)
            except BootstrapError as error:
                held.close()
                if error.code != "port-in-use" or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        yield base


def free_port(host: str) -> int:
    """Return a free port outside the ranges for clients."""
    with reserved_ports(host, 1) as port:
        return port


def check_free(ip: str, port: int) -> None:
    with socket.socket() as sock:
        # Without SO_REUSEPORT, with which MLX would share the port with another program unnoticed.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))


def bind_udp(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for connections of an earlier listener
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def _hold(host: str, base: int, count: int, held: ExitStack) -> None:
    for port in range(base, base + count):
        sock = held.enter_context(socket.socket())
        try:
            _bind(sock, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                text, code = (
                    f"port {port} on {host} is in use; leave --port out, or stop the program that listens there",
                    "port-in-use",
                )
            else:
                text, code = (
                    f"cannot bind {host}:{port}: {error.strerror}; use another --host or --port",
                    "port-refused",
                )
            raise BootstrapError(text, code=code) from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        sock.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Maybe only connections of an earlier group in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
