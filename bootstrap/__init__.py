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
from bootstrap.link.side_channel import side_channel_factory
from bootstrap.plan import BootstrapConfig, Plan

if TYPE_CHECKING:
    from bootstrap.rank import rank
    from bootstrap.trust import Trust

__all__ = [
    "BootstrapConfig",
    "BootstrapError",
    "ConfigError",
    "EnvironmentSetError",
    "GroupInitError",
    "LinkError",
    "Plan",
    "TopologyWriteError",
    "Trust",
    "bootstrap",
    "form_group",
    "rank",
    "side_channel_factory",
]


class _Package(ModuleType):
    """This package: `rank` and `Trust` are imported on first use, since they need more than a process for MLX has.

    `rank` is always the function: the import system would put the submodule of that name in its place.
    """

    @property
    def rank(self) -> Any:
        return import_module("bootstrap.rank").rank

    @rank.setter
    def rank(self, module: ModuleType) -> None:
        """Leave the submodule where it is found anyway, in sys.modules."""

    @property
    def Trust(self) -> Any:  # noqa: N802 - a class
        return import_module("bootstrap.trust").Trust


sys.modules[__name__].__class__ = _Package
