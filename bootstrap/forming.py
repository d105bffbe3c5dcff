"""The whole of it, in this process: file, environment, group."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from bootstrap.addresses import holds
from bootstrap.environment import environment_for, set_environment
from bootstrap.errors import ConfigError, GroupInitError
from bootstrap.events import OnStep, silent
from bootstrap.group import init_group, preload, resolve_backend
from bootstrap.link.side_channel import Gather
from bootstrap.plan import Backend, BootstrapConfig, Plan
from bootstrap.topology import backend_file, device_matrix_for, written

if TYPE_CHECKING:
    from mlx.core.distributed import Group

DEADLINE_SECONDS = 60.0


def bootstrap(config: BootstrapConfig, deadline: float | None = DEADLINE_SECONDS) -> Group:
    """Form the group of two that `config` describes. Blocks until the other rank does the same.

    Raises a BootstrapError; after `deadline` seconds that is GroupInitError (`deadline`). The file is removed,
    the variables stay set. A process forms one group in its life.

    The deadline is the kernel's SIGALRM, as MLX's init lets no other Python code of this process run. So it works on
    the main thread only, and has to be None elsewhere; it replaces a timer of the caller's; it breaks what native code
    waits for in the kernel, but no loop of its own. `jaccl-bootstrap up`, with a process for MLX, has no such limits.
    """
    preload()  # its own start, broken off by an exception, would end the process
    with _deadline(deadline):
        return form_group(config.plan())


def form_group(
    plan: Plan, on_step: OnStep = silent, gather_factory: Callable[[int, int], Gather] | None = None
) -> Group:
    """Write the file that MLX reads, set the variables, init the group; report each step when it is done."""
    backend = resolve_backend(plan.backend)
    plan = checked(plan, backend)
    form, path, data = backend_file(plan, backend)
    with written(path, data):
        on_step("file-written", path=str(path), format=form)
        variables = environment_for(plan, backend, path)
        cleared = set_environment(variables)
        on_step("environment-set", variables=variables, cleared=cleared)
        group = init_group(backend, plan.rank, plan.size, gather_factory)
        on_step("group-ready", size=plan.size, backend=backend)
    return group


def checked(plan: Plan, backend: Backend) -> Plan:
    """The plan with all that `backend` needs. ConfigError for what native code would choke on, or wait for in vain."""
    if plan.rank == 0 and not holds(plan.ips[0]):
        raise ConfigError(
            f"rank 0 is the coordinator at {plan.ips[0]}, an address that this host does not have",
            code="not-own-address",
        )
    return replace(plan, devices=device_matrix_for(plan)) if backend == "jaccl" else plan


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """GroupInitError once the time is over."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("a deadline works on the main thread only; give deadline=None elsewhere", code="bad-timeout")
    if not seconds > 0:
        raise ConfigError(f"deadline {seconds} is wrong, use a number of seconds", code="bad-timeout")
    late = GroupInitError(f"no group within {seconds:g} s; see whether the other rank has started", code="deadline")
    rang = False

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal rang
        rang = True
        raise late

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except GroupInitError as error:
        if rang and error is not late:
            raise late from error  # native code tells of its broken wait in words of its own
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
