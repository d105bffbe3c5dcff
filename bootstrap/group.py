"""The file and variables for MLX, and the one call into MLX: strict, with a named backend, and checked."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bootstrap.errors import ConfigError, EnvironmentSetError, GroupInitError
from bootstrap.events import OnStep, silent
from bootstrap.files import written
from bootstrap.link.gather import Gather
from bootstrap.plan import Backend, BackendChoice, BootstrapConfig, Plan
from bootstrap.system import current
from wireproto.jaccl.topology import DeviceMatrix, check_device_matrix, format_device_file, format_ring_hostfile

if TYPE_CHECKING:
    from mlx.core.distributed import Group

DEADLINE_SECONDS: Final = 60.0
# A JACCL_* name beats its MLX_* twin, and JACCL_RING counts when it is merely present.
READ_BY_MLX: Final = (
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

logger = logging.getLogger(__name__)
_formed: list[Group] = []


def bootstrap(config: BootstrapConfig, deadline: float | None = DEADLINE_SECONDS) -> Group:
    """Form the group of two that `config` describes. Block until the other rank does the same.

    Raise a BootstrapError, after `deadline` seconds GroupInitError (`deadline`). The file is removed, the variables
    stay set. A process can form only one group.

    The deadline uses SIGALRM, as no other Python code of this process runs during MLX's init. So it works only on the
    main thread, and must be None elsewhere; it replaces a timer of the caller; and it interrupts native code that waits
    in the kernel, but not its loops. `bootstrap.rank`, with a separate process for MLX, has no such limits.
    """
    preload()  # an exception while MLX loads would abort the process
    with _deadline(deadline):
        return form_group(config.plan())


def form_group(
    plan: Plan,
    on_step: OnStep = silent,
    gather_factory: Callable[[int, int], Gather] | None = None,
    wait_for_turn: Callable[[], None] = lambda: None,
) -> Group:
    """Write MLX's file, set the variables, and init the group after `wait_for_turn`. Report each step."""
    backend = resolve_backend(plan.backend)
    prepared = prepare(checked(plan, backend), backend)
    with prepared.written():
        on_step("file-written", path=str(prepared.path), format=prepared.format)
        prepared.set_variables()
        on_step("environment-set", variables=prepared.variables, cleared=prepared.cleared)
        wait_for_turn()
        group = init_group(backend, plan.rank, plan.size, gather_factory)
        on_step("group-ready", size=plan.size, backend=backend)
    return group


# -- input of MLX ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The file and variables with which MLX forms a group, not written or set yet."""

    format: str
    path: Path
    content: bytes
    variables: dict[str, str]
    cleared: list[str]
    """Variables of this process that MLX reads and that conflict with `variables`."""

    def written(self) -> AbstractContextManager[Path]:
        """Keep the file inside the block."""
        return written(self.path, self.content)

    def environment(self) -> dict[str, str]:
        """Return the environment for a command: this process's, with the variables."""
        inherited = {name: value for name, value in os.environ.items() if name not in self.cleared}
        return inherited | self.variables

    def set_variables(self) -> None:
        """Set the variables in this process and clear conflicting ones."""
        for name in self.cleared:
            del os.environ[name]
        for name, value in self.variables.items():
            try:
                os.environ[name] = value
            except (OSError, ValueError, TypeError) as error:
                text = f"cannot set the variable {name!r} to {value!r}: {error}; correct the name or the value"
                raise EnvironmentSetError(text, code="variable-refused") from error


def prepare(plan: Plan, backend: Backend) -> Prepared:
    """Return the file and variables with which MLX forms the group of a plan, which must be `checked` for jaccl.

    They include the plan's own variables, except those that MLX reads to form a group.
    """
    directory = Path(plan.directory or tempfile.gettempdir())
    variables = {name: value for name, value in plan.envs if name not in READ_BY_MLX}
    variables |= {"MLX_RANK": str(plan.rank), "MLX_JACCL_COORDINATOR": plan.coordinator}
    if backend == "ring":
        rows = tuple(plan.ring_addresses(rank) for rank in range(plan.size))
        form, content = "ring-hostfile", format_ring_hostfile(rows)
        path = directory / f"darkbloom-ring-hosts-{plan.session_id}.json"
        variables["MLX_HOSTFILE"] = str(path)
    else:
        form, content = "device-matrix", format_device_file(_device_matrix(plan))
        path = directory / f"darkbloom-jaccl-topology-{plan.session_id}.json"
        variables["MLX_IBV_DEVICES"] = str(path)
        if forms_jaccl_ring(plan):
            variables["MLX_JACCL_RING"] = "1"
    cleared = [name for name in READ_BY_MLX if name in os.environ and name not in variables]
    return Prepared(form, path, content, variables, cleared)


def forms_jaccl_ring(plan: Plan) -> bool:
    """Whether JACCL forms a ring for a `checked` plan. It forms a mesh if it can, unless told otherwise."""
    return plan.jaccl_ring or not check_device_matrix(_device_matrix(plan)).mesh


