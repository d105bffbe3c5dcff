"""Equivalents of the fifteen tests of the reference implementation, in its order."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bootstrap import BootstrapConfig, EnvironmentSetError, GroupInitError, TopologyWriteError
from bootstrap.group import prepare
from bootstrap.plan import Plan
from wireproto import ClusterMsgType, JacclBootstrapPayload, decode_frame, encode_frame
from wireproto.jaccl.topology import RankEntry, format_rank_entries

RANK_0 = BootstrapConfig(own_rank=0, own_ip="169.254.1.1", peer_ip="169.254.1.2", port=29400, session_id="S-1")
RANK_1 = BootstrapConfig(own_rank=1, own_ip="169.254.1.2", peer_ip="169.254.1.1", port=29400, session_id="S-1")
DEVICES = ((None, "rdma_en5"), ("rdma_en4", None))
BOTH = pytest.mark.parametrize("config", [RANK_0, RANK_1], ids=["rank 0", "rank 1"])


def variables(config: BootstrapConfig) -> dict[str, str]:
    return prepare(replace(config.plan(), devices=DEVICES), "jaccl").variables


def entries(config: BootstrapConfig) -> list[dict[str, object]]:
    """The reference peer's topology file for these ranks; JACCL itself reads a device matrix."""
    rows = [RankEntry("bridge100", ip, rank) for rank, ip in enumerate(config.plan().ips)]
    parsed: list[dict[str, object]] = json.loads(format_rank_entries(rows))
    return parsed


def test_01_config_fields_round_trip() -> None:
    config = BootstrapConfig(own_rank=1, own_ip="10.0.0.2", peer_ip="10.0.0.1", port=1234, session_id="abc")
    assert (config.own_rank, config.own_ip, config.peer_ip) == (1, "10.0.0.2", "10.0.0.1")
    assert (config.port, config.session_id) == (1234, "abc")
    assert BootstrapConfig(own_rank=0, own_ip="10.0.0.1", peer_ip="10.0.0.2").port == 29400


@pytest.mark.parametrize("kind", [EnvironmentSetError, TopologyWriteError, GroupInitError])
def test_02_error_texts(kind: type[EnvironmentSetError | TopologyWriteError | GroupInitError]) -> None:
    assert "native words" in str(kind("what failed: native\nwords", code="some-code"))


def test_03_mlx_rank_of_rank_0() -> None:
    assert variables(RANK_0)["MLX_RANK"] == "0"


def test_04_mlx_rank_of_rank_1() -> None:
    assert variables(RANK_1)["MLX_RANK"] == "1"


@BOTH
def test_05_coordinator_is_rank_0s_address(config: BootstrapConfig) -> None:
    """[BOOT-COORDINATOR]"""
    assert variables(config)["MLX_JACCL_COORDINATOR"] == "169.254.1.1:29400"


@pytest.mark.parametrize("port", [1, 29400, 65534])
def test_06_port_is_verbatim(port: int) -> None:
    plan = Plan(rank=1, ips=("10.0.0.1", "10.0.0.2"), port=port, devices=DEVICES, link_ports=())
    assert prepare(plan, "jaccl").variables["MLX_JACCL_COORDINATOR"] == f"10.0.0.1:{port}"


@BOTH
def test_07_topology_file_is_json(config: BootstrapConfig) -> None:
    assert isinstance(entries(config), list)


def test_08_topology_path_holds_the_session_id() -> None:
    path = prepare(replace(RANK_0.plan(), devices=DEVICES), "jaccl").path
    assert path.name == "darkbloom-jaccl-topology-S-1.json"


@BOTH
def test_09_topology_has_two_entries(config: BootstrapConfig) -> None:
    assert [entry["rank"] for entry in entries(config)] == [0, 1]


def test_10_addresses_from_rank_0s_point_of_view() -> None:
    assert [entry["ip"] for entry in entries(RANK_0)] == ["169.254.1.1", "169.254.1.2"]


def test_11_addresses_from_rank_1s_point_of_view() -> None:
    assert [entry["ip"] for entry in entries(RANK_1)] == ["169.254.1.1", "169.254.1.2"]


@BOTH
def test_12_interface_is_bridge100_in_both_entries(config: BootstrapConfig) -> None:
    assert [entry["interface"] for entry in entries(config)] == ["bridge100", "bridge100"]


def test_13_non_strict_init_gives_a_group() -> None:
    # In another process: MLX makes a group once per process.
    code = (
        "import mlx.core as mx; d = mx.distributed; assert callable(d.is_available); print(d.init(strict=False).size())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 1


def test_14_payload_round_trip() -> None:
    payload = JacclBootstrapPayload(port=29400, session_id="2D8E0D75-ECD6-4EC4-9AF1-D7C3BA8BADB5")
    assert decode_frame(encode_frame(payload)) == payload


def test_15_raw_value_and_frame() -> None:
    frame = encode_frame(JacclBootstrapPayload(port=29400, session_id="S-1"))
    assert ClusterMsgType.JACCL_BOOTSTRAP == frame[0] == 0x07
    assert json.loads(frame[1:]) == {"port": 29400, "sessionID": "S-1"}
