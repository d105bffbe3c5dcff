"""Results that are always the same in a process, so that thousands of worlds need each only once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

from bootstrap import capabilities, group, plan
from bootstrap.control import child, lock
from bootstrap.doctor import rdma
from bootstrap.launch import run as launch
from wireproto.jaccl import topology

Place: TypeAlias = tuple[Any, str, Any]
"""A module or class, a name in it, and its value."""
_CHECK_DEVICES: Final = cache(topology.check_device_matrix)
_REMEMBERED: Final[list[Place]] = [
    (plan, "check_ip", cache(plan.check_ip)),
    (plan, "check_devices", cache(plan.check_devices)),
    (plan, "has_module", cache(plan.has_module)),
    (plan, "shutil", SimpleNamespace(which=cache(plan.shutil.which))),
    (launch, "own_version", cache(launch.own_version)),
    (lock, "lock_address", cache(lock.lock_address)),
    (lock, "record_path", cache(lock.record_path)),
    (rdma, "parse_ibv_devinfo", cache(rdma.parse_ibv_devinfo)),
    (child, "os", SimpleNamespace(environ={**os.environ})),
    *((module, "check_device_matrix", _CHECK_DEVICES) for module in (capabilities, group, topology)),
]


@contextmanager
def patched(places: list[Place]) -> Iterator[None]:
    """Replace the values of some names inside the block."""
    kept = [getattr(place, name) for place, name, _ in places]
    for place, name, value in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(places, kept, strict=True):
            setattr(place, name, value)


remembered: Final = partial(patched, _REMEMBERED)
"""Have each such value found once, whatever the number of plans and runs with it."""
