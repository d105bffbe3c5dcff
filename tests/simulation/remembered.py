"""Results that are always the same in a process, so that thousands of worlds need each only once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from bootstrap import plan
from bootstrap.launch import run as launch

Place: TypeAlias = tuple[Any, str, Any]
"""A module or class, a name in it, and its value."""
_REMEMBERED: Final[list[Place]] = [
    (plan, "check_ip", cache(plan.check_ip)),
    (plan, "check_devices", cache(plan.check_devices)),
    (plan, "has_module", cache(plan.has_module)),
    (plan, "shutil", SimpleNamespace(which=cache(plan.shutil.which))),
    (launch, "own_version", cache(launch.own_version)),
]


@contextmanager
def patched(places: list[Place]) -> Iterator[None]:
    """Replace the values of some names inside the block."""
    with ExitStack() as stack:
        for place, name, value in places:
            stack.enter_context(patch.object(place, name, value))
        yield


remembered: Final = partial(patched, _REMEMBERED)
"""Have plans check each value once, whatever the number of plans with it."""
