import os
from pathlib import Path

import pytest

from bootstrap import EnvironmentSetError, Plan
from bootstrap.environment import READ_BY_MLX, contrary_names, environment_for, set_environment
from wireproto.jaccl.topology import DeviceMatrix

pytestmark = pytest.mark.usefixtures("clean_environment")

PATH = Path("/d/file.json")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("backend", "variable"), [("jaccl", "MLX_IBV_DEVICES"), ("ring", "MLX_HOSTFILE")])
def test_the_variables(rank: int, backend: str, variable: str) -> None:
    plan = Plan(rank=rank, ips=("10.0.0.1", "10.0.0.2"), port=29400)
    assert environment_for(plan, "jaccl" if backend == "jaccl" else "ring", PATH) == {
        "MLX_RANK": str(rank),
        "MLX_JACCL_COORDINATOR": "10.0.0.1:29400",
        variable: "/d/file.json",
    }


NO_MESH = (
    (None, "a", None, "b"),
    ("a", None, "b", None),
    (None, "a", None, "b"),
    ("a", None, "b", None),
)
THREE = ((None, "a", "b"), ("a", None, "b"), ("a", "b", None))


@pytest.mark.parametrize(("devices", "ring"), [(NO_MESH, True), (THREE, False), (((None, "a"), ("a", None)), False)])
def test_jaccl_is_told_to_form_a_ring_where_there_is_no_mesh(devices: DeviceMatrix, ring: bool) -> None:
    plan = Plan(rank=1, ips=tuple(f"10.0.0.{rank}" for rank in range(1, len(devices) + 1)), devices=devices)
    wanted = {"MLX_RANK": "1", "MLX_JACCL_COORDINATOR": "10.0.0.1:29400", "MLX_IBV_DEVICES": str(PATH)}
    assert environment_for(plan, "jaccl", PATH) == wanted | ({"MLX_JACCL_RING": "1"} if ring else {})
    assert "MLX_JACCL_RING" not in environment_for(plan, "ring", PATH)


@pytest.mark.parametrize("devices", [THREE, ((None, "a"), ("a", None)), NO_MESH, None])
def test_a_ring_of_a_matrix_that_makes_a_mesh(devices: DeviceMatrix | None) -> None:
    ips = tuple(f"10.0.0.{rank + 1}" for rank in range(len(devices or "ab")))
    plan = Plan(rank=0, ips=ips, devices=devices, jaccl_ring=True)
    assert environment_for(plan, "jaccl", PATH)["MLX_JACCL_RING"] == "1"
    assert "MLX_JACCL_RING" not in environment_for(plan, "ring", PATH)


def test_the_plans_own_variables() -> None:
    envs = (("A", "1"), ("MLX_METAL_FAST_SYNCH", ""), *((name, "x") for name in READ_BY_MLX))
    found = environment_for(Plan(rank=1, ips=("10.0.0.1", "10.0.0.2"), envs=envs), "ring", PATH)
    assert found == {
        "A": "1",
        "MLX_METAL_FAST_SYNCH": "",
        "MLX_RANK": "1",
        "MLX_JACCL_COORDINATOR": "10.0.0.1:29400",
        "MLX_HOSTFILE": str(PATH),
    }


def test_the_own_wish_for_a_ring_contradicts_nothing() -> None:
    os.environ.update(dict.fromkeys(READ_BY_MLX, "stale"))
    plan = Plan(rank=1, ips=("10.0.0.1",) * 4, devices=NO_MESH)
    assert contrary_names(environment_for(plan, "jaccl", PATH)) == [
        "JACCL_RANK",
        "JACCL_COORDINATOR",
        "JACCL_IBV_DEVICES",
        "JACCL_RING",
        "MLX_HOSTFILE",
    ]


def test_contrary_names_changes_nothing() -> None:
    os.environ["JACCL_RING"] = "0"  # presence counts
    before = dict(os.environ)
    assert "JACCL_RING" in contrary_names({"MLX_RANK": "0"})
    assert dict(os.environ) == before


@pytest.mark.parametrize(("backend", "contrary"), [("jaccl", "MLX_HOSTFILE"), ("ring", "MLX_IBV_DEVICES")])
def test_what_would_contradict_is_cleared(backend: str, contrary: str) -> None:
    for name in READ_BY_MLX:
        os.environ[name] = "stale"
    plan = Plan(rank=1, ips=("10.0.0.1", "10.0.0.2"))
    variables = environment_for(plan, "jaccl" if backend == "jaccl" else "ring", PATH)
    cleared = set_environment(variables)
    assert cleared == ["JACCL_RANK", "JACCL_COORDINATOR", "JACCL_IBV_DEVICES", "JACCL_RING", "MLX_JACCL_RING", contrary]
    assert {name: os.environ[name] for name in READ_BY_MLX if name in os.environ} == variables


def test_nothing_to_clear() -> None:
    for name in READ_BY_MLX:
        os.environ.pop(name, None)
    assert set_environment({"MLX_RANK": "0"}) == []


@pytest.mark.parametrize(("name", "value"), [("MLX_RANK", "a\0b"), ("A=B", "1"), ("A\0", "1"), ("", "1")])
def test_a_variable_that_cannot_be_set(name: str, value: str) -> None:
    with pytest.raises(EnvironmentSetError, match="cannot set the variable") as caught:
        set_environment({name: value})
    assert (caught.value.stage, caught.value.code) == ("environment", "variable-refused")
    assert repr(name) in str(caught.value)
    assert repr(value) in str(caught.value)
