"""The equivalents of the fifteen tests of the reference implementation, in its order."""

import json
import subprocess
import sys

import pytest

from bootstrap import BootstrapConfig, EnvironmentSetError, GroupInitError, TopologyWriteError
from bootstrap.environment import environment_for
from bootstrap.plan import Plan
from bootstrap.topology import rank_entries, topology_path
from wireproto import ClusterMsgType, JacclBootstrapPayload, decode_frame, encode_frame

RANK_0 = BootstrapConfig(own_rank=0, own_ip="169.254.1.1", peer_ip="169.254.1.2", port=29400, session_id="S-1")
RANK_1 = BootstrapConfig(own_rank=1, own_ip="169.254.1.2", peer_ip="169.254.1.1", port=29400, session_id="S-1")
BOTH = pytest.mark.parametrize("config", [RANK_0, RANK_1], ids=["rank 0", "rank 1"])


def variables(config: BootstrapConfig) -> dict[str, str]:
    plan = config.plan()
    return environment_for(plan, "jaccl", topology_path(plan.session_id))


def entries(config: BootstrapConfig) -> list[dict[str, object]]:
    parsed: list[dict[str, object]] = json.loads(rank_entries(config.plan().ips))
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
    plan = Plan(rank=1, ips=("10.0.0.1", "10.0.0.2"), port=port)
    assert environment_for(plan, "jaccl", topology_path("s"))["MLX_JACCL_COORDINATOR"] == f"10.0.0.1:{port}"


@BOTH
def test_07_topology_file_is_json(config: BootstrapConfig) -> None:
    assert isinstance(entries(config), list)


def test_08_topology_path_holds_the_session_id() -> None:
    assert topology_path("S-1").name == "darkbloom-jaccl-topology-S-1.json"


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
    # In a process of its own: MLX makes a group once per process.
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
