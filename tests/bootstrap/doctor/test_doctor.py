"""The checks, on a simulated Mac: tools on PATH, an MLX in Python, and this host's loopback addresses."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bootstrap.control.lock import UNKNOWN, host_lock
from bootstrap.doctor import checks, rdma
from bootstrap.doctor.checks import Check
from bootstrap.doctor.ladder import NAMES, Patient, examine, unreached
from bootstrap.errors import ConfigError
from bootstrap.system.network import reserved_ports
from bootstrap.tools import run_tool
from bootstrap.trust import Pins, load_identity
from tests.bootstrap.identities import A
from tests.bootstrap.system_tools import Tools, fake_mlx
from wireproto.session.handshake import fingerprint

OWN, PEER = "127.83.1.1", "127.83.1.2"


@dataclass
class Mac:
    """A faultless Mac, unless a test changes it."""

    tools: Tools
    python: Path

    def has_mlx(self, *backends: str, factory: bool = True, before: str = "") -> None:
        fake_mlx(self.python, *backends, factory=factory, before=before)


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    tools = Tools(tmp_path / "bin")
    tools.prints("sw_vers", "sw_vers-26.2.txt")
    tools.prints("system_profiler", "system_profiler-tb5-linked.json")
    tools.prints("rdma_ctl", "rdma_ctl-enabled.txt")
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    tools.prints("ibv_devinfo", "ibv_devinfo-active.txt")
    tools.prints("networksetup", "networksetup-no-bridge.txt")
    monkeypatch.setenv("PATH", str(tools.path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    holding(monkeypatch, lo0="127.0.0.1", en5=OWN)
    mac = Mac(tools, tmp_path / "python")
    mac.has_mlx("jaccl", "ring")
    return mac


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories for keys and temporary files, and no process of another test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(()))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the wait for hanging tools."""
    for module in (checks, rdma):
        monkeypatch.setattr(module, "run_tool", lambda argv, seconds=1.0: run_tool(argv, min(seconds, 1.0)))


@pytest.fixture
def port() -> int:
    """A free one."""
    with reserved_ports(OWN, 1) as port:
        return port


def holding(monkeypatch: pytest.MonkeyPatch, **ips: str) -> None:
    entries = {name: [SimpleNamespace(family=socket.AF_INET, address=ip)] for name, ip in ips.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)


def climb(**patient: Any) -> dict[str, Check]:
    """Return the checks by name. A red one is the last; all but good ones have a cause and a remedy."""
    found = list(examine(Patient(**{"own_ip": OWN, "coordinator_port": 29400, **patient})))
    assert [check.verdict for check in found[:-1]].count("red") == 0
    for check in found:
        assert ((check.cause is not None) and (check.remedy is not None)) == (check.verdict in ("yellow", "red")), check
    return {check.name: check for check in found}


def last(**patient: Any) -> Check:
    return list(climb(**patient).values())[-1]


def test_a_mac_where_nothing_is_wrong(mac: Mac, port: int) -> None:
    load_identity()
    Pins().add(PEER, load_identity(Path(tempfile.gettempdir()) / "peer.pem").public_key)
    with socket.create_server((PEER, 0)) as peer:
        found = climb(peer_ips=(PEER,), link_port=peer.getsockname()[1], coordinator_port=port)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(
        [
            "platform",
            "mlx",
            "gather-factory",
            "thunderbolt",
            "rdma-ctl",
            "rdma-devices",
            "bridge",
            "address",
            "rdma-port",
            "lock",
            "coordinator-port",
            "peer",
            "identity",
            "pin",
            "leftovers",
        ],
        "green",
    ) | {"link-port": "skipped"}
    assert [*found] == [*NAMES]
    assert found["platform"].evidence.startswith("macOS 26.2 ")
    assert found["mlx"].evidence == "MLX 0.32.4 with jaccl, ring"
    assert found["thunderbolt"].evidence == "Thunderbolt 5, linked at 80 Gb/s"
    assert found["address"].evidence == f"{OWN} on en5"
    port_seen = "rdma_en5: PORT_ACTIVE, Thunderbolt, MTU 4096, ::ffff:169.254.1.1"
    assert found["rdma-port"].evidence == port_seen


