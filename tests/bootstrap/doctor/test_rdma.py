"""RDMA devices from good and bad output of the tools, and from the tools themselves."""

import socket
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.doctor import rdma
from bootstrap.doctor.rdma import (
    RdmaPort,
    device_for,
    local_rdma_devices,
    parse_ibv_devices,
    parse_ibv_devinfo,
    parse_rdma_ctl,
    port_of,
    usable,
)
from bootstrap.errors import ConfigError
from bootstrap.tools import run_tool
from tests.bootstrap.system_tools import OUTPUTS, Tools, output

LINK_LOCAL = IPv6Address("fe80::347c:94ff:fecd:45c4")
ACTIVE = RdmaPort(
    device="rdma_en5",
    state="PORT_ACTIVE",
    link_layer="Thunderbolt",
    active_mtu=4096,
    gids=(LINK_LOCAL, IPv6Address("::ffff:169.254.1.1")),
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tools.path))
    return tools


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the wait for hanging tools."""
    monkeypatch.setattr(rdma, "run_tool", lambda argv: run_tool(argv, 0.2))


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    ips = {"lo0": "127.0.0.1", "en0": "192.168.1.5", "en5": "169.254.1.1", "bridge0": "169.254.9.9"}
    entries = {name: [SimpleNamespace(family=socket.AF_INET, address=ip)] for name, ip in ips.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("ibv_devices-0.txt", []),
        ("ibv_devices-1.txt", ["rdma_en5"]),
        ("ibv_devices-4.txt", ["rdma_en2", "rdma_en3", "rdma_en4", "rdma_en5"]),
        ("ibv_devices-failed.txt", []),
    ],
)
def test_devices(name: str, devices: list[str]) -> None:
    assert parse_ibv_devices(output(name)) == devices


@pytest.mark.parametrize(
    ("line", "devices"),
    [
        ("rdma_en5 e0c5790000000005", ["rdma_en5"]),
        ("rdma_en5 e0c579000000000", []),  # cut off
        ("rdma_en5", []),
        ("warning: e0c5790000000005", ["warning:"]),  # unrelated lines
        ("\x1b[1mrdma_en5 e0c5790000000005", []),
    ],
)
def test_a_device_has_a_name_and_a_guid(line: str, devices: list[str]) -> None:
    assert parse_ibv_devices(line) == devices


def test_a_port_that_is_up() -> None:
    port = parse_ibv_devinfo("rdma_en5", output("ibv_devinfo-active.txt"))
    assert port == ACTIVE
    assert port.ipv4 == ("169.254.1.1",)
    assert usable(port) is None


def test_a_port_that_is_down() -> None:
    port = parse_ibv_devinfo("rdma_en5", output("ibv_devinfo-down.txt"))
    assert port is not None
    assert (port.state, port.gids) == ("PORT_DOWN", (LINK_LOCAL,))
    assert usable(port) == "rdma_en5 is PORT_DOWN, not PORT_ACTIVE"


def test_a_port_without_an_ipv4_address() -> None:
    port = parse_ibv_devinfo("rdma_en5", output("ibv_devinfo-no-ipv4.txt"))
    assert port is not None
    assert (port.state, len(port.gids), port.ipv4) == ("PORT_ACTIVE", 2, ())
    assert usable(port) == "rdma_en5 has no IPv4-mapped GID (::ffff:), as its interface has no IPv4 address"


def test_the_suffixes_of_newer_versions() -> None:
    port = parse_ibv_devinfo("rxe0", output("ibv_devinfo-roce-v2.txt"))
    assert port is not None
    assert (port.link_layer, len(port.gids), port.ipv4) == ("Ethernet", 4, ("192.168.1.5", "192.168.1.5"))


def test_older_versions_write_gids_in_full_and_the_first_of_two_ports_counts() -> None:
    port = parse_ibv_devinfo("mlx4_0", output("ibv_devinfo-old.txt"))
    assert port is not None
    assert (port.state, port.active_mtu, port.ipv4) == ("PORT_ACTIVE", 4096, ("192.168.1.5",))


@pytest.mark.parametrize(
    "text", ["", "hca_id:\trdma_en5\n", "\tPORT_ACTIVE_EVENT\n", "\t\tport:\t1\n", "No IB devices found"]
)
def test_no_port(text: str) -> None:
    assert parse_ibv_devinfo("rdma_en5", text) is None


def test_what_is_cut_off_is_never_more_than_the_whole() -> None:
    text = output("ibv_devinfo-active.txt")
    for end in range(len(text)):
        port = parse_ibv_devinfo("rdma_en5", text[:end])
        if port is not None:
            assert "PORT_ACTIVE".startswith(port.state)
            assert port.link_layer is None or "Thunderbolt".startswith(port.link_layer)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (output("rdma_ctl-enabled.txt"), "enabled"),
        (output("rdma_ctl-disabled.txt"), "disabled"),
        (output("rdma_ctl-unknown.txt"), None),
        ("RDMA is enabled.\n", "enabled"),
        ("not enabled\n", "disabled"),
        ("enabled, disabled\n", None),
        ("", None),
        ("unenabled", None),
    ],
)
def test_rdma_ctl(text: str, state: str | None) -> None:
    assert parse_rdma_ctl(text) == state


WORDS = st.sampled_from(
    ["port:", "state:", "GID[  0]:", "::ffff:", "fe80::1", "PORT_ACTIVE", "0" * 16, "enabled", "\n\t"]
)


@given(st.lists(WORDS | st.text(max_size=8), max_size=30).map(" ".join))
def test_whatever_a_tool_says(text: str) -> None:
    assert all(name.isprintable() and name and " " not in name for name in parse_ibv_devices(text))
    assert parse_rdma_ctl(text) in ("enabled", "disabled", None)
    port = parse_ibv_devinfo("rdma_en5", text)
    assert port is None or (port.state != "" and len(port.ipv4) <= len(port.gids))


def test_the_tool_is_asked(tools: Tools) -> None:
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    assert local_rdma_devices() == ["rdma_en2", "rdma_en3", "rdma_en4", "rdma_en5"]


def test_a_tool_that_is_missing_or_fails_lists_none(tools: Tools) -> None:
    assert local_rdma_devices() == []
    tools.prints("ibv_devices", "ibv_devices-failed.txt", status=1)
    assert local_rdma_devices() == []


def test_a_tool_that_hangs_is_told(tools: Tools, short: None) -> None:
    tools.hangs("ibv_devices")
    tools.hangs("ibv_devinfo")
    for ask in (local_rdma_devices, lambda: port_of("rdma_en5")):
        with pytest.raises(ConfigError, match=r"^jaccl: ibv_dev\w+ hangs \(5 s\); reboot this host") as caught:
            ask()
        assert caught.value.code == "rdma-query-hangs"


def test_the_port_of_a_device(tools: Tools) -> None:
    tools.runs("ibv_devinfo", f'[ "$*" = "-v -d rdma_en5" ] && /bin/cat {output_path("ibv_devinfo-active.txt")}')
    assert port_of("rdma_en5") == ACTIVE


def test_a_port_counts_though_the_tool_fails_at_the_end_of_a_table(tools: Tools) -> None:
    tools.runs(
        "ibv_devinfo",
        f"/bin/cat {output_path('ibv_devinfo-active.txt')}\necho 'Failed to query gid to port 1, index 8' >&2\nexit 1",
    )
    assert port_of("rdma_en5") == ACTIVE


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo \"IB device 'rdma_en9' wasn't found\" >&2; exit 255", "IB device 'rdma_en9' wasn't found"),
        ("exit 0", "nothing about a port"),
    ],
)
def test_a_device_that_is_not_there(tools: Tools, script: str, said: str) -> None:
    tools.runs("ibv_devinfo", script)
    with pytest.raises(ConfigError) as caught:
        port_of("rdma_en9")
    assert caught.value.code == "rdma-query-failed"
    assert str(caught.value) == f"jaccl: ibv_devinfo -v -d rdma_en9 says: {said}"


def test_the_device_for_an_address(tools: Tools, interfaces: None) -> None:
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    assert device_for("169.254.1.1") == "rdma_en5"


@pytest.mark.parametrize(
    ("ip", "listing", "code", "text"),
    [
        ("169.254.1.2", "ibv_devices-4.txt", "no-interface", "no interface of this host has the address 169.254.1.2"),
        (
            "169.254.9.9",
            "ibv_devices-4.txt",
            "bridge-interface",
            "169.254.9.9 is on bridge0, which is not an RDMA device",
        ),
        ("169.254.1.1", "ibv_devices-0.txt", "no-rdma-device", "this host lists no RDMA device (ibv_devices)"),
        (
            "192.168.1.5",
            "ibv_devices-1.txt",
            "device-missing",
            "on en0, but there is no device rdma_en0 among rdma_en5",
        ),
        (
            "127.0.0.1",
            "ibv_devices-1.txt",
            "device-missing",
            "on lo0, but there is no device rdma_lo0 among rdma_en5",
        ),
    ],
)
def test_no_device_for_an_address(tools: Tools, interfaces: None, ip: str, listing: str, code: str, text: str) -> None:
    tools.prints("ibv_devices", listing)
    with pytest.raises(ConfigError) as caught:
        device_for(ip)
    assert caught.value.code == code
    assert text in str(caught.value)


def output_path(name: str) -> str:
    return f"'{OUTPUTS / name}'"
