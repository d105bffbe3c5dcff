"""The files MLX reads: their bytes, their paths, their life on disk."""

import json
import os
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootstrap.errors import ConfigError, TopologyWriteError
from bootstrap.plan import Backend, DeviceMatrix, Plan, check_devices, check_ip, check_session_id

IBV_DEVICES_SECONDS = 5.0  # the tool is known to hang on a wedged port


def rank_entries(ips: Sequence[str], interface: str = "bridge100") -> bytes:
    """The reference peer's topology file, byte for byte. JACCL itself does not take this format."""
    entries = [{"interface": interface, "ip": str(check_ip(ip)), "rank": rank} for rank, ip in enumerate(ips)]
    return json.dumps(entries, indent=2, separators=(",", " : "), sort_keys=True).encode()


def device_matrix(devices: DeviceMatrix) -> bytes:
    """What JACCL is pointed at: `[[null,"rdma_en5"],["rdma_en4",null]]`."""
    check_devices(devices)
    return json.dumps(devices, separators=(",", ":")).encode()


def ring_hostfile(plan: Plan) -> bytes:
    """What ring is pointed at: `[["ip:port"],["ip:port"]]`, rank r on port + r so that ranks can share a host."""
    return json.dumps([[f"{ip}:{plan.port + r}"] for r, ip in enumerate(plan.ips)], separators=(",", ":")).encode()


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
    devices = plan.devices or _same_device_everywhere(plan.size)
    return "device-matrix", topology_path(plan.session_id, plan.directory), device_matrix(devices)


def _same_device_everywhere(size: int) -> DeviceMatrix:
    """A rank uses only its own row; the others have to be there for the matrix to be valid."""
    names = local_rdma_devices()
    if not names:
        raise ConfigError(
            "jaccl: this host lists no RDMA device (ibv_devices); use --backend ring", code="no-rdma-device"
        )
    return tuple(tuple(None if r == c else names[0] for c in range(size)) for r in range(size))


def local_rdma_devices() -> list[str]:
    """The names that `ibv_devices` lists, in its order; none where the tool is missing or fails."""
    try:
        done = subprocess.run(
            ["ibv_devices"],  # noqa: S607 - where it lives differs by system
            capture_output=True,
            text=True,
            timeout=IBV_DEVICES_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        return []
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"jaccl: ibv_devices hangs ({IBV_DEVICES_SECONDS:.0f} s); reboot this host, or use --backend ring",
            code="rdma-query-hangs",
        ) from None
    return _parse_ibv_devices(done.stdout) if done.returncode == 0 else []


def _parse_ibv_devices(text: str) -> list[str]:
    """Two heading lines (names, dashes), then `name  guid` a line."""
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    return [name for name in names if name != "device" and not name.startswith("-")]


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