def checked(plan: Plan, backend: Backend) -> Plan:
    """Return the plan with all that `backend` needs. Raise ConfigError if native code would crash or hang."""
    if plan.rank == 0 and not current().network.holds(plan.ips[0]):
        text = f"rank 0 is the coordinator at {plan.ips[0]}, which is not an address of this host; check the addresses"
        raise ConfigError(text, code="not-own-address")
    return replace(plan, devices=_device_matrix(plan)) if backend == "jaccl" else plan


def _device_matrix(plan: Plan) -> DeviceMatrix:
    """Return the plan's matrix, or for two ranks one with the device that has this rank's address.

    A rank uses only its own row. The other row only makes the matrix valid, so it names the same device.
    """
    if plan.devices is not None:
        return plan.devices
    if plan.size > 2:
        text = f"jaccl: {plan.size} ranks need a device matrix; use a hostfile with `rdma` rows"
        raise ConfigError(text, code="devices-needed")
    from bootstrap.doctor.rdma import device_for  # here, because a worker rarely needs it, and it takes 8 ms

    device = device_for(plan.own_ip)
    return ((None, device), (device, None))


# -- MLX ---------------------------------------------------------------------------------------------------------------


def resolve_backend(requested: BackendChoice) -> Backend:
    """Return the backend to use: for `auto` jaccl if MLX has it, else ring."""
    distributed = _mlx().distributed
    if requested == "auto":
        return "jaccl" if distributed.is_available("jaccl") else "ring"
    if not distributed.is_available(requested):
        text = f"MLX on this host has no {requested} backend; use ring, or auto"
        raise GroupInitError(text, code="backend-unavailable")
    return requested


def preload() -> None:
    """Load MLX ahead of time. If that fails, `resolve_backend` reports it."""
    with suppress(GroupInitError):
        _mlx()


def takes_gather_factory() -> bool:
    """Whether this MLX accepts another side channel (0.32.1 and later)."""
    # inspect.signature fails on native functions; their docstring starts with the signature.
    return "all_gather_factory" in (_mlx().distributed.init.__doc__ or "")


def mlx_version() -> str:
    version: str = _mlx().__version__
    return version


def init_group(
    backend: Backend, rank: int, size: int, gather_factory: Callable[[int, int], Gather] | None = None
) -> Group:
    """Form the group from the environment. Raise GroupInitError unless it has this rank and size.

    Block in native code, holding the GIL and without a time limit, until every rank has joined: no thread of this
    process runs meanwhile, so a deadline must come from another process or the kernel. A process can form only one
    group: MLX would return the first one again, whatever the environment. `gather_factory` replaces JACCL's own side
    channel.
    """
    mx = _mlx()
    if _formed:
        text = "this process already has a group, which MLX would return again; form the next one in a new process"
        raise GroupInitError(text, code="already-formed")
    try:
        more = {} if gather_factory is None else {"all_gather_factory": gather_factory}
        group: Group = mx.distributed.init(strict=True, backend=backend, **more)
    except Exception as error:  # native code chooses the type
        raise GroupInitError(f"MLX could not form the {backend} group: {error}", code="init-failed") from error
    if (group.rank(), group.size()) != (rank, size):
        raise GroupInitError(
            f"MLX formed rank {group.rank()} of {group.size()} instead of rank {rank} of {size}; "
            "start a new process, each can form one group",
            code="wrong-group",
        )
    _formed.append(group)
    logger.info("%s DistributedGroup ready (rank %d): size=%d", backend, rank, size)
    return group


def on_init(told: Callable[[object, int], None]) -> None:
    """Call `told` with the backend and the group's size after each init by this process's program."""
    distributed = _mlx().distributed
    init = distributed.init

    @wraps(init)
    def then_tell(*arguments: Any, **named: Any) -> Group:
        group: Group = init(*arguments, **named)
        told(named.get("backend", arguments[1] if len(arguments) > 1 else "any"), group.size())
        return group

    distributed.init = then_tell


def check_sum(group: Group) -> int:
    """Return the sum of rank + 1 over all ranks. Raise GroupInitError unless it is n(n + 1) / 2."""
    mx = _mlx()
    try:
        total = int(mx.distributed.all_sum(mx.array([group.rank() + 1], mx.int32), group=group).item())
    except Exception as error:  # native code chooses the type
        raise GroupInitError(f"the first all_sum failed: {error}", code="sum-failed") from error
    expected = group.size() * (group.size() + 1) // 2
    if total != expected:
        text = f"the first all_sum gave {total} instead of {expected}; the ranks are not one group"
        raise GroupInitError(text, code="sum-wrong")
    return total


def _mlx() -> ModuleType:
    # Imported here: everything else works without MLX, and starts faster.
    try:
        import mlx.core
    except ImportError as error:
        text = f"MLX cannot be imported ({error}); run: pip install 'cluster-wireproto[bootstrap]'"
        raise GroupInitError(text, code="mlx-missing") from error
    return mlx.core


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Raise GroupInitError in the block once the time is over."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("a deadline works only on the main thread; use deadline=None on others", code="bad-timeout")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= threading.TIMEOUT_MAX:
        text = "the deadline is wrong, use a positive number of seconds, or None for no limit"
        raise ConfigError(text, code="bad-timeout")
    late = GroupInitError(f"no group within {seconds:g} s; check whether the other rank has started", code="deadline")
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
            raise late from error  # native code reports the interrupted wait in its own way
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
