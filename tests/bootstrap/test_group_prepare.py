"""The file and the variables that MLX reads: `group.prepare` and `Prepared`."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bootstrap import ConfigError, EnvironmentSetError, Plan
from bootstrap.doctor import rdma
from bootstrap.group import READ_BY_MLX, Prepared, checked, prepare
from bootstrap.plan import Backend
from wireproto.jaccl.topology import DeviceMatrix

pytestmark = pytest.mark.usefixtures("clean_environment")

PAIR = ((None, "rdma_en5"), ("rdma_en4", None))
TWO = ("10.0.0.1", "10.0.0.2")


def plan_of(**more: Any) -> Plan:
    return Plan(**{"rank": 0, "ips": TWO, "session_id": "S", "directory": "/d", "link_ports": ()} | more)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_jaccl_reads_the_given_device_matrix() -> None:
    prepared = prepare(plan_of(devices=PAIR), "jaccl")
    assert (prepared.format, prepared.path) == ("device-matrix", Path("/d/darkbloom-jaccl-topology-S.json"))
    assert prepared.content == b'[[null,"rdma_en5"],["rdma_en4",null]]'


def test_ring_reads_a_hostfile_with_a_port_of_its_own_for_each_rank() -> None:
    prepared = prepare(plan_of(rank=2, ips=("127.0.0.1", "127.0.0.1", "10.0.0.3"), port=30000), "ring")
    assert (prepared.format, prepared.path) == ("ring-hostfile", Path("/d/darkbloom-ring-hosts-S.json"))
    assert prepared.content == b'[["127.0.0.1:30000"],["127.0.0.1:30001"],["10.0.0.3:30002"]]'


def test_the_file_is_with_the_systems_temporary_files() -> None:
    assert prepare(plan_of(directory=None), "ring").path.parent == Path(tempfile.gettempdir())


def test_ring_hostfile_has_a_connection_for_each_address() -> None:
    all_ips = (("10.0.0.1", "10.0.1.1"), ("10.0.0.2", "10.0.1.2"))
    content = prepare(plan_of(all_ips=all_ips, port=30000), "ring").content
    assert content == b'[["10.0.0.1:30000","10.0.1.1:30001"],["10.0.0.2:30002","10.0.1.2:30003"]]'


def test_ring_hostfile_has_equally_many_connections() -> None:
    """MLX fails if a rank has more addresses than its neighbour."""
    all_ips = (("10.0.0.1", "10.0.1.1"), ("10.0.0.2",), ("10.0.0.3", "10.0.1.3", "10.0.2.3"))
    content = prepare(plan_of(ips=(*TWO, "10.0.0.3"), all_ips=all_ips, port=30000), "ring").content
    assert content == b'[["10.0.0.1:30000"],["10.0.0.2:30001"],["10.0.0.3:30002"]]'


def test_a_pair_without_a_matrix_uses_the_device_of_the_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this rank's row counts; the other is the same, because the file needs one."""
    monkeypatch.setattr(rdma, "device_for", {"10.0.0.2": "rdma_en5"}.__getitem__)
    assert checked(plan_of(rank=1), "jaccl").devices == ((None, "rdma_en5"), ("rdma_en5", None))
    assert prepare(plan_of(rank=1), "jaccl").content == b'[[null,"rdma_en5"],["rdma_en5",null]]'


def test_more_ranks_need_a_matrix() -> None:
    """[TOPOLOGY-MATRIX]"""
    with pytest.raises(ConfigError, match="3 ranks need a device matrix") as caught:
        checked(plan_of(rank=1, ips=(*TWO, "10.0.0.3")), "jaccl")
    assert caught.value.code == "devices-needed"


# -- the variables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("backend", "variable"), [("jaccl", "MLX_IBV_DEVICES"), ("ring", "MLX_HOSTFILE")])
def test_the_variables(rank: int, backend: Backend, variable: str) -> None:
    prepared = prepare(plan_of(rank=rank, devices=PAIR), backend)
    assert prepared.variables == {
        "MLX_RANK": str(rank),
        "MLX_JACCL_COORDINATOR": "10.0.0.1:29400",
        variable: str(prepared.path),
    }


