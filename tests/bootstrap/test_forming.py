"""`bootstrap(config)` as a program calls it: two processes, no supervisor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import BootstrapConfig, GroupInitError, TopologyWriteError, form_group, forming
from bootstrap.plan import Plan
from bootstrap.ports import reserved_ports
from bootstrap.topology import ring_hostfile, ring_hostfile_path

EMBEDDED = """
import sys
from bootstrap import BootstrapConfig, bootstrap

rank, port, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
group = bootstrap(BootstrapConfig(
    own_rank=rank, own_ip="127.0.0.1", peer_ip="127.0.0.1", port=port, session_id="S-1", backend="ring",
    directory=directory,
))
print(group.rank(), group.size())
"""


def test_two_processes_form_a_group_without_a_supervisor(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    with reserved_ports("127.0.0.1", 2) as port:
        ranks = []
        for rank, directory in enumerate(directories):
            directory.mkdir()
            command = [sys.executable, "-c", EMBEDDED, str(rank), str(port), str(directory)]
            # A stale variable would win over the right one.
            env = {**os.environ, "JACCL_RANK": "7"}
            ranks.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        outputs = [process.communicate(timeout=60)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert outputs == ["0 2\n", "1 2\n"]
    assert [list(directory.iterdir()) for directory in directories] == [[], []]


@pytest.mark.usefixtures("clean_environment")
def test_the_file_is_there_during_init_and_gone_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(rank=1, ips=("127.0.0.1", "127.0.0.1"), session_id="S", backend="ring", directory=str(tmp_path))
    path = ring_hostfile_path("S", str(tmp_path))
    steps: list[str] = []

    def init(backend: str, rank: int, size: int) -> None:
        assert (backend, rank, size) == ("ring", 1, 2)
        assert path.read_bytes() == ring_hostfile(plan)
        assert os.environ["MLX_HOSTFILE"] == str(path)
        assert os.environ["MLX_RANK"] == "1"
        raise GroupInitError("native words", code="init-failed")

    monkeypatch.setattr(forming, "init_group", init)
    with pytest.raises(GroupInitError):
        form_group(plan, lambda event, /, **fields: steps.append(event))
    assert steps == ["file-written", "environment-set"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clean_environment")
def test_when_the_file_cannot_be_written_nothing_else_is_touched(tmp_path: Path) -> None:
    before = dict(os.environ)
    config = BootstrapConfig(
        own_rank=0, own_ip="127.0.0.1", peer_ip="127.0.0.1", backend="ring", directory=tmp_path / "missing"
    )
    with pytest.raises(TopologyWriteError):
        forming.bootstrap(config)
    assert dict(os.environ) == before
