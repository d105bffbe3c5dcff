"""The one call into MLX: strict, with a named backend, and checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

from bootstrap.errors import GroupInitError
from bootstrap.link.side_channel import Gather
from bootstrap.plan import Backend, BackendChoice

if TYPE_CHECKING:
    from mlx.core.distributed import Group

logger = logging.getLogger(__name__)
_formed: list[Group] = []


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
