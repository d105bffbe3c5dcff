"""A host's report: Macs by their tools, this Linux host by itself, and tools that fail, hang or lie."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootstrap.launch.survey import HostReport, Interface, Link, RdmaDevice, survey
from bootstrap.system.tools import ToolResult
from bootstrap.tools import tools_run_by
from bootstrap.trust import encode_public_key, load_identity
from tests.bootstrap.macs import Address, Macs, Stats, mesh
from tests.bootstrap.system_tools import output
from tests.examples import examples


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def decoded(report: HostReport) -> HostReport:
    return msgspec.json.decode(msgspec.json.encode(report), type=HostReport)


def test_a_mac(home: Path) -> None:
    macs = Macs(["a", "b"], mesh(2), addresses=lambda end: f"169.254.{end.mac + 1}.{end.port + 1}")
    found = macs.report(0, home)
    assert found.interfaces == (
        Interface(name="lo0", ip="127.0.0.1", prefix=8),
        Interface(name="en0", ip="10.0.0.1", prefix=24, speed=1000),
        Interface(name="en2", ip="169.254.1.1", prefix=16, thunderbolt=True),
        Interface(name="en3", ip="169.254.1.2", prefix=16, thunderbolt=True),
        Interface(name="en4", ip="169.254.1.3", prefix=16, thunderbolt=True),
    )
    assert found.devices[0] == RdmaDevice(name="rdma_en2", state="PORT_ACTIVE", usable=True)
    assert found.devices[1] == RdmaDevice(name="rdma_en3", state="PORT_DOWN", usable=False)
    assert [port.interface for port in found.ports] == ["en4", "en3", "en2"]
    assert found.ports[2].links == (Link(domain="00000001-0000-4000-8000-000000000000", speed=80_000),)
    assert macs.report(1, home).ports[2].domain == found.ports[2].links[0].domain


def test_the_key_is_made_once(home: Path) -> None:
    found = decoded(survey())
    assert found.key == encode_public_key(load_identity(create=False).public_key) == survey().key


def test_a_device_without_an_address(home: Path) -> None:
    found = Macs(["a", "b"], mesh(2)).report(0, home)
    assert found.devices[0] == RdmaDevice(name="rdma_en2", state="PORT_ACTIVE", usable=False)


def test_this_host() -> None:
    """Its loopback interface, from psutil, without macOS's tools."""
    found = decoded(survey())
    assert Interface(name="lo", ip="127.0.0.1", prefix=8) in found.interfaces
    assert (found.devices, found.ports) == ((), ())


def test_an_interface_that_is_down_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"eth0": [Address("10.0.0.1", "255.0.0.0")], "eth1": [Address("10.0.0.2", "255.0.0.0")], "gone": []}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses | {"new": [Address("10.0.0.3", "255.0.0.0")]})
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"eth0": Stats(True, 0), "eth1": Stats(False, 0)})
    assert [each.name for each in survey().interfaces] == ["eth0"]


def test_a_driver_that_hangs_is_asked_once() -> None:
    asked: list[str] = []

    def run(argv: Sequence[str], seconds: float) -> ToolResult:
        asked.append(argv[0])
        if argv[0] == "ibv_devices":
            return ToolResult(status="ok", stdout=output("ibv_devices-4.txt"))
        return ToolResult(status="hung")

    with tools_run_by(run):
        found = survey()
    assert [device.name for device in found.devices] == ["rdma_en2", "rdma_en3", "rdma_en4", "rdma_en5"]
    assert {(device.state, device.usable) for device in found.devices} == {(None, False)}
    assert asked.count("ibv_devinfo") == 1


def test_ibv_devices_that_hangs_leaves_no_devices() -> None:
    with tools_run_by(lambda argv, seconds: ToolResult(status="hung")):
        assert survey().devices == ()


@pytest.mark.parametrize(
    "change",
    [
        {"key": "A" * 88},
        {"key": "x"},
        {"more": 1},
        {"interfaces": [{"name": "en0", "ip": "10.0.0.1", "prefix": 33}]},
        {"interfaces": [{"name": "en0", "ip": "224.0.0.1", "prefix": 24}]},
        {"interfaces": [{"name": "en0", "ip": "mac-a.local", "prefix": 24}]},
        {"interfaces": [{"name": "en0;reboot", "ip": "10.0.0.1", "prefix": 24}]},
        {"interfaces": [{"name": "en0\n", "ip": "10.0.0.1", "prefix": 24}]},
        {"interfaces": [{"name": "", "ip": "10.0.0.1", "prefix": 24}]},
        {"interfaces": [{"name": "en0", "ip": "10.0.0.1", "prefix": 24}] * 257},
        {"devices": [{"name": "mlx5_0"}]},
        {"devices": [{"name": "rdma_"}]},
        {"devices": [{"name": "rdma_en2"}] * 65},
        {"ports": [{"domain": "\u202e"}]},
        {"ports": [{"domain": "A", "links": [{"domain": "B", "speed": -1}]}]},
        {"ports": [{"domain": "A", "links": [{"domain": "B", "speed": 1}] * 65}]},
    ],
)
def test_a_report_that_is_refused(change: dict[str, object]) -> None:
    good = msgspec.to_builtins(survey())
    assert msgspec.convert(good, HostReport)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**good, **change}, HostReport)


NAMES = st.sampled_from(["rdma_en2", "rdma_", "rdma_\x1b[1m", "r" * 70, "en2", "Thunderbolt 1", "\u202e", "", "mlx5_0"])
SPEEDS = st.sampled_from(["80 Gb/s", "0 Gb/s", "9999 Gb/s x99", "Up to 120 Gb/s"])
BUSES = st.builds(
    lambda own, number, speed, other: {
        "domain_uuid_key": own,
        "receptacle_1_tag": {"current_speed_key": speed, "receptacle_id_key": number},
        "_items": [{"domain_uuid_key": other}] * 70,
    },
    NAMES | st.integers(),
    st.sampled_from(["1", "2", "\x1b"]),
    SPEEDS,
    NAMES,
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BUSES, max_size=70), st.lists(NAMES, max_size=80), NAMES, NAMES)
def test_whatever_the_tools_print_the_report_can_be_sent(
    buses: list[object], devices: list[str], device: str, state: str
) -> None:
    def run(argv: Sequence[str], seconds: float) -> ToolResult:
        text = {
            "system_profiler": msgspec.json.encode({"SPThunderboltDataType": buses}).decode(),
            "networksetup": f"Hardware Port: Thunderbolt 1\nDevice: {device}\n",
            "ibv_devices": "".join(f"{name} e0c5790000000005\n" for name in devices),
            "ibv_devinfo": f"port: 1\nstate: {state}\nGID[0]: ::ffff:169.254.1.1\n",
        }[argv[0]]
        return ToolResult(status="ok", stdout=text)

    with tools_run_by(run):
        found = survey()
    assert decoded(found) == found
