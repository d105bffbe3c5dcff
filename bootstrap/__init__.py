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
from bootstrap.group import bootstrap, form_group
from bootstrap.link.gather import side_channel_factory
from bootstrap.plan import BootstrapConfig, Plan

if TYPE_CHECKING:
    from bootstrap.launch.run import launch
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


class _Package(ModuleType):
    """This package. What needs an event loop is imported on first use: `--help` needs none.

    `rank` and `launch` are always the functions: the import system would put the submodules of those names in their
    place.
    """

    @property
    def rank(self) -> Any:
        return import_module("bootstrap.rank").rank

    @rank.setter
    def rank(self, module: ModuleType) -> None:
        """Leave the submodule where it is found anyway, in sys.modules."""

    @property
    def launch(self) -> Any:
        return import_module("bootstrap.launch.run").launch

    @launch.setter
    def launch(self, package: ModuleType) -> None:
        """The same."""


sys.modules[__name__].__class__ = _Package