@pytest.mark.parametrize("backend", ["auto", "ring"])
def test_linux_has_the_ladder_of_ring(backend: str, port: int) -> None:
    found = climb(own_ip="127.0.0.1", backend=backend, coordinator_port=port)
    assert [*found] == [
        "platform",
        "mlx",
        "address",
        "lock",
        "link-port",
        "coordinator-port",
        "peer",
        "identity",
        "leftovers",
    ]
    assert (found["platform"].verdict, found["mlx"].verdict) == ("green", "green")
    assert (found["peer"].verdict, found["identity"].verdict) == ("skipped", "yellow")


def test_ring_on_a_mac_needs_no_rdma(mac: Mac, port: int) -> None:
    mac.tools.prints("sw_vers", "sw_vers-15.7.1.txt")
    found = climb(backend="ring", coordinator_port=port)
    assert found["platform"].verdict == "green"
    assert {"thunderbolt", "rdma-ctl", "rdma-devices", "rdma-port", "bridge"} & {*found} == set()


def test_jaccl_on_linux_is_refused_at_once() -> None:
    check = last(backend="jaccl")
    assert (check.name, check.verdict, check.remedy) == ("platform", "red", "use --backend ring")


# -- macOS and MLX -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sw_vers-15.7.1.txt", "sw_vers-26.1.txt"])
def test_an_older_macos(mac: Mac, name: str) -> None:
    mac.tools.prints("sw_vers", name)
    assert climb()["platform"].verdict == "yellow"
    check = last(backend="jaccl")
    assert (check.name, check.verdict, check.cause) == ("platform", "red", "JACCL needs macOS 26.2 or later")


def test_a_version_that_cannot_be_told(mac: Mac) -> None:
    mac.tools.runs("sw_vers", "exit 1")
    assert climb(backend="jaccl")["platform"].verdict == "yellow"


@pytest.mark.parametrize(
    ("before", "evidence"),
    [
        ("import os; os.abort()", f"import mlx.core ended by signal 6 ({signal.strsignal(signal.SIGABRT)})"),
        ("raise ImportError('libmlx.so: cannot open')", "import mlx.core failed: ImportError: libmlx.so: cannot open"),
        ("raise SystemExit(0)", "import mlx.core failed: "),
    ],
)
def test_an_mlx_that_cannot_be_imported(mac: Mac, before: str, evidence: str) -> None:
    mac.has_mlx("ring", before=before)
    check = last()
    assert (check.name, check.verdict, check.evidence) == ("mlx", "red", evidence.strip())
    assert check.remedy == "pip install --upgrade 'cluster-wireproto[bootstrap]'"


def test_an_mlx_that_hangs(mac: Mac, short: None) -> None:
    mac.has_mlx("ring", before="import time; time.sleep(60)")
    check = last()
    assert (check.name, check.verdict) == ("mlx", "red")
    assert "takes more than" in check.evidence


def test_what_libraries_print_does_not_matter(mac: Mac) -> None:
    mac.has_mlx("jaccl", "ring", before="print('[warn] {')")
    assert climb()["mlx"].verdict == "green"


@pytest.mark.parametrize(
    ("backends", "backend", "remedy"),
    [(("ring",), "jaccl", "use --backend ring"), ((), "auto", "pip install"), (("jaccl",), "ring", "pip install")],
)
def test_an_mlx_without_the_backend(mac: Mac, backends: tuple[str, ...], backend: str, remedy: str) -> None:
    mac.has_mlx(*backends)
    check = last(backend=backend)
    assert (check.name, check.verdict) == ("mlx", "red")
    assert remedy in str(check.remedy)


def test_auto_is_ring_where_mlx_has_no_jaccl(mac: Mac) -> None:
    mac.has_mlx("ring")
    assert "rdma-port" not in climb()


def test_an_mlx_before_the_factory(mac: Mac) -> None:
    mac.has_mlx("jaccl", "ring", factory=False)
    check = climb()["gather-factory"]
    assert (check.verdict, check.remedy) == ("yellow", "pip install --upgrade mlx")


