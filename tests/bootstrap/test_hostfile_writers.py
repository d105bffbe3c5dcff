"""Hostfiles written by MLX itself: each is read, and gives MLX the same input as mlx.launch."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bootstrap.errors import ConfigError
from bootstrap.group import prepare
from bootstrap.hostfile import Hostfile, parse_hostfile
from bootstrap.launch.cables import find
from bootstrap.plan import BackendChoice
from tests.bootstrap.macs import Cables, Macs, mesh, ring

pytest.importorskip("mlx._distributed_utils.config", reason="MLX's own tools are not installed")

# MLX leaves the hostfile open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

PORT = 29400


class Cluster:
    """Macs that answer mlx.distributed_config's commands instead of ssh."""

    def __init__(self, names: list[str], cables: Cables, *, addresses: bool = True) -> None:
        self.names = names
        self.macs = Macs(names, cables, lan=lambda mac: f"10.0.0.{mac + 1}" if addresses else None)

    def run(self, command: list[str], *, text: bool = False, **_: Any) -> "subprocess.CompletedProcess[Any]":
        assert command[0] == "ssh"
        arguments = command[1:]
        while arguments[0] == "-o":
            del arguments[:2]
        answer = self.macs.answer(self.names.index(arguments[0]), " ".join(arguments[1:])) or ""
        return subprocess.CompletedProcess(command, 0, answer if text else answer.encode(), "")


