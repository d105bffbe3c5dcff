"""The whole of it, in this process: file, environment, group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootstrap.environment import environment_for, set_environment
from bootstrap.events import OnStep, silent
from bootstrap.group import init_group, resolve_backend
from bootstrap.plan import BootstrapConfig, Plan
from bootstrap.topology import backend_file, written

if TYPE_CHECKING:
    from mlx.core.distributed import Group


def bootstrap(config: BootstrapConfig) -> Group:
    """Form the group of two that `config` describes. Blocks until the other rank does the same.

    Raises a BootstrapError. The file is removed again; the variables stay set. See `init_group` for deadlines.
    """
    return form_group(config.plan())


def form_group(plan: Plan, on_step: OnStep = silent) -> Group:
    """Write the file that MLX reads, set the variables, init the group; report each step when it is done."""
    backend = resolve_backend(plan.backend)
    form, path, data = backend_file(plan, backend)
    with written(path, data):
        on_step("file-written", path=str(path), format=form)
        variables = environment_for(plan, backend, path)
        cleared = set_environment(variables)
        on_step("environment-set", variables=variables, cleared=cleared)
        group = init_group(backend, plan.rank, plan.size)
        on_step("group-ready", size=plan.size, backend=backend)
    return group
