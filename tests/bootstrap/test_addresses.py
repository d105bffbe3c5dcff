"""Own addresses: bound for real, and interfaces as Linux and macOS list them."""

import socket
from ipaddress import IPv4Address
from types import SimpleNamespace

import psutil
import pytest

from bootstrap.addresses import holds, interface_of, interfaces


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
