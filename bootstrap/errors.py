"""Errors. Each message is one line that a terminal can show: what happened, where, what to do."""

import errno
import os
from typing import Final

from wireproto.errors import printable

USED_UP: Final = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of a system that is out of descriptors, processes or memory, or over this user's limit."""


class BootstrapError(Exception):
    """Base class of all errors here.

    `stage` names the step that failed, `code` the failure; both are stable.
    """

    stage: str = "run"

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(printable(" ".join(message.split())))
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # By default the arguments of the base class would go to the __init__ of this one, which takes others.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[BootstrapError], args: tuple[object, ...]) -> BootstrapError:
    return cls.__new__(cls, *args)


class ConfigError(BootstrapError, ValueError):
    """Wrong arguments: nothing was written or started."""

    stage = "config"


class TopologyWriteError(BootstrapError):
    """The file for MLX could not be written or removed."""

    stage = "topology"


class EnvironmentSetError(BootstrapError):
    """The variables for MLX could not be set."""

    stage = "environment"


class GroupInitError(BootstrapError):
    """MLX formed no group, or another one than requested. The message includes MLX's own."""

    stage = "group"


class LinkError(BootstrapError):
    """The link to another rank failed, or carried something unexpected."""

    stage = "link"


class IdentityError(BootstrapError):
    """The identity key or a pin is missing, conflicting or unusable."""

    stage = "identity"


def system_reason(error: OSError) -> str:
    """Return the system's message for an error; asyncio's ("Connect call failed") omits the reason."""
    return os.strerror(error.errno) if error.errno else str(error)


def refused(error: OSError) -> BootstrapError:
    """Return the failure of a run that is out of system resources. Raise any other error again."""
    if error.errno not in USED_UP:
        raise error
    text = f"out of system resources: {error.strerror}; free some, then start again"
    return BootstrapError(text, code="system-refused")
