"""The one call into MLX: strict, with a named backend, and checked."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import TYPE_CHECKING

from bootstrap.errors import GroupInitError
from bootstrap.plan import Backend, BackendChoice

if TYPE_CHECKING:
    from mlx.core.distributed import Group

logger = logging.getLogger(__name__)


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


def init_group(backend: Backend, rank: int, size: int) -> Group:
    """Form the group from the environment; GroupInitError unless it has this rank and size.

    Blocks in native code, with the GIL held and no time limit, until every rank is there: no thread of this
    process runs meanwhile. A deadline has to come from another process, or from the kernel.
    """
    mx = _mlx()
    try:
        group: Group = mx.distributed.init(strict=True, backend=backend)
    except Exception as error:  # native code chooses the type
        raise GroupInitError(f"MLX could not form the {backend} group: {error}", code="init-failed") from error
    if (group.rank(), group.size()) != (rank, size):
        raise GroupInitError(
            f"MLX formed rank {group.rank()} of {group.size()} instead of rank {rank} of {size}; "
            "start a new process, a group is made once in each",
            code="wrong-group",
        )
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
