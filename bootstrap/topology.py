"""The files MLX reads: their bytes, their paths, their life on disk."""

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
    """The reference peer's topology file, byte for byte. JACCL itself does not take this format."""
    return format_rank_entries([RankEntry(interface, str(check_ip(ip)), rank) for rank, ip in enumerate(ips)])


def device_matrix(devices: DeviceMatrix) -> bytes:
    """What JACCL is pointed at: `[[null,"rdma_en5"],["rdma_en4",null]]`."""
    check_devices(devices)
    return format_device_file(devices)


def ring_hostfile(plan: Plan) -> bytes:
    """What ring is pointed at: `[["ip:port"],["ip:port"]]`, rank r on port + r so that ranks can share a host."""
    return format_ring_hostfile(tuple(((ip, plan.port + r),) for r, ip in enumerate(plan.ips)))


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
    """The plan's own matrix; for a pair without one, the device of the own address.

    A rank uses its own row alone; the other has to be there for the matrix to be valid, so it says the same.
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
    """Write `data` to `path`, mode 0600, whole or not at all; never through a symbolic link."""
    _write(path, data)


def remove_file(path: Path) -> None:
    """Remove `path`; one that is gone already is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TopologyWriteError(
            f"cannot remove {path}: {error.strerror}; remove it by hand", code="remove-failed"
        ) from error


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """`path` holds `data` inside the block. Afterwards it is removed, unless somebody else put a file there."""
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
                os.fchmod(fd, 0o600)  # whatever the umask took away
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
    """`path` is a new directory for its owner alone inside the block; TopologyWriteError (`directory-failed`)."""
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
