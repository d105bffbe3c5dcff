"""The variables that MLX reads: which to set, and which to clear."""

import os
from collections.abc import Mapping
from pathlib import Path

from bootstrap.errors import EnvironmentSetError
from bootstrap.plan import Backend, Plan
from wireproto.jaccl.topology import check_device_matrix

# A JACCL_* name beats its MLX_* twin, and JACCL_RING counts when it is merely present.
READ_BY_MLX = (
    "JACCL_RANK",
    "JACCL_COORDINATOR",
    "JACCL_IBV_DEVICES",
    "JACCL_RING",
    "MLX_JACCL_RING",
    "MLX_RANK",
    "MLX_JACCL_COORDINATOR",
    "MLX_IBV_DEVICES",
    "MLX_HOSTFILE",
)


def environment_for(plan: Plan, backend: Backend, topology_path: Path) -> dict[str, str]:
    """Return the variables that make MLX form `plan` with `backend` from the file at `topology_path`.

    The plan's own variables are among them, except those that MLX reads to form a group. JACCL forms a mesh if it can;
    MLX_JACCL_RING tells it to form a ring.
    """
    file_variable = "MLX_IBV_DEVICES" if backend == "jaccl" else "MLX_HOSTFILE"
    variables = {name: value for name, value in plan.envs if name not in READ_BY_MLX} | {
        "MLX_RANK": str(plan.rank),
        "MLX_JACCL_COORDINATOR": plan.coordinator,
        file_variable: str(topology_path),
    }
    is_mesh = plan.devices is None or check_device_matrix(plan.devices).mesh
    if backend == "jaccl" and (plan.jaccl_ring or not is_mesh):
        variables["MLX_JACCL_RING"] = "1"
    return variables


def contrary_names(variables: Mapping[str, str]) -> list[str]:
    """Return the names set in this process, and not in `variables`, that MLX would read."""
    return [name for name in READ_BY_MLX if name in os.environ and name not in variables]


def set_environment(variables: Mapping[str, str]) -> list[str]:
    """Set `variables` in this process, clear the others that MLX would read, and return the names cleared."""
    cleared = contrary_names(variables)
    for name in cleared:
        del os.environ[name]
    for name, value in variables.items():
        try:
            os.environ[name] = value
        except (OSError, ValueError, TypeError) as error:
            raise EnvironmentSetError(
                f"cannot set the variable {name!r} to {value!r}: {error}; correct the name or the value",
                code="variable-refused",
            ) from error
    return cleared
