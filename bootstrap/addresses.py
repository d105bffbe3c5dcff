"""This host's IPv4 addresses, and the interfaces that hold them."""

import socket
from ipaddress import IPv4Address


def holds(ip: str) -> bool:
    """Whether this host can bind that IPv4 address; on Linux all of 127.0.0.0/8 is such."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((str(IPv4Address(ip)), 0))  # IPv4Address, so that no name is ever looked up
        except OSError:
            return False
    return True


def interface_of(ip: str) -> str | None:
    """The name of the interface that holds that IPv4 address, the loopback one for all of 127.0.0.0/8; else None."""
    wanted, held = IPv4Address(ip), interfaces()
    exact = [name for name, address in held if address == wanted]
    loopback = [name for name, address in held if address.is_loopback and wanted.is_loopback]
    return next(iter(exact + loopback), None)


def interfaces() -> list[tuple[str, IPv4Address]]:
    """Each IPv4 address of this host, after the name of its interface."""
    import psutil  # here, so that whoever only imports the package needs no extra

    return [
        (name, IPv4Address(entry.address))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
