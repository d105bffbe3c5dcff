import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap import BootstrapConfig, ConfigError, Plan, TopologyWriteError, topology
from bootstrap.topology import (
    backend_file,
    device_matrix,
    private_directory,
    rank_entries,
    remove_file,
    ring_hostfile,
    ring_hostfile_path,
    topology_path,
    write_file,
    written,
)

RANK_ENTRIES = b"""[
  {
    "interface" : "bridge100",
    "ip" : "169.254.1.1",
    "rank" : 0
  },
  {
    "interface" : "bridge100",
    "ip" : "169.254.1.2",
    "rank" : 1
  }
]"""


@pytest.mark.parametrize("own_rank", [0, 1])
def test_rank_entries_are_the_reference_peers_bytes_from_either_rank(own_rank: int) -> None:
    own, peer = ("169.254.1.1", "169.254.1.2") if own_rank == 0 else ("169.254.1.2", "169.254.1.1")
    plan = BootstrapConfig(own_rank=own_rank, own_ip=own, peer_ip=peer, session_id="s").plan()
    assert rank_entries(plan.ips) == RANK_ENTRIES


def test_rank_entries_refuse_what_is_no_address() -> None:
    with pytest.raises(ConfigError):
        rank_entries(["169.254.1.1", "mac.local"])


def test_device_matrix() -> None:
    assert device_matrix(((None, "rdma_en5"), ("rdma_en4", None))) == b'[[null,"rdma_en5"],["rdma_en4",null]]'


@pytest.mark.parametrize(
    "devices",
    [
        (),
        ((None,),),
        ((None, "a"), ("a",)),
        ((None, "a", "a"), ("a", None, "a")),
        ((None, None), (None, None)),  # JACCL: "valid", the first all_sum crashes
        ((None, ""), ("a", None)),  # JACCL: "valid", init crashes
        (("a", "a"), ("a", None)),
        ((None, "a\n"), ("a", None)),
        ((None, " "), ("a", None)),
        ((None, 5), ("a", None)),
        ((None, ("a", "b")), (None, None)),  # one-sided
        tuple(tuple(None if r == c else "a" for c in range(9)) for r in range(9)),
    ],
)
def test_device_matrices_that_jaccl_must_not_see(devices: tuple[tuple[str | None, ...], ...]) -> None:
    with pytest.raises(ConfigError):
        device_matrix(devices)


def test_ring_hostfile_has_a_port_of_its_own_for_each_rank() -> None:
    plan = Plan(rank=2, ips=("127.0.0.1", "127.0.0.1", "10.0.0.3"), port=30000)
    assert ring_hostfile(plan) == b'[["127.0.0.1:30000"],["127.0.0.1:30001"],["10.0.0.3:30002"]]'


def test_ring_hostfile_has_a_connection_for_each_address() -> None:
    all_ips = (("10.0.0.1", "10.0.1.1"), ("10.0.0.2", "10.0.1.2"))
    plan = Plan(rank=0, ips=("10.0.0.1", "10.0.0.2"), all_ips=all_ips, port=30000)
    assert ring_hostfile(plan) == (b'[["10.0.0.1:30000","10.0.1.1:30001"],["10.0.0.2:30002","10.0.1.2:30003"]]')


def test_ring_hostfile_has_equally_many_connections() -> None:
    """MLX fails where a rank has more addresses than its neighbour."""
    all_ips = (("10.0.0.1", "10.0.1.1"), ("10.0.0.2",), ("10.0.0.3", "10.0.1.3", "10.0.2.3"))
    plan = Plan(rank=0, ips=("10.0.0.1", "10.0.0.2", "10.0.0.3"), all_ips=all_ips, port=30000)
    assert ring_hostfile(plan) == b'[["10.0.0.1:30000"],["10.0.0.2:30001"],["10.0.0.3:30002"]]'


def test_paths() -> None:
    assert topology_path("S.1", "/somewhere") == Path("/somewhere/darkbloom-jaccl-topology-S.1.json")
    assert ring_hostfile_path("S.1", "/somewhere") == Path("/somewhere/darkbloom-ring-hosts-S.1.json")
    assert topology_path("S").parent == Path(tempfile.gettempdir())


