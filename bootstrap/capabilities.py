"""The capabilities of a rank: backend, versions, devices and extensions, determined before the bootstrap."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, cast

from bootstrap.control.child import Child
from bootstrap.control.run import Run
from bootstrap.doctor.rdma import local_rdma_devices, port_of, usable
from bootstrap.errors import ConfigError
from bootstrap.events import OnStep
from bootstrap.group import checked
from bootstrap.link.side_channel import SocketPair
from bootstrap.plan import Backend, Plan
from wireproto.jaccl.topology import check_device_matrix, devices_of, format_device_file
from wireproto.messages import OUTCOME_1, SIDE_CHANNEL_1, Program, Revision, Versions

DEVICE_SECONDS: Final = 1.0
"""Between two checks of a device that is not usable yet."""
PROBE_SECONDS: Final = 5.0
"""How long a command's Python may take to report its MLX."""
LONGEST_VERSION: Final = 100
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?t?")


@dataclass(frozen=True)
class Capabilities:
    """The capabilities of a rank once MLX is loaded, or with a command that loads its own."""

    plan: Plan
    """With the devices that the backend needs."""
    backend: Backend
    versions: Versions
    """Sent to the other ranks."""
    wires: int = 0
    """The connections between two ranks of a JACCL mesh."""
    gathers: bool = False
    """Whether this rank's MLX accepts a function as its side channel."""
    worker: Child | None = None
    """The process that holds MLX; None for a command and on a dry run."""


async def load(plan: Plan, run: Run, pair: SocketPair | None) -> Capabilities:
    """Find the backend, and check what can be checked before the bootstrap. Raise BootstrapError.

    MLX is imported in its own process while the link comes up; `pair` connects that process to the side channel. A
    command with a named backend may have its own MLX, and needs none here.
    """
    worker, version, gathers = None, "", False
    is_command = plan.program is Program.COMMAND
    if is_command and plan.backend != "auto":
        backend: Backend = plan.backend
    else:
        if plan.rank == 0:
            checked(plan, "ring")  # what needs no MLX
        runs_program = plan.program is Program.MODULE
        worker = await run.start_worker(
            plan.backend,
            pair and pair.child,
            quiet=not plan.has_worker,
            program=runs_program,
            stdin=runs_program and plan.reads_stdin,
        )
        if pair is not None and not is_command:
            pair.child.close()  # so that the worker's end is noticed; a command gets it later
        loaded = await worker.next_event()
        backend, version = cast(Backend, loaded["backend"]), str(loaded["version"])
        gathers = bool(loaded["gather_factory"])
        if not plan.has_worker:
            await run.end(worker)
            worker = None
    if is_command:
        version = await _mlx_of(plan.command, run)
    usable_plan = checked(plan, backend)
    await devices_usable(usable_plan, run.report)
    return Capabilities(usable_plan, backend, *_versions(plan, backend, version), gathers, worker)


async def _mlx_of(command: Sequence[str], run: Run) -> str:
    """Return the MLX version of a command that is Python; "" if unknown."""
    if not _PYTHON.fullmatch(Path(command[0]).name):
        return ""
    output = await run.output_of(
        (command[0], "-c", "from importlib.metadata import version; print(version('mlx'))"), PROBE_SECONDS
    )
    return output.decode(errors="replace").strip()[:LONGEST_VERSION]


async def devices_usable(plan: Plan, report: OnStep) -> None:
    """Wait until each of this rank's RDMA devices has an IPv4 address: link-local ones come late, and change.

    Raise ConfigError (`device-missing`) if a device is absent.
    """
    if plan.devices is None:
        return
    names = sorted({name for each in devices_of(plan.devices, plan.rank).values() for name in each})
    there = await asyncio.to_thread(local_rdma_devices)
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"the device matrix names {', '.join(missing)} for this host, which has {', '.join(there) or 'none'}; "
            "correct the matrix",
            code="device-missing",
        )
    for name in names:
        said = None
        while reason := usable(await asyncio.to_thread(port_of, name)):
            if reason != said:
                report("waiting", what=reason)
            said = reason
            await asyncio.sleep(DEVICE_SECONDS)


def supported(plan: Plan) -> frozenset[str]:
    """Return the extensions that a rank with this plan can use."""
    if not plan.extensions or plan.revision is Revision.V1:
        return frozenset()
    return frozenset({OUTCOME_1} if plan.backend == "ring" else {OUTCOME_1, SIDE_CHANNEL_1})


def offered(plan: Plan, able: Capabilities | None) -> frozenset[str]:
    """Return the extensions to offer, complete once the rank's capabilities are known. [EXT-OFFER]"""
    return supported(plan) if able is not None and able.backend == "jaccl" else supported(plan) - {SIDE_CHANNEL_1}


def _versions(plan: Plan, backend: Backend, mlx: str) -> tuple[Versions, int]:
    """Return this rank's versions, and the number of connections between two ranks of a mesh."""
    devices, wires = b"", 0
    if plan.devices is not None:
        devices = format_device_file(plan.devices)
        if plan.jaccl_ring:
            devices += b"ring"
        elif backend == "jaccl":
            wires = check_device_matrix(plan.devices).wires
    digest = hashlib.sha256(devices).hexdigest() if devices else ""
    told = Versions(package=own_version(), mlx=mlx, backend=backend, devices=digest, program=plan.program)
    return told, wires


def own_version() -> str:
    """Return this package's version; "" if it is not installed, or no file can be opened."""
    try:
        return metadata.version("cluster-wireproto")
    except metadata.PackageNotFoundError:
        return ""