Write = Callable[..., bytes]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Run mlx.distributed_config on a cluster; return the file that it writes."""
    config = importlib.import_module("mlx._distributed_utils.config")

    def run(cluster: Cluster, *arguments: str) -> bytes:
        path = tmp_path / "hosts.json"
        monkeypatch.setattr(config, "run", cluster.run)
        monkeypatch.setattr("builtins.input", lambda *_: "")
        argv = ["mlx.distributed_config", "--hosts", ",".join(cluster.names), "--output-hostfile", str(path)]
        monkeypatch.setattr(sys, "argv", [*argv, *arguments])
        config.main()
        return path.read_bytes()

    return run


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], list[dict[str, str]]]:
    """Return the variables that mlx.launch sets for each rank, with a file's content instead of its path."""
    launch: ModuleType = importlib.import_module("mlx._distributed_utils.launch")

    def run(data: bytes) -> list[dict[str, str]]:
        path = tmp_path / "launched.json"
        path.write_bytes(data)
        ranks: list[dict[str, str]] = []

        def start(_: object, processes: list[Any], _verbose: bool) -> None:
            for (rank, _host, _python, _cwd, files, env, _command), _options in processes:
                ranks.append(dict(each.split("=", 1) for each in env) | files | {"MLX_RANK": str(rank)})

        monkeypatch.setattr(launch, "_launch_with_io", start)
        monkeypatch.setattr(launch.shutil, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
        argv = ["mlx.launch", "--hostfile", str(path), "--starting-port", str(PORT), "--", "true"]
        monkeypatch.setattr(sys, "argv", argv)
        launch.main()
        return ranks

    return run


def ours(hostfile: Hostfile, rank: int) -> dict[str, str]:
    """Return the variables that `up` would set for a rank, with the file's content instead of its path."""
    plan = hostfile.plan(rank, port=PORT, session_id="id")
    assert plan.backend != "auto"
    prepared = prepare(plan, plan.backend)
    content = prepared.content.decode()
    return {name: content if value == str(prepared.path) else value for name, value in prepared.variables.items()}


def same(own: dict[str, str], mlx: dict[str, str]) -> None:
    for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
        assert (name in own) == (name in mlx)
        if name in own:
            assert json.loads(own.pop(name)) == json.loads(mlx.pop(name))
    if "MLX_JACCL_COORDINATOR" not in mlx:
        own.pop("MLX_JACCL_COORDINATOR")  # MLX's ring does not read it
    assert own == mlx


@pytest.mark.parametrize("backend", ["jaccl", "auto"])
@pytest.mark.parametrize(
    ("size", "cables"),
    [
        (2, mesh(2)),
        (2, mesh(2, 3)),
        (3, mesh(3)),
        (3, mesh(3, 2)),
        (3, [*mesh(3), (0, 1)]),
        (4, mesh(4)),
        (6, ring(6, 2)),
    ],
)
def test_launch_finds_the_cables_as_mlx_distributed_config_does(
    size: int, cables: Cables, backend: BackendChoice, write: Write, tmp_path: Path
) -> None:
    cluster = Cluster([f"me@m{rank}" for rank in range(size)], cables)
    found = find(cluster.macs.reports(tmp_path), cluster.names, backend)
    theirs = json.loads(write(cluster, *([] if len(cables) > 3 else ["--backend", "jaccl"])))
    ours = json.loads(found.hostfile.to_json())
    assert found.shape == ("ring" if size == 6 else "mesh")
    assert ours == theirs
    found.hostfile.write(tmp_path / "hosts.json")
    mlx = importlib.import_module("mlx._distributed_utils.common").Hostfile.from_file(tmp_path / "hosts.json")
    assert mlx.to_json() == theirs


def resolve(name: str) -> str:
    return f"10.9.0.{int(name.removeprefix('m')) + 1}"


BACKENDS = {
    "ring": ("--backend", "ring"),
    "jaccl": ("--backend", "jaccl"),
    "jaccl-ring": ("--backend", "jaccl-ring"),
    "best": (),
    "ethernet": ("--over", "ethernet"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cables", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_grid_of_hosts_cables_and_backends(
    size: int, cables: int, backend: str, write: Write, launched: Callable[[bytes], list[dict[str, str]]]
) -> None:
    data = write(Cluster([f"m{rank}" for rank in range(size)], mesh(size, cables)), *BACKENDS[backend], "--env", "A=1")
    hostfile = parse_hostfile(data)
    assert len(hostfile.ips) == size
    assert hostfile.jaccl_ring == (backend == "jaccl-ring")
    for rank, mlx in enumerate(launched(data)):
        assert mlx["A"] == "1"
        same(ours(hostfile, rank), mlx)


@pytest.mark.parametrize(
    ("size", "backend"), [(4, "ring"), (6, "jaccl-ring"), (9, "jaccl-ring"), (12, "best"), (9, "ring")]
)
@pytest.mark.parametrize("cables", [1, 2, 4])
def test_hosts_connected_in_a_ring(
    size: int, backend: str, cables: int, write: Write, launched: Callable[[bytes], list[dict[str, str]]]
) -> None:
    data = write(Cluster([f"m{rank}" for rank in range(size)], ring(size, cables)), *BACKENDS[backend])
    hostfile = parse_hostfile(data)
    for rank, mlx in enumerate(launched(data)):
        same(ours(hostfile, rank), mlx)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("cables", [5, 6, 9])
def test_a_mesh_has_no_limit_of_cables(
    size: int, cables: int, write: Write, launched: Callable[[bytes], list[dict[str, str]]]
) -> None:
    cluster = Cluster([f"m{rank}" for rank in range(size)], mesh(size, cables))
    data = write(cluster, "--backend", "jaccl")
    same(ours(parse_hostfile(data), 0), launched(data)[0])
    with pytest.raises(ConfigError, match="more than 4 devices") as caught:  # native init fails there
        parse_hostfile(write(cluster, "--backend", "jaccl-ring"))
    assert caught.value.code == "bad-devices"


@pytest.mark.parametrize("backend", ["jaccl", "jaccl-ring", "ethernet"])
@pytest.mark.parametrize("names", [["m0", "m1"], ["me@m0", "you@m1"], ["m0", "me@m1", "m2"]])
def test_a_host_whose_address_it_cannot_find_is_resolved(names: list[str], backend: str, write: Write) -> None:
    data = write(Cluster(names, mesh(len(names), 1), addresses=False), *BACKENDS[backend])
    assert parse_hostfile(data, resolve).ips == tuple(f"10.9.0.{rank + 1}" for rank in range(len(names)))


@pytest.mark.parametrize("backend", ["jaccl", "ethernet"])
def test_hosts_given_as_addresses_have_them_twice(backend: str, write: Write) -> None:
    data = write(Cluster(["10.0.0.1", "10.0.0.2"], mesh(2, 1)), *BACKENDS[backend])
    assert parse_hostfile(data).all_ips == (("10.0.0.1", "10.0.0.1"), ("10.0.0.2", "10.0.0.2"))


# -- the forms in MLX's documentation ----------------------------------------------------------------------------------

DOCUMENTED = {
    "ring": [{"ssh": "hostname1", "ips": ["123.123.1.1"]}, {"ssh": "hostname2", "ips": ["123.123.1.2"]}],
    "ring of several addresses": [
        {"ssh": "hostname1", "ips": ["123.123.1.1", "123.123.2.1"]},
        {"ssh": "hostname2", "ips": ["123.123.1.2", "123.123.2.2"]},
    ],
    "jaccl": [
        {"ssh": "mac1", "ips": ["123.123.1.1"], "rdma": [None, "rdma_en5", "rdma_en4"]},
        {"ssh": "mac2", "ips": ["123.123.1.2"], "rdma": ["rdma_en5", None, "rdma_en3"]},
        {"ssh": "mac3", "ips": ["123.123.1.3"], "rdma": ["rdma_en4", "rdma_en3", None]},
    ],
    "envs": {
        "backend": "jaccl",
        "envs": ["MLX_METAL_FAST_SYNCH=1"],
        "hosts": [
            {"ssh": "hostname1", "ips": ["123.123.123.1"], "rdma": [None, "rdma_en2"]},
            {"ssh": "hostname2", "ips": ["123.123.123.2"], "rdma": ["rdma_en2", None]},
        ],
    },
    "ring variable": {
        "backend": "jaccl",
        "envs": ["MLX_JACCL_RING=1", "EMPTY", "X="],
        "hosts": [
            {"ssh": "hostname1", "ips": ["123.123.123.1"], "rdma": [None, "rdma_en2"]},
            {"ssh": "hostname2", "ips": ["123.123.123.2"], "rdma": ["rdma_en2", None]},
        ],
    },
}


@pytest.mark.parametrize("content", [DOCUMENTED[name] for name in ("ring", "ring of several addresses", "envs")])
def test_the_documented_forms(content: Any, launched: Callable[[bytes], list[dict[str, str]]]) -> None:
    data = json.dumps(content).encode()
    for rank, mlx in enumerate(launched(data)):
        same(ours(parse_hostfile(data), rank), mlx)


def test_the_documented_mesh_without_a_backend_is_left_to_the_hosts() -> None:
    hostfile = parse_hostfile(json.dumps(DOCUMENTED["jaccl"]).encode())
    assert hostfile.backend_for("auto") == "auto"
    assert hostfile.devices is not None


def test_only_the_address_of_rank_0() -> None:
    """As in MLX's documentation: rank 0's address is reachable from all; the others' are not needed."""
    content: Any = json.loads(json.dumps(DOCUMENTED["jaccl"]))
    for host in content[1:]:
        host["ips"] = []
    content[2]["ssh"] = "me@10.0.0.3"
    found = parse_hostfile(json.dumps(content).encode(), {"mac2": "10.0.0.2"}.__getitem__)
    assert found.ips == ("123.123.1.1", "10.0.0.2", "10.0.0.3")


def test_variables_that_mlx_launch_sets_for_every_rank() -> None:
    hostfile = parse_hostfile(json.dumps(DOCUMENTED["ring variable"]).encode())
    assert hostfile.jaccl_ring
    found = ours(hostfile, 1)
    assert (found["EMPTY"], found["X"], found["MLX_JACCL_RING"]) == ("", "", "1")
