"""The files that MLX reads: their contents, paths and lifetime."""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootstrap.doctor.rdma import device_for
from bootstrap.errors import ConfigError, TopologyWriteError
from bootstrap.plan import Backend, Plan, check_devices, check_ip, check_session_id
from wireproto.jaccl.topology import (
    DeviceMatrix,
    RankEntry,
    format_device_file,
    format_rank_entries,
    format_ring_hostfile,
)


def rank_entries(ips: Sequence[str], interface: str = "bridge100") -> bytes:
    """Return the reference peer's topology file, byte for byte. JACCL itself does not read this format."""
    return format_rank_entries([RankEntry(interface, str(check_ip(ip)), rank) for rank, ip in enumerate(ips)])


def device_matrix(devices: DeviceMatrix) -> bytes:
    """Return the file that JACCL reads, such as `[[null,"rdma_en5"],["rdma_en4",null]]`."""
    check_devices(devices)
    return format_device_file(devices)


def ring_hostfile(plan: Plan) -> bytes:
    """Return the file that MLX's ring reads, such as `[["ip:port"],["ip:port"]]`.

    Ports count up from the plan's, one for each connection of each rank, as in mlx.launch: ranks can share a host.
    MLX needs equally many addresses in all rows, so what a rank has more than another is left out.
    """
    count = plan.connections
    rows = (
        tuple((ip, plan.port + rank * count + index) for index, ip in enumerate(ips[:count]))
        for rank, ips in enumerate(plan.all_ips)
    )
    return format_ring_hostfile(tuple(rows))


def topology_path(session_id: str, directory: str | None = None) -> Path:
    return _path("darkbloom-jaccl-topology", session_id, directory)


def ring_hostfile_path(session_id: str, directory: str | None = None) -> Path:
    return _path("darkbloom-ring-hosts", session_id, directory)


def _path(stem: str, session_id: str, directory: str | None) -> Path:
    check_session_id(session_id)
    return Path(directory or tempfile.gettempdir()) / f"{stem}-{session_id}.json"


def backend_file(plan: Plan, backend: Backend) -> tuple[str, Path, bytes]:
    """Return the format, path and bytes of the file that `backend` reads for this plan."""
    if backend == "ring":
        return "ring-hostfile", ring_hostfile_path(plan.session_id, plan.directory), ring_hostfile(plan)
    return "device-matrix", topology_path(plan.session_id, plan.directory), device_matrix(device_matrix_for(plan))


def device_matrix_for(plan: Plan) -> DeviceMatrix:
    """Return the plan's matrix; for two ranks without one, the device that has this rank's address.

    A rank uses only its own row. The other must exist for the matrix to be valid, so it names the same device.
    """
    if plan.devices is not None:
        return plan.devices
    if plan.size > 2:
        raise ConfigError(
            f"jaccl: {plan.size} ranks need a device matrix; use a hostfile with `rdma` rows", code="devices-needed"
        )
    device = device_for(plan.ips[plan.rank])
    return ((None, device), (device, None))


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` with mode 0600, whole or not at all, and never through a symbolic link."""
    _write(path, data)


def remove_file(path: Path) -> None:
    """Remove `path`, if it exists."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TopologyWriteError(
            f"cannot remove {path}: {error.strerror}; remove it by hand", code="remove-failed"
        ) from error


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """Keep `data` in `path` inside the block, then remove it, unless another file has taken its name."""
    mine = _write(path, data)
    try:
        yield path
    finally:
        try:
            still_mine = os.path.samestat(mine, path.lstat())
        except OSError:
            still_mine = False
        if still_mine:
            remove_file(path)


def _write(path: Path, data: bytes) -> os.stat_result:
    try:
        _refuse_irregular(path)
        temporary = path.with_name(f".{path.stem[:16]}-{secrets.token_hex(8)}.tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o600)  # whatever the umask removed
                file.write(data)
                file.flush()
                mine = os.fstat(fd)
            # replace() swaps the name itself: a link put there meanwhile is overwritten, not followed.
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TopologyWriteError(
            f"cannot write {path}: {error.strerror}; check the directory, or name another one", code="write-failed"
        ) from error
    return mine


def _refuse_irregular(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise TopologyWriteError(f"cannot write {path}: it is {kind}; remove it", code="not-a-regular-file")


@contextmanager
def private_directory(path: Path) -> Iterator[None]:
    """Keep a new directory, accessible to its owner only, inside the block. Raise TopologyWriteError if that fails."""
    try:
        path.mkdir(0o700)
    except OSError as error:
        raise TopologyWriteError(
            f"cannot make {path}: {error.strerror}; check TMPDIR", code="directory-failed"
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
