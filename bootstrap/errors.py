"""What can go wrong on the way to a group. Every text is one line: what, where, what to do."""

import errno
import os
from typing import Final

USED_UP: Final = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the system says where it has no more descriptors, processes or memory for anybody, or for this user."""


class BootstrapError(Exception):
    """Base of every failure of this package.

    `stage` names the step that failed, `code` the failure (kebab-case, stable).
    """

    stage: str = "run"

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class ConfigError(BootstrapError, ValueError):
    """Wrong arguments: nothing was written, nothing was started."""

    stage = "config"


class TopologyWriteError(BootstrapError):
    """The file that MLX reads could not be written or removed."""

    stage = "topology"


class EnvironmentSetError(BootstrapError):
    """The variables that MLX reads could not be set."""

    stage = "environment"


class GroupInitError(BootstrapError):
    """MLX gave no group, or not the one that was asked for. The text holds the native message."""

    stage = "group"


class LinkError(BootstrapError):
    """The link to another rank failed, or carried something else than was due."""

    stage = "link"


class IdentityError(BootstrapError):
    """The identity key or the pinned keys cannot be used, or the answer is no."""

    stage = "identity"


def system_reason(error: OSError) -> str:
    """Return the system's words for an error: asyncio's own ("Connect call failed") leave the reason out."""
    return os.strerror(error.errno) if error.errno else str(error)


def refused(error: OSError) -> BootstrapError:
    """The failure of a run for which the system has nothing left; any other error is raised again."""
    if error.errno not in USED_UP:
        raise error
    return BootstrapError(f"the system refuses what this run needs: {error.strerror}", code="system-refused")