# -- Thunderbolt and RDMA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tb4-linked", "tb4-dock"])
def test_an_owner_of_thunderbolt_4_is_not_sent_to_recovery(mac: Mac, name: str) -> None:
    mac.tools.prints("system_profiler", f"system_profiler-{name}.json")
    mac.tools.prints("rdma_ctl", "rdma_ctl-disabled.txt")
    mac.tools.prints("ibv_devices", "ibv_devices-0.txt")
    check = last()
    assert (check.name, check.verdict, check.remedy) == ("thunderbolt", "red", "use --backend ring")
    assert not any("Recovery" in str(each) for each in climb().values())


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("tb5-alone", "Thunderbolt 5, no other Mac attached"),
        ("tb5-slow-link", "Thunderbolt 5, linked at 40 Gb/s"),
        ("full-at-40", "ports of unknown speed, linked at 40 Gb/s"),
        ("none", "the Thunderbolt ports are unknown"),
    ],
)
def test_thunderbolt_that_may_do(mac: Mac, name: str, evidence: str) -> None:
    mac.tools.prints("system_profiler", f"system_profiler-{name}.json")
    check = climb()["thunderbolt"]
    assert (check.verdict, check.evidence) == ("yellow", evidence)


@pytest.mark.parametrize(
    ("profile", "remedy"),
    [("tb5-linked", "restart into macOS Recovery"), ("none", "on a Mac with Thunderbolt 5, restart")],
)
def test_rdma_that_was_never_enabled(mac: Mac, profile: str, remedy: str) -> None:
    mac.tools.prints("system_profiler", f"system_profiler-{profile}.json")
    mac.tools.prints("rdma_ctl", "rdma_ctl-disabled.txt")
    check = last()
    assert (check.name, check.verdict, check.evidence) == ("rdma-ctl", "red", "RDMA is disabled")
    assert str(check.remedy).startswith(remedy)


def test_an_unknown_answer_of_rdma_ctl(mac: Mac, short: None) -> None:
    mac.tools.prints("rdma_ctl", "rdma_ctl-unknown.txt", status=64)
    said = "rdma_ctl status says: usage: rdma_ctl [enable | disable | status]"
    assert climb()["rdma-ctl"] == Check(
        "rdma-ctl", "yellow", said, "this check does not know this version of macOS", "rdma_ctl status"
    )
    mac.tools.hangs("rdma_ctl")
    assert climb()["rdma-ctl"].evidence == "rdma_ctl status hangs"


@pytest.mark.parametrize(("name", "status"), [("ibv_devices-0.txt", 0), ("ibv_devices-failed.txt", 1)])
def test_no_device(mac: Mac, name: str, status: int) -> None:
    mac.tools.prints("ibv_devices", name, status)
    check = last()
    assert (check.name, check.verdict, check.evidence) == ("rdma-devices", "red", "ibv_devices lists no device")


@pytest.mark.parametrize(("tool", "name"), [("ibv_devices", "rdma-devices"), ("ibv_devinfo", "rdma-port")])
def test_a_tool_that_hangs_means_a_reboot(mac: Mac, short: None, tool: str, name: str) -> None:
    mac.tools.hangs(tool)
    check = last()
    assert (check.name, check.verdict, check.remedy) == (name, "red", "sudo reboot")
    assert check.evidence.startswith(tool)
    assert check.evidence.endswith("hangs")


def test_a_hostfile_with_another_macs_names(mac: Mac) -> None:
    check = last(devices=("rdma_en5", "rdma_en9"), rank=0, peer_ips=(PEER,))
    assert (check.name, check.verdict) == ("rdma-devices", "red")
    there = "rdma_en2, rdma_en3, rdma_en4, rdma_en5"
    assert check.evidence == f"the hostfile names rdma_en9 for this host, which has {there}"


def test_the_devices_of_a_hostfile_are_looked_at_one_by_one(mac: Mac) -> None:
    mac.tools.runs(
        "ibv_devinfo", 'echo "port: 1"; [ "$3" = rdma_en4 ] && echo "state: PORT_DOWN"\necho "state: PORT_INIT"'
    )
    assert last(devices=("rdma_en4", "rdma_en5")).evidence == "rdma_en4 is PORT_INIT, not PORT_ACTIVE"


def test_a_bridge_is_a_warning(mac: Mac) -> None:
    mac.tools.prints("networksetup", "networksetup-bridge.txt")
    mac.tools.prints("ifconfig", "ifconfig-bridge-up.txt")
    check = climb()["bridge"]
    assert (check.verdict, check.evidence) == ("yellow", "bridge0 is up, with en2, en5")
    assert check.remedy == "sudo ifconfig bridge0 down"
    mac.tools.prints("ifconfig", "ifconfig-bridge-down.txt")
    assert climb()["bridge"].verdict == "green"
    mac.tools.prints("ifconfig", "ifconfig-bridge-missing.txt", status=1)
    assert climb()["bridge"].verdict == "green"


