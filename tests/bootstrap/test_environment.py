import os
from pathlib import Path

import pytest

from bootstrap import EnvironmentSetError, Plan
from bootstrap.environment import READ_BY_MLX, environment_for, set_environment

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
