"""Two or more processes, one MLX group."""

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
    "rank",
    "side_channel_factory",
]
