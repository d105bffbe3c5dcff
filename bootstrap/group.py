"""The files and variables that MLX reads, and the one call into MLX: strict, with a named backend, and checked."""

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

from bootstrap.doctor.rdma import device_for
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
    """Form the group of two that `config` describes. Blocks until the other rank does the same.

    Raises a BootstrapError; after `deadline` seconds that is GroupInitError (`deadline`). The file is removed,
    the variables stay set. A process forms one group in its life.

    The deadline is the kernel's SIGALRM, as MLX's init lets no other Python code of this process run. So it works on
    the main thread only, and has to be None elsewhere; it replaces a timer of the caller's; it breaks what native code
    waits for in the kernel, but no loop of its own. `bootstrap.rank`, with a process for MLX, has no such limits.
    """
    preload()  # its own start, broken off by an exception, would end the process
    with _deadline(deadline):
        return form_group(config.plan())


def form_group(
    plan: Plan,
    on_step: OnStep = silent,
    gather_factory: Callable[[int, int], Gather] | None = None,
    wait_for_turn: Callable[[], None] = lambda: None,
) -> Group:
    """Write the file that MLX reads, set the variables, init the group when its turn has come; report each step."""
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


# -- what MLX reads ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The file and the variables that make MLX form one group; nothing is written or set yet."""

    format: str
    path: Path
    content: bytes
    variables: dict[str, str]
    cleared: list[str]
    """Names set in this process that MLX would read and that contradict `variables`."""

    def written(self) -> AbstractContextManager[Path]:
        """Keep the file inside the block."""
        return written(self.path, self.content)

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the variables, for a command."""
        inherited = {name: value for name, value in os.environ.items() if name not in self.cleared}
        return inherited | self.variables

    def set_variables(self) -> None:
        """Set the variables in this process, and clear the contradicting ones."""
        for name in self.cleared:
            del os.environ[name]
        for name, value in self.variables.items():
            try:
                os.environ[name] = value
            except (OSError, ValueError, TypeError) as error:
                raise EnvironmentSetError(
                    f"cannot set the variable {name!r} to {value!r}: {error}; correct the name or the value",
                    code="variable-refused",
                ) from error


def prepare(plan: Plan, backend: Backend) -> Prepared:
    """Return the file and the variables with which MLX forms `plan`; for jaccl the plan has to be `checked`.

    The plan's own variables are among them, except those that MLX reads to form a group.
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
    """Whether JACCL forms a ring of a plan that is `checked`: it forms a mesh if it can, and is not told otherwise."""
    return plan.jaccl_ring or not check_device_matrix(_device_matrix(plan)).mesh


def checked(plan: Plan, backend: Backend) -> Plan:
    """Return the plan with all that `backend` needs. ConfigError for what makes native code crash or wait forever."""
    if plan.rank == 0 and not current().network.holds(plan.ips[0]):
        raise ConfigError(
            f"rank 0 is the coordinator at {plan.ips[0]}, an address that this host does not have",
            code="not-own-address",
        )
    return replace(plan, devices=_device_matrix(plan)) if backend == "jaccl" else plan


def _device_matrix(plan: Plan) -> DeviceMatrix:
    """Return the plan's matrix; for two ranks without one, the device that has this rank's address.

    A rank uses only its own row. The other must exist for the matrix to be valid, so it names the same device.
    """
    if plan.devices is not None:
        return plan.devices
    if plan.size > 2:
        raise ConfigError(
            f"jaccl: {plan.size} ranks need a device matrix; use a hostfile with `rdma` rows", code="devices-needed"
        )
    device = device_for(plan.own_ip)
    return ((None, device), (device, None))


# -- MLX ---------------------------------------------------------------------------------------------------------------


def resolve_backend(requested: BackendChoice) -> Backend:
    """Return the backend to use; `auto` is jaccl where MLX has it, else ring."""
    distributed = _mlx().distributed
    if requested == "auto":
        return "jaccl" if distributed.is_available("jaccl") else "ring"
    if not distributed.is_available(requested):
        raise GroupInitError(
            f"MLX on this host has no {requested} backend; use ring, or auto", code="backend-unavailable"
        )
    return requested


def preload() -> None:
    """Load MLX before it is needed. Where that fails, `resolve_backend` says so."""
    with suppress(GroupInitError):
        _mlx()


def takes_gather_factory() -> bool:
    """Whether this MLX can be given another side channel: 0.32.1 and later."""
    # inspect.signature fails on native functions; their first line of help is the signature.
    return "all_gather_factory" in (_mlx().distributed.init.__doc__ or "")


def mlx_version() -> str:
    version: str = _mlx().__version__
    return version


def init_group(
    backend: Backend, rank: int, size: int, gather_factory: Callable[[int, int], Gather] | None = None
) -> Group:
    """Form the group from the environment; GroupInitError unless it has this rank and size.

    Blocks in native code, with the GIL held and no time limit, until every rank is there: no thread of this
    process runs meanwhile. A deadline has to come from another process, or from the kernel. A process forms one group
    in its life: MLX would hand back the first one, whatever the environment says by then. `gather_factory` takes the
    place of JACCL's own side channel.
    """
    mx = _mlx()
    if _formed:
        raise GroupInitError(
            "this process has a group already, and MLX would hand that back; form the next one in a new process",
            code="already-formed",
        )
    try:
        more = {} if gather_factory is None else {"all_gather_factory": gather_factory}
        group: Group = mx.distributed.init(strict=True, backend=backend, **more)
    except Exception as error:  # native code chooses the type
        raise GroupInitError(f"MLX could not form the {backend} group: {error}", code="init-failed") from error
    if (group.rank(), group.size()) != (rank, size):
        raise GroupInitError(
            f"MLX formed rank {group.rank()} of {group.size()} instead of rank {rank} of {size}; "
            "start a new process, a group is made once in each",
            code="wrong-group",
        )
    _formed.append(group)
    logger.info("%s DistributedGroup ready (rank %d): size=%d", backend, rank, size)
    return group


def on_init(told: Callable[[object, int], None]) -> None:
    """Have `told` called with the backend and the group's size after each init that a program of this process makes."""
    distributed = _mlx().distributed
    init = distributed.init

    @wraps(init)
    def then_tell(*arguments: Any, **named: Any) -> Group:
        group: Group = init(*arguments, **named)
        told(named.get("backend", arguments[1] if len(arguments) > 1 else "any"), group.size())
        return group

    distributed.init = then_tell


def check_sum(group: Group) -> int:
    """Sum rank + 1 over all ranks and return it; GroupInitError unless it is n(n + 1) / 2."""
    mx = _mlx()
    try:
        total = int(mx.distributed.all_sum(mx.array([group.rank() + 1], mx.int32), group=group).item())
    except Exception as error:  # native code chooses the type
        raise GroupInitError(f"the first all_sum failed: {error}", code="sum-failed") from error
    expected = group.size() * (group.size() + 1) // 2
    if total != expected:
        raise GroupInitError(
            f"the first all_sum gave {total} instead of {expected}; the ranks are not one group", code="sum-wrong"
        )
    return total


def _mlx() -> ModuleType:
    # Here and not above: everything but the group itself works without MLX, and starts faster.
    try:
        import mlx.core
    except ImportError as error:
        raise GroupInitError(
            f"MLX cannot be imported ({error}); run: pip install 'cluster-wireproto[bootstrap]'", code="mlx-missing"
        ) from error
    return mlx.core


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