NO_MESH = (
    (None, "a", None, "b"),
    ("a", None, "b", None),
    (None, "a", None, "b"),
    ("a", None, "b", None),
)
THREE = ((None, "a", "b"), ("a", None, "b"), ("a", "b", None))


@pytest.mark.parametrize(("devices", "ring"), [(NO_MESH, True), (THREE, False), (PAIR, False)])
@pytest.mark.parametrize("wanted", [False, True])
def test_jaccl_is_told_to_form_a_ring_where_there_is_no_mesh(devices: DeviceMatrix, ring: bool, wanted: bool) -> None:
    """Or where one is wanted although there is."""
    plan = plan_of(ips=tuple(f"10.0.0.{rank + 1}" for rank in range(len(devices))), devices=devices, jaccl_ring=wanted)
    assert prepare(plan, "jaccl").variables.get("MLX_JACCL_RING") == ("1" if ring or wanted else None)
    assert "MLX_JACCL_RING" not in prepare(plan, "ring").variables


def test_the_plans_own_variables() -> None:
    envs = (("A", "1"), ("MLX_METAL_FAST_SYNCH", ""), *((name, "x") for name in READ_BY_MLX))
    prepared = prepare(plan_of(rank=1, envs=envs), "ring")
    assert prepared.variables == {
        "A": "1",
        "MLX_METAL_FAST_SYNCH": "",
        "MLX_RANK": "1",
        "MLX_JACCL_COORDINATOR": "10.0.0.1:29400",
        "MLX_HOSTFILE": str(prepared.path),
    }


def test_the_own_wish_for_a_ring_contradicts_nothing() -> None:
    os.environ.update(dict.fromkeys(READ_BY_MLX, "stale"))
    assert prepare(plan_of(rank=1, ips=("10.0.0.1",) * 4, devices=NO_MESH), "jaccl").cleared == [
        "JACCL_RANK",
        "JACCL_COORDINATOR",
        "JACCL_IBV_DEVICES",
        "JACCL_RING",
        "MLX_HOSTFILE",
    ]


def test_preparing_changes_nothing() -> None:
    os.environ["JACCL_RING"] = "0"  # presence counts
    before = dict(os.environ)
    assert prepare(plan_of(), "ring").cleared == ["JACCL_RING"]
    assert dict(os.environ) == before


@pytest.mark.parametrize(("backend", "contrary"), [("jaccl", "MLX_HOSTFILE"), ("ring", "MLX_IBV_DEVICES")])
def test_what_would_contradict_is_cleared(backend: Backend, contrary: str) -> None:
    """In this process, and for a command."""
    os.environ.update(dict.fromkeys(READ_BY_MLX, "stale"))
    prepared = prepare(plan_of(rank=1, devices=PAIR), backend)
    cleared = ["JACCL_RANK", "JACCL_COORDINATOR", "JACCL_IBV_DEVICES", "JACCL_RING", "MLX_JACCL_RING", contrary]
    assert prepared.cleared == cleared
    environment = prepared.environment()
    prepared.set_variables()
    assert dict(os.environ) == environment
    assert {name: os.environ[name] for name in READ_BY_MLX if name in os.environ} == prepared.variables


@pytest.mark.parametrize(("name", "value"), [("MLX_RANK", "a\0b"), ("A=B", "1"), ("A\0", "1"), ("", "1")])
def test_a_variable_that_cannot_be_set(name: str, value: str) -> None:
    with pytest.raises(EnvironmentSetError, match="cannot set the variable") as caught:
        Prepared("ring-hostfile", Path("/d/f"), b"", {name: value}, []).set_variables()
    assert (caught.value.stage, caught.value.code) == ("environment", "variable-refused")
    assert repr(name) in str(caught.value)
    assert repr(value) in str(caught.value)
