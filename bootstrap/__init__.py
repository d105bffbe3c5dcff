"""Two or more processes, one MLX group."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bootstrap.errors import (
    BootstrapError,
    ConfigError,
    EnvironmentSetError,
    GroupInitError,
    LinkError,
    TopologyWriteError,
)

if TYPE_CHECKING:
    from bootstrap.group import bootstrap, form_group
    from bootstrap.launch.run import launch
    from bootstrap.link.gather import side_channel_factory
    from bootstrap.plan import BootstrapConfig, Plan
    from bootstrap.rank import rank

__all__ = [
    "BootstrapConfig",
    "BootstrapError",
    "ConfigError",
    "EnvironmentSetError",
    "GroupInitError",
    "LinkError",
    "Plan",
    "TopologyWriteError",
    "bootstrap",
    "form_group",
    "launch",
    "rank",
    "side_channel_factory",
]


_MODULES = {
    "BootstrapConfig": "plan",
    "Plan": "plan",
    "bootstrap": "group",
    "form_group": "group",
    "launch": "launch.run",
    "rank": "rank",
    "side_channel_factory": "link.gather",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bootstrap.{_MODULES[name]}"), name)
    return value


class _Package(ModuleType):
    """This package. Everything but the errors is imported on first use, since `--help` needs none of it.

    `rank` and `launch` are never the submodules, which the import system would put in the place of the functions.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
