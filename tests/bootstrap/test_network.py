"""Local addresses, really bound; interfaces as listed by Linux and macOS; reserved ports."""

import socket
from ipaddress import IPv4Address
from types import SimpleNamespace

import psutil
import pytest

from bootstrap import BootstrapError
from bootstrap.system.network import HIGHEST, LOWEST, holds, interface_of, interfaces, reserved_ports

HOST = "127.0.0.1"


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interfaces of a Mac with one Thunderbolt port in use."""
    listed = {
        "lo0": ["127.0.0.1"],
        "en0": ["192.168.1.5"],
        "en5": ["169.254.1.1", "169.254.77.1"],
        "bridge0": ["169.254.9.9", "127.8.8.8"],
        "en6": [],
    }
    entries = {
        name: [SimpleNamespace(family=socket.AF_INET6, address=f"fe80::1%{name}")]
        + [SimpleNamespace(family=socket.AF_INET, address=ip) for ip in ips]
        for name, ips in listed.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)


def test_this_host_holds_its_loopback_address() -> None:
    assert holds("127.0.0.1")


@pytest.mark.parametrize("ip", ["192.0.2.254", "203.0.113.7"])
def test_addresses_of_others(ip: str) -> None:
    assert not holds(ip)


@pytest.mark.parametrize("ip", ["localhost", "", "127.1", "::1", "127.0.0.1 "])
def test_a_name_is_never_looked_up(ip: str) -> None:
    with pytest.raises(ValueError, match=r"octet|permitted|Expected 4|empty"):
        holds(ip)


def test_the_interface_of_loopback_is_one() -> None:
    name = interface_of("127.0.0.1")
    assert name is not None
    assert name.startswith("lo")
    assert interface_of("127.9.9.9") == name


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("169.254.1.1", "en5"),
        ("169.254.77.1", "en5"),
        ("169.254.9.9", "bridge0"),
        ("127.3.2.1", "lo0"),
        ("127.8.8.8", "bridge0"),
        ("169.254.1.2", None),
    ],
)
def test_the_interface_of_an_address(mac: None, ip: str, name: str | None) -> None:
    assert interface_of(ip) == name


def test_all_interfaces(mac: None) -> None:
    assert ("en0", IPv4Address("192.168.1.5")) in interfaces()
    assert len(interfaces()) == 6


# -- ports -------------------------------------------------------------------------------------------------------------


def bind(port: int, *options: int) -> None:
    with socket.socket() as sock:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind((HOST, port))


def test_the_ports_are_consecutive_and_in_range() -> None:
    with reserved_ports(HOST, 8) as base:
        assert LOWEST <= base <= HIGHEST - 7
        for port in range(base, base + 8):
            with pytest.raises(OSError, match="in use"):
                bind(port)


def test_mlx_can_bind_them_and_another_demo_cannot() -> None:
    with reserved_ports(HOST, 2) as base:
        for port in (base, base + 1):
            bind(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            with pytest.raises(BootstrapError) as caught, reserved_ports(HOST, 1, port):
                pass
            assert (caught.value.code, caught.value.stage) == ("port-in-use", "run")


def test_they_are_free_again_afterwards() -> None:
    with reserved_ports(HOST, 2) as base:
        pass
    for port in (base, base + 1):
        bind(port)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_in_use_is_named_and_nothing_is_held(taken: int) -> None:
    with reserved_ports(HOST, 2) as base:
        pass
    with socket.create_server((HOST, base + taken)):
        with (
            pytest.raises(BootstrapError, match=f"port {base + taken} on 127.0.0.1 is in use"),
            reserved_ports(HOST, 2, base),
        ):
            pass
        bind(base + 1 - taken)


def test_old_connections_do_not_keep_a_port() -> None:
    with reserved_ports(HOST, 1) as base:
        pass
    with socket.create_server((HOST, base)) as server, socket.create_connection((HOST, base)) as client:
        accepted, _ = server.accept()
        accepted.close()  # first, so that the closed connection waits on this side
        assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"):
        bind(base)
    with reserved_ports(HOST, 1, base) as held:
        assert held == base


def test_an_address_that_this_host_does_not_have() -> None:
    with (
        pytest.raises(BootstrapError, match=r"cannot bind 192\.0\.2\.1:29400") as caught,
        reserved_ports("192.0.2.1", 1, 29400),
    ):
        pass
    assert caught.value.code == "port-refused"
    with pytest.raises(BootstrapError), reserved_ports("192.0.2.1", 1):
        pass
