"""Results that are always the same in a process, so that thousands of worlds need each only once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from bootstrap import plan
from bootstrap.launch import run as launch

_REMEMBERED: Final[list[tuple[Any, str, Any]]] = [
    (plan, "check_ip", cache(plan.check_ip)),
    (plan, "check_devices", cache(plan.check_devices)),
    (plan, "has_module", cache(plan.has_module)),
    (plan, "shutil", SimpleNamespace(which=cache(plan.shutil.which))),
    (launch, "own_version", cache(launch.own_version)),
]


@contextmanager
def remembered() -> Iterator[None]:
    """Have plans check each value once, whatever the number of plans with it."""
    with ExitStack() as stack:
        for module, name, value in _REMEMBERED:
            stack.enter_context(patch.object(module, name, value))
        yield