@pytest.mark.parametrize("session_id", ["../x", "", ".x", "a/b", "a\0b", "abc\n", "a" * 129])
@pytest.mark.parametrize("path", [topology_path, ring_hostfile_path])
def test_no_path_from_an_unsafe_session_id(path: type[Path], session_id: str) -> None:
    """[BOOT-SESSION-ID]"""
    with pytest.raises(ConfigError):
        path(session_id, "/somewhere")


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_file_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "file.json"
    before = os.umask(umask)
    try:
        write_file(path, b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_file(path, b"first")
    with path.open("rb") as reader:
        write_file(path, b"second")
        assert reader.read() == b"first"
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_refused(tmp_path: Path, exists: bool) -> None:
    target, path = tmp_path / "target", tmp_path / "file.json"
    if exists:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(TopologyWriteError, match="symbolic link") as caught:
        write_file(path, b"data")
    assert caught.value.code == "not-a-regular-file"
    assert path.is_symlink()
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"precious"


def test_a_link_put_there_in_the_middle_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, path = tmp_path / "target", tmp_path / "file.json"
    target.write_bytes(b"precious")
    monkeypatch.setattr(topology, "_refuse_irregular", lambda path: path.symlink_to(target))
    write_file(path, b"data")
    assert target.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: type[Path]) -> None:
    path = tmp_path / "file.json"
    make(path)
    with pytest.raises(TopologyWriteError, match="not a regular file"):
        write_file(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory_is_named_with_the_systems_reason(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file.json"
    with pytest.raises(
        TopologyWriteError, match=re.escape(f"cannot write {path}: No such file or directory")
    ) as caught:
        write_file(path, b"data")
    assert caught.value.stage == "topology"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TopologyWriteError, match="No space left"):
        write_file(tmp_path / "file.json", b"data")
    assert list(tmp_path.iterdir()) == []


def test_written_removes_the_file_even_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def fail_inside() -> None:
        with written(path, b"data"):
            assert path.read_bytes() == b"data"
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


def test_written_leaves_what_somebody_else_wrote(tmp_path: Path) -> None:
    path, other = tmp_path / "file.json", tmp_path / "other"
    other.write_bytes(b"theirs")
    with written(path, b"data"):
        other.replace(path)
    assert path.read_bytes() == b"theirs"


def test_written_does_not_mind_that_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with written(path, b"data"):
        remove_file(path)
        remove_file(path)


def test_a_removal_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(TopologyWriteError, match="cannot remove") as caught:
        remove_file(tmp_path)
    assert caught.value.code == "remove-failed"


def test_a_pair_without_a_matrix_uses_the_device_of_the_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own row alone counts; the other says the same, since the file needs one."""
    monkeypatch.setattr(topology, "device_for", {"10.0.0.2": "rdma_en5"}.__getitem__)
    plan = Plan(rank=1, ips=("10.0.0.1", "10.0.0.2"), session_id="s", directory="/d")
    form, path, data = backend_file(plan, "jaccl")
    assert (form, path) == ("device-matrix", topology_path("s", "/d"))
    assert data == b'[[null,"rdma_en5"],["rdma_en5",null]]'


def test_more_ranks_need_a_matrix() -> None:
    """[TOPOLOGY-MATRIX]"""
    with pytest.raises(ConfigError, match="3 ranks need a device matrix") as caught:
        backend_file(Plan(rank=1, ips=("10.0.0.1", "10.0.0.2", "10.0.0.3")), "jaccl")
    assert caught.value.code == "devices-needed"


def test_given_devices_are_used_as_they_are() -> None:
    devices = ((None, "rdma_en5"), ("rdma_en4", None))
    _, _, data = backend_file(Plan(rank=0, ips=("10.0.0.1", "10.0.0.2"), devices=devices), "jaccl")
    assert data == device_matrix(devices)


def test_ring_reads_a_hostfile() -> None:
    plan = Plan(rank=0, ips=("127.0.0.1", "127.0.0.1"), session_id="s", directory="/d")
    assert backend_file(plan, "ring") == ("ring-hostfile", ring_hostfile_path("s", "/d"), ring_hostfile(plan))


def test_a_private_directory_is_for_its_owner_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "private"

    def fail_inside() -> None:
        with private_directory(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            (path / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("target")])
def test_a_private_directory_is_new(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "private"
    make(path)
    with pytest.raises(TopologyWriteError, match="File exists; check TMPDIR") as caught, private_directory(path):
        pass
    assert caught.value.code == "directory-failed"
    assert list(tmp_path.iterdir()) == [path]