IFCONFIG = "{}: flags=8863<UP,RUNNING> mtu 1500\n\tmember: {} flags=3<LEARNING>\n\tmember: {} flags=3<LEARNING>\n"


@pytest.mark.parametrize("name", ["bridge100", "bridge101", "br-vm", "Thunderbolt-Brücke"])
def test_a_bridge_is_found_by_its_members(mac: Mac, name: str) -> None:
    mac.tools.runs("ifconfig", f"/bin/cat <<'E'\n{IFCONFIG.format(name, 'vmenet0', 'en5')}E")
    check = climb()["bridge"]
    assert (check.verdict, check.evidence) == ("yellow", f"{name} is up, with vmenet0, en5")
    assert check.remedy == f"sudo ifconfig {name} deletem en5"  # the virtual machine keeps its own


def test_several_bridges(mac: Mac) -> None:
    text = IFCONFIG.format("bridge0", "en2", "en3") + IFCONFIG.format("bridge7", "en9", "en10")
    text += IFCONFIG.format("bridge100", "en4", "en5")
    mac.tools.runs("ifconfig", f"/bin/cat <<'E'\n{text}E")
    check = climb()["bridge"]
    assert check.evidence == "bridge0 is up, with en2, en3; bridge100 is up, with en4, en5"
    assert check.remedy is not None
    assert check.remedy.split("; ")[1:] == [f"sudo ifconfig bridge100 deletem {name}" for name in ("en4", "en5")]


def test_a_bridge_without_a_thunderbolt_port_is_none_of_ours(mac: Mac) -> None:
    mac.tools.runs("ifconfig", f"/bin/cat <<'E'\n{IFCONFIG.format('bridge100', 'en0', 'vmenet0')}E")
    assert climb()["bridge"].verdict == "green"


def test_ports_are_known_by_their_names_where_there_is_no_device(mac: Mac) -> None:
    mac.tools.runs("ifconfig", f"/bin/cat <<'E'\n{IFCONFIG.format('bridge5', 'en5', 'en0')}E")
    assert checks.bridge([]).verdict == "yellow"


def no_address(mac: Mac, *good: str) -> None:
    """Only the `good` ports have an address."""
    mapped = "; ".join(f'[ "$3" = {name} ] && echo "GID[ 1]: ::ffff:169.254.9.9"' for name in good)
    mac.tools.runs("ibv_devinfo", f'echo "port: 1"; echo "state: PORT_ACTIVE"; {mapped or ":"}')


@pytest.mark.parametrize("own", ["192.168.1.7", "10.0.0.1", "100.64.3.2"])
def test_a_remedy_never_gives_a_lan_address_to_a_thunderbolt_port(
    mac: Mac, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding(monkeypatch, en0=own)
    monkeypatch.setattr(checks, "holds", lambda ip: True)
    no_address(mac)
    devices = ("rdma_en5", "rdma_en4", "rdma_en3")
    check = last(own_ip=own, peer_ips=("10.0.0.2", "10.0.0.3"), rank=0, devices=devices)
    assert (check.name, check.verdict) == ("rdma-port", "red")
    given = re.findall(r"sudo ifconfig (\w+) inet ([\d.]+) netmask 255.255.0.0 alias", str(check.remedy))
    assert [name for name, _ in given] == ["en5", "en4", "en3"]
    assert len({ip for _, ip in given}) == 3
    assert all(ip.startswith("169.254.") for _, ip in given)
    assert own not in str(check.remedy)


def test_only_ports_without_an_address_get_one(mac: Mac) -> None:
    no_address(mac, "rdma_en4")
    found = list(checks.rdma_ports(OWN, ("rdma_en4", "rdma_en5"), ()))
    assert [check.verdict for check in found] == ["green", "red"]
    assert "en4" not in str(found[1].remedy)


@pytest.mark.parametrize("where", ["own", "peer", "arp", "ifconfig", "other port"])
def test_an_address_in_use_is_not_given(mac: Mac, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = checks.link_local(["en5"])["en5"]
    peers: list[str] = []
    if where == "own":
        holding(monkeypatch, en9=taken)
    elif where == "peer":
        peers = [taken]
    elif where == "arp":
        mac.tools.runs("arp", f"echo '? ({taken}) at 2:0:0:0:0:1 on en5 ifscope [ethernet]'")
    elif where == "ifconfig":
        mac.tools.runs("ifconfig", f"echo 'en3: flags=1<UP> mtu 1500'; echo '\tinet {taken} netmask 0xffff0000'")
    elif where == "other port":
        monkeypatch.setattr("zlib.crc32", lambda *_: 7)
        taken = checks.link_local(["en4"])["en4"]
        assert checks.link_local(["en4", "en5"])["en5"] != taken
        return
    assert checks.link_local(["en5"], peers)["en5"] != taken


def test_two_hosts_choose_different_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in ("mac-1", "mac-2", "mac-3"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        found.update(checks.link_local(["en4", "en5"]).values())
    assert len(found) == 6


@pytest.mark.parametrize(
    ("links", "verdict", "evidence"),
    [
        (["80"], "green", "Thunderbolt 5, linked at 80 Gb/s"),
        (["80", "120"], "green", "Thunderbolt 5, linked at 80 Gb/s to Mac0, 120 Gb/s to Mac1"),
        (["80", "40"], "yellow", "Thunderbolt 5, linked at 80 Gb/s to Mac0, 40 Gb/s to Mac1"),
        (["40", "80", "20"], "yellow", "Thunderbolt 5, linked at 40 Gb/s to Mac0, 80 Gb/s to Mac1, 20 Gb/s to Mac2"),
    ],
)
def test_each_peer_is_judged_by_its_own_speed(mac: Mac, links: list[str], verdict: str, evidence: str) -> None:
    buses: list[Any] = [
        {
            "receptacle_1_tag": {"current_speed_key": f"{speed} Gb/s"},
            "_items": [{"domain_uuid_key": str(n), "device_name_key": f"Mac{n}"}],
        }
        for n, speed in enumerate(links)
    ]
    mac.tools.runs("system_profiler", f"/bin/cat <<'E'\n{json.dumps({'SPThunderboltDataType': buses})}\nE")
    check = climb()["thunderbolt"]
    assert (check.verdict, check.evidence) == (verdict, evidence)
    slow = [f"Mac{n}" for n, speed in enumerate(links) if int(speed) < 80]
    assert all(name in str(check.remedy) for name in slow)


def test_an_address_on_the_bridge(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    holding(monkeypatch, bridge0=OWN)
    check = last()
    assert (check.name, check.verdict) == ("rdma-port", "red")
    assert check.evidence == f"{OWN} is on bridge0, which is not an RDMA device"
    assert "sudo ifconfig bridge0 down" in str(check.remedy)


@pytest.mark.parametrize(
    ("name", "evidence", "remedy"),
    [
        ("down", "rdma_en5 is PORT_DOWN, not PORT_ACTIVE", "on the other Mac: jaccl-bootstrap doctor"),
        ("no-ipv4", "rdma_en5 has no IPv4-mapped GID", "sudo ifconfig en5 inet 169.254."),
    ],
)
def test_a_port_that_cannot_be_used(mac: Mac, name: str, evidence: str, remedy: str) -> None:
    mac.tools.prints("ibv_devinfo", f"ibv_devinfo-{name}.txt")
    check = last()
    assert (check.name, check.verdict) == ("rdma-port", "red")
    assert check.evidence.startswith(evidence)
    assert str(check.remedy).startswith(remedy)


def test_without_an_address_any_good_port_will_do(mac: Mac, port: int) -> None:
    mac.tools.runs("ibv_devinfo", 'echo "port: 1"; echo "state: PORT_DOWN"')
    check = last(own_ip=None)
    assert (check.name, check.evidence) == ("rdma-port", "rdma_en2 is PORT_DOWN, not PORT_ACTIVE")
    mac.tools.runs(
        "ibv_devinfo",
        'echo "port: 1"; [ "$3" = rdma_en4 ] && echo "state: PORT_ACTIVE" && echo "GID[ 0]: ::ffff:10.0.0.1"',
    )
    found = climb(own_ip=None, coordinator_port=port)
    assert found["rdma-port"].verdict == "green"
    assert found["rdma-port"].evidence.startswith("rdma_en4")
    assert found["address"].verdict == "skipped"


# -- address, ports, peers ---------------------------------------------------------------------------------------------


def test_an_address_that_this_host_does_not_hold(mac: Mac) -> None:
    check = last(own_ip="203.0.113.9")
    assert (check.name, check.verdict, check.remedy) == ("address", "red", "ifconfig")
    assert check.evidence == f"this host does not have 203.0.113.9; it has 127.0.0.1 on lo0, {OWN} on en5"


def test_the_coordinator_port_is_taken() -> None:
    with socket.create_server((OWN, 0)) as other:
        port = other.getsockname()[1]
        check = last(coordinator_port=port)
    assert (check.name, check.verdict, check.remedy) == ("coordinator-port", "red", f"lsof -nP -iTCP:{port}")


def test_a_stranger_who_would_share_the_port_is_seen() -> None:
    with socket.create_server((OWN, 0), reuse_port=True) as other:
        assert last(coordinator_port=other.getsockname()[1]).name == "coordinator-port"


@pytest.mark.parametrize("rank", [1, 2, None])
def test_the_own_link_port_is_taken(rank: int | None, port: int) -> None:
    with socket.create_server((OWN, 0)) as other:
        link = other.getsockname()[1]
        check = last(rank=rank, link_port=link, coordinator_port=port)
        assert climb(rank=0, link_port=link, coordinator_port=port)["link-port"].verdict == "skipped"
    assert (check.name, check.verdict, check.remedy) == ("link-port", "red", f"lsof -nP -iTCP:{link}")


@pytest.mark.parametrize("own", ["127.0.0.1", "127.0.1.1", OWN])
def test_a_loopback_address_for_other_hosts(own: str) -> None:
    check = last(own_ip=own, peer_ips=("10.0.0.2",), backend="ring")
    assert (check.name, check.verdict, check.evidence) == ("address", "red", f"{own} is a loopback address")


def test_every_check_is_listed(mac: Mac, port: int) -> None:
    patient = Patient(own_ip=OWN, peer_ips=(PEER,), coordinator_port=port)
    done = list(examine(patient))
    assert [check.name for check in done] == [*NAMES]
    assert list(unreached(patient, done)) == []
    mac.tools.prints("rdma_ctl", "rdma_ctl-disabled.txt")
    done = list(examine(patient))
    rest = list(unreached(patient, done))
    assert [check.name for check in (*done, *rest)] == [*NAMES]
    assert {(check.verdict, check.evidence) for check in rest} == {("skipped", "fix rdma-ctl first")}
    late = Check("timeout", "red", "late", "c", "m")
    assert [check.name for check in unreached(patient, [done[0], late])] == [*NAMES[1:]]


@pytest.mark.parametrize("backend", ["ring", "auto"])
def test_a_check_that_a_ring_does_not_need_is_not_listed(backend: str) -> None:
    patient = Patient(own_ip="203.0.113.9", backend=backend)  # type: ignore[arg-type]
    done = list(examine(patient))
    names = [check.name for check in (*done, *unreached(patient, done))]
    wanted = ["address", "lock", "link-port", "coordinator-port", "peer", "identity", "leftovers"]
    assert names == ["platform", "mlx", *wanted]


def test_ring_listens_on_the_port_of_its_rank() -> None:
    with socket.create_server((OWN, 0)) as other:
        port = other.getsockname()[1]
        assert last(rank=1, coordinator_port=port - 1).evidence == f"{OWN}:{port} is in use"


def test_only_rank_0_of_jaccl_listens(mac: Mac) -> None:
    with socket.create_server((OWN, 0)) as other:
        found = climb(rank=1, coordinator_port=other.getsockname()[1])
    assert found["coordinator-port"].verdict == "skipped"


def test_another_group_is_up() -> None:
    async def examined() -> Check:
        async with host_lock(OWN, 7778):
            assert checks.lock(OWN, 7779).verdict == "green"  # a separate host on loopback
            return last(link_port=7778)

    check = asyncio.run(examined())
    assert (check.name, check.verdict) == ("lock", "red")
    assert check.evidence == f"process {os.getpid()} runs a group on this host"


def test_a_holder_that_cannot_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "holder", lambda ip, link_port: UNKNOWN)
    check = checks.lock(OWN, 7777)
    assert (check.evidence, check.remedy) == ("another process runs a group on this host", "wait until it ends")


@pytest.mark.parametrize(
    ("rank", "verdict"), [(0, "yellow"), (None, "yellow"), (1, "green")], ids=["rank 0", "elected", "rank 1"]
)
def test_a_peer_that_does_not_listen_yet(rank: int | None, verdict: str, port: int) -> None:
    with reserved_ports(PEER, 1) as closed:
        found = climb(rank=rank, peer_ips=(PEER,), link_port=closed, coordinator_port=port)
    assert found["peer"].verdict == verdict
    assert found["peer"].evidence.startswith(f"{PEER} is up and refuses port {closed} (errno {errno.ECONNREFUSED})")
    if verdict == "yellow":
        assert found["peer"].remedy == f"on {PEER}: jaccl-bootstrap up"


@pytest.mark.parametrize(
    ("error", "evidence", "cause"),
    [
        (TimeoutError("timed out"), "does not answer in 3 s", "a firewall or VPN"),
        (TimeoutError(errno.ETIMEDOUT, "slow"), f"does not answer (errno {errno.ETIMEDOUT})", "a firewall or VPN"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "cannot be reached: No route to host", "no route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "cannot be reached: Network is", "no route"),
        (PermissionError(errno.EPERM, "Not permitted"), "cannot be reached: Not permitted", "this system"),
    ],
)
@pytest.mark.parametrize("macos", [False, True])
def test_a_peer_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, error: OSError, evidence: str, cause: str, macos: bool
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", refuse)
    check = checks.peer(PEER, 7777, OWN, 0, macos)
    assert (check.name, check.verdict) == ("peer", "red")
    assert check.evidence.startswith(f"{PEER}:7777 {evidence}")
    assert str(check.cause).startswith(cause)
    assert ("Local Network" in f"{check.cause} {check.remedy}") == (macos and cause != "this system")


@pytest.mark.skipif(sys.platform != "linux", reason="another system answers when its queue is full")
def test_a_peer_that_drops_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PEER_SECONDS", 0.2)
    with socket.create_server((PEER, 0), backlog=0) as peer, socket.create_connection(peer.getsockname()):
        check = checks.peer(*peer.getsockname(), OWN, 0, False)
    assert (check.verdict, check.evidence.rpartition(":")[2].partition(" ")[2]) == ("red", "does not answer in 0.2 s")


# -- keys and what was left --------------------------------------------------------------------------------------------


def test_no_key_is_made(tmp_path: Path, port: int) -> None:
    check = climb(coordinator_port=port)["identity"]
    file = tmp_path / "config" / "cluster-wireproto" / "identity.pem"
    assert (check.verdict, check.evidence) == ("yellow", f"{file} does not exist")
    assert check.remedy == f"to create a key, run: jaccl-bootstrap identity --identity {file}"
    assert not file.exists()


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    load_identity(file)
    file.chmod(0o644)
    check = checks.identity(file)
    assert (check.verdict, check.remedy) == ("red", f"run: chmod 600 {file}")


def test_a_peer_whose_key_is_not_pinned() -> None:
    check = checks.pin(PEER)
    assert check.verdict == "yellow"
    assert str(check.remedy).startswith(f"jaccl-bootstrap pin {PEER} KEY")
    Pins().add("mac-b", A, PEER)
    assert checks.pin(PEER) == Check("pin", "green", f"{PEER} is pinned to {fingerprint(A)}")


def test_pins_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "config" / "cluster-wireproto" / "peers.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    file.chmod(0o600)
    check = checks.pin(PEER)
    assert check.verdict == "red"
    assert "has no valid pins" in check.evidence


def test_a_directory_that_was_left(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "jaccl-bootstrap.lock").touch()
    (tmp_path / "tmp" / "jaccl-bootstrap-127.0.0.1.lock").touch()
    (tmp_path / "tmp" / "jaccl-bootstrap-link").symlink_to(tmp_path)
    assert checks.leftovers().verdict == "green"
    left = tmp_path / "tmp" / "jaccl-bootstrap-0123456789abcdef"
    left.mkdir()
    check = checks.leftovers()
    assert (check.verdict, check.remedy) == ("yellow", f"rm -r {left}")


WORKER = "import time; print('there', flush=True); time.sleep(60)"
RUNS = (
    ["/x/python", "/x/bin/jaccl-bootstrap", "up", "--own-ip", "10.0.0.1"],
    ["/x/python", "-P", "-m", "bootstrap", "up"],
    ["/x/python", "/x/jaccl-bootstrap", "demo"],
    ["/x/python", "-I", "-S", "/y/bootstrap/system/guard.py", "7"],
)


@pytest.mark.parametrize("arguments", RUNS)
def test_what_belongs_to_a_live_run_is_no_leftover(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, live = (tmp_path / "tmp" / f"jaccl-bootstrap-{name}" for name in ("old", "live"))
    old.mkdir()
    began = old.stat().st_ctime + 60
    ids = SimpleNamespace(real=os.getuid())
    run = SimpleNamespace(uids=lambda: ids, cmdline=lambda: arguments, create_time=lambda: began, pid=7)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([run]))
    assert checks.leftovers().remedy == f"rm -r {old}"  # it existed before the run
    began -= 60
    live.mkdir()
    assert checks.leftovers().verdict == "green"


@pytest.mark.parametrize("arguments", [["/x/jaccl-bootstrap", "doctor"], ["vi", "jaccl-bootstrap"], ["x", "up"], []])
def test_other_programs_are_no_runs(tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp" / "jaccl-bootstrap-old").mkdir()
    ids = SimpleNamespace(real=os.getuid())
    other = SimpleNamespace(uids=lambda: ids, cmdline=lambda: arguments, create_time=lambda: 0.0, pid=7)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([other]))
    assert checks.leftovers().verdict == "yellow"


STARTERS: dict[str, Callable[[], list[str]]] = {
    "launched": lambda: [sys.executable, "-S", "-c", WORKER, "bootstrap.worker"],
    # The shell exits, and a process that is not a launcher adopts the worker.
    "orphan": lambda: ["/bin/sh", "-c", f'{sys.executable} -S -c "{WORKER}" bootstrap.worker & echo $!'],
}


@pytest.fixture(params=STARTERS)
def worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Return the start of a process with a worker's name, and its id."""
    kind = request.param
    started = subprocess.Popen(STARTERS[kind](), stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    pid = started.pid
    lines = {started.stdout.readline(), started.stdout.readline() if kind == "orphan" else ""}
    if kind == "orphan":
        (pid,) = [int(line) for line in lines if line != "there\n"]
        started.wait()
    process = psutil.Process(pid)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([psutil.Process(), process]))
    yield kind, pid
    process.kill()
    started.wait()
    started.stdout.close()


def test_a_worker_whose_launcher_is_gone(tmp_path: Path, worker: tuple[str, int]) -> None:
    kind, pid = worker
    (tmp_path / "tmp" / "jaccl-bootstrap-0123456789abcdef").mkdir()  # may be the worker's
    check = checks.leftovers()
    if kind == "launched":
        assert check.verdict == "green"
    else:
        assert (check.verdict, check.remedy) == ("yellow", f"kill -KILL {pid}")


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patient", "code"),
    [
        ({"backend": "mpi"}, "bad-backend"),
        ({"own_ip": "localhost"}, "bad-ip"),
        ({"peer_ips": ("::1",)}, "bad-ip"),
        ({"peer_ips": (PEER,), "rank": 2}, "bad-rank"),
        ({"rank": -1}, "bad-rank"),
        ({"rank": 64}, "bad-rank"),
        ({"peer_ips": tuple(f"10.0.0.{n}" for n in range(64))}, "bad-ranks"),
        ({"own_ip": PEER, "peer_ips": (PEER,)}, "bad-rank"),
        ({"rank": 10**5000}, "bad-rank"),  # a number that Python does not print
        ({"link_port": 0}, "bad-port"),
        ({"link_port": 10**5000}, "bad-port"),
        ({"link_port": 65536}, "bad-port"),
        ({"coordinator_port": 0}, "bad-port"),
        ({"coordinator_port": 65535, "peer_ips": (PEER,)}, "bad-port"),
    ],
)
def test_what_cannot_be_examined(patient: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Patient(**patient)
    assert caught.value.code == code


def test_the_lower_address_is_rank_0() -> None:
    assert Patient(own_ip=OWN, peer_ips=(PEER,)).own_rank == 0
    assert Patient(own_ip=PEER, peer_ips=(OWN,)).own_rank == 1
    assert Patient(own_ip=PEER, peer_ips=(OWN,), rank=0).own_rank == 0
    assert Patient(own_ip=OWN).own_rank is None


def test_a_check_is_one_line_whatever_a_tool_says() -> None:
    check = Check("name", "red", "a\x1b[31m\n\tb \u2028c" + "x" * 1000, "cause", "rm -r " + "y" * 1000)
    assert check.evidence.startswith("a [31m b cx")
    assert len(check.evidence) == 300
    assert check.evidence.isprintable()
    assert len(str(check.remedy)) == 1006  # half a command can be harmful
